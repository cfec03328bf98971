"""Approximate search on the CPU with ScaNN, for a host without accelerators.

`scann_build` says what lies beside the index. It is read into the memory of
the host. ScaNN's own loader would also unpickle a file if one lay there; here
nothing is ever unpickled.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from odqa_jax.retrieval import storage
from odqa_jax.retrieval.backends import memory
from odqa_jax.retrieval.backends.scann_build import build_scann, read_build
from odqa_jax.retrieval.backends.scann_library import (
  ScannConfig,
  find_rows,
  library,
)
from odqa_jax.retrieval.searchable import (
  Queries,
  Ranked,
  checked_queries,
  no_rows,
)
from odqa_jax.runtime.mesh import sync


@dataclasses.dataclass(frozen=True)
class ScannIndex:
  """An index that ScaNN searches, in the memory of every process.

  Attributes:
    searcher: ScaNN's.
    count: passages.
    config: how it was built.
    manifest: what the index was made from.
    build: what the build was made from, and the recall measured.
  """

  searcher: Any
  count: int
  config: ScannConfig
  manifest: Mapping[str, Any]
  build: Mapping[str, Any]

  # ScaNN shares a batch among the cores.
  batch_size = 1024

  @property
  def width(self) -> int:
    """The embedding width e."""
    return self.manifest["width"]

  def search(self, queries: Queries, k: int) -> Ranked:
    """See `Searchable`; the rows have large inner products, not the largest.

    Where too few leaves are searched to hold k rows, more are, for the queries
    that need it. The scores are the inner products with the rows; which of
    several equals come last before the cut is ScaNN's choice.

    Raises:
      ValueError: also if ScaNN finds fewer than k rows.
    """
    host = checked_queries(self, queries, k)
    if not len(host):
      return no_rows(k)
    return find_rows(self.searcher, self.config, self.count, host, k)

  def metrics(self) -> dict[str, Any]:
    """The share of the exact result that was found when it was built."""
    return {"recall_when_built": self.build["recall"]}


def open_scann(
  directory: str | Path, mesh: Mesh, config: ScannConfig | None = None
) -> ScannIndex:
  """Opens an index for ScaNN; builds what ScaNN needs when absent.

  Args:
    directory: what `build_index` made.
    mesh: unused; ScaNN searches on the CPU.
    config: a build that has another is made anew. None: any build will do.

  Raises:
    ImportError: if the extra `scann` is not installed.
    ValueError: if the build belongs to another index, a file is missing or
      damaged, it does not fit in memory, or the config does not suit the rows.
  """
  directory = Path(directory)
  scann = library()
  manifest = storage.read_manifest(directory)
  build = None
  if (directory / "scann").exists():
    build = read_build(directory, manifest)
    if config is not None:
      wanted = dataclasses.asdict(config.resolved(manifest["count"]))
      build = build if build["config"] == wanted else None
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
  return ScannIndex(searcher, manifest["count"], used, manifest, build)
