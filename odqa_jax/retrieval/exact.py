"""Exact maximum-inner-product search over a sharded index.

Every device scans its own rows in blocks and keeps a running top k; only the
k candidates of each device travel. The largest temporaries are one block of
scores and one block of rows, never (questions × passages).

Ties go to the lowest row, however many devices there are: candidates are kept
in row order before every `top_k`, which prefers the first of equals, and every
block is a multiple of `index.ROW_MULTIPLE` rows, so that the matrix product
gives equal rows bit-identical scores wherever they lie.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Shaped

from odqa_jax.mesh import replicated, to_host
from odqa_jax.retrieval.index import ROW_MULTIPLE, Index

_QUERY_DTYPES = ("float32", "bfloat16", "float16")
# 64 MiB of float32 scores.
_BLOCK_SCORES = 2**24
# A block that is not the whole shard is copied before the product. On a CPU
# 32 MiB keeps that copy in cache; elsewhere fewer, larger launches win.
_CPU_BLOCK_BYTES = 2**25
_BLOCK_BYTES = 2**28
# Rows per group whose maximum is compared first.
_GROUP = 32


def search(
  index: Index, queries: Shaped[Array | np.ndarray, "..."], k: int
) -> tuple[Float[Array, "b k"], Int[Array, "b k"]]:
  """Finds the k rows with the largest inner product for every query.

  Compiled once per (index shape, number of queries, k): keep `b` fixed.

  Args:
    index: the rows; any number of them over any number of devices.
    queries: [b, e], float32 (or a shorter float, which is widened); the same
      on every process.
    k: how many rows, 1 ≤ k ≤ `index.count`.

  Returns:
    Scores, float32, best first, and corpus rows, int32; equal scores are
    ordered by row. Both are replicated over the index's mesh. The products
    are float32 at the highest precision, also over bfloat16 rows.

  Raises:
    ValueError: if k is out of range, or the queries have another width, shape
      or type than the index takes, or are not finite.
  """
  _check_k(k, index.count)
  host = _checked_queries(queries, index.width)
  if not len(host):
    return jnp.zeros((0, k), jnp.float32), jnp.zeros((0, k), jnp.int32)
  placed = jax.make_array_from_callback(
    host.shape, replicated(index.mesh), lambda where: host[where]
  )
  return search_placed(index.mesh, index.embeddings, index.count, placed, k)


def search_placed(
  mesh: Mesh,
  embeddings: Float[Array, "n_padded e"],
  count: int,
  queries: Float[Array, "b w"],
  k: int,
) -> tuple[Float[Array, "b k"], Int[Array, "b k"]]:
  """`search` for queries on the devices: nothing comes to the host.

  Only shapes are checked: a query that is not finite gets rows of the index,
  but not the best ones. May be called within `jax.jit`, and where transfers
  are forbidden.

  Args:
    mesh: where the embeddings lie.
    embeddings: as in `Index`.
    count: how many of the rows are passages.
    queries: [b, e] float32, b ≥ 1, best replicated over `mesh`; else they are
      gathered first.
    k: how many rows, 1 ≤ k ≤ `count`.

  Returns:
    As `search`.

  Raises:
    ValueError: if k is out of range, or the queries have another width, no
      rows, or another type than float32.
  """
  _check_k(k, count)
  (b, w), width = queries.shape, embeddings.shape[1]
  if w != width or not b or queries.dtype != jnp.float32:
    raise ValueError(
      f"queries are {queries.dtype} [{b}, {w}]; search_placed takes float32 "
      f"[questions, {width}], the width of the index, for 1 question or more."
    )
  # The one number that travels, to the devices, is meant.
  with jax.transfer_guard_host_to_device("allow"):
    return _searcher(mesh, k)(queries, embeddings, np.int32(count))


def _check_k(k: int, count: int) -> None:
  """Raises a ValueError unless an index of `count` rows has k best ones."""
  if not 1 <= k <= count:
    raise ValueError(
      f"k={k} is out of range for an index of {count} rows; "
      f"choose 1 <= k <= {count}."
    )


def _checked_queries(
  queries: Shaped[Array | np.ndarray, "..."], width: int
) -> Float[np.ndarray, "b e"]:
  """The queries as a host float32 matrix, or a ValueError that says why not."""
  if queries.ndim != 2 or queries.shape[1] != width:
    raise ValueError(
      f"queries have the shape {tuple(queries.shape)}, but the index holds "
      f"embeddings of width {width}; pass [questions, {width}] made by the "
      "encoder that the index was built with."
    )
  if queries.dtype.name not in _QUERY_DTYPES:
    raise ValueError(
      f"queries are {queries.dtype.name}; search takes "
      f"{', '.join(_QUERY_DTYPES)}: convert them with .astype('float32')."
    )
  host = np.asarray(to_host(queries)).astype(np.float32)
  finite = np.isfinite(host).all(axis=1)
  if not finite.all():
    raise ValueError(
      f"query {int(np.argmin(finite))} holds NaN or infinity; every value "
      "must be finite: look at the question encoder's weights."
    )
  return host


def _block_rows(
  queries: int, rows: int, width: int, *, cpu: bool, widen: bool
) -> int:
  """Rows per block: the whole shard if its scores fit and it needs no copy."""
  limit = max(_BLOCK_SCORES // queries, ROW_MULTIPLE)
  if rows <= limit and not widen:
    return rows
  held = (_CPU_BLOCK_BYTES if cpu else _BLOCK_BYTES) // (4 * width)
  limit = max(min(limit, held), ROW_MULTIPLE)
  blocks = -(-rows // limit)
  # Equal blocks, because the last one is moved back to end with the shard.
  return -(-rows // (blocks * ROW_MULTIPLE)) * ROW_MULTIPLE


def _candidates(
  scores: Float[Array, "b n"], k: int
) -> tuple[Float[Array, "b m"], Int[Array, "b m"]]:
  """A superset of the top k of a block, in row order, and its positions.

  The k groups with the largest maxima (the first among equals) hold the top
  k: an element outside them is beaten by k maxima. Comparing maxima is
  several times cheaper than comparing elements.
  """
  b, n = scores.shape
  groups = n // _GROUP
  if groups < 2 * k:
    values, positions = lax.top_k(scores, min(k, n))
    return values, positions
  grouped = scores.reshape(b, groups, _GROUP)
  best = jnp.sort(lax.top_k(grouped.max(axis=-1), k)[1], axis=-1)[..., None]
  values = jnp.take_along_axis(grouped, best, axis=1)
  positions = best * _GROUP + jnp.arange(_GROUP, dtype=jnp.int32)[None, None]
  return values.reshape(b, -1), positions.reshape(b, -1)


def _merge(
  scores: Float[Array, "b m"], rows: Int[Array, "b m"], k: int
) -> tuple[Float[Array, "b k"], Int[Array, "b k"]]:
  """The top k of candidates whose equals stand in row order."""
  scores, positions = lax.top_k(scores, k)
  return scores, jnp.take_along_axis(rows, positions, axis=1)


def _scan_shard(
  queries: Float[Array, "b e"],
  embeddings: Float[Array, "n e"],
  valid: Callable[[Int[Array, " m"]], Bool[Array, " m"]],
  block: int,
  k: int,
) -> tuple[Float[Array, "b k"], Int[Array, "b k"]]:
  """The top k of this device's rows, by position in the shard."""
  b, n = queries.shape[0], embeddings.shape[0]
  lowest = jnp.finfo(jnp.float32).min

  def step(
    best: tuple[Array, Array], i: Int[Array, ""]
  ) -> tuple[tuple[Array, Array], None]:
    start = jnp.minimum(i * block, n - block)
    rows = start + jnp.arange(block, dtype=jnp.int32)
    part = lax.dynamic_slice_in_dim(embeddings, start, block)
    # For one query XLA's CPU code is a third faster than with dot_general.
    scores = jnp.matmul(
      queries,
      part.astype(jnp.float32).T,
      precision=lax.Precision.HIGHEST,
      preferred_element_type=jnp.float32,
    )
    # The last block overlaps the one before it: those rows have been seen.
    # A real row never sinks to the -inf of the rest, even by overflow; and
    # -0.0, which top_k puts below 0.0, is an equal of it.
    scores = jnp.where(scores == 0, 0.0, jnp.maximum(scores, lowest))
    fresh = valid(rows) & (rows >= i * block)
    scores, positions = _candidates(jnp.where(fresh[None], scores, -jnp.inf), k)
    return _merge(
      jnp.concatenate([best[0], scores], axis=1),
      jnp.concatenate([best[1], start + positions], axis=1),
      k,
    ), None

  empty = (jnp.full((b, k), -jnp.inf), jnp.zeros((b, k), jnp.int32))
  steps = jnp.arange(-(-n // block), dtype=jnp.int32)
  return lax.scan(step, empty, steps)[0]


@functools.lru_cache(maxsize=64)
def _searcher(mesh: Mesh, k: int) -> Callable[..., tuple[Array, Array]]:
  """The compiled search of a mesh; jit tells the shapes apart."""
  axes = mesh.axis_names
  cpu = mesh.devices.flat[0].platform == "cpu"

  def local(
    queries: Float[Array, "b e"],
    embeddings: Float[Array, "n e"],
    count: Int[Array, ""],
  ) -> tuple[Float[Array, "b k"], Int[Array, "b k"]]:
    b, (n, e) = queries.shape[0], embeddings.shape
    widen = embeddings.dtype != jnp.float32
    block = _block_rows(b, n, e, cpu=cpu, widen=widen)
    first = lax.axis_index(axes).astype(jnp.int32) * n
    scores, rows = _scan_shard(
      queries, embeddings, lambda r: first + r < count, block, min(k, n)
    )
    # [b, shards * k], shard after shard, so that equals stay in row order.
    scores, rows = lax.all_gather(
      (scores, first + rows), axes, axis=1, tiled=True
    )
    return _merge(scores, rows, k)

  # check_vma cannot see that what follows an all_gather is the same everywhere.
  return jax.jit(
    jax.shard_map(
      local,
      mesh=mesh,
      in_specs=(PartitionSpec(), PartitionSpec(axes), PartitionSpec()),
      out_specs=PartitionSpec(),
      check_vma=False,
    )
  )
