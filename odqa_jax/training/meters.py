"""Sums and rates of a run between two lines of its log."""

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
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
  waiting: list[tuple[jax.Array, jax.Array]] = dataclasses.field(
    default_factory=list
  )
  mark: float = dataclasses.field(default_factory=time.monotonic)
  paused: float = 0.0

  def add(
    self, batch: Mapping[str, np.ndarray | jax.Array], flops: float
  ) -> None:
    """Counts one step.

    Args:
      batch: this process's rows, the others' are taken to be alike; or those
        of all on the devices, which are not waited for. Tokens are real ones,
        without padding.
      flops: of the whole step.
    """
    self.steps += 1
    self.flops += flops
    real = batch["example_mask"]
    lengths = _lengths(batch)
    if isinstance(real, jax.Array):
      self.waiting.append(_counts(real, lengths))
      return
    for value in lengths.values():
      self.tokens += int(value[real].sum()) * jax.process_count()
    self.passages += lengths["passage_lengths"][real].size * jax.process_count()

  @contextmanager
  def pause(self) -> Iterator[None]:
    """Leaves the time inside out of the rates."""
    start = time.monotonic()
    yield
    self.paused += time.monotonic() - start

  def take(self) -> dict[str, float]:
    """Rates per second and milliseconds per step; starts anew."""
    for tokens, passages in jax.device_get(self.waiting):
      self.tokens += int(tokens)
      self.passages += int(passages)
    self.waiting = []
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


def _lengths(batch: Mapping[str, Any]) -> dict[str, Any]:
  """The real tokens of all inputs of a batch."""
  if "lengths" in batch:
    return {"passage_lengths": batch["lengths"]}
  return {k: v for k, v in batch.items() if k.endswith("_lengths")}


@jax.jit
def _counts(
  real: jax.Array, lengths: Mapping[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
  """Tokens, and passages, of the real examples of a whole batch."""
  tokens = sum(
    jnp.where(real, x.reshape(len(x), -1).sum(axis=1), 0).sum()
    for x in lengths.values()
  )
  return jnp.asarray(tokens), real.sum() * lengths["passage_lengths"].shape[1]
