"""How an index lies on disk: a manifest and row shards.

    manifest.json    as `runtime.artifact` has it; also the first row, the rows
                     and the files of every row shard
    rows-00000.npy   [rows, e] in corpus order: float32, or bfloat16 as its
    …                uint16 bit patterns, because npy knows no bfloat16, or
                     int8 codes; then there are also, by row,
    scales-00000.npy     [rows] float32, and
    residuals-00000.npy  [rows, e] int8, see `backends/int8.py`

Row shards are npy files and not an Orbax tree, on purpose. A file is the unit
that a build finishes, resumes and checks, so the build's own output *is* the
index (Orbax would write all 64 GB of Wikipedia once more, under random
names); exactly `count` rows are stored, so that any number of devices can pad
them its own way; and a bad checksum names the shard to rebuild.

With several processes the folder must be on a file system that all share.
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Shaped

from odqa_jax.retrieval.backends.codes import dequantize
from odqa_jax.runtime import artifact
from odqa_jax.runtime.artifact import Artifact, Draft, describe_file
from odqa_jax.runtime.blocks import BlockArray
from odqa_jax.runtime.files import read_json, replacing, write_json

DTYPES = {
  "float32": np.dtype(np.float32),
  "bfloat16": np.dtype(jnp.bfloat16),
  "int8": np.dtype(np.int8),
}
FLOATS = ("float32", "bfloat16")
# What serves a build alone.
SCRATCH = ("rows-*.json",)


def _shard_name(i: int, side: str = "rows") -> str:
  return f"{side}-{i:05d}.npy"


def save_shard(
  partial: Path,
  i: int,
  start: int,
  rows: Shaped[np.ndarray, "n e"],
  **sides: Shaped[np.ndarray, "n ..."],
) -> None:
  """Writes the rows, then the entry that says they are finished.

  Args:
    partial: the folder of the build.
    i: the shard's number.
    start: its first row.
    rows: in the index's type.
    **sides: by name, what else belongs to these rows.
  """
  # npy knows no bfloat16.
  held = rows.view(np.uint16) if rows.dtype == DTYPES["bfloat16"] else rows
  files = {}
  for name, values in ({"rows": held} | sides).items():
    path = partial / _shard_name(i, name)
    with replacing(path) as temporary, temporary.open("wb") as file:
      np.save(file, values, allow_pickle=False)
    files[path.name] = describe_file(path)
  shard = {"start": start, "rows": len(rows), "files": list(files)}
  entry = {"shard": shard, "width": rows.shape[1], "files": files}
  write_json(partial / f"rows-{i:05d}.json", entry)


def is_finished(partial: Path, i: int) -> bool:
  """Whether an earlier run saved a shard that is still whole."""
  entry = partial / f"rows-{i:05d}.json"
  return entry.exists() and all(
    (partial / name).exists() and describe_file(partial / name) == description
    for name, description in read_json(entry)["files"].items()
  )


def finish(
  partial: Path, directory: Path, made_from: Mapping[str, Any], shards: int
) -> None:
  """Turns the folder of finished shards into the index, in one rename.

  Raises:
    ValueError: if the shards have several widths.
  """
  draft = Draft(partial)
  describe_shards(draft, shards)
  artifact.seal(draft, directory, "index", made_from, SCRATCH)


def describe_shards(draft: Draft, shards: int) -> None:
  """Puts the shards that lie in the folder of a draft into its manifest.

  Raises:
    ValueError: if they have several widths.
  """
  partial = draft.folder
  entries = [read_json(partial / f"rows-{i:05d}.json") for i in range(shards)]
  widths = sorted({e["width"] for e in entries})
  if len(widths) > 1:
    raise ValueError(
      f"{partial}: its row shards have the widths {widths}, so two encoders "
      "made them under one fingerprint; delete the folder and start again."
    )
  draft.counts |= {"width": widths[0], "shards": [e["shard"] for e in entries]}
  draft.files |= {name: f for e in entries for name, f in e["files"].items()}


def read_manifest(directory: Path) -> dict[str, Any]:
  """The manifest of an index whose files are there; their rows come later."""
  return artifact.read_manifest(directory, "index")


def shard_arrays(
  directory: Path, manifest: Mapping[str, Any], shard: Mapping[str, Any]
) -> list[BlockArray]:
  """Memory-maps the rows of a shard, and what belongs to them."""
  stored = DTYPES[manifest["dtype"]]
  files = Artifact(directory, manifest)
  rows, *sides = shard["files"]
  return [files.array(rows, stored), *map(files.array, sides)]


def float_rows(
  directory: Path, manifest: Mapping[str, Any], shard: Mapping[str, Any]
) -> Float32[np.ndarray, "n e"]:
  """The rows of a shard of any type, as float32.

  Raises:
    ValueError: if a file is damaged, naming it.
  """
  arrays = [np.asarray(a) for a in shard_arrays(directory, manifest, shard)]
  if manifest["dtype"] == "int8":
    return dequantize(*arrays)
  return arrays[0].astype(np.float32)


def row_reader(
  directory: Path, manifest: Mapping[str, Any]
) -> Callable[[int, np.ndarray], None]:
  """Reads any range of the rows of an index.

  A block is compared with its checksum before its first row is read, so that a
  host reads the files of its own devices only.

  Args:
    directory: the index.
    manifest: its manifest.

  Returns:
    `read(start, out)`: fills `out` [m, e] with the rows that begin at `start`,
    converted to its type; a damaged file is a ValueError that names it. Several
    threads may call it.
  """
  shards = manifest["shards"]
  starts = np.array([s["start"] for s in shards])

  @cache
  def rows_of(at: int) -> BlockArray:
    return shard_arrays(directory, manifest, shards[at])[0]

  def read(start: int, out: np.ndarray) -> None:
    at, filled = int(np.searchsorted(starts, start, side="right")) - 1, 0
    while filled < len(out):
      first = start + filled - shards[at]["start"]
      rows = rows_of(at)[first : first + len(out) - filled]
      out[filled : filled + len(rows)] = rows
      filled, at = filled + len(rows), at + 1

  return read
