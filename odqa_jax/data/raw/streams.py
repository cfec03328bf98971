"""The bytes of a raw file: hashed as they are read, and decompressed.

What a file is decides, never its name. Archives are refused: nothing is ever
extracted. A decompressor gives out little at a time, so a bomb is no danger to
the memory.
"""

import bz2
import contextlib
import functools
import hashlib
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

_BOM = b"\xef\xbb\xbf"
_BUFFER = 1 << 20
_PIECE = 1 << 16
_HEAD = 512
# A zstd block of a few bytes may stand for 128 KiB, and its decoder gives out
# all that its input stands for; so it gets this much, for 32 MiB at most.
_ZSTD_PIECE = 1 << 10
# As much as `xz -9` needs, fifteen times.
_XZ_MEMORY = 1 << 30


class _Decoder(Protocol):
  """Of one compressed stream; bz2 and lzma have just this."""

  @property
  def eof(self) -> bool: ...
  @property
  def needs_input(self) -> bool: ...
  @property
  def unused_data(self) -> bytes: ...
  def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
  """zlib's decoder with the methods of the others."""

  def __init__(self) -> None:
    self._zlib = zlib.decompressobj(zlib.MAX_WBITS | 16)
    self.needs_input = True

  @property
  def eof(self) -> bool:
    return self._zlib.eof

  @property
  def unused_data(self) -> bytes:
    return self._zlib.unused_data

  def decompress(self, data: bytes, max_length: int) -> bytes:
    text = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
    self.needs_input = len(text) < max_length
    return text


class _Zstd:
  """zstandard's decoder of one frame, which gets little at a time."""

  def __init__(self) -> None:
    import zstandard

    self._frame = zstandard.ZstdDecompressor().decompressobj()
    self._error = zstandard.ZstdError
    self._input = b""

  @property
  def eof(self) -> bool:
    return bool(self._frame.eof)

  @property
  def needs_input(self) -> bool:
    return not self._input

  @property
  def unused_data(self) -> bytes:
    return bytes(self._frame.unused_data) + self._input

  def decompress(self, data: bytes, max_length: int) -> bytes:
    del max_length
    data = self._input + data
    self._input = data[_ZSTD_PIECE:]
    try:
      return bytes(self._frame.decompress(data[:_ZSTD_PIECE]))
    except self._error as error:
      raise OSError(str(error)) from error


# What the first bytes of a compressed file match: its kind, and its decoder.
_COMPRESSED: tuple[tuple[re.Pattern[bytes], str, Callable[[], _Decoder]], ...]
_COMPRESSED = (
  (re.compile(rb"\x1f\x8b"), "gzip", _Gzip),
  (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), "bzip2", bz2.BZ2Decompressor),
  (
    re.compile(rb"\xfd7zXZ\0"),
    "xz",
    functools.partial(
      lzma.LZMADecompressor, lzma.FORMAT_XZ, memlimit=_XZ_MEMORY
    ),
  ),
  (re.compile(rb"\x28\xb5\x2f\xfd"), "zstd", _Zstd),
)

_UNPACK = "unpack it and name the file that is in it"
_CONVERT = "convert it to JSON lines, TSV or Parquet"
_UTF8 = "convert it to UTF-8 (iconv -f {} -t UTF-8)"
# (offset, bytes, what begins so, what to do); the first that fits counts.
_REFUSED = (
  (0, b"PK\x03\x04", "a zip archive (or .xlsx, .docx, .npz)", _UNPACK),
  (0, b"PK\x05\x06", "an empty zip archive", _UNPACK),
  (257, b"ustar", "a tar archive", _UNPACK),
  (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
  (0, b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
  (0, b"\x1f\x9d", "compressed by compress (.Z)", "use gzip or zstd"),
  (0, b"\x04\x22\x4d\x18", "compressed by lz4", "use gzip or zstd"),
  (0, b"\x5d\0\0", "compressed by lzma", "use xz, gzip or zstd"),
  (0, b"PAR1", "Parquet, which has no lines", "name a format of records"),
  (0, b"PARE", "encrypted Parquet", _CONVERT),
  (0, b"ARROW1\0\0", "an Arrow or Feather file", _CONVERT),
  (0, b"\xff\xff\xff\xff", "an Arrow stream", _CONVERT),
  (0, b"Obj\x01", "an Avro file", _CONVERT),
  (0, b"SQLite format 3\0", "an SQLite database", _CONVERT),
  (0, b"\x89HDF", "an HDF5 file", _CONVERT),
  (0, b"\x93NUMPY", "a NumPy array", _CONVERT),
  (0, b"\xd0\xcf\x11\xe0", "an old Office document (.xls, .doc)", _CONVERT),
  (0, b"%PDF", "a PDF", _CONVERT),
  (0, b"\xff\xfe\0\0", "UTF-32 text", _UTF8.format("UTF-32")),
  (0, b"\0\0\xfe\xff", "UTF-32 text", _UTF8.format("UTF-32")),
  (0, b"\xff\xfe", "UTF-16 text", _UTF8.format("UTF-16")),
  (0, b"\xfe\xff", "UTF-16 text", _UTF8.format("UTF-16")),
  *(
    (
      0,
      b"\x80" + bytes([protocol]),
      "a Python pickle",
      "it is never loaded: convert it to JSON lines where you trust it",
    )
    for protocol in (2, 3, 4, 5)
  ),
  (0, b"version https://git-lfs", "a Git LFS pointer", "run git lfs pull"),
  (0, b"<!doctype html", "a web page", "look at how it was downloaded"),
  (0, b"<html", "a web page", "look at how it was downloaded"),
)


class _HashedFile(io.RawIOBase):
  """A file that hashes its bytes as they are read."""

  def __init__(self, path: Path):
    self._file = path.open("rb", buffering=0)
    self.digest = hashlib.sha256()

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: Any) -> int:
    count = self._file.readinto(buffer) or 0
    self.digest.update(memoryview(buffer)[:count])
    return count

  def close(self) -> None:
    self._file.close()
    super().close()


class _Decompressed(io.RawIOBase):
  """All compressed streams of a file, one after the other.

  The readers of the standard library take what follows the first stream and
  is damaged at its beginning for the end of the file.
  """

  def __init__(self, file: Any, path: Path, kind: int) -> None:
    self._file, self._path = file, path
    _, self._name, self._new = _COMPRESSED[kind]
    self._decoder = self._new()
    self._ready = memoryview(b"")

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: Any) -> int:
    if not self._ready:
      self._ready = memoryview(self._next())
    count = min(len(buffer), len(self._ready))
    buffer[:count] = self._ready[:count]
    self._ready = self._ready[count:]
    return count

  def _next(self) -> bytes:
    """Some bytes; none at the end."""
    data = b""
    while True:
      if self._decoder.eof:
        data = self._after_padding(self._decoder.unused_data)
        if not data:
          return b""
        self._decoder = self._new()
      elif self._decoder.needs_input:
        data = self._file.read1(_PIECE)
        if not data:
          raise self._damaged("it is cut short")
      try:
        text = self._decoder.decompress(data, _PIECE)
      except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise self._damaged(str(error)) from error
      if text:
        return text
      data = b""

  def _after_padding(self, data: bytes) -> bytes:
    """What is there of the next stream; zeros may stand before it."""
    while not (data := data.lstrip(b"\0")):
      data = self._file.read1(_PIECE)
      if not data:
        break
    return data

  def _damaged(self, reason: str) -> ValueError:
    return ValueError(
      f"{self._path}: damaged {self._name} data ({reason}); get the file again."
    )


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[io.BufferedReader, _HashedFile]]:
  """The decompressed bytes of a file after a byte-order mark, and the file.

  Raises:
    ValueError: if it is an archive or of another kind that is no text; while
      reading, if compressed data are damaged or cut short.
  """
  raw = _HashedFile(path)
  with raw, io.BufferedReader(raw, _BUFFER) as file:
    stream: Any = file
    name = ""
    if (kind := _compression(file)) is not None:
      # A decompressor's readline is Python; a C buffer above it is not.
      stream = io.BufferedReader(_Decompressed(file, path, kind), _BUFFER)
      name = f"{_COMPRESSED[kind][1]} of "
      if (inner := _compression(stream)) is not None:
        what = f"{name}{_COMPRESSED[inner][1]} data"
        raise _refusal(path, what, "decompress it once")
    head = stream.peek(_HEAD)
    for offset, magic, what, remedy in _REFUSED:
      if head[offset : offset + len(magic)].lower() == magic.lower():
        raise _refusal(path, name + what, remedy)
    if head.startswith(_BOM):
      stream.read(len(_BOM))
    yield stream, raw


def _compression(stream: Any) -> int | None:
  """The row of `_COMPRESSED`; None if it is not compressed."""
  head = stream.peek(_HEAD)
  rows = (i for i, row in enumerate(_COMPRESSED) if row[0].match(head))
  return next(rows, None)


def _refusal(path: Path, what: str, remedy: str) -> ValueError:
  return ValueError(
    f"{path}: the file is {what}; {remedy}. Text is read plain or compressed "
    "by gzip, bzip2, xz or zstd."
  )
