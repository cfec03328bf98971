"""Arrays on disk that grow at their end, one part after the other."""

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import DTypeLike

# NumPy pads the header so that a count of any length fits.
_HEADER = 128


class GrowingArray:
  """A file that is appended to: .npy, or plain bytes under another suffix.

    with GrowingArray(folder / "rows.npy", np.int64) as rows:
      rows.append(part)

  It is written, not mapped: where the disk is full, writing to a map ends the
  process without a word.

  Attributes:
    path: of the file.
    dtype: of the elements; what is appended is cast to it.
  """

  def __init__(
    self, path: Path, dtype: DTypeLike, width: Sequence[int] = ()
  ) -> None:
    """Begins an empty file of elements, or of rows of a shape."""
    self.path, self.dtype = path, np.dtype(dtype)
    self._width = tuple(width)
    self._count = 0
    self._file = path.open("wb")
    if path.suffix == ".npy":
      self._write_header()

  def __len__(self) -> int:
    return self._count

  def __enter__(self) -> "GrowingArray":
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    self.close()

  def append(self, values: np.ndarray) -> None:
    """Appends elements or rows."""
    values = values.reshape(-1, *self._width).astype(self.dtype, copy=False)
    self._file.write(values.tobytes())
    self._count += len(values)

  def close(self) -> None:
    """Puts the count into the header, and closes the file."""
    if self._file.closed:
      return
    with self._file:
      if self.path.suffix == ".npy":
        self._file.seek(0)
        self._write_header()
      self._file.flush()
      os.fsync(self._file.fileno())

  def _write_header(self) -> None:
    header = {
      "descr": np.lib.format.dtype_to_descr(self.dtype),
      "fortran_order": False,
      "shape": (self._count, *self._width),
    }
    np.lib.format.write_array_header_1_0(self._file, header)
    assert self._file.tell() == _HEADER, self.path
