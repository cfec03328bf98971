"""Search of an int8 index: int8 products find candidates, 16 bits order them.

The codes lie on the devices, a quarter of the bytes of float32. They are
searched with questions that are rounded to int8 as well, in exact integer
arithmetic: the same candidates on any number of devices. (For a single
question a CPU is faster in floats, and widens the codes.) The candidates are
then rescored in float32 on the host, with the residuals that stay on the disk
(see `codes.py`); a search reads b · m · 2e bytes of them.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, Int, Int8

from odqa_jax.retrieval import storage
from odqa_jax.retrieval.backends.codes import dequantize
from odqa_jax.retrieval.backends.grouped import best_by_groups, has_groups
from odqa_jax.retrieval.backends.memory import Free, check_fits, free_bytes
from odqa_jax.retrieval.backends.top_k import (
  ROW_MULTIPLE,
  Best,
  Top,
  in_parts,
  over_shards,
  questions_at_once,
  top_rows,
)
from odqa_jax.retrieval.index import padded_rows, place
from odqa_jax.retrieval.searchable import (
  Queries,
  Ranked,
  check_k,
  checked_queries,
  no_rows,
)
from odqa_jax.runtime.blocks import BlockArray
from odqa_jax.runtime.mesh import replicate, to_host

Rows = np.ndarray | BlockArray

# Candidates per row that is wanted. On embeddings of trained encoders 1.2 lost
# none of the best 100, on normal ones with an outlying dimension 2 lost 0.02 %.
CANDIDATES = 2
# Rows that are rescored at a time.
_RESCORED = 4096
# Rows that a CPU widens at a time for a single question: they stay in cache.
_WIDENED = 16384


@dataclasses.dataclass(frozen=True, eq=False)
class Int8Index:
  """An index of int8 codes, spread over the devices of a mesh.

  Attributes:
    codes: [n_padded, e], rows in corpus order, split over all devices of
      `mesh`; rows from `count` on are zeros.
    scales: [n_padded], split likewise; the rows are about scale · code.
    shards: what rescores: of every row shard its first row, and memory maps
      of its codes, scales and residuals.
    count: passages, at most n_padded.
    manifest: what the index was made from.
    mesh: where it lies.
  """

  codes: Int8[Array, "n_padded e"]
  scales: Float32[Array, " n_padded"]
  shards: Sequence[tuple[int, Rows, Rows, Rows]]
  count: int
  manifest: Mapping[str, Any]
  mesh: Mesh

  batch_size = 64

  @property
  def width(self) -> int:
    """The embedding width e."""
    return self.codes.shape[1]

  def search(self, queries: Queries, k: int) -> Ranked:
    """See `Searchable`.

    The scores are float32 inner products with rows of 16 bits. A row that the
    codes alone do not put among the best 2k is not found.
    """
    host = checked_queries(self, queries, k)
    if not len(host):
      return no_rows(k)
    m = min(CANDIDATES * k, self.count)
    placed = replicate(self.mesh, host)
    candidates = candidates_placed(
      self.mesh, self.codes, self.scales, self.count, placed, m
    )
    # In row order, so that equal scores stay in it.
    rows = np.sort(to_host(candidates), axis=1)
    scores = np.empty(rows.shape, np.float32)
    step = max(_RESCORED // m, 1)
    for i in range(0, len(rows), step):
      wanted = rows[i : i + step]
      embeddings = self.rows(wanted.reshape(-1)).reshape(*wanted.shape, -1)
      # A product and a sum per row: equal rows get equal scores.
      scores[i : i + step] = (embeddings * host[i : i + step, None]).sum(axis=2)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return (
      np.take_along_axis(scores, best, axis=1),
      np.take_along_axis(rows, best, axis=1),
    )

  def metrics(self) -> dict[str, Any]:
    """Nothing was measured."""
    return {}

  def rows(self, wanted: Int[np.ndarray, " m"]) -> Float32[np.ndarray, "m e"]:
    """The embeddings of these rows, to 16 bits, from the disk."""
    out = np.empty((len(wanted), self.width), np.float32)
    starts = [start for start, *_ in self.shards]
    where = np.searchsorted(starts, wanted, side="right") - 1
    for i in np.unique(where):
      start, *parts = self.shards[i]
      here = where == i
      out[here] = dequantize(*(part[wanted[here] - start] for part in parts))
    return out


def load_int8(
  directory: str | Path,
  mesh: Mesh,
  *,
  free: Free = free_bytes,
) -> Int8Index:
  """Opens an int8 index on any number of devices and processes.

  Args:
    directory: what `build_index` made.
    mesh: where to place the codes.
    free: says what a device has free.

  Raises:
    ValueError: if a file is missing, damaged or of another format, naming it;
      or if the codes do not fit on the devices.
  """
  directory = Path(directory)
  manifest = storage.read_manifest(directory)
  count, width = manifest["count"], manifest["width"]
  rows = padded_rows(count, mesh) // mesh.size
  check_fits(f"{directory}", rows * (width + 4), mesh, free=free)
  read = storage.row_reader(directory, manifest)
  shards = [
    (shard["start"], *storage.shard_arrays(directory, manifest, shard))
    for shard in manifest["shards"]
  ]
  scales = np.concatenate([shard[2] for shard in shards])

  def read_scales(start: int, out: np.ndarray) -> None:
    np.copyto(out, scales[start : start + len(out)])

  return Int8Index(
    codes=place(read, (count, width), np.dtype(np.int8), mesh),
    scales=place(read_scales, (count,), np.dtype(np.float32), mesh),
    shards=shards,
    count=count,
    manifest=manifest,
    mesh=mesh,
  )


def candidates_placed(
  mesh: Mesh,
  codes: Int8[Array, "n_padded e"],
  scales: Float32[Array, " n_padded"],
  count: int,
  queries: Float[Array, "b e"],
  m: int,
) -> Int[Array, "b m"]:
  """The m rows with the largest inner products of codes, best first.

  All on the devices, like `exact.search_placed`.

  Args:
    mesh: where the codes lie.
    codes: as in `Int8Index`.
    scales: likewise.
    count: how many of the rows are passages.
    queries: float32, best replicated over `mesh`.
    m: how many rows, 1 ≤ m ≤ `count`.
  """
  check_k(m, count)
  with jax.transfer_guard_host_to_device("allow"):
    _, rows = _searcher(mesh, m)(queries, codes, scales, np.int32(count))
  return rows


@functools.lru_cache(maxsize=64)
def _searcher(mesh: Mesh, m: int) -> Callable[..., Top]:
  return over_shards(mesh, m, 2, best_on(mesh, mesh.devices.flat[0].platform))


def best_on(mesh: Mesh, platform: str, *, interpret: bool = False) -> Best:
  """The search of one device's codes; see `exact.best_on`."""

  def best(
    queries: Float[Array, "b e"],
    codes: Int8[Array, "n e"],
    scales: Float[Array, " n"],
    count: Int[Array, ""],
    k: int,
  ) -> Top:
    if has_groups(platform, codes, k):
      return best_by_groups(
        _steps(queries),
        codes,
        count,
        k,
        scales=scales,
        platform=platform,
        interpret=interpret,
      )
    # A product of one column is slow on a CPU, of integers or not.
    single = platform == "cpu" and len(queries) == 1
    scores = _single if single else _several
    return in_parts(
      lambda part: top_rows(scores(part, codes) * scales[:, None], count, k),
      queries,
      questions_at_once(mesh, len(codes)),
    )

  return best


def _steps(queries: Float[Array, "b e"]) -> Int8[Array, "b e"]:
  """A query in 127 steps of its maximum."""
  largest = jnp.abs(queries).max(axis=1, keepdims=True)
  steps = jnp.rint(queries * (127 / jnp.maximum(largest, 1e-30)))
  return steps.astype(jnp.int8)


def _several(
  queries: Float[Array, "b e"], codes: Int8[Array, "n e"]
) -> Float[Array, "n b"]:
  """Products of integers."""
  products = lax.dot_general(
    codes,
    _steps(queries),
    (((1,), (1,)), ((), ())),
    preferred_element_type=jnp.int32,
  )
  return products.astype(jnp.float32)


def _single(
  query: Float[Array, "1 e"], codes: Int8[Array, "n e"]
) -> Float[Array, "n 1"]:
  """Products of floats, block by block."""
  n = len(codes)
  blocks = -(-n // _WIDENED)
  size = -(-n // (blocks * ROW_MULTIPLE)) * ROW_MULTIPLE

  def step(
    scores: Float[Array, " n"], i: Int[Array, ""]
  ) -> tuple[Float[Array, " n"], None]:
    start = jnp.minimum(i * size, n - size)
    part = lax.dynamic_slice_in_dim(codes, start, size).astype(jnp.float32)
    products = jnp.matmul(query, part.T)[0]
    return lax.dynamic_update_slice_in_dim(scores, products, start, 0), None

  steps = jnp.arange(blocks, dtype=jnp.int32)
  return lax.scan(step, jnp.zeros(n), steps)[0].reshape(n, 1)
