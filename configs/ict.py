r"""Inverse cloze task pre-training of the dual encoder.

"End-to-End Training of Neural Retrievers for Open-Domain Question Answering",
Sec. 2.2.2 and A.2: batch 4,096, 100,000 steps, rate 1e-4 with 1 % warm-up and
linear decay, weight decay 0.01, blocks up to 256 tokens, the query kept in its
block with probability 0.1. Both encoders begin from BERT.

    odqa prepare --corpus psgs_w100.tsv.gz --tokenizer bert-base-uncased/ \
      --out data
    odqa train --config configs/ict.py:size=base --workdir work/ict \
      --config.data.corpus=data/corpus --config.init_from=bert-base-uncased/

Hardware and time at this size: not run. The paper used 128 A100 for large.
Expected, zero-shot on NQ test, recall@20/100: 50.6/66.8 base, 49.3/66.1 large.
The batch is computed in as few micro-batches as fit the devices, with the
gradient of the whole. `:debug` runs 10 steps of a tiny model.
"""

from ml_collections import ConfigDict

from odqa_jax.runtime.config import base_config, debug, parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
  args = parse_arg(arg, size="base", debug=False)
  config = base_config()

  config.steps = 100_000
  config.batch_size = 4096
  config.micro_batches = "auto"

  config.model.preset = args.size
  config.model.dtype = "bfloat16"
  config.model.remat = "auto"

  config.data.source = "ict"
  config.data.question_length = 256
  config.data.passage_length = 256
  config.data.hard_negatives = 0
  config.data.keep_query = 0.1

  config.optimizer.learning_rate = 1e-4
  config.optimizer.warmup = 0.01
  config.optimizer.weight_decay = 0.01

  config.checkpoint.every = 2000

  if args.debug:
    debug(config)
  return config
