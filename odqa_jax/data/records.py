"""Raw question files as records with their place, before any format.

A record is one JSON object or one row of columns; its place is `FILE:LINE` or,
inside a JSON array, `FILE[POSITION]`. Files may be gzipped. Nothing holds a
file in memory: the arrays that DPR publishes are gigabytes, so they are parsed
as a stream.
"""

import contextlib
import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import ijson

Record = dict[str, Any]
Row = list[str]


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[IO[bytes]]:
  """The bytes of a file, unzipped if it is gzipped, after a byte-order mark.

  Raises:
    ValueError: if there is no such file, or its gzip stream is damaged.
  """
  path = Path(path)
  if not path.is_file():
    raise ValueError(f"{path}: no such file; check the path.")
  with path.open("rb") as plain:
    zipped = plain.peek(2)[:2] == b"\x1f\x8b"
    with gzip.open(plain) if zipped else plain as stream:
      try:
        if stream.peek(3)[:3] == b"\xef\xbb\xbf":
          stream.read(3)
        yield stream  # type: ignore[misc]
      except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
          f"{path}: the gzip stream is damaged or cut short ({error}); fetch "
          "the file again."
        ) from error


def first_byte(path: str | Path) -> bytes:
  """The first byte that is not white space."""
  with opened(path) as stream:
    for line in stream:
      if text := line.strip():
        return text[:1]
  raise ValueError(f"{path}: the file is empty; check the path.")


def lines(path: str | Path) -> Iterator[tuple[int, str]]:
  """(line number from 1, text without its line end), blank lines left out.

  Raises:
    ValueError: naming the line that is not UTF-8.
  """
  with opened(path) as stream:
    for number, raw in enumerate(stream, 1):
      try:
        text = raw.decode("utf-8")
      except UnicodeDecodeError as error:
        raise ValueError(
          f"{path}:{number}: byte {error.start} of the line is not UTF-8; "
          "convert the file to UTF-8."
        ) from error
      if text.strip():
        yield number, text.rstrip("\r\n")


def _json_lines(path: str | Path) -> Iterator[tuple[str, Any]]:
  for number, text in lines(path):
    where = f"{path}:{number}"
    try:
      yield where, json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
      raise ValueError(
        f"{where}: broken JSON ({error}); each line must be one JSON object."
      ) from error


def _first_line(error: Exception) -> str:
  """Its first line; ijson draws pictures, at times as the repr of bytes."""
  text = str(error).strip().replace("\\n", "\n").removeprefix("b'")
  return text.split("\n", 1)[0] or "unreadable"


def stream_array(
  path: str | Path, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
  """Items of the JSON array at key `prefix` ("" is the file itself).

  Raises:
    ValueError: naming the position at which the JSON breaks.
  """
  position = 0
  items_at = f"{prefix}.item" if prefix else "item"
  with opened(path) as stream:
    try:
      for item in ijson.items(stream, items_at, use_float=True):
        yield f"{path}:{prefix}[{position}]", item
        position += 1
    except (ijson.JSONError, UnicodeDecodeError) as error:
      what = _first_line(error)
      raise ValueError(
        f"{path}:{prefix}[{position}]: broken JSON or not UTF-8 ({what}); the "
        "file must hold one whole JSON array."
      ) from error


def json_records(path: str | Path) -> Iterator[tuple[str, Record]]:
  """Objects of a JSON-lines file or of one JSON array, with their places.

  Raises:
    ValueError: for what is no JSON object.
  """
  array = first_byte(path) == b"["
  for where, record in stream_array(path) if array else _json_lines(path):
    if not isinstance(record, dict):
      raise ValueError(
        f"{where}: a JSON object is expected, not "
        f"{type(record).__name__} {str(record)[:60]!r}; check the format."
      )
    yield where, record


def csv_rows(path: str | Path) -> Iterator[tuple[str, Row]]:
  """Rows of a tab-separated file under csv's double-quote rules.

  TriviaQA needs them: it has quoted rows, which a plain split breaks.

  Raises:
    ValueError: for a row that csv cannot read.
  """
  # Line numbers that csv took since the last row: a row may span lines.
  taken: list[int] = []

  def numbered() -> Iterator[str]:
    for number, text in lines(path):
      taken.append(number)
      yield text + "\n"

  reader = csv.reader(numbered(), delimiter="\t")
  while True:
    taken.clear()
    try:
      row = next(reader, None)
    except csv.Error as error:
      raise ValueError(
        f"{path}:{taken[0]}: no csv row ({error}); perhaps a quote is never "
        "closed: write a quote inside a quoted field twice."
      ) from error
    if row is None:
      return
    yield f"{path}:{taken[0]}", row


def tab_rows(path: str | Path) -> Iterator[tuple[str, Row]]:
  """Rows of a tab-separated file in which a quote means nothing."""
  for number, text in lines(path):
    yield f"{path}:{number}", text.split("\t")


def top_keys(path: str | Path) -> set[str]:
  """Keys of a file's first JSON object (in an array: of its first item).

  It reads no further, and not into the array `data`, which is most of a SQuAD
  file; so it says nothing of JSON that is broken later.

  Raises:
    ValueError: if the JSON is broken before the first object ends.
  """
  keys: set[str] = set()
  depth, last = 0, ""
  with opened(path) as stream:
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
      what = _first_line(error)
      raise ValueError(
        f"{path}:1: the file begins like JSON and is broken or not UTF-8 "
        f"({what}); check that it is whole."
      ) from error
  return keys
