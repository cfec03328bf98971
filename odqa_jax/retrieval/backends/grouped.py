"""The exact top k of a device's rows where memory traffic decides.

The product reads every row once, and only the largest score of each group of
rows leaves it: on a TPU XLA fuses the maximum into the product, on a GPU a
kernel does (`kernel.py`), so neither scores nor copies of rows reach the
memory. The k best groups hold the k best rows; those are fetched and scored
again.

Nothing here is approximate: a row outside the chosen groups is beaten by k
others. Both products are of full float32 precision, but they may round
differently; where two scores differ by that rounding alone, either may win.
"""

import functools
import logging
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Int8, Shaped

from odqa_jax.retrieval.backends import kernel
from odqa_jax.retrieval.backends.top_k import (
  Top,
  first_of_best,
  in_parts,
  merge,
  tidy,
)

_log = logging.getLogger(__name__)

# Rows per group; they divide `ROW_MULTIPLE`. The tile of bfloat16 on a TPU has
# 16 rows, that of int8 32, and a group that is a whole tile needs no copy.
_GROUP = 16
_GROUP_TPU_INT8 = 32
# Questions per pass over the rows: on a TPU the maxima of their groups stay in
# on-chip memory (84 MB for 21M rows on 8 chips), and with more the matrix
# units, not the memory, would decide; on a GPU too.
_QUESTIONS = 128
# Where a GPU has no kernel the scores of all rows lie in memory: 320 MiB for
# 21M rows on 8 GPUs.
_QUESTIONS_UNFUSED = 32

# A question and groups of rows, with their scales if they have any → scores.
Score = Callable[..., Float[Array, "c g"]]


def _group(platform: str, rows: Shaped[Array, "n e"]) -> int:
  """Rows per group."""
  tpu = platform == "tpu"
  return _GROUP_TPU_INT8 if tpu and rows.dtype == jnp.int8 else _GROUP


def has_groups(platform: str, rows: Shaped[Array, "n e"], k: int) -> bool:
  """Whether `best_by_groups` is the search of this platform for such rows."""
  if platform not in ("tpu", "gpu"):
    return False
  return len(rows) >= (k + 1) * _group(platform, rows)


def best_by_groups(
  queries: Float[Array, "b e"] | Int8[Array, "b e"],
  rows: Shaped[Array, "n e"],
  count: Int[Array, ""],
  k: int,
  *,
  scales: Float[Array, " n"] | None = None,
  platform: str = "tpu",
  interpret: bool = False,
) -> Top:
  """The top k of one device's rows; called within `jax.shard_map`.

  Args:
    queries: float32; int8 for int8 rows.
    rows: float32, bfloat16 or int8, n a multiple of `ROW_MULTIPLE`.
    count: how many rows may be found; may be negative, or beyond n.
    k: how many; see `has_groups`.
    scales: every score is multiplied by its row's.
    platform: "tpu" or "gpu", whose program it is.
    interpret: runs the kernel of a GPU on any device.

  Returns:
    Scores, best first, equal ones by row, and positions; -inf scores where
    there are less than k rows.
  """
  gpu, group = platform == "gpu", _group(platform, rows)
  fused = not gpu or kernel.takes(rows)
  if not fused:
    _log.warning(
      "no kernel searches %s rows of width %d (a multiple of 16) with this "
      "jax: XLA does, and writes all scores to memory.",
      rows.dtype,
      rows.shape[1],
    )
  maxima = _maxima
  if gpu and fused:
    maxima = functools.partial(kernel.group_maxima, interpret=interpret)

  def best(part: Array) -> Top:
    found = maxima(part, rows, group, scales)
    return _best(part, found, rows, scales, count, k, tpu=not gpu)

  return in_parts(best, queries, _QUESTIONS if fused else _QUESTIONS_UNFUSED)


def _best(
  queries: Shaped[Array, "b e"],
  maxima: Float[Array, "b m"],
  rows: Shaped[Array, "n e"],
  scales: Float[Array, " n"] | None,
  count: Int[Array, ""],
  k: int,
  *,
  tpu: bool,
) -> Top:
  """The top k, given the best score of every group.

  Args:
    queries: see `best_by_groups`, as for what follows.
    maxima: also of rows that may not be found.
    rows: all of them.
    scales: of them.
    count: how many may be found.
    k: how many are.
    tpu: whose program it is. It would copy the groups of all questions in
      memory, but holds those of one on the chip.
  """
  b, groups = maxima.shape
  group = len(rows) // groups
  starts = jnp.arange(groups, dtype=jnp.int32) * group
  maxima = jnp.where(starts < count, tidy(maxima), -jnp.inf)
  # One more than k, because the group that `count` divides may stand too high:
  # its padding has scores as well. In row order, for the sake of ties.
  best = first_of_best(maxima, k + 1, in_turn=not tpu)
  grouped = [
    x.reshape(groups, group, *x.shape[1:])
    for x in (rows, scales)
    if x is not None
  ]

  def score(asked: tuple[Array, Array]) -> Float[Array, "c g"]:
    query, chosen = asked
    return _score(query, *(x[chosen] for x in grouped))

  each = functools.partial(lax.map, score) if tpu else jax.vmap(score)
  scores = each((queries, best))
  offsets = jnp.arange(group, dtype=jnp.int32)[None, None]
  found = best[:, :, None] * group + offsets
  scores = jnp.where(found < count, tidy(scores), -jnp.inf)
  return merge(scores.reshape(b, -1), found.reshape(b, -1), k)


def _maxima(
  queries: Shaped[Array, "b e"],
  rows: Shaped[Array, "n e"],
  group: int,
  scales: Float[Array, " n"] | None,
) -> Float[Array, "b m"]:
  """The best score of every group, by XLA."""
  n, e = rows.shape
  integers = rows.dtype == jnp.int8
  grouped = rows.reshape(n // group, group, e)
  # XLA fuses the maximum only over this order of axes.
  scores = jnp.einsum(
    "be,mge->mgb",
    queries,
    grouped if integers else grouped.astype(jnp.float32),
    precision=lax.Precision.HIGHEST,
    preferred_element_type=jnp.int32 if integers else jnp.float32,
  )
  if scales is not None:
    scores = scores * scales.reshape(n // group, group, 1)
  return scores.max(axis=1).T


def _score(
  query: Shaped[Array, " e"],
  rows: Shaped[Array, "c g e"],
  scales: Float[Array, "c g"] | None = None,
) -> Float[Array, "c g"]:
  """Scores of some groups. As a product XLA would widen the rows in memory."""
  kind = jnp.int32 if rows.dtype == jnp.int8 else jnp.float32
  products = query.astype(kind)[None, None] * rows.astype(kind)
  scores = products.sum(axis=2).astype(jnp.float32)
  return scores if scales is None else scores * scales
