r"""A reranker: which of the passages that a retriever found has the answer.

R2-D2 (Fajcik et al. 2021) and its published code: RoBERTa-base on question,
title and text together, the gold passage against 23 others of the run that hold
no answer, 256 tokens, batches of 8 questions, rate 2e-5, 5 epochs. Warm-up and
weight decay are a choice of this project.

    odqa search --checkpoint work/sup --index index --corpus data \
      --questions data/questions/nq-train --k 400 --out nq-train.json
    odqa train --config configs/reranker.py --workdir work/reranker \
      --config.init_from=roberta-base/ --config.data.corpus=data/corpus \
      --config.data.questions=data/questions/nq-train \
      --config.data.run=nq-train.json

With `--config.evaluate.questions=data/questions/nq-dev` and
`--config.evaluate.run=nq-dev.json`, a run of these, recall after reranking the
first 100 is measured at every checkpoint, and the best one is kept.
`--config.init_from=minilm` trains a small one. Hardware and time at this size:
not run. Expected (the authors, NQ): 83.0 % of the gold passages among the
first 25. `:debug` runs 10 steps of a tiny model.
"""

from ml_collections import ConfigDict

from odqa_jax.runtime.config import base_config, debug, parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
  args = parse_arg(arg, size="roberta-base", debug=False)
  config = base_config()

  config.task = "reranker"
  config.epochs = 5.0
  config.batch_size = 8
  config.micro_batches = "auto"

  config.model.preset = args.size
  config.model.dtype = "bfloat16"
  config.model.remat = "auto"

  config.data.source = "retrieved"
  config.data.passages = 24
  config.data.pair_length = 256

  config.evaluate.k = 100
  config.evaluate.best = "recall@5"

  config.optimizer.learning_rate = 2e-5
  config.optimizer.warmup = 0.1
  config.optimizer.weight_decay = 0.01

  if args.debug:
    debug(config)
    config.epochs = 0.0
    config.batch_size = 4
    config.data.passages = 4
    config.data.pair_length = 96
  return config
