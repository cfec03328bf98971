"""The files of a corpus directory, joined from the columns of its parts."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from odqa_jax.data.parts.files import Arrays
from odqa_jax.data.parts.growing import GrowingArray

TOKENIZER = "tokenizer"
# Ragged columns: values → their bounds [n+1]. A part has their lengths.
RAGGED = {
  "text_tokens.npy": "text_offsets.npy",
  "title_tokens.npy": "title_offsets.npy",
  "ids.bin": "ids_bounds.npy",
  "titles.bin": "titles_bounds.npy",
  "texts.bin": "texts_bounds.npy",
}
HASHES, LINES = "hashes.scratch", "lines.scratch"
# Hashes of the ids, sorted; the row of each.
ID_INDEX = ("id_hashes.npy", "id_rows.npy")
# Ids sorted at once, so that the memory does not grow with the corpus.
_SORTED = 2**20


def hash_id(passage_id: str) -> int:
  """64-bit hash under which the id index is sorted."""
  digest = hashlib.blake2b(passage_id.encode(), digest_size=8).digest()
  return int.from_bytes(digest, "little")


class CorpusStore:
  """The growing files.

  Attributes:
    folder: where they are.
    rows: passages so far.
  """

  def __init__(self, folder: Path):
    self.folder = folder
    self.rows = 0
    self._files: dict[str, GrowingArray] = {}
    self._stack = ExitStack()

  def __enter__(self) -> "CorpusStore":
    return self

  def __exit__(self, *error: object) -> None:
    self._stack.close()

  def _append(self, name: str, values: np.ndarray) -> None:
    if name not in self._files:
      file = GrowingArray(self.folder / name, values.dtype)
      self._files[name] = self._stack.enter_context(file)
    self._files[name].append(values)

  def count(self, name: str) -> int:
    """Elements in a file so far."""
    return len(self._files[name]) if name in self._files else 0

  def append(self, part: Arrays) -> None:
    """Appends the columns of a part."""
    tokens = self.count("text_tokens.npy")
    self._append("sentence_starts.npy", part["sentence_starts"] + tokens)
    self._append("article_starts.npy", part["article_starts"] + self.rows)
    for values, bounds in RAGGED.items():
      name = Path(values).stem
      ends = self.count(values) + np.cumsum(part[f"{name}_lengths"])
      if not self.rows:
        ends = np.append(0, ends)
      self._append(values, part[name])
      self._append(bounds, ends.astype(np.int64))
    self._append(HASHES, part["hashes"])
    self._append(LINES, part["lines"])
    self.rows += len(part["lines"])


def sorted_hashes(
  hashes: np.ndarray, most: int = _SORTED
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Hashes in order, and their rows, some at a time; equal ones together.

  Args:
    hashes: one for every row.
    most: about how many are sorted at once.
  """
  count = -(-len(hashes) // most)
  width = -(-(2**64) // max(count, 1))
  for i in range(count):
    low, high = np.uint64(i * width), np.uint64((i + 1) * width - 1 & 2**64 - 1)
    if i == count - 1:
      high = np.uint64(2**64 - 1)
    rows = np.concatenate(
      [
        start + np.flatnonzero((block >= low) & (block <= high))
        for start in range(0, len(hashes), most)
        for block in [hashes[start : start + most]]
      ]
    )
    rows = rows[np.argsort(hashes[rows], kind="stable")]
    yield hashes[rows], rows
