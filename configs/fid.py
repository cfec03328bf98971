r"""Fusion-in-Decoder: the reader alone, on what a fixed retriever finds.

"Leveraging Passage Retrieval with Generative Models for Open Domain Question
Answering" (Izacard and Grave 2020); the baseline of Table 7 of "End-to-End
Training of Neural Retrievers". Steps, batch and rates are those of `joint.py`,
so that the two differ in the objective alone. Where no T5 weights are at hand
it also makes a first reader for `individual.py` and `joint.py`, which the paper
starts from a pre-trained T5.

    odqa train --config configs/fid.py:size=base --workdir work/fid \
      --config.init_from=work/sup --config.reader.init_from=t5-base/ \
      --config.data.reader_corpus=data/reader_corpus \
      --config.data.corpus=data/corpus \
      --config.data.questions=data/questions/nq-train

Hardware and time at this size: not run. Expected on NQ test (the authors', with
DPR as retriever and 100 passages): EM 48.2 base, 51.4 large. `:debug` runs 10
steps of tiny models.
"""

from ml_collections import ConfigDict

from odqa_jax.runtime.config import base_config, debug, parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
  args = parse_arg(arg, size="base", debug=False)
  config = base_config()

  config.task = "fid"
  config.steps = 12_370
  config.batch_size = 64
  config.micro_batches = "auto"

  config.model.preset = args.size
  config.model.dtype = "bfloat16"
  config.model.remat = "auto"
  config.reader.preset = args.size
  config.reader.dtype = "bfloat16"
  config.reader.remat = "auto"

  config.data.source = "answers"
  config.data.question_length = 256
  config.data.passage_length = 256
  config.data.reader_length = 512
  config.data.answer_length = 32

  config.retrieval.k = 50
  config.retrieval.dtype = "bfloat16"

  config.optimizer.learning_rate = 2e-5
  config.optimizer.warmup = 0.01
  config.optimizer.weight_decay = 0.1

  config.checkpoint.every = 1_237  # One epoch.
  config.evaluate.best = "em"

  if args.debug:
    debug(config, reader=True)
  return config
