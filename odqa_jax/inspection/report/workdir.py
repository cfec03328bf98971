"""What a training has left behind, read for a page or a comparison.

run = read_workdir("work/ict")
run.series["dev/recall@20"]
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from odqa_jax.runtime.checkpoint import find_step, read_extra
from odqa_jax.runtime.config import base_config, flatten
from odqa_jax.runtime.files import Damage, read_json
from odqa_jax.runtime.report import (
  Series,
  lower_is_better,
  metric_series,
  read_metrics,
)
from odqa_jax.runtime.run_record import read_record

METRICS = "metrics.jsonl"


@dataclasses.dataclass(frozen=True)
class TrainingRun:
  """One workdir.

  Attributes:
    path: of it.
    series: name → steps and values of a metric.
    config: its settings by flat names; empty where there is no config.json.
    record: of run.json; empty for a run of an older version.
    extra: of the checkpoint that counts; empty before the first.
    checkpoint: the step of that.
  """

  path: Path
  series: Series
  config: Mapping[str, Any]
  record: Mapping[str, Any]
  extra: Mapping[str, Any]
  checkpoint: int | None

  @property
  def step(self) -> int:
    """The last step that has metrics."""
    return max(steps[-1] for steps, _ in self.series.values())

  @property
  def steps(self) -> int | None:
    """How many there are to be; None where nothing says."""
    wanted = self.record.get("steps") or self.config.get("steps")
    return None if self.config.get("epochs") and not self.record else wanted

  @property
  def state(self) -> str:
    """Whether it is done, in a few words."""
    if self.steps is not None and self.step >= self.steps:
      return "finished"
    sessions = self.record.get("sessions") or [{}]
    return str(sessions[-1].get("ended") or "running, or killed")

  def best(self, name: str) -> tuple[int, float]:
    """The step and value where a metric was best, the first of equals."""
    steps, values = self.series[name]
    best = (min if lower_is_better(name) else max)(values)
    return steps[values.index(best)], best


def is_training(path: Path) -> bool:
  """Whether a folder is one that `odqa train` works in."""
  return (path / METRICS).is_file()


def read_workdir(path: str | Path) -> TrainingRun:
  """Reads metrics, settings and what is known of the run.

  Raises:
    ValueError: if it is no workdir, or has no metrics yet.
  """
  path = Path(path)
  if not path.exists():
    raise ValueError(f"{path}: there is no such folder; check the path.")
  if not is_training(path):
    raise ValueError(
      f"{path}: is no workdir of a training, which has a {METRICS}; name what "
      "was given to `odqa train --workdir`."
    )
  series = metric_series(read_metrics(path / METRICS))
  if not series:
    raise ValueError(
      f"{path / METRICS}: has no metrics yet; the first come after "
      "config.log_every steps. Wait for them, or leave the run out."
    )
  config = path / "config.json"
  try:
    folder, step = find_step(path)
    extra, checkpoint = read_extra(folder, step), step
  except Damage:
    raise
  except ValueError:
    # Before its first checkpoint a run has metrics alone.
    extra, checkpoint = {}, None
  return TrainingRun(
    path=path,
    series=series,
    config=flatten(read_json(config)) if config.is_file() else {},
    record=read_record(path),
    extra=extra,
    checkpoint=checkpoint,
  )


def is_share(name: str, values: Sequence[int | float]) -> bool:
  """Whether a metric is a share of something, which is told in percent."""
  # Of these, some are in nats.
  other = (
    "loss", "learning_rate", "norm", "lambda", "examples", "entropy", "utility",
  )  # fmt: skip
  named = any(word in name for word in other) or name.startswith("time/")
  return not named and all(0 <= value <= 1 for value in values)


def differences(
  config: Mapping[str, Any], recipe: Mapping[str, Any] | None
) -> list[tuple[str, Any, Any, Any]]:
  """Keys whose value is neither the default's nor the recipe's alone.

  Args:
    config: of a run, by flat names.
    recipe: of its config file, likewise; None where it is not known.

  Returns:
    (key, default, recipe's value, run's value), where the run differs from one
    of the two.
  """
  default = flatten(base_config().to_dict())
  return [
    (key, default.get(key), recipe and recipe.get(key), value)
    for key, value in config.items()
    if value != default.get(key)
    or (recipe is not None and value != recipe.get(key))
  ]
