"""Builds what ScaNN needs, beside the index.

    scann/manifest.json   the index that it belongs to, the settings, ScaNN's
                          version, and the recall measured
    scann/*.npy, *.pb, scann_assets.pbtxt   as ScaNN writes them

It holds the rows once more, so that the best candidates can be scored anew:
as float32, or bfloat16 where the index is that.
"""

import dataclasses
import importlib.metadata
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from odqa_jax.retrieval import storage
from odqa_jax.retrieval.backends import memory
from odqa_jax.retrieval.backends.scann_library import (
  ScannConfig,
  find_rows,
  library,
  train,
)
from odqa_jax.runtime.artifact import open_artifact, publish
from odqa_jax.runtime.mesh import is_primary, sync

# Rows asked for as questions when the recall is measured, rows compared with
# them at a time, and the cutoffs.
_SAMPLE = 200
_BLOCK_ROWS = 2**15
_CUTOFFS = (1, 10, 100)
_ASSET = re.compile(r'asset_path: "(.*)"')


def build_scann(
  directory: str | Path, config: ScannConfig | None = None
) -> dict[str, Any]:
  """Builds what `open_scann` opens, in the place of an earlier build.

  With several processes the first one works. The recall is measured on rows
  taken as questions; those of people may find less.

  Args:
    directory: the index; its folder must be writable.
    config: how to build.

  Returns:
    The manifest of the build.

  Raises:
    ImportError: if the extra `scann` is not installed.
    ValueError: for an index that is damaged, settings that do not suit it, or
      too little memory.
  """
  directory = Path(directory)
  scann = library()
  manifest = storage.read_manifest(directory)
  config = (config or ScannConfig()).resolved(manifest["count"])
  if is_primary():
    _build(scann, directory, manifest, config)
  sync("scann: built")
  return read_build(directory, manifest)


def _build(
  scann: Any,
  directory: Path,
  manifest: Mapping[str, Any],
  config: ScannConfig,
) -> None:
  """Builds, measures, saves."""
  n, begun = manifest["count"], time.monotonic()
  how = "every row is scored"
  if not config.exhaustive(n):
    how = f"{config.leaves} leaves, {config.leaves_searched} of them searched"
  _tell(f"building over {n:,} rows; {how}.")
  rows = _read_rows(directory, manifest)
  searcher = train(scann, rows, manifest["dtype"], config)
  sample = rows[np.linspace(0, n - 1, min(n, _SAMPLE), dtype=np.int64)]
  recall = _recall(searcher, config, rows, sample)
  made_from = {
    "index": manifest["sha256"],
    "scann": importlib.metadata.version("scann"),
    "config": dataclasses.asdict(config),
  }
  with publish(directory / "scann", "scann", made_from) as draft:
    searcher.serialize(str(draft.folder), relative_path=True)
    draft.counts["recall"] = recall
  shares = ", ".join(f"recall@{k} {share:.4f}" for k, share in recall.items())
  _tell(
    f"built in {time.monotonic() - begun:.0f} s; {shares} of the exact result "
    f"on {len(sample)} rows taken as questions."
  )


def _tell(message: str) -> None:
  print(f"scann: {message}", file=sys.stderr, flush=True)


def _read_rows(
  directory: Path, manifest: Mapping[str, Any]
) -> Float32[np.ndarray, "n e"]:
  """All rows, float32."""
  n, width = manifest["count"], manifest["width"]
  # The rows, ScaNN's own copy, and its codes.
  memory.check_host(f"{directory}: a ScaNN build", n * width * 9)
  rows = np.empty((n, width), np.float32)
  for shard in manifest["shards"]:
    part = storage.float_rows(directory, manifest, shard)
    rows[shard["start"] :][: len(part)] = part
  return rows


def _recall(
  searcher: Any,
  config: ScannConfig,
  rows: Float32[np.ndarray, "n e"],
  queries: Float32[np.ndarray, "b e"],
) -> dict[str, float]:
  """The share of the exact k best rows that are found, by k."""
  cutoffs = [k for k in _CUTOFFS if k <= len(rows)]
  wanted = _exact(rows, queries, cutoffs[-1])
  recall = {}
  for k in cutoffs:
    _, top_rows = find_rows(searcher, config, len(rows), queries, k)
    hits = (top_rows[:, :, None] == wanted[:, None, :k]).any(axis=2)
    recall[str(k)] = float(hits.mean())
  return recall


def _exact(
  rows: Float32[np.ndarray, "n e"], queries: Float32[np.ndarray, "b e"], k: int
) -> Int[np.ndarray, "b k"]:
  """The k best rows, best first."""
  scores = np.zeros((len(queries), 0), np.float32)
  best = np.zeros((len(queries), 0), np.int64)
  for start in range(0, len(rows), _BLOCK_ROWS):
    block = queries @ rows[start : start + _BLOCK_ROWS].T
    numbers = np.broadcast_to(np.arange(block.shape[1]) + start, block.shape)
    scores = np.concatenate([scores, block], axis=1)
    best = np.concatenate([best, numbers], axis=1)
    last = min(k, scores.shape[1]) - 1
    kept = np.argpartition(-scores, last, axis=1)[:, : last + 1]
    scores = np.take_along_axis(scores, kept, axis=1)
    best = np.take_along_axis(best, kept, axis=1)
  order = np.argsort(-scores, axis=1, kind="stable")
  return np.take_along_axis(best, order, axis=1)


def read_build(directory: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
  """The manifest of a build, after its files were compared with it."""
  folder = directory / "scann"
  build = open_artifact(folder, "scann").manifest
  remedy = f"delete {folder}; it is built again when it is absent"
  if build["index"] != manifest["sha256"]:
    raise ValueError(
      f"{folder} was built from the index {build['index'][:12]}, but "
      f"{directory} is {manifest['sha256'][:12]}; {remedy}."
    )
  named = set(_ASSET.findall((folder / "scann_assets.pbtxt").read_text()))
  if not named <= set(build["files"]):
    raise ValueError(
      f"{folder / 'scann_assets.pbtxt'} names files that lie elsewhere: "
      f"{sorted(named - set(build['files']))}; {remedy}."
    )
  return build
