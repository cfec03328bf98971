"""Raw files as lines, rows and records, each with its place.

    for place, record in RawFile("train.jsonl.gz").records():
      ...  # str(place) is "train.jsonl.gz:1"

A place prints as `FILE:LINE`; inside a JSON array as `FILE:KEY[POSITION]`; and
in a Parquet file as `FILE:row NUMBER`.
Files are plain or compressed. Nothing holds a file in memory: the arrays that
DPR publishes are gigabytes, so they are parsed as a stream.
"""

import contextlib
import csv
import gzip
import hashlib
import io
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, TypeVar

import ijson

from odqa_jax.data.raw import parquet
from odqa_jax.data.raw.rejections import Rejections

Record = dict[str, Any]
Row = list[str]
Kind = Literal["JSON", "Parquet", "text"]
Value = TypeVar("Value")

# Stands in a place for the key of an array: a row of a Parquet file.
ROWS = "row "

# The first bytes of a compressed file, and what reads it.
OPENERS: dict[bytes, Callable[[IO[bytes]], Any]] = {
  b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
}
_BOM = b"\xef\xbb\xbf"
_BUFFER = 1 << 20
# A file without line ends is no text in lines; it must not fill the memory.
_LONGEST_LINE = 1 << 26


class Place(NamedTuple):
  """Where a record stands.

  Attributes:
    path: the file.
    number: of its first line, from 1; of an item or row its position, from 0.
    array: key of the JSON array it is in, "" for the file itself; `ROWS` in a
      Parquet file; else None.
    inside: where in that record.
  """

  path: Path
  number: int
  array: str | None = None
  inside: str = ""

  def __str__(self) -> str:
    if self.array is None:
      return f"{self.path}:{self.number}"
    if self.array == ROWS:
      return f"{self.path}:{ROWS}{self.number}{self.inside}"
    return f"{self.path}:{self.array}[{self.number}]{self.inside}"


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


class RawFile:
  """A file that is read from its start, as often as one likes.

  Attributes:
    path: where it is.
    digest: sha256 of what the last reading has taken: of the whole file once
      it came to the end.
    left_out: how many sound records the last reading had no use for, by what
      they are.
  """

  def __init__(
    self, path: str | Path, rejections: Rejections | None = None
  ) -> None:
    """Opens nothing yet.

    Args:
      path: where it is.
      rejections: takes bad records; None: the first one is an error.

    Raises:
      ValueError: if `path` is not a file.
    """
    self.path = Path(path)
    self._rejections = rejections
    if not self.path.is_file():
      what = "a folder, not a" if self.path.is_dir() else "no such"
      raise ValueError(f"{self.path}: {what} file; check the path.")
    self.digest = hashlib.sha256()
    self.left_out: Counter[str] = Counter()

  def leave_out(self, what: str) -> None:
    """Counts a sound record that is of no use here, in words."""
    self.left_out[what] += 1

  def beside(self, path: str | Path) -> "RawFile":
    """Another file, whose bad records count together with those of this one."""
    return RawFile(path, self._rejections)

  def attempt(
    self, place: Place, function: Callable[..., Value], *args: Any
  ) -> Value | None:
    """What a function makes of a record, or None if that was rejected.

    Raises:
      ValueError: of the function, with the place, where too many are bad.
    """
    try:
      return function(*args)
    except ValueError as error:
      self.reject(place, str(error))
      return None

  def reject(self, place: Place, reason: str) -> None:
    """Leaves out a bad record; raises ValueError where too many are bad."""
    if self._rejections is None:
      raise ValueError(f"{place}: {reason}")
    self._rejections.add(str(place), reason)

  @contextlib.contextmanager
  def open(self) -> Iterator[IO[bytes]]:
    """The bytes, decompressed, after a byte-order mark.

    Raises:
      ValueError: if the compressed data are damaged.
    """
    raw = _HashedFile(self.path)
    self.digest = raw.digest
    with raw, io.BufferedReader(raw, _BUFFER) as file:
      stream: Any = file
      for magic, opener in OPENERS.items():
        if file.peek(len(magic)).startswith(magic):
          # A decompressor's readline is Python; a C buffer above it is not.
          stream = io.BufferedReader(opener(file), _BUFFER)
          break
      try:
        if stream.peek(len(_BOM)).startswith(_BOM):
          stream.read(len(_BOM))
        yield stream
      except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
          f"{self.path}: damaged gzip data, or cut short ({error}); get the "
          "file again."
        ) from error

  def first_byte(self) -> bytes:
    """The first byte that is not white space."""
    with self.open() as stream:
      while chunk := stream.read(4096):
        if text := chunk.lstrip():
          return text[:1]
    raise ValueError(f"{self.path}: the file is empty; check the path.")

  def kind(self) -> Kind:
    """What the file is made of, by its first bytes.

    Raises:
      ValueError: if it is empty.
    """
    with self.path.open("rb") as stream:
      if stream.read(len(parquet.MAGIC)) == parquet.MAGIC:
        return "Parquet"
    return "JSON" if self.first_byte() in (b"{", b"[") else "text"

  def records(self) -> Iterator[tuple[Place, Record]]:
    """Records of JSON lines, of a JSON array, or of a Parquet file."""
    if self.kind() == "Parquet":
      return self.parquet_records()
    return self.json_records()

  def parquet_records(self) -> Iterator[tuple[Place, Record]]:
    """Rows of a Parquet file, numbered from 0.

    Raises:
      ValueError: if the file is damaged.
    """
    for number, record in enumerate(parquet.rows(self.path)):
      yield Place(self.path, number, ROWS), record
    with self.path.open("rb") as stream:
      # Parquet is read from its end, so it cannot be hashed on the way.
      self.digest = hashlib.file_digest(stream, "sha256")

  def _whole_lines(self) -> Iterator[tuple[int, str]]:
    """(number from 1, text with its line end)."""
    with self.open() as stream:
      number = 0
      while raw := stream.readline(_LONGEST_LINE):
        number += 1
        if len(raw) == _LONGEST_LINE:
          raise ValueError(
            f"{self.path}:{number}: the line is longer than {_LONGEST_LINE:,} "
            "bytes; the file must be text in lines."
          )
        try:
          yield number, raw.decode("utf-8")
        except UnicodeDecodeError as error:
          raise ValueError(
            f"{self.path}:{number}: byte {error.start + 1} of the line "
            f"(0x{raw[error.start]:02x}) is not UTF-8; convert the file to "
            "UTF-8."
          ) from error

  def lines(self) -> Iterator[tuple[Place, str]]:
    """Lines without their ends, blank ones left out.

    Raises:
      ValueError: naming the line that is not UTF-8.
    """
    for number, text in self._whole_lines():
      if not text.isspace():
        yield Place(self.path, number), text.rstrip("\r\n")

  def tab_rows(self) -> Iterator[tuple[Place, Row]]:
    """Rows of a tab-separated file in which a quote means nothing."""
    for place, text in self.lines():
      yield place, text.split("\t")

  def csv_rows(self) -> Iterator[tuple[Place, Row]]:
    """Rows of a tab-separated file under csv's double-quote rules.

    Raises:
      ValueError: for a row that csv cannot read, and a quote that is never
        closed: csv would let it swallow the rows that follow.
    """
    # The lines of the row that is being read; none are left at the end.
    taken: list[str] = []
    number, ended = 0, False

    def remembered() -> Iterator[str]:
      nonlocal number, ended
      for line, text in self._whole_lines():
        number = line
        taken.append(text)
        yield text
      ended = True

    reader = csv.reader(remembered(), delimiter="\t")
    while True:
      taken.clear()
      try:
        row = next(reader, None)
        if row is None:
          return
        if ended or len(taken) > 1:
          list(csv.reader(taken, delimiter="\t", strict=True))
      except csv.Error as error:
        raise ValueError(
          f"{self.path}:{number - len(taken) + 1}: no row by csv's rules "
          f"({error}, read until line {number}); perhaps a quote is never "
          "closed: close it, or write a quote inside a quoted field twice."
        ) from error
      if len(row) > 1 or (row and row[0].strip()):
        yield Place(self.path, number - len(taken) + 1), row

  def json_records(self) -> Iterator[tuple[Place, Record]]:
    """Objects of a JSON-lines file or of one JSON array.

    Raises:
      ValueError: for broken JSON, and for what is no JSON object.
    """
    array = self.first_byte() == b"["
    for place, record in self.array() if array else self._json_lines():
      if not isinstance(record, dict):
        raise ValueError(
          f"{place}: a JSON object is expected, not "
          f"{type(record).__name__} {str(record)[:60]!r}; check the format."
        )
      yield place, record

  def _json_lines(self) -> Iterator[tuple[Place, Any]]:
    for place, text in self.lines():
      try:
        record = json.loads(text)
      except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(
          f"{place}: broken JSON ({error}); every line must be one JSON "
          "object; mend or remove the line."
        ) from error
      yield place, record

  def array(self, key: str = "") -> Iterator[tuple[Place, Any]]:
    """Items of the JSON array at a key; "" is the file itself.

    Raises:
      ValueError: naming the position at which the JSON breaks.
    """
    place = Place(self.path, 0, key)
    items = f"{key}.item" if key else "item"
    with self.open() as stream:
      try:
        for item in ijson.items(stream, items, use_float=True):
          yield place, item
          place = place._replace(number=place.number + 1)
      except (ijson.JSONError, UnicodeDecodeError) as error:
        raise ValueError(
          f"{place}: broken JSON or not UTF-8 ({_first_line(error)}); the "
          "file must hold one whole JSON array."
        ) from error

  def top_keys(self) -> set[str]:
    """Keys of the first JSON object, or the columns of a Parquet file.

    In an array the object is the first item. It reads no further, and not into
    the array `data`, which is most of a SQuAD file; so it says nothing of JSON
    that is broken later.

    Raises:
      ValueError: if the JSON is broken before the first object ends.
    """
    if self.kind() == "Parquet":
      return set(parquet.column_names(self.path))
    keys: set[str] = set()
    depth, last = 0, ""
    with self.open() as stream:
      try:
        # Not ijson.parse: its prefixes grow with the depth of the nesting.
        for event, value in ijson.basic_parse(stream, multiple_values=True):
          if event == "map_key" and depth == 1:
            keys.add(value)
            last = value
          elif event == "start_array" and depth == 1 and last == "data":
            break
          elif event == "start_map":
            depth += 1
          elif event == "end_map":
            depth -= 1
            if not depth:
              break
      except (ijson.JSONError, UnicodeDecodeError) as error:
        raise ValueError(
          f"{self.path}:1: the file begins like JSON and is broken or not "
          f"UTF-8 ({_first_line(error)}); check that it is whole."
        ) from error
    return keys


def _first_line(error: Exception) -> str:
  """Its first line; ijson draws pictures, at times as the repr of bytes."""
  text = str(error).strip().replace("\\n", "\n").removeprefix("b'")
  return text.split("\n", 1)[0] or "unreadable"
