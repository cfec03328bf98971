r"""A filter of passages: which of them a retriever finds for questions.

"Designing a Minimal Retrieve-and-Read System for Open-Domain QA" (Yang and Seo
2021), Sec. 2.1 and A.1: RoBERTa-base with a linear score, batches of 9 passages
that are among the first 200 of a question and 9 others, seen floor(log10 f + 1)
times if f questions have found them (base 2 for TriviaQA), rate 1e-5, dropout
0.1, gradients of at most 2.0, 1,000 steps of warm-up, one epoch, measured every
2,000 steps on 893 passages that answer EfficientQA's dev questions and 9,107
others. Weight decay (none), length and titles are a choice of this project, and
so is that the questions are those of training alone. The paper also takes those
of dev and test: `--config.data.leaky=True` with `leaky_questions` and
`leaky_run`; what such a filter makes says so.

    odqa search --checkpoint work/sup --index work/index --corpus data/corpus \
      --questions data/questions/nq-train --k 200 --out train.trec
    odqa train --config configs/filter.py --workdir work/filter \
      --config.init_from=roberta-base/ --config.data.corpus=data/corpus \
      --config.data.questions=data/questions/nq-train \
      --config.data.run=train.trec \
      --config.data.pool_questions=data/questions/nq-dev
    odqa prune --checkpoint work/filter --corpus data/corpus \
      --index work/index --keep 1224000 --out work/filtered

Without `pool_questions` nothing is measured, and the last step is used. A
network with the corpus's word pieces, as BERT's, reads the ids that the corpus
has; for any other, as RoBERTa's, the texts are encoded again. Hardware and time
at this size: not run; the authors used one V100. `:debug` runs 10 steps of a
tiny model.
"""

from ml_collections import ConfigDict

from odqa_jax.runtime.config import base_config, debug, parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
  args = parse_arg(arg, size="base", debug=False)
  config = base_config()

  config.task = "filter"
  config.epochs = 1.0
  config.batch_size = 9  # A passage that was found and another in each.
  config.micro_batches = "auto"

  config.model.preset = args.size
  config.model.dropout = 0.1
  config.model.dtype = "bfloat16"
  config.model.remat = "auto"

  config.data.source = "found"
  config.data.passages = 200
  config.data.frequency_base = 10
  config.data.pool_size = 10_000
  config.data.passage_length = 256

  config.checkpoint.every = 2000
  config.evaluate.best = "hit_ratio"

  config.optimizer.learning_rate = 1e-5
  config.optimizer.warmup_steps = 1000
  config.optimizer.weight_decay = 0.0
  config.optimizer.clip_norm = 2.0

  if args.debug:
    debug(config)
    config.epochs = 0.0
    config.data.passages = 4
    config.data.pool_size = 60
  return config
