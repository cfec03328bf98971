"""The evidence index, opened and searched by any backend.

    index = open_index("work/index", mesh, backend="exact")
    scores, rows = search(index, queries, k=100)

| backend | rows lie                 | finds                               |
|---------|--------------------------|-------------------------------------|
| `exact` | on the devices           | the best; of int8 rows nearly       |
| `host`  | on the disk of the host  | the best; every batch streams them  |
| `scann` | in the host's memory     | nearly the best; no device is used  |
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Shaped

from odqa_jax.retrieval import storage
from odqa_jax.retrieval.backends import exact, scann
from odqa_jax.retrieval.backends import host as streamed
from odqa_jax.retrieval.backends import int8 as quantized
from odqa_jax.retrieval.backends.host import HostIndex
from odqa_jax.retrieval.backends.int8 import Int8Index
from odqa_jax.retrieval.backends.scann import ScannIndex
from odqa_jax.retrieval.index import Index, load_index

BACKENDS = ("exact", "host", "scann")
Searchable = Index | Int8Index | HostIndex | ScannIndex

_SEARCH: dict[type, Callable[..., Any]] = {
  Index: exact.search,
  Int8Index: quantized.search,
  HostIndex: streamed.search,
  ScannIndex: scann.search,
}


def open_index(
  directory: str | Path, mesh: Mesh, *, backend: str = "exact"
) -> Searchable:
  """Opens an index on any number of devices and processes.

  All processes must open it together.

  Args:
    directory: what `build_index` made.
    mesh: the devices that hold it, or search it.
    backend: one of `BACKENDS`; `scann:key=value,…` sets fields of `ScannConfig`
      and builds anew where the build there has others.

  Raises:
    ImportError: if the backend needs an extra that is not installed.
    ValueError: if the backend is unknown, a file is missing or damaged, or the
      rows do not fit in memory.
  """
  name, _, settings = backend.partition(":")
  if name not in BACKENDS or (settings and name != "scann"):
    raise ValueError(
      f"backend {backend!r} is not known; choose one of {', '.join(BACKENDS)}, "
      "or scann:key=value,…"
    )
  if name == "host":
    return streamed.open_host(directory, mesh)
  if name == "scann":
    return scann.open_scann(directory, mesh, settings)
  if storage.read_manifest(Path(directory))["dtype"] == "int8":
    return quantized.load_int8(directory, mesh)
  return load_index(directory, mesh)


def search(
  index: Searchable, queries: Shaped[Array | np.ndarray, "..."], k: int
) -> tuple[Float[Array | np.ndarray, "b k"], Int[Array | np.ndarray, "b k"]]:
  """Finds k rows with the largest inner products for every query.

  Args:
    index: what `open_index` gave.
    queries: [b, e], float32 (or a shorter float, which is widened); the same
      on every process.
    k: how many rows, 1 ≤ k ≤ `index.count`.

  Returns:
    Scores, float32, best first, and corpus rows, int32, the same on every
    process; equal scores are ordered by row.

  Raises:
    ValueError: if k is out of range, or the queries have another width, shape
      or type than the index takes, or are not finite.
  """
  return _SEARCH[type(index)](index, queries, k)


def batches(index: Searchable, questions: int) -> list[range]:
  """Questions that are best searched together; the last may be fewer.

  Rows that must travel to the devices do so once for all questions of a batch,
  and ScaNN shares a batch among the cores: those take large ones.
  """
  most = 64 if isinstance(index, Index | Int8Index) else 1024
  return [range(questions)[i : i + most] for i in range(0, questions, most)]


def figures(index: Searchable) -> dict[str, Any]:
  """What is worth knowing of the searches so far, to be printed as JSON."""
  if isinstance(index, HostIndex):
    return {"streamed": index.figures()}
  if isinstance(index, ScannIndex):
    return {"recall_when_built": index.build["recall"]}
  return {}
