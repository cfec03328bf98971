"""Settings of what is kept of a run; `settings.py` has the others.

from odqa_jax.runtime.settings import ReportSettings
ReportSettings(writers="csv,wandb")
"""

import dataclasses

from odqa_jax.runtime.data_settings import key


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
  """What is kept of the weights."""

  every: int = key(1000, "steps between two", least=1)
  keep: int = key(1, "of the last ones, beside the best", least=1)


@dataclasses.dataclass(frozen=True)
class ReportSettings:
  """Where metrics go, beside the metrics.jsonl of every run."""

  writers: str = key(
    "csv,tensorboard",
    "where metrics go beside metrics.jsonl, separated by commas: csv, "
    "tensorboard (shown by `tensorboard --logdir`), wandb, mlflow, trackio",
  )
  project: str = key("odqa_jax", "wandb, mlflow, trackio: the run is in this")
  name: str = key("", "wandb, mlflow, trackio: of the run; none: the workdir's")

  @property
  def names(self) -> tuple[str, ...]:
    """The writers, each once."""
    names = (name.strip() for name in self.writers.split(","))
    return tuple(dict.fromkeys(filter(None, names)))
