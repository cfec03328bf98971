r"""The small retriever of minimal retrieve-and-read: one MobileBERT, 128-d.

"Designing a Minimal Retrieve-and-Read System for Open-Domain Question
Answering" (Yang and Seo 2021), Sec. 2.2.1-2.2.2, A.2: one encoder, which knows
questions (token type 0) from passages (1), the first 128 of the 512 dimensions
of [CLS], inner products; rate 2e-5, gradients of at most 2, 1,237 steps of
warm-up, 256 tokens, 1 positive and 127 in-batch negatives, 40 to 70 epochs of
the 58,880 filtered NQ questions (here 40: 18,400 steps). The paper names no
hard negatives; `--config.data.hard_negatives=1` adds one to every question, as
DPR has it. No weight decay and dropout of 0.1 are DPR's as well.

    odqa train --config configs/shared.py --workdir work/shared \
      --config.init_from=mobilebert-uncased/ --config.data.corpus=data/corpus \
      --config.data.questions=data/questions/biencoder-nq-train \
      --config.data.pairs=data/pairs/biencoder-nq-train

`mobilebert-uncased/` is the published folder, with whose tokenizer the corpus
is prepared; any other folder of a BERT is taken too, and pools as it does by
itself. With `--config.evaluate.questions` recall is measured after every epoch
and the best checkpoint kept.

Hardware and time at this size: not run. The paper used 4 to 8 P40 or V100, and
states EM with a reader alone: 32.8 on EfficientQA's dev questions, 32.0 on NQ
test, over 1,224,000 passages. `:debug` runs 10 steps of a tiny MobileBERT.
"""

from ml_collections import ConfigDict

from odqa_jax.runtime.config import base_config, debug, parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
  args = parse_arg(arg, size="mobilebert", debug=False)
  config = base_config()

  config.epochs = 40.0
  config.batch_size = 128
  config.micro_batches = "auto"

  config.model.preset = args.size
  config.model.shared = True
  config.model.passage_type = 1
  config.model.projection = "truncate"
  config.model.embedding_dim = 128
  config.model.dtype = "bfloat16"
  config.model.remat = "auto"

  config.data.source = "pairs"
  config.data.question_length = 256
  config.data.passage_length = 256
  config.data.hard_negatives = 0

  config.objective.temperature = 1.0

  config.optimizer.learning_rate = 2e-5
  config.optimizer.warmup = 1237 / 18_400
  config.optimizer.weight_decay = 0.0
  config.optimizer.clip_norm = 2.0

  config.checkpoint.every = 460  # One epoch.

  if args.debug:
    debug(config)
    config.epochs = 0.0
    config.model.preset = "mobilebert-tiny"
  return config
