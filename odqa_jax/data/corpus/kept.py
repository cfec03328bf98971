"""Which passages of a corpus are kept, and where they went.

    rows = choose_rows(scores, keep=1_700_000, gold=gold_rows)
    new_rows(rows, ranking.rows)       # old rows → new ones, -1 for none

A passage keeps its id, by which runs and question sets name it; only its row
is another one.
"""

import math

import numpy as np
from jaxtyping import Float, Int, Int64


def choose_rows(
  scores: Float[np.ndarray, " n"],
  *,
  keep: int | None = None,
  threshold: float | None = None,
  gold: Int[np.ndarray, " g"] | None = None,
) -> Int64[np.ndarray, " m"]:
  """The rows that pruning keeps, ascending.

  Source: R2-D2's index pruning: the passages that are least likely to be
  irrelevant, and all gold passages of the training set beside them.

  Args:
    scores: how irrelevant each passage is; the lowest are kept.
    keep: how many, at most n. Of equal scores the first rows are kept.
    threshold: keeps what scores no more; instead of `keep`.
    gold: rows that are kept as well, whatever they score.

  Raises:
    ValueError: if a score is not finite, `keep` is none of 1 to n, or nothing
      is below the threshold.
  """
  _check_finite(scores)
  check_rule(keep, threshold, len(scores))
  if keep is not None:
    chosen = np.argsort(scores, kind="stable")[:keep]
  else:
    chosen = np.flatnonzero(scores <= threshold)
    if not len(chosen):
      raise ValueError(
        f"--threshold {threshold:g}: all {len(scores)} passages score more "
        f"(the lowest {scores.min():g}), and none would be left; raise it."
      )
  if gold is not None:
    chosen = np.concatenate([chosen, gold])
  return np.unique(chosen.astype(np.int64))


def check_rule(keep: int | None, threshold: float | None, count: int) -> None:
  """Raises ValueError for what no scores of `count` passages allow."""
  if (keep is None) == (threshold is None):
    raise ValueError("give --keep N, or --threshold P: one of them.")
  if keep is not None and not 1 <= keep <= count:
    raise ValueError(
      f"--keep {keep}: the corpus has {count} passages; keep 1 to {count} of "
      "them."
    )
  if threshold is not None and math.isnan(threshold):
    raise ValueError("--threshold nan: is no score; give a number.")


def _check_finite(scores: Float[np.ndarray, " n"]) -> None:
  finite = np.isfinite(scores)
  if not finite.all():
    row = int(np.argmin(finite))
    raise ValueError(
      f"the score of row {row} is {scores[row]}; every passage needs a finite "
      "one: score the corpus again."
    )


def new_rows(
  kept: Int64[np.ndarray, " m"], rows: Int[np.ndarray, "..."]
) -> Int64[np.ndarray, "..."]:
  """Rows of a corpus → rows of what was cut from it.

  Args:
    kept: the rows that were kept, ascending.
    rows: of the corpus; below 0 for none.

  Returns:
    -1 where the passage is gone, or there was none.
  """
  at = np.searchsorted(kept, rows)
  found = np.append(kept, -1)[at] == rows
  return np.where(found & (rows >= 0), at, -1).astype(np.int64)
