r"""Individual Top-k: reader and both encoders trained end to end.

"End-to-End Training of Neural Retrievers for Open-Domain Question Answering",
Sec. 3.1, Eq. 5-6, Tables 4 and 6, A.3: 10 epochs of NQ (79,168 questions) at
batch 64 are 12,370 steps; rate 2e-5 with linear decay, weight decay 0.1, the
index refreshed every 500 steps, no title in the reader. The retriever begins
from ICT and supervised training, the reader from a pre-trained T5. Choices of
this project, where the paper states nothing: warm-up of 1 %, lengths (256
tokens for the encoders, 512 for the reader and 32 for an answer, as in EMDR²),
and k = 32 (theirs was chosen on dev). The index is int8, as the step scores
what is found anew: with the one in the making it takes 3.8 GiB of each of 8
devices at 21 million passages, in bfloat16 7.5.

    odqa train --config configs/individual.py:size=base --workdir work/ind \
      --config.init_from=work/sup --config.reader.init_from=t5-base/ \
      --config.data.reader_corpus=data/reader_corpus \
      --config.data.corpus=data/corpus \
      --config.data.questions=data/questions/nq-train

`config.data.reader_corpus` holds the passages in T5's own vocabulary. A workdir
as `config.reader.init_from` is taken too: that of a reader on the retriever's
word pieces needs no second corpus (`fid.py` makes one), but is another start
than the paper's. `:context=false` trains the question encoder alone, and then
the index stays as it is.

Hardware and time at this size: not run. The paper used 240 A100.
Expected on NQ test: EM 45.9 base, 48.1 large; recall@1/5/20/100
56.8/75.0/84.0/89.2 base, 57.5/76.2/84.8/89.8 large. `:debug` runs 10 steps of
tiny models.
"""

from ml_collections import ConfigDict

from odqa_jax.runtime.config import base_config, debug, parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
  args = parse_arg(arg, size="base", context=True, debug=False)
  config = base_config()

  config.task = "individual"
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

  config.objective.passage_encoder = args.context
  config.retrieval.k = 32
  config.retrieval.dtype = "int8"
  config.retrieval.refresh = "snapshot" if args.context else "none"
  config.retrieval.refresh_every = 500

  config.optimizer.learning_rate = 2e-5
  config.optimizer.warmup = 0.01
  config.optimizer.weight_decay = 0.1

  config.checkpoint.every = 1_237  # One epoch.
  config.evaluate.best = "em"

  if args.debug:
    debug(config, reader=True)
    config.retrieval.refresh_every = 4
  return config
