"""Settings of what is measured while training; `settings.py` has the others.

from odqa_jax.runtime.evaluate_settings import EvaluateSettings
EvaluateSettings(questions="data/questions/dev", best="ndcg@10")
"""

import dataclasses

from odqa_jax.runtime.data_settings import key as _key

DEV_INDEXES = ("", "live", "sample", "corpus")


@dataclasses.dataclass(frozen=True)
class EvaluateSettings:
  """What is measured at every checkpoint."""

  questions: str = _key("", "a question set; none: nothing is measured")
  run: str = _key(
    "", "of these: what a reranker orders, or an extractive reader reads"
  )
  corpus: str = _key("", "another corpus to search; none: the training's")
  best: str = _key(
    "recall@20",
    "the step with the highest value is kept: recall@k, gold@k, ndcg@10, "
    "mrr@10, em and others",
  )
  on_test: bool = _key(
    False, "choose that step on a test set all the same; results say so"
  )
  k: int = _key(0, "passages read; 0: as many as in training", least=0)
  max_questions: int = _key(0, "evenly spaced; 0: all", least=0)
  index: str = _key(
    "",
    "searched: live (training's own, its age is logged), sample, or corpus "
    "(all of it encoded anew each time); none: live, else sample",
    choices=DEV_INDEXES,
  )
  passages: int = _key(
    20_000, "of a sample: the gold passages, and others at random", least=1
  )
