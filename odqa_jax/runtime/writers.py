"""Where metrics go, beside metrics.jsonl: files, and services that keep runs.

    writer = TRACKERS["wandb"](Tracked("odqa_jax", "ict", config, ""))
    writer.write(20, {"loss": 2.5})
    writer.close()

Each takes rows in their order. What a service was told before a run was taken
up again is not told twice; `Report` sees to that.
"""

import contextlib
import csv
import importlib.util
import io
import re
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from odqa_jax.runtime.files import replace_file
from odqa_jax.runtime.kept_settings import ReportSettings
from odqa_jax.runtime.settings import nearest

# MLflow's limits.
_PARAMS_AT_ONCE, _PARAM_LENGTH = 100, 6000


class Tracked(NamedTuple):
  """What a service is told of a run.

  Attributes:
    project: that the run is in.
    name: of the run.
    config: by flat names.
    id: of a run to go on with; "" begins one.
    workdir: of the run.
  """

  project: str
  name: str
  config: Mapping[str, Any]
  id: str
  workdir: Path


@runtime_checkable
class Writer(Protocol):
  """What a report needs of a place for metrics."""

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Adds values of a step; what is not finite is NaN."""

  def flush(self) -> None:
    """Hands over what is held back, where anything is."""

  def close(self, *, failed: bool = False) -> None:
    """Ends; `failed` for a run that an error has ended."""


@runtime_checkable
class Tracker(Writer, Protocol):
  """A service, which has a name of its own for the run."""

  @property
  def id(self) -> str:
    """By which the run is found again."""


# ---- Files of the workdir ----


class CsvWriter:
  """metrics.csv in long form: step, name, value."""

  def __init__(
    self, workdir: Path, rows: Iterable[Mapping[str, Any]], step: int | None
  ) -> None:
    """Renews the file from the rows that count."""
    del step
    path = workdir / "metrics.csv"
    table = b"step,name,value\n" + b"".join(map(_csv_lines, rows))
    replace_file(path, table)
    # Unbuffered: one write call a row, so that a kill tears the last at most.
    self._file = path.open("ab", buffering=0)

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Appends a line a value."""
    self._file.write(_csv_lines({"step": step, **values}))

  def flush(self) -> None:
    """Nothing is held back."""

  def close(self, *, failed: bool = False) -> None:
    """Closes the file."""
    del failed
    self._file.close()


def _csv_lines(row: Mapping[str, Any]) -> bytes:
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  for name, value in row.items():
    if name != "step":
      writer.writerow([row["step"], name, "nan" if value is None else value])
  return text.getvalue().encode()


class TensorBoardWriter:
  """Event files, which `tensorboard --logdir` shows."""

  def __init__(
    self, workdir: Path, rows: Iterable[Mapping[str, Any]], step: int | None
  ) -> None:
    """Opens a new file with all rows; those of older files no longer count.

    A kill loses what an older file had not been handed yet.
    """
    # Imports torch where that is installed, which takes seconds.
    from tensorboardX import SummaryWriter

    self._events = SummaryWriter(
      str(workdir / "tensorboard"),
      purge_step=None if step is None else 0,
    )
    for row in rows if step is not None else ():
      values = {n: v for n, v in row.items() if n != "step" and v is not None}
      self.write(row["step"], values)

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Adds scalars."""
    for name, value in values.items():
      self._events.add_scalar(name, value, step)

  def flush(self) -> None:
    """Hands events to the operating system."""
    self._events.flush()

  def close(self, *, failed: bool = False) -> None:
    """Closes the file."""
    del failed
    self._events.close()


# ---- Services ----


class WandbWriter:
  """Weights & Biases; WANDB_MODE=offline keeps the run in the workdir."""

  def __init__(self, run: Tracked) -> None:
    """Begins a run, or goes on with it."""
    import wandb

    self.id = run.id or uuid.uuid4().hex[:12]
    self._run = wandb.init(
      project=run.project,
      name=run.name,
      id=self.id,
      resume="allow",
      dir=str(run.workdir),
      config=dict(run.config),
      # Keys that may change from one part of a run to the next do.
      allow_val_change=True,
      # What is printed belongs to the terminal.
      settings=wandb.Settings(console="off"),
    )
    # Its own count of rows only grows; ours is the axis.
    self._run.define_metric("*", step_metric="step")

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Logs a row with its step."""
    self._run.log({"step": step, **values})

  def flush(self) -> None:
    """Its process sends by itself."""

  def close(self, *, failed: bool = False) -> None:
    """Waits until all is sent, or written."""
    self._run.finish(exit_code=int(failed))


class MlflowWriter:
  """MLflow, by its client: what the process itself tracks stays untouched."""

  def __init__(self, run: Tracked) -> None:
    """Begins a run, or goes on with it."""
    from mlflow import MlflowClient
    from mlflow.entities import Param

    self._client = MlflowClient()
    if run.id:
      self._client.update_run(run.id, status="RUNNING")
      self.id = run.id
      return
    found = self._client.get_experiment_by_name(run.project)
    if found is None:
      place = self._client.create_experiment(run.project)
    else:
      place = found.experiment_id
    self.id = self._client.create_run(place, run_name=run.name).info.run_id
    params = [Param(k, str(v)[:_PARAM_LENGTH]) for k, v in run.config.items()]
    for i in range(0, len(params), _PARAMS_AT_ONCE):
      self._client.log_batch(self.id, params=params[i : i + _PARAMS_AT_ONCE])

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Logs a row; `recall@20` is called `recall_at_20`."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = [
      Metric(_mlflow_name(name), value, now, step)
      for name, value in values.items()
    ]
    self._client.log_batch(self.id, metrics=metrics)

  def flush(self) -> None:
    """Every row is sent when it is written."""

  def close(self, *, failed: bool = False) -> None:
    """Says how it ended."""
    status = "FAILED" if failed else "FINISHED"
    self._client.set_terminated(self.id, status=status)


def _mlflow_name(name: str) -> str:
  """A metric's name in the characters that MLflow takes."""
  return re.sub(r"[^\w.\- /:]", "_", name.replace("@", "_at_"))


class TrackioWriter:
  """Trackio, in its local folder or where its environment says."""

  def __init__(self, run: Tracked) -> None:
    """Begins a run, or goes on with it."""
    import trackio

    # It finds a run by its name alone.
    self.id = run.id or f"{run.name}-{uuid.uuid4().hex[:8]}"
    with _on_stderr():
      self._run = trackio.init(
        project=run.project,
        name=self.id,
        config=dict(run.config),
        resume="allow",
      )

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Logs a row."""
    self._run.log(dict(values), step=step)

  def flush(self) -> None:
    """Its thread sends by itself."""

  def close(self, *, failed: bool = False) -> None:
    """Waits until all is sent, or written."""
    del failed
    import trackio

    with _on_stderr():
      trackio.finish()


@contextlib.contextmanager
def _on_stderr() -> Iterator[None]:
  """Standard output is for the figures of a command."""
  with contextlib.redirect_stdout(sys.stderr):
    yield


FILES: dict[str, Callable[..., Writer]] = {
  "csv": CsvWriter,
  "tensorboard": TensorBoardWriter,
}
TRACKERS: dict[str, Callable[[Tracked], Tracker]] = {
  "wandb": WandbWriter,
  "mlflow": MlflowWriter,
  "trackio": TrackioWriter,
}


def check_writers(settings: ReportSettings) -> None:
  """Refuses, before anything is read, what metrics cannot be sent to.

  Raises:
    ValueError: for an unknown name.
    ImportError: naming the extra of a service whose library is not there.
  """
  for name in settings.names:
    if name not in {**FILES, **TRACKERS}:
      raise ValueError(
        f"config.report.writers={settings.writers!r}: {name!r} is no writer; "
        f"{nearest(name, {**FILES, **TRACKERS})}"
      )
    if name in TRACKERS and importlib.util.find_spec(name) is None:
      raise ImportError(
        f"config.report.writers={settings.writers!r}: {name} is not installed; "
        f"pip install 'odqa_jax[{name}]', or leave it out."
      )
