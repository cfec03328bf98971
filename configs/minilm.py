r"""Supervised training from MiniLM: one encoder, mean pooling, unit vectors.

Not from the paper: a start from a small public model that a laptop can train.
Unit vectors make scores cosines, so τ is 0.05, the scale that the model was
trained with, in place of sqrt(d).

    odqa prepare --corpus FILE --questions FILE --qrels FILE --pairs NAME \
      --tokenizer minilm --out data
    odqa train --config configs/minilm.py --workdir work/minilm \
      --config.data.corpus=data/corpus \
      --config.data.questions=data/questions/NAME \
      --config.data.pairs=data/pairs/NAME

`:debug` runs 10 steps of small batches. Which rate is best for the data at hand
is found on a dev set, with three seeds each:

    odqa sweep --config configs/minilm.py --workdir work/rates --seeds 3 \
      --config.data.corpus=data/corpus \
      --config.data.questions=data/questions/NAME \
      --config.data.pairs=data/pairs/NAME \
      --config.evaluate.questions=data/questions/DEV \
      --config.evaluate.best=ndcg@10
"""

from collections.abc import Iterator

from ml_collections import ConfigDict

from odqa_jax.runtime.config import base_config, debug, parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
  args = parse_arg(arg, size="init", debug=False)
  config = base_config()

  config.steps = 500
  config.batch_size = 32

  config.init_from = "minilm"
  config.model.preset = args.size
  config.model.shared = True
  config.model.pooling = "mean"
  config.model.normalise = True
  config.model.dropout = 0.0

  config.data.question_length = 64
  config.data.passage_length = 256
  config.data.hard_negatives = 1
  config.data.title = False

  config.objective.temperature = 0.05

  config.optimizer.learning_rate = 2e-5
  config.optimizer.warmup = 0.1

  if args.debug:
    debug(config)
    config.batch_size = 8
    config.model.preset = args.size
    config.data.question_length = 64
  return config


def sweep() -> Iterator[dict[str, float]]:
  """Rates for `odqa sweep`."""
  for rate in (1e-5, 2e-5, 5e-5):
    yield {"optimizer.learning_rate": rate}
