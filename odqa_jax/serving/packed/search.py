"""Exact search over rows that are mapped: codes of 8 bits, or float32.

    rows = Rows(pack)
    scores, found = rows.search(vector, k=100)

Rows are taken a block at a time, small enough to stay in cache as float32, by
as many threads as there are cores.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float32, Int64

from odqa_jax.serving.packed.container import Pack

CODES, SCALES, STEP = "index/rows", "index/scales", "index/step"
# Rows of a block.
_ROWS = 4096


class Rows:
  """The rows of an index, and how they are searched."""

  def __init__(self, pack: Pack) -> None:
    """Maps them; they are compared when they are first searched."""
    self._pack = pack
    self._rows = pack.mapped(CODES)
    self._scales: np.ndarray | None = None
    if SCALES in pack.parts:
      step = pack.array(STEP)[0]
      self._scales = pack.array(SCALES).astype(np.float32) * step
    self._pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))

  def __len__(self) -> int:
    return len(self._rows)

  def search(
    self, vector: Float32[np.ndarray, " e"], k: int
  ) -> tuple[Float32[np.ndarray, " k"], Int64[np.ndarray, " k"]]:
    """The k best rows by their dot product; of equal ones the first.

    Raises:
      Damage: for rows that are not what was written.
    """
    scores = np.empty(len(self), np.float32)
    starts = range(0, len(self), _ROWS)
    for _ in self._pool.map(lambda i: self._score(i, vector, scores), starts):
      pass
    least = np.partition(scores, len(self) - k)[len(self) - k]
    some = np.flatnonzero(scores >= least)
    best = some[np.argsort(-scores[some], kind="stable")][:k]
    return scores[best], best

  def _score(self, start: int, vector: np.ndarray, scores: np.ndarray) -> None:
    rows = self._rows[start : start + _ROWS]
    size = rows.itemsize * rows.shape[1]
    self._pack.check(CODES, start * size, (start + len(rows)) * size)
    out = scores[start : start + _ROWS]
    np.matmul(rows.astype(np.float32, copy=False), vector, out=out)
    if self._scales is not None:
      out *= self._scales[start : start + _ROWS]
