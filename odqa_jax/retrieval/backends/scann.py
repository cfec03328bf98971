"""Approximate search on the CPU with ScaNN, for a host without accelerators.

`scann_build` says what lies beside the index. It is read into the memory of
the host. ScaNN's own loader would also unpickle a file if one lay there; here
nothing is ever unpickled.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Shaped

from odqa_jax.retrieval import storage
from odqa_jax.retrieval.backends import memory
from odqa_jax.retrieval.backends.exact import check_k, checked_queries
from odqa_jax.retrieval.backends.scann_build import build_scann, read_build
from odqa_jax.retrieval.backends.scann_library import (
  ScannConfig,
  find_rows,
  library,
)
from odqa_jax.runtime.config import parse_arg
from odqa_jax.runtime.mesh import sync


@dataclasses.dataclass(frozen=True, eq=False)
class ScannIndex:
  """An index that ScaNN searches, in the memory of every process.

  Attributes:
    searcher: ScaNN's.
    count: passages.
    config: how it was built.
    manifest: what the index was made from.
    build: what the build was made from, and the recall measured.
    mesh: unused; other indexes have one.
  """

  searcher: Any
  count: int
  config: ScannConfig
  manifest: Mapping[str, Any]
  build: Mapping[str, Any]
  mesh: Mesh

  @property
  def width(self) -> int:
    """The embedding width e."""
    return self.manifest["width"]


def open_scann(
  directory: str | Path, mesh: Mesh, settings: str = ""
) -> ScannIndex:
  """Opens an index for ScaNN; builds what ScaNN needs when absent.

  Args:
    directory: what `build_index` made.
    mesh: kept in the result; ScaNN uses the CPU alone.
    settings: `key=value,…`, fields of `ScannConfig`; a build that has others
      is made anew. None given: any build will do.

  Raises:
    ImportError: if the extra `scann` is not installed.
    ValueError: if the build belongs to another index, a file is missing or
      damaged, it does not fit in memory, or a setting is not known.
  """
  directory = Path(directory)
  scann = library()
  manifest = storage.read_manifest(directory)
  known = dataclasses.asdict(ScannConfig())
  config = ScannConfig(**parse_arg(settings, **known))
  wanted = dataclasses.asdict(config.resolved(manifest["count"]))
  build = None
  if (directory / "scann").exists():
    build = read_build(directory, manifest)
    build = None if settings and build["config"] != wanted else build
  # All processes must have looked before the first one builds.
  sync("scann: looked")
  build = build or build_scann(directory, config)
  folder = directory / "scann"
  size = sum(file["bytes"] for file in build["files"].values())
  memory.check_host(f"{folder}", size)
  assets = (folder / "scann_assets.pbtxt").read_text()
  searcher = scann.ScannSearcher(
    scann.scann_pybind.ScannNumpy(str(folder), assets)
  )
  used = ScannConfig(**build["config"])
  return ScannIndex(searcher, manifest["count"], used, manifest, build, mesh)


def search(
  index: ScannIndex, queries: Shaped[Array | np.ndarray, "..."], k: int
) -> tuple[Float[np.ndarray, "b k"], Int[np.ndarray, "b k"]]:
  """Finds k rows with large inner products for every query.

  Where too few leaves are searched to hold k rows, more are, for the queries
  that need it.

  Args:
    index: the rows.
    queries: [b, e], float32 (or a shorter float, which is widened).
    k: how many rows, 1 ≤ k ≤ `index.count`.

  Returns:
    Scores, float32, best first, and corpus rows, int32, on the host. The
    scores are the inner products with the rows; equal scores are ordered by
    row, but which of several equals come last before the cut is ScaNN's choice.

  Raises:
    ValueError: as `exact.search`, or if ScaNN finds fewer than k rows.
  """
  check_k(k, index.count)
  host = checked_queries(queries, index.width)
  if not len(host):
    return np.zeros((0, k), np.float32), np.zeros((0, k), np.int32)
  return find_rows(index.searcher, index.config, index.count, host, k)
