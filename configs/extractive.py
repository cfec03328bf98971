r"""An extractive reader: the answer as a span of one of many passages.

R2-D2 (Fajcik et al. 2021) and its published code: ELECTRA-large on 128 passages
of one question, which is a batch, rate 2e-5, weight decay 0.01, gradients cut
at 5, 200,000 steps, warm-up 10 %. Starts, ends, spans and passages are each
normalised over all passages.

`loss=dpr` trains the reader of DPR (Karpukhin et al. 2020, Sec. 6) instead: it
ranks 24 passages, and answers with the best span of the one it ranks first. Of
the paper are the two losses, 24 passages of 350 tokens, batches of 16, answers
of 10 tokens and 10 places of them. A choice of this project are network, rate
and the other settings of this file in place of BERT-base's; the passage before
the question; that starts and ends compete among the tokens of the passage's
text alone; and the passages, the run's in their order behind the gold one, of
which some may hold the answer too, where the paper samples some without.

    odqa train --config configs/extractive.py --workdir work/extractive \
      --config.init_from=electra-large/ --config.data.corpus=data/corpus \
      --config.data.questions=data/questions/nq-train \
      --config.data.run=nq-train.json

The run is that of `reranker.py`, or what the reranker makes of it. With
`--config.evaluate.questions=…` and `--config.evaluate.run=…` of a dev set, EM
and F1 are measured at every checkpoint, and the best one is kept.
`--config.init_from=minilm` trains a small one. Hardware and time at this size:
not run. `:debug` runs 10 steps of a tiny model.
"""

from ml_collections import ConfigDict

from odqa_jax.runtime.config import base_config, debug, parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
  args = parse_arg(arg, size="electra-large", loss="independent", debug=False)
  config = base_config()

  config.task = "extractive"
  config.steps = 200_000
  config.batch_size = 1
  config.micro_batches = "auto"

  config.model.preset = args.size
  config.model.dtype = "bfloat16"
  config.model.remat = "auto"

  config.data.source = "retrieved_spans"
  config.data.passages = 128
  config.data.pair_length = 256
  config.data.span_length = 30

  config.objective.extractive = args.loss
  if args.loss == "dpr":
    config.batch_size = 16
    config.data.passages = 24
    config.data.pair_length = 350
    config.data.span_length = 10
    config.data.occurrences = 10

  config.evaluate.best = "em"

  config.optimizer.learning_rate = 2e-5
  config.optimizer.warmup = 0.1
  config.optimizer.weight_decay = 0.01
  config.optimizer.clip_norm = 5.0

  config.checkpoint.every = 10_000

  if args.debug:
    debug(config)
    config.batch_size = 4
    config.data.passages = 4
    config.data.pair_length = 96
  return config
