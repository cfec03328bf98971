"""Parts of a stage's work: arrays in, arrays out, each part one file.

A part's key names the content that it is made from, so that a part that an
interrupted run left is used again if, and only if, its input is the same.
"""

import os
import shutil
import uuid
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from odqa_jax.runtime.files import Damage, saying_what_is_full

Arrays = dict[str, np.ndarray]

# What a stage's folder holds besides its results; none of it is published.
SCRATCH = ("part-*.npz", "input-*.npz")
_KEY = "key"


# What makes one part: a pure function, sent to every worker once, so it must
# pickle; what takes time to open is opened there, when it is first called.
Stage = Callable[[Arrays], Arrays]


@dataclass(frozen=True)
class Part:
  """One part of a stage's work.

  Attributes:
    key: says all that the result depends on, besides the stage; not empty.
    count: records in it, for the progress.
    arrays: the input.
  """

  key: str
  count: int
  arrays: Arrays


def part_path(folder: Path, number: int) -> Path:
  """The file of the part with a number, from 0."""
  return folder / f"part-{number:05}.npz"


def input_path(folder: Path, number: int) -> Path:
  """Where a part's input lies for those that are sent only its name."""
  return folder / f"input-{number:05}.npz"


def write_arrays(path: Path, arrays: Arrays, key: str) -> None:
  """Writes a file that appears whole or not at all.

  Its temporary name is its own: a cluster may make one part twice at a time.
  """
  temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
  with saying_what_is_full(path):
    try:
      with temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **{_KEY: np.array(key)}, **arrays)
        file.flush()
        # Or the name might survive a power cut, and the content not.
        os.fsync(file.fileno())
      os.replace(temporary, path)
    finally:
      temporary.unlink(missing_ok=True)


def discard_few(folder: Path) -> None:
  """Removes a draft of fewer than two parts: it is soon made again."""
  if len(list(folder.glob("part-*.npz"))) < 2:
    shutil.rmtree(folder, ignore_errors=True)


def read_part(path: Path) -> Arrays:
  """The arrays of a part; `Damage` if the file is not what was written."""
  try:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
      return {name: arrays[name] for name in arrays.files if name != _KEY}
  except (ValueError, EOFError, zipfile.BadZipFile) as error:
    raise Damage(
      f"{path}: the part is damaged ({error}); remove it, and the same command "
      "makes it again."
    ) from error


def read_key(path: Path) -> str:
  """The key of what a part is made from; "" if it is not a whole file."""
  try:
    # NumPy leaves a file open that it cannot read.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
      return str(arrays[_KEY])
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
    return ""


def pack_texts(
  texts: Sequence[bytes],
) -> tuple[UInt8[np.ndarray, " b"], Int64[np.ndarray, " n"]]:
  """Texts in UTF-8 as one array, and their lengths."""
  lengths = np.fromiter(map(len, texts), np.int64, len(texts))
  return np.frombuffer(b"".join(texts), np.uint8), lengths


def unpack_texts(
  values: UInt8[np.ndarray, " b"], lengths: Int64[np.ndarray, " n"]
) -> list[str]:
  """The texts that `pack_texts` was given."""
  blob = values.tobytes()
  ends = np.cumsum(lengths).tolist()
  return [blob[a:b].decode() for a, b in pairwise([0, *ends])]
