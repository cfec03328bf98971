"""What a long run needs beside its step: sums, rates, signals, its config.

Nothing here knows what is trained.
"""

import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

# Keys that may differ between the beginning of a run and its resumption.
HARMLESS_KEYS = ("log_every", "checkpoint.", "evaluate.", "mesh.", "sharding")


class Interrupted(Exception):
  """The run was told to stop; what was done is saved."""


def check_finite(step: int, metrics: Mapping[str, tuple[Any, Any]]) -> None:
  """Stops a run that has gone wrong, before it is saved.

  Raises:
    FloatingPointError: naming the step and the metric.
  """
  for name, (total, _) in metrics.items():
    if not math.isfinite(total):
      raise FloatingPointError(
        f"{name} is {float(total)} at step {step}; the last checkpoint is from "
        "before it. Try a lower config.optimizer.learning_rate."
      )


class Window:
  """Sums of metrics since the last log line; a part of the checkpoint.

  Args:
    sums: name → [sum, weight], from a checkpoint.
  """

  def __init__(self, sums: Mapping[str, list[float]] | None = None) -> None:
    self.sums = {name: list(pair) for name, pair in (sums or {}).items()}

  def add(self, metrics: Mapping[str, tuple[Any, Any]]) -> None:
    """Adds one step's `(sum, weight)` pairs."""
    for name, (total, weight) in metrics.items():
      pair = self.sums.setdefault(name, [0.0, 0.0])
      pair[0] += float(total)
      pair[1] += float(weight)

  def take(self) -> dict[str, float]:
    """The means; the window is empty afterwards."""
    means = {name: t / max(w, 1e-12) for name, (t, w) in self.sums.items()}
    self.sums = {}
    return means


@dataclasses.dataclass
class Meter:
  """Work done since the last log line, for the throughput line.

  Saves and evaluations are not counted: they `pause` the clock.
  """

  steps: int = 0
  passages: int = 0
  tokens: int = 0
  flops: float = 0.0
  mark: float = dataclasses.field(default_factory=time.monotonic)
  paused: float = 0.0

  def add(self, batch: Mapping[str, np.ndarray], flops: float) -> None:
    """Counts one step.

    Args:
      batch: this process's rows; the others' are taken to be alike. Tokens
        are real ones, without padding.
      flops: of the whole step.
    """
    self.steps += 1
    self.flops += flops
    for name, value in batch.items():
      if name.endswith("_lengths"):
        self.tokens += int(value.sum()) * jax.process_count()
    self.passages += batch["passage_lengths"].size * jax.process_count()

  @contextmanager
  def pause(self) -> Iterator[None]:
    """Leaves the time inside out of the rates."""
    start = time.monotonic()
    yield
    self.paused += time.monotonic() - start

  def take(self) -> dict[str, float]:
    """Rates per second and milliseconds per step; starts anew."""
    seconds = max(time.monotonic() - self.mark - self.paused, 1e-9)
    rates = {
      "time/step_ms": 1000 * seconds / max(self.steps, 1),
      "time/passages_per_s": self.passages / seconds,
      "time/tokens_per_s": self.tokens / seconds,
      "time/flops_per_s": self.flops / seconds,
    }
    self.__init__()  # type: ignore[misc]
    return rates


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
  """Turns the first Ctrl-C or SIGTERM into a request; the second is final.

  Outside the main thread signals stay as they are.
  """
  asked: list[int] = []

  def handle(number: int, frame: Any) -> None:
    del frame
    if asked:
      raise KeyboardInterrupt
    asked.append(number)

  before = {}
  try:
    for number in (signal.SIGINT, signal.SIGTERM):
      before[number] = signal.signal(number, handle)
  except ValueError:
    pass
  try:
    yield lambda: bool(asked)
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def check_same_config(old: Mapping[str, Any], new: ConfigDict) -> None:
  """Refuses to resume a run with settings that would change its result.

  Raises:
    ValueError: naming every key that differs, with both values.
  """
  before, now = _flatten(dict(old)), _flatten(new.to_dict())
  different = [
    f"config.{key} was {before.get(key)!r} and is {now.get(key)!r}"
    for key in sorted(before.keys() | now.keys())
    if before.get(key) != now.get(key) and not key.startswith(HARMLESS_KEYS)
  ]
  if different:
    raise ValueError(
      "this workdir was begun with another config: "
      + "; ".join(different)
      + ". Use the old values or a new --workdir."
    )


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
  if isinstance(tree, dict):
    return {
      key: value
      for name, branch in tree.items()
      for key, value in _flatten(
        branch, f"{prefix}.{name}" if prefix else name
      ).items()
    }
  return {prefix: _as_list(tree)}


def _as_list(value: Any) -> Any:
  """JSON has no tuples, so both sides are compared as lists."""
  if isinstance(value, tuple | list):
    return [_as_list(v) for v in value]
  return value
