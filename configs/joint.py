r"""Joint Top-k: one answer from all passages, weighted by their probability.

"End-to-End Training of Neural Retrievers for Open-Domain Question Answering",
Sec. 3.2, Eq. 7-8, Tables 4 and 7, A.3: batch 64, 10 epochs of NQ (12,370
steps), rate 2e-5 with linear decay, weight decay 0.1, the passage encoder
frozen, so that the index is never renewed. λ is one number per decoder layer,
from 1; the paper does not say. Warm-up, lengths and k are chosen as in
`individual.py`, with k = 50, where the paper's Figure 5 ends.

    odqa train --config configs/joint.py:size=base --workdir work/joint \
      --config.init_from=work/sup --config.reader.init_from=work/fid \
      --config.data.corpus=data/corpus \
      --config.data.questions=data/questions/nq-train

Hardware and time at this size: not run. The paper used 64 A100.
Expected on NQ test: EM 49.2 base, 51.4 large; recall@1/5/20/100
51.1/72.1/81.8/87.8 base, 53.7/73.3/83.2/88.0 large. `:debug` runs 10 steps of
tiny models.
"""

from ml_collections import ConfigDict

from odqa_jax.runtime.config import base_config, parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
  args = parse_arg(arg, size="base", debug=False)
  config = base_config()

  config.task = "joint"
  config.steps = 12_370
  config.batch_size = 64

  config.model.preset = args.size
  config.model.dtype = "bfloat16"
  config.model.remat = "dots"
  config.reader.preset = args.size
  config.reader.dtype = "bfloat16"
  config.reader.remat = "full"

  config.data.source = "answers"
  config.data.question_length = 256
  config.data.passage_length = 256
  config.data.reader_length = 512
  config.data.answer_length = 32

  config.objective.passage_encoder = False
  config.objective.bias = "prob"
  config.objective.bias_scope = "layer"
  config.retrieval.k = 50
  config.retrieval.dtype = "bfloat16"

  config.optimizer.learning_rate = 2e-5
  config.optimizer.warmup = 0.01
  config.optimizer.weight_decay = 0.1

  config.checkpoint.every = 1_237  # One epoch.
  config.evaluate.best = "em"

  if args.debug:
    config.steps = 10
    config.batch_size = 8
    config.log_every = 5
    config.checkpoint.every = 5
    config.model.preset = "tiny"
    config.model.dtype = "float32"
    config.reader.preset = "tiny"
    config.reader.dtype = "float32"
    config.data.question_length = 32
    config.data.passage_length = 64
    config.data.reader_length = 96
    config.retrieval.k = 4
    config.retrieval.dtype = "float32"
  return config
