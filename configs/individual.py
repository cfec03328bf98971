r"""Individual Top-k: reader and both encoders trained end to end.

"End-to-End Training of Neural Retrievers for Open-Domain Question Answering",
Sec. 3.1, Eq. 5-6, Tables 4 and 6, A.3: 10 epochs of NQ (79,168 questions) at
batch 64 are 12,370 steps; rate 2e-5 with linear decay, weight decay 0.1, the
index renewed every 500 steps, no title in the reader. The paper does not state
warm-up (1 % here), lengths (256 tokens for the encoders, 512 for the reader and
32 for an answer here, as in EMDR²) and k (chosen on dev; 32 here).

    odqa train --config configs/individual.py:size=base --workdir work/ind \
      --config.init_from=work/sup --config.reader.init_from=work/fid \
      --config.data.corpus=data/corpus \
      --config.data.questions=data/questions/nq-train

`config.reader.init_from` takes the workdir of a reader on the retriever's word
pieces, as in the paper; or a T5 folder, with `config.data.reader_corpus` set
to the passages in its vocabulary. `:context=false` trains the question encoder
alone, and then the index stays as it is.

Hardware and time at this size: not run. The paper used 240 A100.
Expected on NQ test: EM 45.9 base, 48.1 large; recall@1/5/20/100
56.8/75.0/84.0/89.2 base, 57.5/76.2/84.8/89.8 large. `:debug` runs 10 steps of
tiny models.
"""

from ml_collections import ConfigDict

from odqa_jax.runtime.config import base_config, parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
  args = parse_arg(arg, size="base", context=True, debug=False)
  config = base_config()

  config.task = "individual"
  config.steps = 12_370
  config.batch_size = 64

  config.model.preset = args.size
  config.model.dtype = "bfloat16"
  config.model.remat = "dots"
  config.reader.preset = args.size
  config.reader.dtype = "bfloat16"
  config.reader.remat = "full"

  config.data.source = "answers"
  config.data.question_length = 256
  config.data.passage_length = 256
  config.data.reader_length = 512
  config.data.answer_length = 32

  config.objective.passage_encoder = args.context
  config.retrieval.k = 32
  config.retrieval.dtype = "bfloat16"
  config.retrieval.refresh = "snapshot" if args.context else "none"
  config.retrieval.refresh_every = 500

  config.optimizer.learning_rate = 2e-5
  config.optimizer.warmup = 0.01
  config.optimizer.weight_decay = 0.1

  config.checkpoint.every = 1_237  # One epoch.
  config.evaluate.best = "em"

  if args.debug:
    config.steps = 10
    config.batch_size = 8
    config.log_every = 5
    config.checkpoint.every = 5
    config.model.preset = "tiny"
    config.model.dtype = "float32"
    config.reader.preset = "tiny"
    config.reader.dtype = "float32"
    config.data.question_length = 32
    config.data.passage_length = 64
    config.data.reader_length = 96
    config.retrieval.k = 4
    config.retrieval.dtype = "float32"
    config.retrieval.refresh_every = 4
  return config
