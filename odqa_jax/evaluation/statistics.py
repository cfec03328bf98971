"""Shares of questions, and how sure they are."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool


def recall_at(
  hits: Bool[np.ndarray, "n k"], cutoffs: Sequence[int]
) -> dict[int, float]:
  """The share of questions with a hit among the first passages.

  Args:
    hits: whether the passage at that rank is a hit, best first.
    cutoffs: numbers of passages to look at, each from 1 to k.

  Returns:
    Cutoff → share in [0, 1].

  Raises:
    ValueError: if there is no question, or a cutoff is outside 1…k.
  """
  if not len(hits):
    raise ValueError("recall of no questions is undefined; give some.")
  for cutoff in cutoffs:
    if not 1 <= cutoff <= hits.shape[1]:
      raise ValueError(
        f"recall@{cutoff} cannot be measured on {hits.shape[1]} passages a "
        f"question; search with k >= {cutoff}, or ask for smaller cutoffs."
      )
  return {k: float(hits[:, :k].any(axis=1).mean()) for k in cutoffs}


def wilson_interval(
  successes: int, count: int, z: float = 1.959964
) -> tuple[float, float]:
  """Wilson's score interval of a share, 95 % by default.

  Unlike the normal approximation it stays inside [0, 1] and has a width even
  at shares of 0 and 1.

  Raises:
    ValueError: if not 0 <= successes <= count, or count is 0.
  """
  if not 0 <= successes <= count or not count:
    raise ValueError(f"{successes} successes of {count} is no share.")
  share, weight = successes / count, z * z / count
  centre = share + weight / 2
  half = z * (share * (1 - share) / count + weight / count / 4) ** 0.5
  scale = 1 + weight
  return (
    min(max((centre - half) / scale, 0.0), share),
    max(min((centre + half) / scale, 1.0), share),
  )
