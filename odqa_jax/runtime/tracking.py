"""Runs at services, taken up again with the run of the workdir.

`tracking.json` of a workdir has, by service, the run's id there and the last
row that was sent, so that a run that was killed and goes on from an earlier
step sends nothing twice.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from odqa_jax.runtime.files import read_json, write_json
from odqa_jax.runtime.kept_settings import ReportSettings
from odqa_jax.runtime.writers import TRACKERS, Tracked, Tracker

Row = Mapping[str, Any]
FILE = "tracking.json"


class SentOnce:
  """A service that gets each value once, and whose failures end no run.

  Attributes:
    name: of the service.
    id: of the run there.
  """

  def __init__(
    self, name: str, tracker: Tracker, step: int, names: Sequence[str]
  ) -> None:
    """Wraps a service.

    Args:
      name: of it.
      tracker: it.
      step: the last step of which it has values.
      names: of those that it has of that step.
    """
    self.name, self.id = name, tracker.id
    self._tracker, self._step, self._names = tracker, step, set(names)
    self._failed = False

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Sends what is new."""
    if step < self._step:
      return
    if step == self._step:
      values = {k: v for k, v in values.items() if k not in self._names}
    if values:
      self._try("not sent", self._tracker.write, step, values)

  def flush(self) -> None:
    """Has it send what it holds back."""
    self._try("not sent", self._tracker.flush)

  def close(self, *, failed: bool = False) -> None:
    """Ends the run there."""
    self._try("not closed", self._tracker.close, failed=failed)

  def _try(self, what: str, call: Any, *args: Any, **options: Any) -> None:
    try:
      call(*args, **options)
    # Days of training are worth more than a line at a service, whatever its
    # library raises.
    except Exception as error:
      if not self._failed:
        reason = " ".join(str(error).split())
        print(
          f"{self.name}: {what} ({type(error).__name__}: {reason}); the run "
          "goes on, and metrics.jsonl has every row.",
          file=sys.stderr,
        )
      self._failed = True


def open_trackers(
  workdir: Path,
  settings: ReportSettings,
  config: Mapping[str, Any],
  *,
  written: Sequence[Row],
  kept: Sequence[Row],
  anew: bool,
) -> list[SentOnce]:
  """Opens the services among the writers, and sends what they have not seen.

  Args:
    workdir: of the run.
    settings: which services, and under which names.
    config: of the run, by flat names.
    written: rows of metrics.jsonl as the last part of the run left them.
    kept: those of them that count.
    anew: whether a run begins, whatever was in the workdir.

  Raises:
    ValueError: if a service cannot be opened.
  """
  path = workdir / FILE
  if anew:
    path.unlink(missing_ok=True)
  known = read_json(path) if path.is_file() else {}
  for state in known.values():
    if state["in_use"]:
      _move_on(state, written)
    state["in_use"] = False
  opened: list[SentOnce] = []
  for name in settings.names:
    if name not in TRACKERS:
      continue
    begun = {"id": "", "step": -1, "names": [], "in_use": False}
    state = known.setdefault(name, begun)
    run = Tracked(
      project=settings.project,
      name=settings.name or workdir.absolute().name,
      config=config,
      id=state["id"],
      workdir=workdir,
    )
    try:
      service = _opened(name, run)
    except ValueError:
      for each in opened:
        each.close(failed=True)
      raise
    tracker = SentOnce(name, service, state["step"], state["names"])
    state |= {"id": tracker.id, "in_use": True}
    opened.append(tracker)
    write_json(path, known)
  if known:
    write_json(path, known)
  for row in kept:
    values = {
      name: float("nan") if value is None else value
      for name, value in row.items()
      if name != "step"
    }
    for tracker in opened:
      tracker.write(row["step"], values)
  return opened


def _move_on(state: dict[str, Any], written: Sequence[Row]) -> None:
  """Notes, in place, the last row that a service in use has been sent."""
  step = written[-1]["step"] if written else -1
  if step < state["step"]:
    return
  names = {n for row in written if row["step"] == step for n in row}
  if step == state["step"]:
    names |= set(state["names"])
  state |= {"step": step, "names": sorted(names - {"step"})}


def _opened(name: str, run: Tracked) -> Tracker:
  try:
    return TRACKERS[name](run)
  # Each library has errors of its own.
  except Exception as error:
    reason = " ".join(str(error).split())
    again = f" To begin another run there, remove {run.workdir / FILE}."
    raise ValueError(
      f"config.report.writers: {name} cannot be opened "
      f"({type(error).__name__}: {reason}); log in there, have it work offline "
      f"(README.md says how), or leave it out.{again if run.id else ''}"
    ) from error
