"""How an index lies on disk: a manifest and checksummed row shards.

    manifest.json    format, what the index was made from, and for every row
                     shard its file, first row, rows, bytes and sha256
    rows-00000.npy   [rows, e] in corpus order: float32, or bfloat16 as its
    …                uint16 bit patterns, because npy knows no bfloat16, or
                     int8 codes; then there are also, by row,
    scales-00000.npy     [rows] float32, and
    residuals-00000.npy  [rows, e] int8, see `backends/int8.py`

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
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Shaped

from odqa_jax.retrieval.backends.codes import dequantize

FORMAT = 1
DTYPES = {
  "float32": np.dtype(np.float32),
  "bfloat16": np.dtype(jnp.bfloat16),
  "int8": np.dtype(np.int8),
}
FLOATS = ("float32", "bfloat16")


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


def file_hash(path: Path) -> str:
  """The sha256 of a file."""
  with open(path, "rb") as f:
    return hashlib.file_digest(f, "sha256").hexdigest()


def content_hash(content: Mapping[str, Any]) -> str:
  """The sha256 of an object, whatever the order of its keys."""
  return hashlib.sha256(
    json.dumps(content, sort_keys=True).encode()
  ).hexdigest()


def _shard_name(i: int) -> str:
  return f"rows-{i:05d}.npy"


def _held(dtype: np.dtype) -> np.dtype:
  """The type that npy holds rows of `dtype` in."""
  return np.dtype(np.uint16) if dtype == DTYPES["bfloat16"] else dtype


def _save(path: Path, values: Shaped[np.ndarray, "..."]) -> dict[str, Any]:
  """Writes one array; returns what identifies the file."""
  _write(path, lambda f: np.save(f, values, allow_pickle=False))
  return {
    "file": path.name,
    "bytes": path.stat().st_size,
    "sha256": file_hash(path),
  }


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
  path = partial / _shard_name(i)
  entry = _save(path, rows.view(_held(rows.dtype)))
  entry |= {"start": start, "rows": len(rows), "width": rows.shape[1]}
  if sides:
    entry["sides"] = {
      name: _save(partial / f"{name}-{i:05d}.npy", values)
      for name, values in sides.items()
    }
  write_json(path.with_suffix(".json"), entry)


def _files(shard: Mapping[str, Any]) -> list[Mapping[str, Any]]:
  """All files of a row shard."""
  return [shard, *shard.get("sides", {}).values()]


def is_finished(partial: Path, i: int) -> bool:
  """Whether an earlier run saved a shard that is still whole."""
  entry = (partial / _shard_name(i)).with_suffix(".json")
  if not entry.exists():
    return False
  return all(
    (partial / file["file"]).exists()
    and file_hash(partial / file["file"]) == file["sha256"]
    for file in _files(read_json(entry))
  )


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
  manifest["sha256"] = content_hash(manifest)
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
  if manifest.get("sha256") != content_hash(content):
    raise ValueError(
      f"{path}: the content does not match its checksum; restore the file, or "
      "rebuild the index."
    )
  stop = 0
  for shard in manifest["shards"]:
    names = [file["file"] for file in _files(shard)]
    elsewhere = any(Path(name).name != name for name in names)
    if shard["start"] != stop or elsewhere:
      raise ValueError(
        f"{path}: the row shard {names} starts at {shard['start']}, not at "
        f"{stop}, or lies elsewhere; rebuild the index."
      )
    stop += shard["rows"]
  if stop != manifest["count"]:
    raise ValueError(
      f"{path}: the row shards hold {stop} rows, not {manifest['count']}; "
      "rebuild the index."
    )
  return manifest


_REMEDY = "restore the file, or rebuild the index"


def _rows_of(shard: Mapping[str, Any]) -> str:
  return f"rows {shard['start']} to {shard['start'] + shard['rows'] - 1}"


def check_sizes(directory: Path, shard: Mapping[str, Any]) -> None:
  """Raises if a file of a row shard is missing or has another size."""
  for file in _files(shard):
    path = directory / file["file"]
    if not path.is_file():
      raise ValueError(f"{path} ({_rows_of(shard)}) is missing; {_REMEDY}.")
    size = path.stat().st_size
    if size != file["bytes"]:
      raise ValueError(
        f"{path} ({_rows_of(shard)}) has {size} bytes, the manifest says "
        f"{file['bytes']}; {_REMEDY}."
      )


def check_shard(directory: Path, shard: Mapping[str, Any]) -> None:
  """Raises if the files of a row shard are not what the manifest says."""
  check_sizes(directory, shard)
  for file in _files(shard):
    path = directory / file["file"]
    if file_hash(path) != file["sha256"]:
      raise ValueError(
        f"{path} ({_rows_of(shard)}) does not match its checksum; {_REMEDY}."
      )


def open_side(
  directory: Path,
  shard: Mapping[str, Any],
  name: str,
  dtype: np.dtype,
  shape: tuple[int, ...],
) -> Shaped[np.ndarray, "n ..."]:
  """Memory-maps what belongs to the rows of a shard, by name."""
  if name not in shard.get("sides", {}):
    raise ValueError(
      f"{directory}: the row shard {shard['file']!r} has no {name}; rebuild "
      "the index."
    )
  return _open(directory / shard["sides"][name]["file"], dtype, shape)


def open_rows(
  path: Path, shard: Mapping[str, Any], dtype: np.dtype
) -> Shaped[np.ndarray, "n e"]:
  """Memory-maps a row shard in its own type."""
  shape = (shard["rows"], shard["width"])
  return _open(path, _held(dtype), shape).view(dtype)


def float_rows(
  directory: Path, shard: Mapping[str, Any], dtype: np.dtype
) -> Float32[np.ndarray, "n e"]:
  """The rows of a shard of any type, as float32."""
  rows = open_rows(directory / shard["file"], shard, dtype)
  if dtype != DTYPES["int8"]:
    return rows.astype(np.float32)
  count, width = rows.shape
  scales = open_side(directory, shard, "scales", DTYPES["float32"], (count,))
  residuals = open_side(directory, shard, "residuals", dtype, (count, width))
  return dequantize(rows, scales, residuals)


def _open(
  path: Path, held: np.dtype, shape: tuple[int, ...]
) -> Shaped[np.ndarray, "n ..."]:
  """Memory-maps an array after it has been found to be the one expected."""
  try:
    rows = np.load(path, mmap_mode="r", allow_pickle=False)
  except ValueError as error:
    raise ValueError(
      f"{path}: not a readable npy file ({error}); restore it, or rebuild the "
      "index."
    ) from error
  if rows.shape != shape or rows.dtype != held:
    raise ValueError(
      f"{path} holds {rows.dtype.name} {rows.shape}, the manifest says "
      f"{held.name} {shape}; restore it, or rebuild the index."
    )
  return rows


def row_reader(
  directory: Path, manifest: Mapping[str, Any]
) -> Callable[[int, np.ndarray], None]:
  """Reads any range of the rows of an index.

  That all files are there is checked at once; a file's checksum before its
  first row is read, so that a host reads the files of its own devices only.

  Args:
    directory: the index.
    manifest: its manifest.

  Returns:
    `read(start, out)`: fills `out` [m, e] with the rows that begin at `start`,
    converted to its type. Several threads may call it.

  Raises:
    ValueError: if a file is missing or damaged, naming it.
  """
  shards = manifest["shards"]
  for shard in shards:
    check_sizes(directory, shard)
  stored = DTYPES[manifest["dtype"]]
  starts = np.array([s["start"] for s in shards])
  checked: set[int] = set()
  locks = [threading.Lock() for _ in shards]

  def read(start: int, out: np.ndarray) -> None:
    at, filled = int(np.searchsorted(starts, start, side="right")) - 1, 0
    while filled < len(out):
      rows = open_rows(directory / shards[at]["file"], shards[at], stored)
      with locks[at]:
        if at not in checked:
          check_shard(directory, shards[at])
          checked.add(at)
      rows = rows[start + filled - shards[at]["start"] :][: len(out) - filled]
      out[filled : filled + len(rows)] = rows
      filled, at = filled + len(rows), at + 1

  return read
