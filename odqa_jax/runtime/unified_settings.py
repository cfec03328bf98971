"""Settings of the unified retriever-reader; `settings.py` has the others."""

import dataclasses

from odqa_jax.runtime.data_settings import key

RETRIEVAL_LOSSES = ("teacher", "nll", "run")


@dataclasses.dataclass(frozen=True)
class UnifiedSettings:
  """One encoder that learns to retrieve and to read."""

  teacher: str = key(
    "",
    "distillation: an extractive reader that ranks passages (loss=dpr), or "
    "what odqa teach has stored of one",
  )
  temperature: float = key(
    3.0, "τ of teacher and student, and of reconstruction", least=1e-6
  )
  retrieval: str = key(
    "teacher",
    "distillation: retrieval scores are to be like the teacher's ranks, or the "
    "run's scores, or to find the passage with the answer (nll)",
    choices=RETRIEVAL_LOSSES,
  )
  reconstruction: bool = key(
    True, "iterative: retrieval scores stay what they were before reading"
  )
