"""What a format is, and how that of a file is told.

A format is a row `Format(name, about, detects, …)`; the table of all is
`data.formats.table.FORMATS`. The content decides, never the name of a file.
"""

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from odqa_jax.data.raw.records import Kind, Place, RawFile
from odqa_jax.runtime.settings import nearest

# From a file to what it holds: questions, or passages.
Reader = Callable[[RawFile], Iterator[tuple[Place, Any]]]

# No header, question or list of answers is as long.
_LONGEST_START = 1 << 16
# Where the first lines are bad, so many are looked at.
_TRIED_LINES = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Beginning:
  """What a file begins with.

  Attributes:
    file: the whole of it.
    keys: of the first JSON object, or a Parquet file's columns; else None.
    columns: of the first row of text, split at tabs; else none.
    kind: what the file is made of.
  """

  file: RawFile
  keys: frozenset[str] | None
  columns: tuple[str, ...]
  kind: Kind = "JSON"

  def __str__(self) -> str:
    if self.kind == "XML":
      return "XML"
    if self.keys is None:
      return f"{len(self.columns)} columns between tabs"
    what = "a JSON object with the keys"
    if self.kind == "Parquet":
      what = "Parquet with the columns"
    return f"{what} {sorted(self.keys)[:12]}"


@dataclasses.dataclass(frozen=True, slots=True)
class Format:
  """A kind of file, with a reader for each of the things that it holds.

  Attributes:
    name: as `--format` takes it.
    about: a line for people.
    detects: what tells a file of this format from others, or "" if it is none.
    questions: reads them; None if such files hold none.
    passages: likewise.
  """

  name: str
  about: str
  detects: Callable[[Beginning], str]
  questions: Reader | None = None
  passages: Reader | None = None


def has_keys(*names: str) -> Callable[[Beginning], str]:
  """Detects JSON whose first object, or Parquet whose columns, are these."""

  def detects(start: Beginning) -> str:
    if start.keys is None or not start.keys.issuperset(names):
      return ""
    what = "keys" if start.kind == "JSON" else "columns"
    known = (
      f"the {what} {', '.join(names)}" if names else f"no other known {what}"
    )
    return f"{start.kind} with {known}"

  return detects


def beginning(file: RawFile) -> Beginning:
  """Looks at a file's first object or row.

  Raises:
    ValueError: if the file is empty, broken JSON, or no text in lines.
  """
  kind = file.kind()
  if kind == "XML":
    return Beginning(file, None, (), kind)
  if kind != "text":
    return Beginning(file, _keys(file), (), kind)
  with file.open() as stream:
    if b"\n" not in stream.read(_LONGEST_START) and stream.read(1):
      raise ValueError(
        f"{file.path}:1: no line end in the first {_LONGEST_START:,} bytes; "
        "the file must be JSON, or rows of columns between tabs."
      )
  first, fault = 0, "it has no text."
  for number, text, why in itertools.islice(file.raw_lines(), _TRIED_LINES):
    if text and not text.isspace():
      return Beginning(file, None, tuple(text.rstrip("\r\n").split("\t")), kind)
    if why and not first:
      first, fault = number, why
  raise ValueError(f"{file.path}:{first or 1}: {fault}")


def _keys(file: RawFile) -> frozenset[str]:
  """Of the first record that can be read; bad lines may stand before it."""
  try:
    return frozenset(file.top_keys())
  except ValueError:
    if file.kind() == "JSON" and file.first_byte() == b"{":
      for _, text, _ in itertools.islice(file.raw_lines(), _TRIED_LINES):
        with contextlib.suppress(ValueError, RecursionError):
          if isinstance(record := json.loads(text), dict):
            return frozenset(record)
    raise


def detect(file: RawFile, formats: Iterable[Format]) -> tuple[Format, str]:
  """The first format that fits a file, and why.

  Raises:
    ValueError: if none does; see also `beginning`.
  """
  start = beginning(file)
  known = list(formats)
  for format in known:
    if reason := format.detects(start):
      return format, reason
  raise ValueError(
    f"{file.path}:1: {start}: no known format; known: "
    f"{[format.name for format in known]}. Name one with --format, or convert "
    "the file to JSON lines with 'question' and 'answer'."
  )


def named_format(name: str, formats: Mapping[str, Format]) -> Format:
  """The format of that name.

  Raises:
    ValueError: naming the nearest one.
  """
  if name in formats:
    return formats[name]
  raise ValueError(f"unknown format {name!r}; {nearest(name, formats)}")
