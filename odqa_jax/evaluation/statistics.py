"""Shares of questions, and how sure they are."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float64
from scipy.stats import binomtest

# Means of resampled questions that are held at once.
_RESAMPLED_AT_ONCE = 64


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


def bootstrap_intervals(
  values: Float[np.ndarray, "n m"], *, seed: int = 0, samples: int = 2000
) -> Float64[np.ndarray, "m 2"]:
  """95 % percentile intervals of the means of columns.

  All columns are resampled by the same questions, so that they can be compared.

  Args:
    values: of n questions, one column a system.
    seed: of the resampling.
    samples: how many times n questions are drawn from the n, with replacement.

  Raises:
    ValueError: if there is no question.
  """
  return percentile_interval(
    resampled_means(values, seed=seed, samples=samples)
  )


def resampled_means(
  values: Float[np.ndarray, "n m"], *, seed: int = 0, samples: int = 2000
) -> Float64[np.ndarray, "s m"]:
  """The bootstrap's means of columns; see `bootstrap_intervals`."""
  n = len(values)
  if not n:
    raise ValueError("an interval of no questions is undefined; give some.")
  rng = np.random.default_rng(seed)
  means = []
  for _ in range(0, samples, _RESAMPLED_AT_ONCE):
    drawn = rng.integers(n, size=(_RESAMPLED_AT_ONCE, n))
    counts = np.stack([np.bincount(row, minlength=n) for row in drawn])
    means.append(counts @ values.astype(np.float64) / n)
  return np.concatenate(means)[:samples]


def percentile_interval(
  means: Float64[np.ndarray, "s m"],
) -> Float64[np.ndarray, "m 2"]:
  """The middle 95 % of resampled means."""
  return np.quantile(means, [0.025, 0.975], axis=0).T


def bootstrap_p(
  differences: Float64[np.ndarray, "s m"],
) -> Float64[np.ndarray, " m"]:
  """Two-sided p of the paired bootstrap, no lower than 2 / (s + 1).

  Twice the share of resamples in which a difference is 0 or of the other sign:
  what the interval that just reaches 0 leaves out.

  Source: Efron and Tibshirani, "An Introduction to the Bootstrap", Sec. 15.4
  and 16.4; one is added so that no p is 0 (Davison and Hinkley 1997, 4.2.3).

  Args:
    differences: of the resampled means of two systems, in s resamples.
  """
  count = len(differences)
  below = ((differences <= 0).sum(axis=0) + 1) / (count + 1)
  above = ((differences >= 0).sum(axis=0) + 1) / (count + 1)
  return np.minimum(2 * np.minimum(below, above), 1.0)


def mcnemar(
  first: Bool[np.ndarray, " n"], second: Bool[np.ndarray, " n"]
) -> tuple[int, int, float]:
  """McNemar's exact test of two systems on the same questions.

  Source: McNemar, "Note on the sampling error of the difference between
  correlated proportions or percentages"; the exact binomial form.

  Args:
    first: whether one system is right.
    second: whether the other is.

  Returns:
    How many questions only the first has right, how many only the second, and
    the two-sided p of a difference at least as large by chance.
  """
  only_first = int((first & ~second).sum())
  only_second = int((second & ~first).sum())
  total = only_first + only_second
  p = float(binomtest(only_first, total).pvalue) if total else 1.0
  return only_first, only_second, p
