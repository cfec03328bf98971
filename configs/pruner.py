r"""A classifier of passages that no question needs.

"Pruning the Index Contents for Memory Efficient Open-Domain QA" (Fajcik et al.
2021) and its published code: ELECTRA-base on title and text, every gold passage
of the training questions against two random others, which weigh half as much
each; batches of 12 passages, rate 3e-5, 2 epochs. Warm-up and weight decay are
a choice of this project.

    odqa train --config configs/pruner.py --workdir work/pruner \
      --config.init_from=electra-base/ --config.data.corpus=data/corpus \
      --config.data.questions=data/questions/nq-train

Fastest if the corpus has the network's word pieces (`odqa prepare
--tokenizer`), as BERT's and ELECTRA's are; otherwise the texts are encoded
again. With `--config.evaluate.questions=…` of a dev set, its
gold passages and as many random ones are told apart at every checkpoint, and
the best one is kept. Hardware and time at this size: not run; the authors
took 1.5 hours on an RTX 2080 Ti. `:debug` runs 10 steps of a tiny model.
"""

from ml_collections import ConfigDict

from odqa_jax.runtime.config import base_config, debug, parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
  args = parse_arg(arg, size="electra-base", debug=False)
  config = base_config()

  config.task = "pruner"
  config.epochs = 2.0
  config.batch_size = 12
  config.micro_batches = "auto"

  config.model.preset = args.size
  config.model.dtype = "bfloat16"
  config.model.remat = "auto"

  config.data.source = "golden"
  config.data.passage_length = 256
  config.data.random_negatives = 2

  config.evaluate.best = "accuracy"

  config.optimizer.learning_rate = 3e-5
  config.optimizer.warmup = 0.1
  config.optimizer.weight_decay = 0.01

  if args.debug:
    debug(config)
    config.epochs = 0.0
  return config
