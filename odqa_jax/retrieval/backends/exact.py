"""Exact maximum-inner-product search over a sharded index.

Every device finds the top k of its own rows; only these k travel. How depends
on where reading the rows is cheap: a TPU leaves all but the maxima of groups
of rows in the matrix unit, a GPU in a kernel (`grouped.py`); a CPU multiplies
float32 rows where they lie, for as many questions at a time as the scores have
room; else rows are taken in blocks with a running top k. Temporaries are
bounded, never (all questions × all passages).

Ties go to the lowest row, however many devices there are (`top_k.py`), because
every product is over a multiple of `ROW_MULTIPLE` rows, so that equal rows
get bit-identical scores wherever they lie.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from odqa_jax.retrieval.backends.grouped import best_by_groups, has_groups
from odqa_jax.retrieval.backends.top_k import (
  ROW_MULTIPLE,
  Best,
  Top,
  in_parts,
  merge,
  over_shards,
  questions_at_once,
  top_rows,
)
from odqa_jax.retrieval.searchable import check_k

# Scores of a block, 64 MiB. A block is copied before the product: on a CPU
# 32 MiB keep that copy in cache; elsewhere fewer, larger launches win.
_BLOCK_SCORES = 2**24
_CPU_BLOCK_BYTES = 2**25
_BLOCK_BYTES = 2**28


def search_placed(
  mesh: Mesh,
  embeddings: Float[Array, "n_padded e"],
  count: int,
  queries: Float[Array, "b w"],
  k: int,
) -> Top:
  """The k best rows for queries on the devices: nothing comes to the host.

  Only shapes are checked: a query that is not finite gets rows of the index,
  but not the best ones. May be called within `jax.jit`, and where transfers
  are forbidden. Compiled once per (shape of the rows, number of queries, k).

  Args:
    mesh: where the embeddings lie.
    embeddings: as in `Index`.
    count: how many of the rows are passages.
    queries: [b, e] float32, b ≥ 1, best replicated over `mesh`; else they are
      gathered first.
    k: how many rows, 1 ≤ k ≤ `count`.

  Returns:
    Scores, float32, best first, and corpus rows, int32; equal scores are
    ordered by row. Both are replicated over the mesh. The products are float32
    at the highest precision, also over bfloat16 rows.

  Raises:
    ValueError: if k is out of range, or the queries have another width, no
      rows, or another type than float32.
  """
  check_k(k, count)
  (b, w), width = queries.shape, embeddings.shape[1]
  if w != width or not b or queries.dtype != jnp.float32:
    raise ValueError(
      f"queries are {queries.dtype} [{b}, {w}]; search_placed takes float32 "
      f"[questions, {width}], the width of the index, for 1 question or more."
    )
  # The one number that travels, to the devices, is meant.
  with jax.transfer_guard_host_to_device("allow"):
    return _searcher(mesh, k)(queries, embeddings, np.int32(count))


def _block_rows(queries: int, rows: int, width: int, *, cpu: bool) -> int:
  """Rows per block of a shard that is copied or widened block by block."""
  held = (_CPU_BLOCK_BYTES if cpu else _BLOCK_BYTES) // (4 * width)
  limit = max(min(_BLOCK_SCORES // queries, held), ROW_MULTIPLE)
  blocks = -(-rows // limit)
  # Equal blocks, because the last one is moved back to end with the shard.
  return -(-rows // (blocks * ROW_MULTIPLE)) * ROW_MULTIPLE


def _scores(
  queries: Float[Array, "b e"], rows: Float[Array, "n e"]
) -> Float[Array, "n b"]:
  """Inner products in float32, at the highest precision."""
  # XLA's CPU code for one query is a third faster this way round, and for
  # several up to twice as slow.
  left, right = (queries, rows) if len(queries) == 1 else (rows, queries)
  products = jnp.matmul(
    left,
    right.T,
    precision=lax.Precision.HIGHEST,
    preferred_element_type=jnp.float32,
  )
  return products.reshape(len(rows), len(queries))


def _scan_shard(
  queries: Float[Array, "b e"],
  embeddings: Float[Array, "n e"],
  count: Int[Array, ""],
  k: int,
  block: int,
) -> Top:
  """The top k of this device's rows, block by block."""
  b, n = queries.shape[0], embeddings.shape[0]

  def step(best: Top, i: Int[Array, ""]) -> tuple[Top, None]:
    start = jnp.minimum(i * block, n - block)
    part = lax.dynamic_slice_in_dim(embeddings, start, block)
    # The last block overlaps the one before it: those rows have been seen.
    scores, rows = top_rows(
      _scores(queries, part.astype(jnp.float32)),
      count - start,
      min(k, block),
      seen=i * block - start,
    )
    return merge(
      jnp.concatenate([best[0], scores], axis=1),
      jnp.concatenate([best[1], start + rows], axis=1),
      k,
    ), None

  empty = (jnp.full((b, k), -jnp.inf), jnp.zeros((b, k), jnp.int32))
  steps = jnp.arange(-(-n // block), dtype=jnp.int32)
  return lax.scan(step, empty, steps)[0]


@functools.lru_cache(maxsize=64)
def _searcher(mesh: Mesh, k: int) -> Callable[..., Top]:
  """The compiled search of a mesh; jit tells the shapes apart."""
  return over_shards(mesh, k, 1, best_on(mesh, mesh.devices.flat[0].platform))


def best_on(mesh: Mesh, platform: str, *, interpret: bool = False) -> Best:
  """The search of one device's rows, as a platform does it best.

  Args:
    mesh: whose devices.
    platform: "tpu", "gpu" or "cpu".
    interpret: runs the kernel of a GPU on any device.
  """

  def best(
    queries: Float[Array, "b e"],
    embeddings: Float[Array, "n e"],
    count: Int[Array, ""],
    k: int,
  ) -> Top:
    b, (n, e) = queries.shape[0], embeddings.shape
    if has_groups(platform, embeddings, k):
      return best_by_groups(
        queries,
        embeddings,
        count,
        k,
        platform=platform,
        interpret=interpret,
      )
    if platform == "cpu" and embeddings.dtype == jnp.float32:
      return in_parts(
        lambda part: top_rows(_scores(part, embeddings), count, k),
        queries,
        questions_at_once(mesh, n),
      )
    block = _block_rows(b, n, e, cpu=platform == "cpu")
    return _scan_shard(queries, embeddings, count, k, block)

  return best
