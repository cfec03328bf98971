r"""Masked salient spans: the retriever learns from what a reader must fill in.

"End-to-End Training of Neural Retrievers for Open-Domain Question Answering",
Sec. 2.2.2 and A.2: from an ICT retriever and a pre-trained T5, 100,000 steps,
rate 2e-5, warm-up 5 %, the objective of Individual Top-k, the index refreshed
every 500 steps. Choices of this project, where the paper states nothing: batch
64; linear decay; weight decay 0.01 (that of its ICT); 128 tokens of a masked
sentence, and the other lengths of `individual.py`; k = 8 with the null document
and one span masked in a sentence, both as in REALM; which ten OntoNotes
categories: see `odqa prepare --spans`; and an index of int8, see
`individual.py`.

    odqa prepare --corpus psgs_w100.tsv.gz --out data --spans \
      --tokenizer bert-base-uncased/ --reader-tokenizer t5-base/
    odqa train --config configs/mss.py:size=base --workdir work/mss \
      --config.init_from=work/ict --config.reader.init_from=t5-base/ \
      --config.data.reader_corpus=data/reader_corpus \
      --config.data.corpus=data/corpus --config.data.spans=data/spans

Hardware and time at this size: not run. The paper used 240 A100.
Expected on NQ test without fine-tuning, recall@1/5/20/100: 20.0/41.7/59.8/74.9
base, none given for large. `:debug` runs 10 steps of tiny models.
"""

from ml_collections import ConfigDict

from odqa_jax.runtime.config import base_config, debug, parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
  args = parse_arg(arg, size="base", debug=False)
  config = base_config()

  config.task = "individual"
  config.steps = 100_000
  config.batch_size = 64
  config.micro_batches = "auto"

  config.model.preset = args.size
  config.model.dtype = "bfloat16"
  config.model.remat = "auto"
  config.reader.preset = args.size
  config.reader.dtype = "bfloat16"
  config.reader.remat = "auto"

  config.data.source = "salient"
  config.data.question_length = 128
  config.data.passage_length = 256
  config.data.reader_length = 512
  config.data.answer_length = 32

  config.retrieval.k = 7
  config.retrieval.null_document = True
  config.retrieval.dtype = "int8"
  config.retrieval.refresh = "snapshot"
  config.retrieval.refresh_every = 500

  config.optimizer.learning_rate = 2e-5
  config.optimizer.warmup = 0.05
  config.optimizer.weight_decay = 0.01

  config.checkpoint.every = 5_000

  if args.debug:
    debug(config, reader=True)
    config.retrieval.refresh_every = 4
  return config
