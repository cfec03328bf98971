"""Builds what ScaNN needs, beside the index.

    scann/manifest.json   the index that it belongs to, the settings, ScaNN's
                          version, the recall measured, and every file's hash
    scann/*.npy, *.pb, scann_assets.pbtxt   as ScaNN writes them

It holds the rows once more, so that the best candidates can be scored anew:
as float32, or bfloat16 where the index is that.
"""

import dataclasses
import importlib.metadata
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
from odqa_jax.runtime.mesh import is_primary, sync

FORMAT = 1
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
  with _replacing(directory / "scann") as folder:
    searcher.serialize(str(folder), relative_path=True)
    entries = [_entry(path) for path in sorted(folder.iterdir())]
    build = {
      "format": FORMAT,
      "kind": "scann",
      "index": manifest["sha256"],
      "scann": importlib.metadata.version("scann"),
      "config": dataclasses.asdict(config),
      "recall": recall,
      "files": entries,
    }
    build["sha256"] = storage.content_hash(build)
    storage.write_json(folder / "manifest.json", build)
  found = ", ".join(f"recall@{k} {share:.4f}" for k, share in recall.items())
  _tell(
    f"built in {time.monotonic() - begun:.0f} s; {found} of the exact result "
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
  stored = storage.DTYPES[manifest["dtype"]]
  rows = np.empty((n, width), np.float32)
  for shard in manifest["shards"]:
    storage.check_shard(directory, shard)
    part = storage.float_rows(directory, shard, stored)
    rows[shard["start"] :][: len(part)] = part
  return rows


def _entry(path: Path) -> dict[str, Any]:
  return {
    "file": path.name,
    "bytes": path.stat().st_size,
    "sha256": storage.file_hash(path),
  }


@contextmanager
def _replacing(directory: Path) -> Iterator[Path]:
  """A folder that takes the place of `directory` once it is complete."""
  partial = directory.with_name(f"{directory.name}.partial")
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir()
  try:
    yield partial
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)
  finally:
    shutil.rmtree(partial, ignore_errors=True)


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
    _, found = find_rows(searcher, config, len(rows), queries, k)
    hits = (found[:, :, None] == wanted[:, None, :k]).any(axis=2)
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
  """The manifest of a build, after it has been found to be complete."""
  folder = directory / "scann"
  path = folder / "manifest.json"
  remedy = f"delete {folder}; it is built again when it is absent"
  if not path.exists():
    raise ValueError(f"{folder} holds no manifest.json; {remedy}.")
  build = storage.read_json(path)
  kind = build.get("kind"), build.get("format")
  if kind != ("scann", FORMAT):
    raise ValueError(
      f"{path}: kind and format are {kind}, this version reads "
      f"{('scann', FORMAT)}; {remedy}."
    )
  content = {k: v for k, v in build.items() if k != "sha256"}
  if build.get("sha256") != storage.content_hash(content):
    raise ValueError(
      f"{path}: the content does not match its checksum; {remedy}."
    )
  if build["index"] != manifest["sha256"]:
    raise ValueError(
      f"{folder} was built from the index {build['index'][:12]}, but "
      f"{directory} is {manifest['sha256'][:12]}; {remedy}."
    )
  for entry in build["files"]:
    _check_file(folder / entry["file"], entry, remedy)
  known = {entry["file"] for entry in build["files"]}
  named = _ASSET.findall((folder / "scann_assets.pbtxt").read_text())
  if not set(named) <= known:
    raise ValueError(
      f"{folder / 'scann_assets.pbtxt'} names files that lie elsewhere: "
      f"{sorted(set(named) - known)}; {remedy}."
    )
  return build


def _check_file(path: Path, entry: Mapping[str, Any], remedy: str) -> None:
  """Small files must be what was written; of large ones the size is."""
  if not path.is_file() or path.stat().st_size != entry["bytes"]:
    raise ValueError(
      f"{path} is missing or has another size than the {entry['bytes']} bytes "
      f"written; {remedy}."
    )
  if path.suffix != ".npy" and storage.file_hash(path) != entry["sha256"]:
    raise ValueError(f"{path} does not match its checksum; {remedy}.")
