"""Sums and rates of a run between two lines of its log."""

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np


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
    real = batch["example_mask"]
    for name, value in batch.items():
      if name.endswith("_lengths"):
        self.tokens += int(value[real].sum()) * jax.process_count()
    self.passages += batch["passage_lengths"][real].size * jax.process_count()

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
    self.steps = self.passages = self.tokens = 0
    self.flops = self.paused = 0.0
    self.mark = time.monotonic()
    return rates
