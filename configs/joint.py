r"""Joint Top-k: one answer from all passages, weighted by their probability.

"End-to-End Training of Neural Retrievers for Open-Domain Question Answering",
Sec. 3.2, Eq. 7-8, Tables 4 and 7, A.3: batch 64, 10 epochs of NQ (12,370
steps), rate 2e-5 with linear decay, weight decay 0.1, the passage encoder
frozen, so that the index is never refreshed, no title in the reader. The
retriever begins from ICT and supervised training, the reader from a pre-trained
T5. Choices of this project, where the paper states nothing: λ is one number per
decoder layer, from 1; warm-up and lengths as in `individual.py`; k = 50, where
the paper's Figure 5 ends (theirs was chosen on dev).

    odqa train --config configs/joint.py:size=base --workdir work/joint \
      --config.init_from=work/sup --config.reader.init_from=t5-base/ \
      --config.data.reader_corpus=data/reader_corpus \
      --config.data.corpus=data/corpus \
      --config.data.questions=data/questions/nq-train

`config.objective.bias` is what λ multiplies in the cross-attention: "prob", as
in Eq. 8; "logprob", with which λ = 1 is a prior over the passages; or "none",
which is Fusion-in-Decoder. Raw scores in place of "logprob" would be the same
function: they differ by λ·log Z, one number for all tokens of all passages,
which the softmax cancels.

Hardware and time at this size: not run. The paper used 64 A100.
Expected on NQ test: EM 49.2 base, 51.4 large; recall@1/5/20/100
51.1/72.1/81.8/87.8 base, 53.7/73.3/83.2/88.0 large. `:debug` runs 10 steps of
tiny models.
"""

from ml_collections import ConfigDict

from odqa_jax.runtime.config import base_config, debug, parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
  args = parse_arg(arg, size="base", debug=False)
  config = base_config()

  config.task = "joint"
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
    debug(config, reader=True)
  return config
