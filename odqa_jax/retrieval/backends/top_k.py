"""The k best rows: of a matrix of scores, of all devices together.

Ties go to the lowest row, however many devices there are: candidates are kept
in row order before every `lax.top_k`, which prefers the first of equals.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Shaped

# Every device holds a multiple of this many rows. A matrix product may add up
# in another order when their number is ragged; with a round one, equal rows
# get bit-identical scores, and search can break ties by row.
ROW_MULTIPLE = 64
# Rows per group whose maximum is compared first; divides ROW_MULTIPLE.
GROUP = 32
# Scores held at a time: 256 MiB of float32, or those of 32 questions.
_SCORES = 2**26
_QUESTIONS = 32

# Scores, best first, and rows, both on the devices.
Top = tuple[Float[Array, "b k"], Int[Array, "b k"]]
# (queries, *rows, how many of them are real, k) → scores and positions.
Best = Callable[..., Top]


def tidy(scores: Float[Array, "..."]) -> Float[Array, "..."]:
  """-0.0 becomes its equal 0.0; -inf and NaN become the lowest number.

  `lax.top_k` puts -0.0 below 0.0, and -inf marks what is no row at all; a real
  row stays above it, by overflow too.
  """
  lowest = jnp.finfo(jnp.float32).min
  return jnp.where(
    scores == 0, 0.0, jnp.where(scores >= lowest, scores, lowest)
  )


def merge(scores: Float[Array, "b m"], rows: Int[Array, "b m"], k: int) -> Top:
  """The top k of candidates whose equals stand in row order."""
  scores, positions = lax.top_k(scores, k)
  return scores, jnp.take_along_axis(rows, positions, axis=1)


def first_of_best(
  values: Float[Array, "b m"], k: int, *, in_turn: bool
) -> Int[Array, "b k"]:
  """Where the k largest stand, the first among equals, in ascending order.

  Args:
    values: without NaN.
    k: at most m.
    in_turn: the k best of groups are taken first, likewise by groups of those.
      A GPU sorts everything for a stable `lax.top_k`: so few are left to sort,
      and ties need no second look.
  """
  b, m = values.shape
  if not in_turn or m < 2 * k * GROUP:
    return jnp.sort(lax.top_k(values, k)[1], axis=1)
  padded = jnp.pad(values, ((0, 0), (0, -m % GROUP)), constant_values=-jnp.inf)
  grouped = padded.reshape(b, -1, GROUP)
  groups = first_of_best(grouped.max(axis=2), k, in_turn=True)
  candidates = jnp.take_along_axis(grouped, groups[:, :, None], axis=1)
  best = lax.top_k(candidates.reshape(b, -1), k)[1]
  first = jnp.take_along_axis(groups, best // GROUP, axis=1)
  return jnp.sort(first * GROUP + best % GROUP, axis=1)


def top_rows(
  scores: Float[Array, "n b"],
  count: Int[Array, ""],
  k: int,
  *,
  seen: Int[Array, ""] | int = 0,
) -> Top:
  """The k best of the first `count` rows for every column.

  The k groups of rows with the largest maxima (the first among equals) hold
  the top k: a row outside them is beaten by k maxima. Comparing maxima is
  several times cheaper than comparing all, and this layout lets the maximum
  of a group be taken for many questions at a time.

  Args:
    scores: n a multiple of `GROUP`.
    count: may be negative, or beyond n.
    k: at most n.
    seen: as many rows at the beginning are left out, a multiple of `GROUP`.

  Returns:
    Scores, best first, equal ones by row, and rows; -inf where there are less
    than k.
  """
  n, b = scores.shape

  def real(rows: Int[Array, "..."]) -> Bool[Array, "..."]:
    return (rows >= seen) & (rows < count)

  rows = jnp.arange(n, dtype=jnp.int32)
  if n // GROUP < 2 * k:
    kept = jnp.where(real(rows)[:, None], tidy(scores), -jnp.inf)
    values, top_rows = lax.top_k(kept.T, k)
    return values, top_rows
  rows = rows.reshape(n // GROUP, GROUP)
  grouped = scores.reshape(n // GROUP, GROUP, b)
  some = real(rows).any(axis=1)[:, None]
  # Without a mask, which would cost as much as the maximum: so the group that
  # `count` divides may stand too high, and one more than k is taken.
  maxima = jnp.where(some, tidy(grouped.max(axis=1)), -jnp.inf)
  best = jnp.sort(lax.top_k(maxima.T, k + 1)[1], axis=1)
  columns = jnp.arange(b, dtype=jnp.int32)[:, None]
  values = grouped[best, :, columns].reshape(b, -1)
  candidates = rows[best].reshape(b, -1)
  values = jnp.where(real(candidates), tidy(values), -jnp.inf)
  return merge(values, candidates, k)


def questions_at_once(mesh: Mesh, rows: int) -> int:
  """For how many questions a device has room to hold the scores of its rows."""
  cpu = mesh.devices.flat[0].platform == "cpu"
  # CPU devices share the memory of their host.
  sharing = len(mesh.local_devices) if cpu else 1
  return max(_SCORES // (sharing * rows), _QUESTIONS)


def in_parts(
  best: Callable[[Array], Top],
  queries: Shaped[Array, "b e"],
  size: int,
) -> Top:
  """`best` of at most `size` queries at a time, one part after another."""
  b, e = queries.shape
  parts = -(-b // size)
  if parts == 1:
    return best(queries)
  size = -(-b // parts)
  padded = jnp.pad(queries, ((0, parts * size - b), (0, 0)))
  scores, rows = lax.map(best, padded.reshape(parts, size, e))
  k = scores.shape[-1]
  return scores.reshape(-1, k)[:b], rows.reshape(-1, k)[:b]


def over_shards(mesh: Mesh, k: int, arrays: int, best: Best) -> Any:
  """The compiled top k of rows that are split over all devices of a mesh.

  Every device finds its own k best; only those travel.

  Args:
    mesh: the devices.
    k: how many rows.
    arrays: of how many arrays a row is made, each split by rows.
    best: `(queries, *arrays, count, k) -> (scores, positions)` on one device,
      where `count` is how many of its rows are real: negative if none is.

  Returns:
    A jitted `(queries, *arrays, count) -> (scores [b, k], rows [b, k])`.
  """
  axes = mesh.axis_names

  def local(queries: Array, *rest: Array) -> Top:
    *rows, count = rest
    n = rows[0].shape[0]
    first = lax.axis_index(axes).astype(jnp.int32) * n
    scores, top_rows = best(queries, *rows, count - first, min(k, n))
    # [b, shards * k], shard after shard, so that equals stay in row order.
    scores, top_rows = lax.all_gather(
      (scores, first + top_rows), axes, axis=1, tiled=True
    )
    return merge(scores, top_rows, k)

  # check_vma cannot see that what follows an all_gather is the same everywhere.
  split = [PartitionSpec(axes)] * arrays
  return jax.jit(
    jax.shard_map(
      local,
      mesh=mesh,
      in_specs=(PartitionSpec(), *split, PartitionSpec()),
      out_specs=PartitionSpec(),
      check_vma=False,
    )
  )
