"""How an index lies on disk: a manifest and checksummed row shards.

    manifest.json    format, what the index was made from, and for every row
                     shard its file, first row, rows, bytes and sha256
    rows-00000.npy   [rows, e] in corpus order: float32, or bfloat16 as its
    …                uint16 bit patterns, because npy knows no bfloat16

Row shards are npy files and not an Orbax tree, on purpose. A file is the unit
that a build finishes, resumes and checks, so the build's own output *is* the
index (Orbax would write all 64 GB of Wikipedia once more, under random
names); exactly `count` rows are stored, so that any number of devices can pad
them its own way; and a bad checksum names the rows to rebuild.

With several processes the folder must be on a file system that all share.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

FORMAT = 1
DTYPES = {
  "float32": np.dtype(np.float32),
  "bfloat16": np.dtype(jnp.bfloat16),
}


def _write(path: Path, save: Callable[[IO[bytes]], Any]) -> None:
  """Writes a file that appears complete or not at all."""
  temporary = path.with_name(path.name + ".tmp")
  with open(temporary, "wb") as f:
    save(f)
    f.flush()
    os.fsync(f.fileno())
  os.replace(temporary, path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
  """Writes an object; the file appears whole."""
  text = json.dumps(content, indent=1) + "\n"
  _write(path, lambda f: f.write(text.encode()))


def read_json(path: Path) -> dict[str, Any]:
  """Reads an object.

  Raises:
    ValueError: if the file holds anything else, naming it.
  """
  try:
    content = json.loads(path.read_bytes())
  except ValueError as error:
    raise ValueError(
      f"{path}: not JSON ({error}); restore the file, or rebuild the index."
    ) from error
  if not isinstance(content, dict):
    raise ValueError(
      f"{path}: not a JSON object; restore the file, or rebuild the index."
    )
  return content


def _sha256(path: Path) -> str:
  with open(path, "rb") as f:
    return hashlib.file_digest(f, "sha256").hexdigest()


def _content_hash(content: Mapping[str, Any]) -> str:
  return hashlib.sha256(
    json.dumps(content, sort_keys=True).encode()
  ).hexdigest()


def _shard_name(i: int) -> str:
  return f"rows-{i:05d}.npy"


def save_shard(
  partial: Path, i: int, start: int, rows: Shaped[np.ndarray, "n e"]
) -> None:
  """Writes the rows, then the entry that says they are finished."""
  path = partial / _shard_name(i)
  bits = rows if rows.dtype == np.float32 else rows.view(np.uint16)
  _write(path, lambda f: np.save(f, bits, allow_pickle=False))
  entry = {
    "file": path.name,
    "start": start,
    "rows": len(rows),
    "width": rows.shape[1],
    "bytes": path.stat().st_size,
    "sha256": _sha256(path),
  }
  write_json(path.with_suffix(".json"), entry)


def is_finished(partial: Path, i: int) -> bool:
  """Whether an earlier run saved a shard that is still whole."""
  path = partial / _shard_name(i)
  entry = path.with_suffix(".json")
  if not entry.exists() or not path.exists():
    return False
  return _sha256(path) == read_json(entry).get("sha256")


def finish(
  partial: Path, directory: Path, made_from: Mapping[str, Any], shards: int
) -> None:
  """Turns the folder of finished shards into the index, in one rename.

  Raises:
    ValueError: if the shards have several widths.
  """
  paths = [partial / _shard_name(i) for i in range(shards)]
  entries = [read_json(p.with_suffix(".json")) for p in paths]
  widths = sorted({e["width"] for e in entries})
  if len(widths) > 1:
    raise ValueError(
      f"{partial}: its row shards have the widths {widths}, so two encoders "
      "made them under one fingerprint; delete the folder and start again."
    )
  manifest = {"format": FORMAT, "kind": "index", **made_from}
  manifest |= {"width": widths[0], "shards": entries}
  manifest["sha256"] = _content_hash(manifest)
  write_json(partial / "manifest.json", manifest)
  partial.rename(directory)
  # The rest served the build only; readers never look at it.
  for path in directory.iterdir():
    if path.suffix != ".npy" and path.name != "manifest.json":
      path.unlink()


def read_manifest(directory: Path) -> dict[str, Any]:
  """The manifest of a folder, after it has been found to be consistent."""
  path = directory / "manifest.json"
  if not path.exists():
    raise ValueError(
      f"{directory} holds no index (no manifest.json); make one with "
      "`odqa index`."
    )
  manifest = read_json(path)
  if manifest.get("kind") != "index" or manifest.get("format") != FORMAT:
    raise ValueError(
      f"{path}: kind {manifest.get('kind')!r}, format "
      f"{manifest.get('format')!r}; this version reads kind 'index', format "
      f"{FORMAT}: rebuild it with `odqa index`."
    )
  content = {k: v for k, v in manifest.items() if k != "sha256"}
  if manifest.get("sha256") != _content_hash(content):
    raise ValueError(
      f"{path}: the content does not match its checksum; restore the file, or "
      "rebuild the index."
    )
  stop = 0
  for shard in manifest["shards"]:
    name = shard["file"]
    if shard["start"] != stop or Path(name).name != name:
      raise ValueError(
        f"{path}: the row shard {name!r} starts at {shard['start']}, not at "
        f"{stop}, or lies elsewhere; rebuild the index."
      )
    stop += shard["rows"]
  if stop != manifest["count"]:
    raise ValueError(
      f"{path}: the row shards hold {stop} rows, not {manifest['count']}; "
      "rebuild the index."
    )
  return manifest


def check_shard(path: Path, shard: Mapping[str, Any], verify: bool) -> None:
  """Raises if the file is not what the manifest says."""
  rows = f"rows {shard['start']} to {shard['start'] + shard['rows'] - 1}"
  remedy = "restore the file, or rebuild the index"
  if not path.is_file():
    raise ValueError(f"{path} ({rows}) is missing; {remedy}.")
  size = path.stat().st_size
  if size != shard["bytes"]:
    raise ValueError(
      f"{path} ({rows}) has {size} bytes, the manifest says {shard['bytes']}; "
      f"{remedy}."
    )
  if verify and _sha256(path) != shard["sha256"]:
    raise ValueError(f"{path} ({rows}) does not match its checksum; {remedy}.")


def open_rows(
  path: Path, shard: Mapping[str, Any], dtype: np.dtype
) -> Shaped[np.ndarray, "n e"]:
  """Memory-maps a row shard in its own type."""
  held = np.dtype(np.float32 if dtype == np.float32 else np.uint16)
  try:
    rows = np.load(path, mmap_mode="r", allow_pickle=False)
  except ValueError as error:
    raise ValueError(
      f"{path}: not a readable npy file ({error}); restore it, or rebuild the "
      "index."
    ) from error
  shape = (shard["rows"], shard["width"])
  if rows.shape != shape or rows.dtype != held:
    raise ValueError(
      f"{path} holds {rows.dtype.name} {rows.shape}, the manifest says "
      f"{held.name} {shape}; restore it, or rebuild the index."
    )
  return rows.view(dtype)
