"""Rows of an index that training searches and rewrites, on the devices alone.

Floats, or int8 codes with one float32 scale a row: a quarter of the bytes of
float32, by the rule of `backends/codes.py` but without its residuals, which
only scores need; the training step scores what is found anew. All functions
take both kinds.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Shaped

from odqa_jax.retrieval.backends.codes import LEVELS
from odqa_jax.retrieval.backends.exact import search_placed
from odqa_jax.retrieval.backends.int8 import (
  CANDIDATES,
  candidates_placed,
  load_int8,
)
from odqa_jax.retrieval.index import Index, load_index
from odqa_jax.retrieval.searchable import (
  Queries,
  Ranked,
  checked_queries,
  no_rows,
)
from odqa_jax.retrieval.storage import DTYPES, read_manifest
from odqa_jax.runtime.mesh import replicate, row_sharding


class CodedRows(NamedTuple):
  """Rows as int8; row i is about `scales[i] * codes[i]`.

  Attributes:
    codes: [n_padded, e] int8, split over the mesh by rows.
    scales: [n_padded] float32, likewise.
  """

  codes: Any
  scales: Any


Rows = Float[Array, "n e"] | CodedRows


@dataclasses.dataclass(frozen=True, eq=False)
class CodedIndex:
  """An index whose rows are codes on the devices, and nowhere else.

  Attributes:
    embeddings: the rows; those from `count` on are zeros.
    count: passages.
    manifest: what the index was made from.
    mesh: where it lies.
  """

  embeddings: CodedRows
  count: int
  manifest: Mapping[str, Any]
  mesh: Mesh

  batch_size = 64

  @property
  def width(self) -> int:
    """The embedding width e."""
    return self.embeddings.codes.shape[1]

  def search(self, queries: Queries, k: int) -> Ranked:
    """See `Searchable`; scores are float32 products with the decoded rows.

    A row that products of codes alone do not put among the best 2k is not
    found.
    """
    host = checked_queries(self, queries, k)
    if not len(host):
      return no_rows(k)
    placed = replicate(self.mesh, host)
    m = min(CANDIDATES * k, self.count)
    found = candidates_placed(
      self.mesh, *self.embeddings, self.count, placed, m
    )
    return _rescorer(self.mesh, k)(placed, self.embeddings, found)

  def metrics(self) -> dict[str, Any]:
    """Nothing was measured."""
    return {}


PlacedIndex = Index | CodedIndex


def placed_index(
  rows: Rows, count: int, manifest: Mapping[str, Any], mesh: Mesh
) -> PlacedIndex:
  """The index that is made of rows; see `Index` for the arguments."""
  if isinstance(rows, CodedRows):
    return CodedIndex(rows, count, manifest, mesh)
  return Index(rows, count, manifest, mesh)


def load_placed(directory: str | Path, mesh: Mesh) -> PlacedIndex:
  """Places an index of any type; of int8 rows the codes and scales alone.

  Args:
    directory: what `build_index` made.
    mesh: where to place it.

  Raises:
    ValueError: if a file is missing or damaged, or the rows do not fit.
  """
  if read_manifest(Path(directory))["dtype"] != "int8":
    return load_index(directory, mesh)
  found = load_int8(directory, mesh)
  rows = CodedRows(found.codes, found.scales)
  return CodedIndex(rows, found.count, found.manifest, mesh)


def rows_dtype(rows: Any) -> str:
  """`float32`, `bfloat16` or `int8`."""
  return (
    rows.codes.dtype.name if isinstance(rows, CodedRows) else rows.dtype.name
  )


def abstract_rows(padded: int, width: int, dtype: str, mesh: Mesh) -> Any:
  """Shapes, types and shardings of rows.

  Args:
    padded: how many; see `index.padded_rows`.
    width: of the embeddings.
    dtype: of `storage.DTYPES`.
    mesh: its devices share them.
  """
  split = row_sharding(mesh)
  rows = jax.ShapeDtypeStruct((padded, width), DTYPES[dtype], sharding=split)
  if dtype != "int8":
    return rows
  scales = jax.ShapeDtypeStruct((padded,), np.float32, sharding=split)
  return CodedRows(rows, scales)


def encoded_rows(embeddings: Float[Array, "n e"], like: Any) -> Rows:
  """Embeddings in the type of other rows.

  In int8 as `codes.quantize` has it, within a rounding of the scale; a number
  half-way between two codes may get either of them.
  """
  if not isinstance(like, CodedRows):
    return embeddings.astype(like.dtype)
  wide = embeddings.astype(jnp.float32)
  scales = jnp.abs(wide).max(axis=1) / LEVELS
  steps = wide / jnp.where(scales > 0, scales, 1)[:, None]
  return CodedRows(jnp.rint(steps).astype(jnp.int8), scales)


def best_rows(
  mesh: Mesh,
  rows: Rows,
  count: int,
  queries: Float[Array, "b e"],
  k: int,
) -> Int[Array, "b k"]:
  """The k best rows for queries on the devices, best first.

  See `search_placed`; of int8 rows, those whose codes are best.
  """
  if isinstance(rows, CodedRows):
    return candidates_placed(mesh, *rows, count, queries, k)
  return search_placed(mesh, rows, count, queries, k)[1]


def take_rows(
  mesh: Mesh, values: Shaped[Array, "..."], wanted: Int[Array, "..."]
) -> Shaped[Array, "..."]:
  """Some rows of an array that is split by rows, on every device.

  Only they travel: every device gives those that it holds, and zeros.

  Args:
    mesh: its devices share the rows.
    values: n a multiple of their number.
    wanted: which rows, the same on every device.
  """
  axes = mesh.axis_names

  def local(values: Array, wanted: Array) -> Array:
    n = len(values)
    at = wanted - lax.axis_index(axes).astype(jnp.int32) * n
    here = (at >= 0) & (at < n)
    found = values[jnp.clip(at, 0, n - 1)]
    here = here.reshape(here.shape + (1,) * (values.ndim - 1))
    return lax.psum(jnp.where(here, found, 0), axes)

  split, whole = PartitionSpec(axes), PartitionSpec()
  return jax.shard_map(
    local, mesh=mesh, in_specs=(split, whole), out_specs=whole
  )(values, wanted)


@functools.lru_cache(maxsize=64)
def _rescorer(mesh: Mesh, k: int) -> Callable[..., Ranked]:
  """The compiled choice of k among candidates by their decoded rows."""

  def rescore(
    queries: Float[Array, "b e"], rows: CodedRows, found: Int[Array, "b m"]
  ) -> Ranked:
    # In row order, so that equal scores stay in it.
    found = jnp.sort(found, axis=1)
    codes = take_rows(mesh, rows.codes, found).astype(jnp.float32)
    # A product and a sum per row: equal rows get equal scores.
    products = (codes * queries[:, None]).sum(axis=2)
    scores, best = lax.top_k(products * take_rows(mesh, rows.scales, found), k)
    return scores, jnp.take_along_axis(found, best, axis=1)

  return jax.jit(rescore)
