"""JSON lines and rows between tabs, streamed into files."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from odqa_jax.data.formats.fields import OWN
from odqa_jax.data.questions.sets import Question


def json_line(record: Any) -> str:
  """A record on one line."""
  return json.dumps(record, ensure_ascii=False) + "\n"


def check_new(path: Path) -> None:
  """Raises ValueError if the conversion has written a file of that name."""
  if path.exists():
    raise ValueError(
      f"two files of the conversion would be {path.name}, and the second would "
      "replace the first; give the question set of that name another one."
    )


def write_lines(path: Path, lines: Iterable[str]) -> int:
  """Writes lines, which have their ends; returns how many.

  Raises:
    ValueError: if the conversion has written a file of that name.
  """
  check_new(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  count = 0
  with path.open("w", encoding="utf-8", newline="") as file:
    for line in lines:
      file.write(line)
      count += 1
  return count


def _cell(value: Any) -> str:
  """A field under csv's double-quote rules.

  The csv module of Python 3.11 leaves a carriage return unquoted that ends no
  line, and then refuses to read it.
  """
  text = str(value)
  if re.search(r'[\t"\r\n]', text):
    return '"' + text.replace('"', '""') + '"'
  return text


def write_rows(path: Path, rows: Iterable[Sequence[Any]]) -> int:
  """Writes rows between tabs, quoted where csv's rules ask for it.

  Raises:
    ValueError: as `write_lines` does.
  """
  return write_lines(path, ("\t".join(map(_cell, r)) + "\n" for r in rows))


def own_fields(question: Question, *names: str) -> dict[str, Any]:
  """`metadata` with those fields of a question that a format has no place for.

  Only what is not empty, or not as usual, is written.
  """
  lists = {name: list(getattr(question, name)) for name in names}
  fields: dict[str, Any] = {n: values for n, values in lists.items() if values}
  if question.answer_type != "string":
    fields["answer_type"] = question.answer_type
  return {"metadata": {OWN: fields}} if fields else {}
