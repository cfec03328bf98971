r"""Supervised training of the dual encoder with in-batch and hard negatives.

"End-to-End Training of Neural Retrievers for Open-Domain Question Answering",
Sec. 2.2.1, Tables 2 and 3, A.2: batch 128, rate 2e-5 with linear decay, one
hard negative per question, scores divided by sqrt(d), 80 epochs of the 58,880
filtered NQ questions (36,800 steps). The paper does not state weight decay,
warm-up and lengths here; 0.1, 1 % and 256 tokens are those of the authors'
published script.

    odqa prepare --corpus psgs_w100.tsv.gz --out data \
      --questions biencoder-nq-train.json --pairs biencoder-nq-train \
      --tokenizer bert-base-uncased/
    odqa train --config configs/supervised.py:size=base --workdir work/sup \
      --config.init_from=work/ict --config.data.corpus=data/corpus \
      --config.data.questions=data/questions/biencoder-nq-train \
      --config.data.pairs=data/pairs/biencoder-nq-train

Hardware and time at this size: not run. The paper used 16 A100.
Expected on NQ test, recall@1/5/20/100: 48.4/72.1/81.8/88.0 base,
52.4/72.7/82.6/88.3 large (ICT + supervised). `:debug` runs 10 steps of a tiny
model.
"""

from ml_collections import ConfigDict

from odqa_jax.runtime.config import base_config, debug, parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
  args = parse_arg(arg, size="base", debug=False)
  config = base_config()

  config.steps = 36_800
  config.batch_size = 128
  config.micro_batches = "auto"

  config.model.preset = args.size
  config.model.dtype = "bfloat16"
  config.model.remat = "auto"

  config.data.source = "pairs"
  config.data.question_length = 256
  config.data.passage_length = 256
  config.data.hard_negatives = 1

  config.optimizer.learning_rate = 2e-5
  config.optimizer.warmup = 0.01
  config.optimizer.weight_decay = 0.1

  config.checkpoint.every = 460  # One epoch.

  if args.debug:
    debug(config)
  return config
