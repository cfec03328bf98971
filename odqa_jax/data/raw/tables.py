"""Rows of separated values under csv's double-quote rules.

A row that csv cannot read is given up alone: the lines that it swallowed are
read again as rows of their own.
"""

import csv
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

Row = list[str]


class Line(NamedTuple):
  """A line of text.

  Attributes:
    number: from 1.
    text: with its line end.
    fault: why it cannot be read; "" if it can.
  """

  number: int
  text: str
  fault: str = ""


class _Lines:
  """Lines for csv, which remembers those of the row that is being read.

  Attributes:
    taken: the lines of that row.
    width: how many columns the first row has.
  """

  def __init__(
    self, lines: Iterator[Line], delimiter: str, longest: int
  ) -> None:
    self._lines, self._delimiter, self._longest = lines, delimiter, longest
    self._again: deque[Line] = deque()
    self.taken: list[Line] = []
    self.width = 0

  def __iter__(self) -> Iterator[str]:
    return self

  def __next__(self) -> str:
    line = self._again.popleft() if self._again else next(self._lines)
    self.taken.append(line)
    if line.fault:
      raise ValueError(line.fault)
    if len(self.taken) > 1:
      if self.width:
        self.check_joined(line)
      if sum(len(taken.text) for taken in self.taken) > self._longest:
        raise ValueError(
          f"a quote opens here and has no end in {self._longest:,} characters."
        )
    return line.text

  def give_back(self) -> Line:
    """The first line of a bad row; the others are read again."""
    first, *others = self.taken
    self._again.extendleft(reversed(others))
    return first

  def check_joined(self, line: Line) -> None:
    """Raises ValueError where a quote would make one row of two."""
    alike = self._columns(self.taken[0]) == self._columns(line) == self.width
    if self._delimiter == "\t" and alike and self.width > 1:
      raise ValueError(
        f"this line and line {line.number} have {self.width} columns each, and "
        "a quote that opens here would make one row of them; write a quote "
        "inside a quoted field twice, and a quoted field without tabs. A file "
        "in which quotes mean nothing has formats of its own "
        "(passages_tsv_unquoted)."
      )

  def _columns(self, line: Line) -> int:
    return line.text.count(self._delimiter) + 1


def quoted_rows(
  lines: Iterator[Line],
  delimiter: str,
  longest: int,
  reject: Callable[[int, str], None],
) -> Iterator[tuple[int, Row]]:
  """(number of its first line, row); blank lines are left out.

  Args:
    lines: of the file.
    delimiter: between columns.
    longest: characters in a row.
    reject: called with the line and the reason for a row that is no row by
      csv's rules: a quote that is never closed, text after a closing quote,
      and lines that are rows by themselves inside one quoted field.
  """
  # The limit is csv's own for all of a process, and for a field.
  csv.field_size_limit(max(csv.field_size_limit(), longest))
  source = _Lines(lines, delimiter, longest)
  reader = csv.reader(source, delimiter=delimiter, strict=True)
  while True:
    source.taken.clear()
    try:
      row = next(reader, None)
      if row and not source.width:
        source.width = len(row)
        for line in source.taken[1:]:
          source.check_joined(line)
    except (csv.Error, ValueError) as error:
      last = source.taken[-1]
      first = source.give_back()
      reject(first.number, _reason(error, first, last))
      continue
    if row is None:
      return
    if len(row) > 1 or (row and row[0].strip()):
      yield source.taken[0].number, row


def _reason(error: Exception, first: Line, last: Line) -> str:
  if not isinstance(error, csv.Error):
    if last is first or not last.fault:
      return str(error)
    return f"a quote opens here, and line {last.number} is no text: {error}"
  if "\r" in first.text.rstrip("\r\n"):
    return (
      "a carriage return stands inside the line; end lines with LF or CRLF, "
      "and quote a field that holds one."
    )
  return (
    f"no row by csv's rules ({error}, read until line {last.number}); perhaps "
    "a quote is never closed: close it, or write a quote inside a quoted field "
    "twice. A file in which quotes mean nothing has formats of its own "
    "(passages_tsv_unquoted)."
  )
