r"""The unified retriever-reader: a shared retriever learns to read.

"Designing a Minimal Retrieve-and-Read System for Open-Domain Question
Answering" (Yang and Seo 2021), Sec. 2.2.3, 2.2.4 and A.2. Three stages, by
`stage`:

- `distillation` (default): spans and ranks of a reader with DPR's objective,
  τ = 3, and the retrieval scores after its ranks; batches of 16 questions with
  24 passages of the first 200, pairs of 350 tokens, rate 1e-5, no warm-up,
  gradients cut at 2, 16 to 30 epochs.
- `iterative`: Algorithm 1 from what that has made, at most six epochs. Here an
  epoch makes two updates of every batch.
- `joint`: both losses in one update, "the most simple method".

Numbers of the paper are these, answers of 10 tokens and DPR's 10 places of
them. A choice of this project: the passage comes before the question, as in
`extractive.py`; weight decay is 0, the default of DPR's optimiser; and of the
epochs 16, where the authors stopped. Scores are plain products of the first 128
numbers of [CLS] (`config.objective.scale_multiple=0`).

    odqa search --checkpoint work/shared --index index --corpus data \
      --questions data/questions/nq-train --k 200 --out nq-train.json
    odqa train --config configs/unified.py --workdir work/unified \
      --config.init_from=work/shared --config.unified.teacher=work/dpr-reader \
      --config.data.corpus=data/corpus \
      --config.data.questions=data/questions/nq-train \
      --config.data.run=nq-train.json
    # Or the teacher reads all candidates once, and is named in its place:
    odqa teach --config configs/unified.py --out scores \
      --config.unified.teacher=work/dpr-reader \
      --config.data.corpus=data/corpus \
      --config.data.questions=data/questions/nq-train \
      --config.data.run=nq-train.json
    odqa train --config configs/unified.py:stage=iterative \
      --workdir work/iterative --config.init_from=work/unified \
      --config.data.corpus=data/corpus \
      --config.data.questions=data/questions/nq-train \
      --config.data.run=nq-train.json

What short runs on a small corpus showed (Small systems in
tests/benchmarks/README.md): a passage that is a candidate of many questions and
right for none is learned to be wrong, so what evaluation asks for must not be
among the candidates; a teacher that has learned little is flat at τ = 3; and
retrieval scores divided by a small temperature have a gradient that leaves
reading little of `clip_norm`.

Ablations: `stage=iterative` from `work/shared` is without distillation,
`--config.unified.reconstruction=False` without L_recon. With
`--config.evaluate.questions=…` EM is measured at every checkpoint, on an index
made anew, and the best step is that of the highest mean over 1, 10, …, 50
passages (theirs, but on what the first retriever had found). Expected (the
authors, EfficientQA dev): EM 31.67 after distillation, 34.44 after finetuning.
Hardware and time at this size: not run. `:debug` runs 10 steps of a tiny model.
"""

from ml_collections import ConfigDict

from odqa_jax.runtime.config import base_config, debug, parse_arg

# Stage → task, and its epochs.
STAGES = {
  "distillation": ("distillation", 16.0),
  "iterative": ("iterative", 6.0),
  "joint": ("unified", 6.0),
}


def get_config(arg: str | None = None) -> ConfigDict:
  args = parse_arg(arg, size="mobilebert", stage="distillation", debug=False)
  if args.stage not in STAGES:
    raise ValueError(f"stage={args.stage!r}; choose of {', '.join(STAGES)}.")
  config = base_config()

  config.task, config.epochs = STAGES[args.stage]
  config.batch_size = 16
  config.micro_batches = "auto"

  config.model.preset = args.size
  config.model.shared = True
  config.model.projection = "truncate"
  config.model.embedding_dim = 128
  config.model.dtype = "bfloat16"
  config.model.remat = "auto"

  config.data.source = "unified"
  config.data.candidates = 200
  config.data.passages = 24
  config.data.question_length = 256
  config.data.passage_length = 256
  config.data.pair_length = 350
  config.data.span_length = 10
  config.data.occurrences = 10

  config.objective.scale_multiple = 0.0
  config.unified.temperature = 3.0

  config.evaluate.best = "mean_em"

  config.optimizer.learning_rate = 1e-5
  config.optimizer.warmup = 0.0
  config.optimizer.weight_decay = 0.0
  config.optimizer.clip_norm = 2.0

  config.checkpoint.every = 2000

  if args.debug:
    debug(config)
    config.epochs = 0.0
    config.batch_size = 4
    config.data.passages = 4
    config.data.pair_length = 96
  return config
