"""Raw files as lines, rows and records, each with its place.

    for place, record in RawFile("train.jsonl.gz").records():
      ...  # str(place) is "train.jsonl.gz:1"

A place prints as `FILE:LINE`; inside a JSON array as `FILE:KEY[POSITION]`; and
in a Parquet file as `FILE:row NUMBER`.
Files are plain or compressed. Nothing holds a file in memory: the arrays that
DPR publishes are gigabytes, so they are parsed as a stream.
"""

import contextlib
import functools
import hashlib
import io
import reprlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from odqa_jax.data.raw import parquet
from odqa_jax.data.raw.json_text import BrokenJsonError, Decoder, JsonText
from odqa_jax.data.raw.rejections import Rejections
from odqa_jax.data.raw.streams import opened
from odqa_jax.data.raw.tables import Line, Row, quoted_rows

Record = dict[str, Any]
Kind = Literal["JSON", "Parquet", "XML", "text"]
Value = TypeVar("Value")

# Stands in a place for the key of an array: a row of a Parquet file.
ROWS = "row "

# A file without line ends is no text in lines; it must not fill the memory.
_LONGEST_LINE = 1 << 26
_LONGEST_SPACE = 1 << 12


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

  @property
  def may_reject(self) -> bool:
    """Whether any bad record may be left out."""
    return self._rejections is not None and self._rejections.limit > 0

  def begin(self) -> None:
    """Says that all records are read now, anew."""
    self.left_out.clear()
    if self._rejections is not None:
      self._rejections.begin(self.path)

  def beside(self, path: str | Path) -> "RawFile":
    """Another file, whose bad records count together with those of this one."""
    other = RawFile(path, self._rejections)
    other.begin()
    return other

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
    except RecursionError:
      self.reject(place, "it is nested too deeply; mend or remove it.")
    return None

  def reject(self, place: Place, reason: str) -> None:
    """Leaves out a bad record; raises ValueError where too many are bad."""
    if self._rejections is None:
      raise ValueError(f"{place}: {reason}")
    self._rejections.add(self.path, str(place), reason)

  @contextlib.contextmanager
  def open(self) -> Iterator[io.BufferedReader]:
    """The bytes, decompressed, after a byte-order mark.

    Raises:
      ValueError: if the file is of a kind that is no text, such as an archive;
        while reading, if compressed data are damaged.
    """
    with opened(self.path) as (stream, file):
      self.digest = file.digest
      yield stream

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
    with self.open() as stream:
      start = stream.read(_LONGEST_SPACE).lstrip()
    if start.startswith((b"<?xml", b"<mediawiki")):
      return "XML"
    first = start[:1] or self.first_byte()
    return "JSON" if first in (b"{", b"[") else "text"

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

  def raw_lines(self) -> Iterator[Line]:
    """All lines, those that are no text with their fault."""
    with self.open() as stream:
      number = 0
      while raw := stream.readline(_LONGEST_LINE):
        number += 1
        if len(raw) == _LONGEST_LINE and raw[-1:] != b"\n":
          yield Line(
            number,
            "",
            f"the line is longer than {_LONGEST_LINE:,} bytes; the file must "
            "be text in lines.",
          )
          while raw and raw[-1:] != b"\n":
            raw = stream.readline(_LONGEST_LINE)
          continue
        try:
          yield Line(number, raw.decode("utf-8"))
        except UnicodeDecodeError as error:
          yield Line(
            number,
            "",
            f"byte {error.start + 1} of the line (0x{raw[error.start]:02x}) is "
            "not UTF-8; convert the file to UTF-8.",
          )

  def lines(self) -> Iterator[tuple[Place, str]]:
    """Lines without their ends, blank ones left out.

    Raises:
      ValueError: naming the line that is not UTF-8, or too long.
    """
    for number, text, fault in self.raw_lines():
      if fault:
        self.reject(Place(self.path, number), fault)
      elif not text.isspace():
        yield Place(self.path, number), text.rstrip("\r\n")

  def tab_rows(self) -> Iterator[tuple[Place, Row]]:
    """Rows of a tab-separated file in which a quote means nothing."""
    for place, text in self.lines():
      yield place, text.split("\t")

  def csv_rows(self, delimiter: str = "\t") -> Iterator[tuple[Place, Row]]:
    """Rows under csv's double-quote rules; see `tables.quoted_rows`.

    Raises:
      ValueError: for a row that breaks them.
    """

    def reject(number: int, reason: str) -> None:
      self.reject(Place(self.path, number), reason)

    rows = quoted_rows(self.raw_lines(), delimiter, _LONGEST_LINE, reject)
    for number, row in rows:
      yield Place(self.path, number), row

  def table_rows(self, delimiter: str) -> Iterator[tuple[Place, Record]]:
    """Rows of a table under its header, as records.

    Raises:
      ValueError: if the header is empty or names a column twice; for a row
        that has more or fewer columns.
    """
    rows = self.csv_rows(delimiter)
    place, header = next(rows, (None, []))
    if repeated := sorted({n for n in header if header.count(n) > 1}):
      raise ValueError(
        f"{place}: the header names the column {repeated[0]!r} more than once; "
        "rename one."
      )
    for place, row in rows:
      if len(row) == len(header):
        yield place, dict(zip(header, row, strict=True))
      else:
        self.reject(
          place, f"{len(row)} columns; the header has {len(header)}; mend it."
        )

  def json_records(self) -> Iterator[tuple[Place, Record]]:
    """Objects of a JSON-lines file or of one JSON array.

    Raises:
      ValueError: for broken JSON, and for what is no JSON object.
    """
    if self.first_byte() == b"[":
      items, read = self.array(), _checked
    else:
      items, read = self.lines(), functools.partial(_parsed, Decoder())
    for place, item in items:
      record = self.attempt(place, read, item)
      if record is not None:
        yield place, record

  def array(self, key: str = "") -> Iterator[tuple[Place, Any]]:
    """Items of the JSON array at a key; "" is the file itself.

    Raises:
      ValueError: naming the position at which the JSON breaks; where the next
        item begins is not known then.
    """
    place = Place(self.path, 0, key)
    with self._json_text() as text:
      try:
        for value, fault in text.items() if not key else _items_at(text, key):
          if fault:
            self.reject(place, f"{fault}; mend the record.")
          else:
            yield place, value
          place = place._replace(number=place.number + 1)
        text.end()
      except (BrokenJsonError, UnicodeDecodeError) as error:
        raise ValueError(
          f"{place}: broken JSON or not UTF-8 ({error}); the file must hold "
          "one whole JSON array."
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
    with self._json_text() as text:
      try:
        if text.next_char() == "[":
          for value, _ in text.items():
            return set(value) if isinstance(value, dict) else set()
          return set()
        for key in text.keys():
          keys.add(key)
          if key == "data" and text.next_char() == "[":
            break
          text.value()
      except (BrokenJsonError, UnicodeDecodeError) as error:
        raise ValueError(
          f"{self.path}:1: the file begins like JSON and is broken or not "
          f"UTF-8 ({error}); check that it is whole."
        ) from error
    return keys

  @contextlib.contextmanager
  def _json_text(self) -> Iterator[JsonText]:
    with self.open() as stream:
      yield JsonText(stream, _LONGEST_LINE)


def _items_at(text: JsonText, key: str) -> Iterator[tuple[Any, str]]:
  """Items of the array at a key of the object that is next."""
  for name in text.keys():
    if name == key and text.next_char() == "[":
      yield from text.items()
    else:
      text.value()


def _parsed(decoder: Decoder, text: str) -> Record:
  """The object of a line of JSON."""
  try:
    value = decoder.whole(text)
  except ValueError as error:
    raise ValueError(
      f"broken JSON ({error}); every line must be one JSON object; mend or "
      "remove the line."
    ) from error
  return _checked(value)


def _checked(value: Any) -> Record:
  if not isinstance(value, dict):
    raise ValueError(
      f"a JSON object is expected, not {type(value).__name__} "
      f"{reprlib.repr(value)}; check the format."
    )
  return value
