"""Files in blocks, and arrays whose blocks are compared before their use."""

import hashlib
import operator
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np

# Small enough that the few passages of one question are checked in a moment,
# large enough that the manifest of 20 GB stays below half a megabyte. Part of
# the format; a power of two.
BLOCK_BYTES = 2**22
# Up to a quarter of a gigabyte is compared at once: the bounds of 21 million
# passages, for one, are then read without asking for their blocks.
AT_ONCE = 64


def _block_hash(path: Path, number: int) -> str:
  with path.open("rb") as file:
    file.seek(number * BLOCK_BYTES)
    return hashlib.sha256(file.read(BLOCK_BYTES)).hexdigest()


def block_hashes(path: Path, numbers: Sequence[int]) -> list[str]:
  """The sha256 of some blocks; threads share the work, as it holds no lock."""
  if len(numbers) < 2:
    return [_block_hash(path, number) for number in numbers]
  with ThreadPoolExecutor(min(8, len(numbers))) as pool:
    return list(pool.map(lambda number: _block_hash(path, number), numbers))


class BlockArray:
  """An array on disk; a block is compared before its rows are handed out.

  It is indexed by rows: an integer, a slice, or an array of integers. As a
  NumPy array it is compared whole.
  """

  def __init__(
    self,
    values: np.ndarray,
    offset: int,
    sound: np.ndarray,
    check: Callable[[list[int]], None],
  ) -> None:
    """Wraps a memory map.

    Args:
      values: the map.
      offset: bytes before them in their file.
      sound: by block, whether it was found to be what was written.
      check: compares blocks, and notes in `sound` which are.
    """
    # A plain array is indexed faster than a map.
    self._values = np.asarray(values)
    self._offset, self._sound, self._check = offset, sound, check
    self._row_bytes = values[:1].nbytes or 1
    self._bits = BLOCK_BYTES.bit_length() - 1
    self._whole = bool(sound.all())
    self.shape, self.dtype = values.shape, values.dtype

  def __len__(self) -> int:
    return len(self._values)

  def within(self, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """All values, of which only the ranges `starts` to `ends` may be read."""
    if self._whole:
      return self._values
    first, end = self._blocks(
      starts.astype(np.int64, copy=False), ends.astype(np.int64, copy=False)
    )
    # Most ranges lie in a block or two, which is soon known.
    if (
      self._sound.take(first, mode="clip").all()
      and self._sound.take(end - 1, mode="clip").all()
      and (end - first).max(initial=0) <= 2
    ):
      return self._values
    count = len(self._sound)
    # How many ranges begin in a block, less those that ended before it.
    opened = np.bincount(first, minlength=count + 1)
    opened -= np.bincount(end, minlength=count + 1)
    touched = np.cumsum(opened[:count]) > 0
    self._compare(np.flatnonzero(touched & ~self._sound))
    return self._values

  def _range(self, start: int, stop: int) -> np.ndarray:
    """As `within`, for one range: a passage is read in microseconds."""
    if start < stop and not self._whole:
      first, end = self._blocks(start, stop)
      if end > first + 1 or not self._sound[first]:
        self._compare(first + np.flatnonzero(~self._sound[first:end]))
    return self._values[start:stop]

  def _blocks(self, start: Any, stop: Any) -> tuple[Any, Any]:
    """The first block of rows, and the one after their last."""
    first = start * self._row_bytes + self._offset >> self._bits
    last = stop * self._row_bytes + self._offset - 1 >> self._bits
    return first, last + 1

  def _compare(self, blocks: np.ndarray) -> None:
    if len(blocks):
      if len(self._sound) <= AT_ONCE:
        blocks = np.flatnonzero(~self._sound)
      self._check(blocks.tolist())
      self._whole = bool(self._sound.all())

  def __getitem__(self, rows: SupportsIndex | slice | np.ndarray) -> Any:
    if self._whole:
      return self._values[rows]
    if isinstance(rows, slice):
      start, stop, step = rows.indices(len(self))
      if step != 1:
        raise IndexError("rows are read in steps of 1.")
      return self._range(start, stop)
    if isinstance(rows, np.ndarray):
      # First, because NumPy knows rows that are out of bounds.
      found = self._values[rows]
      flat = rows.reshape(-1)
      if flat.min(initial=0) < 0:
        flat = flat % len(self)
      self.within(flat, flat + 1)
      return found
    row = range(len(self))[operator.index(rows)]
    return self._range(row, row + 1)[0]

  def __array__(
    self, dtype: Any = None, copy: bool | None = None
  ) -> np.ndarray:
    return np.array(self._range(0, len(self)), dtype, copy=copy)
