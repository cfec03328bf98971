"""The files of a corpus directory, while they grow and when they are whole.

`CorpusStore.commit` records the sizes of all of them; opening the folder again
cuts them back to that record.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from odqa_jax.runtime.artifact import Damage, read_json, write_json
from odqa_jax.text.sentencepiece import AnyTokenizer

TOKENIZER = "tokenizer"
# Ragged columns: values → their bounds [n+1].
RAGGED = {
  "text_tokens.npy": "text_offsets.npy",
  "title_tokens.npy": "title_offsets.npy",
  "ids.bin": "ids_bounds.npy",
  "titles.bin": "titles_bounds.npy",
  "texts.bin": "texts_bounds.npy",
}
_STARTS = ("sentence_starts.npy", "article_starts.npy")
_PROGRESS = "progress.json"
HASHES, LINES = "hashes.scratch", "lines.scratch"
# What serves the build alone.
SCRATCH = (HASHES, LINES, _PROGRESS)
_NPY_HEADER = 128
# Hashes of the ids, sorted; the row of each.
ID_INDEX = ("id_hashes.npy", "id_rows.npy")


def hash_id(passage_id: str) -> int:
  """64-bit hash under which the id index is sorted."""
  digest = hashlib.blake2b(passage_id.encode(), digest_size=8).digest()
  return int.from_bytes(digest, "little")


class CorpusStore:
  """The growing files of one build."""

  def __init__(self, folder: Path, tokenizer: AnyTokenizer):
    small = tokenizer.vocab_size <= 2**16
    self.token_type = np.dtype("<u2" if small else "<u4")
    self.folder = folder
    self.dtypes: dict[str, np.dtype] = {
      HASHES: np.dtype("<u8"),
      LINES: np.dtype("<i8"),
    }
    for values, bounds in RAGGED.items():
      binary = values.endswith(".bin")
      self.dtypes[values] = np.dtype("u1") if binary else self.token_type
      self.dtypes[bounds] = np.dtype("<i8")
    self.dtypes |= dict.fromkeys(_STARTS, np.dtype("<i8"))
    self.rows, self.digest = 0, ""
    self._files: dict[str, BinaryIO] = {}

  def __enter__(self) -> "CorpusStore":
    record = self._read_record()
    if record is None:
      self.restart()
      return self
    self.rows, self.digest = record["rows"], record["digest"]
    for name in self.dtypes:
      file = self._files[name] = (self.folder / name).open("r+b")
      file.truncate(record["sizes"][name])
      file.seek(0, os.SEEK_END)
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def close(self) -> None:
    """Closes the files."""
    for file in self._files.values():
      file.close()

  def _read_record(self) -> dict[str, Any] | None:
    """The last record of progress, if the files still hold it."""
    try:
      record = read_json(self.folder / _PROGRESS)
    except (OSError, Damage):
      return None
    for name, size in record["sizes"].items():
      file = self.folder / name
      if not file.is_file() or file.stat().st_size < size:
        return None
    return record

  def restart(self) -> None:
    """Begins with empty files."""
    self.close()
    (self.folder / _PROGRESS).unlink(missing_ok=True)
    self.rows, self.digest = 0, ""
    for name in self.dtypes:
      self._files[name] = (self.folder / name).open("w+b")
      if name.endswith(".npy"):
        self._write_header(name, 0)
    for bounds in RAGGED.values():
      self.append(bounds, np.zeros(1))

  def discard(self) -> None:
    """Removes the folder."""
    shutil.rmtree(self.folder, ignore_errors=True)

  def _write_header(self, name: str, count: int) -> None:
    """Writes the .npy header; its length does not depend on `count`."""
    file = self._files[name]
    file.seek(0)
    header = {
      "descr": np.lib.format.dtype_to_descr(self.dtypes[name]),
      "fortran_order": False,
      "shape": (count,),
    }
    np.lib.format.write_array_header_1_0(file, header)
    assert file.tell() == _NPY_HEADER, name
    file.seek(0, os.SEEK_END)

  def count(self, name: str) -> int:
    """Elements in a file so far."""
    start = _NPY_HEADER if name.endswith(".npy") else 0
    return (self._files[name].tell() - start) // self.dtypes[name].itemsize

  def append(self, name: str, values: np.ndarray) -> None:
    """Appends elements, cast to the file's type."""
    self._files[name].write(values.astype(self.dtypes[name]).tobytes())

  def append_ragged(
    self, name: str, values: np.ndarray, lengths: np.ndarray
  ) -> None:
    """Appends to a ragged column: all values, and the length of each row."""
    ends = self.count(name) + np.cumsum(lengths)
    self.append(name, values)
    self.append(RAGGED[name], ends)

  def commit(self, rows: int, digest: str) -> None:
    """Records that the files hold `rows` passages, whose hash is `digest`."""
    self.rows, self.digest = rows, digest
    for file in self._files.values():
      file.flush()
      os.fsync(file.fileno())
    record = {
      "rows": rows,
      "digest": digest,
      "sizes": {name: file.tell() for name, file in self._files.items()},
    }
    write_json(self.folder / _PROGRESS, record)

  def seal(self) -> None:
    """Puts the final counts into the headers."""
    for name in self.dtypes:
      if name.endswith(".npy"):
        self._write_header(name, self.count(name))
      self._files[name].flush()


@contextmanager
def discarding(store: CorpusStore) -> Iterator[None]:
  """Bad input leaves no files; an interrupted build does."""
  try:
    yield
  except ValueError:
    store.discard()
    raise
