"""ScaNN itself: its settings, its training, its search."""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32

# Leaves that hold fewer rows than this for each one wanted lose too many.
_ROWS_PER_K = 10
# Questions that one thread takes at a time.
_PER_THREAD = 16


@dataclasses.dataclass(frozen=True)
class ScannConfig:
  """How rows are partitioned, compressed and searched.

  Where `leaves` or `leaves_searched` is 0, it follows from the number of rows
  n; `resolved` fills it in.

  Attributes:
    leaves: parts that the rows fall into; by default √n, rounded.
    leaves_searched: parts that a question looks at, or as many as hold about
      10·k rows; by default a tenth of them, at least 50. More of them raise
      the recall and the time alike.
    dims_per_block: dimensions that share one 4-bit code.
    anisotropic_threshold: how much errors along a row outweigh others in its
      code; 0.2 suits inner products.
    rescored: candidates that are scored with the rows themselves; 5·k where
      that is more.
    brute_force_below: with fewer rows all of them are scored: exact, and no
      slower.
  """

  leaves: int = 0
  leaves_searched: int = 0
  dims_per_block: int = 2
  anisotropic_threshold: float = 0.2
  rescored: int = 500
  brute_force_below: int = 20_000

  def resolved(self, count: int) -> "ScannConfig":
    """The same with the defaults for an index of `count` rows.

    Raises:
      ValueError: for a number out of range.
    """
    leaves = self.leaves or round(math.sqrt(count))
    searched = self.leaves_searched or min(leaves, max(50, leaves // 10))
    config = dataclasses.replace(self, leaves=leaves, leaves_searched=searched)
    if not 1 <= searched <= leaves <= count or config.dims_per_block < 1:
      raise ValueError(
        f"{config} does not suit {count} rows; choose 1 <= leaves_searched <= "
        "leaves <= rows and dims_per_block >= 1."
      )
    return config

  def exhaustive(self, count: int) -> bool:
    """Whether every row is scored."""
    return count < self.brute_force_below


def library() -> Any:
  """ScaNN's module, or an ImportError that says how to get it."""
  try:
    from scann.scann_ops.py import scann_ops_pybind
  except ImportError as error:
    raise ImportError(
      "--backend scann needs the extra `scann`: pip install 'odqa_jax[scann]'."
    ) from error
  return scann_ops_pybind


def train(
  scann: Any,
  rows: Float32[np.ndarray, "n e"],
  dtype: str,
  config: ScannConfig,
) -> Any:
  """ScaNN's searcher of the rows.

  Args:
    scann: what `library` returned.
    rows: all of them.
    dtype: of the index; of bfloat16 rows bfloat16 ones are kept.
    config: `resolved`.
  """
  # Imported under its own name only here, where it is known to exist.
  from scann import ReorderType

  kept = ReorderType.BFLOAT16 if dtype == "bfloat16" else ReorderType.FLOAT32
  builder = scann.builder(rows, 100, "dot_product")
  if config.exhaustive(len(rows)):
    return builder.score_brute_force(kept).build()
  return (
    builder.tree(
      num_leaves=config.leaves,
      num_leaves_to_search=config.leaves_searched,
      training_sample_size=min(len(rows), 100 * config.leaves),
    )
    .score_ah(
      config.dims_per_block,
      anisotropic_quantization_threshold=config.anisotropic_threshold,
    )
    .reorder(config.rescored, quantize=kept)
    .build()
  )


def find_rows(
  searcher: Any,
  config: ScannConfig,
  count: int,
  queries: Float32[np.ndarray, "b e"],
  k: int,
) -> tuple[Float32[np.ndarray, "b k"], Int32[np.ndarray, "b k"]]:
  """The k best of the `count` rows of a searcher; see `ScannIndex.search`."""
  scores = np.full((len(queries), k), np.nan, np.float32)
  rows = np.zeros((len(queries), k), np.int32)
  leaves = -(-_ROWS_PER_K * k * config.leaves // count)
  leaves = min(max(leaves, config.leaves_searched), config.leaves)
  missing = np.ones(len(queries), bool)
  while True:
    rows[missing], scores[missing] = searcher.search_batched_parallel(
      queries[missing],
      final_num_neighbors=k,
      pre_reorder_num_neighbors=min(max(config.rescored, 5 * k), count),
      leaves_to_search=leaves,
      batch_size=_PER_THREAD,
    )
    # ScaNN fills up with row 0 and NaN.
    missing[:] = np.isnan(scores).any(axis=1)
    if not missing.any():
      break
    if leaves == config.leaves:
      raise ValueError(
        f"ScaNN found fewer than k={k} of {count} rows for "
        f"{int(missing.sum())} questions; choose a smaller k, or --backend "
        "exact or host."
      )
    leaves = min(2 * leaves, config.leaves)
  order = np.lexsort((rows, -scores), axis=1)
  return (
    np.take_along_axis(scores, order, axis=1),
    np.take_along_axis(rows, order, axis=1),
  )
