"""JSON lines and rows between tabs, streamed into files."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from odqa_jax.data.formats.fields import OWN
from odqa_jax.data.questions.sets import Question


def json_line(record: Any) -> str:
  """A record on one line."""
  return json.dumps(record, ensure_ascii=False) + "\n"


def write_lines(path: Path, lines: Iterable[str]) -> int:
  """Writes lines, which have their ends; returns how many."""
  path.parent.mkdir(parents=True, exist_ok=True)
  count = 0
  with path.open("w", encoding="utf-8", newline="") as file:
    for line in lines:
      file.write(line)
      count += 1
  return count


def write_rows(path: Path, rows: Iterable[Sequence[Any]]) -> int:
  """Writes rows between tabs, quoted where csv's rules ask for it."""
  path.parent.mkdir(parents=True, exist_ok=True)
  count = 0
  with path.open("w", encoding="utf-8", newline="") as file:
    writer = csv.writer(file, delimiter="\t", lineterminator="\n")
    for row in rows:
      writer.writerow(row)
      count += 1
  return count


def own_fields(question: Question, *names: str) -> dict[str, Any]:
  """`metadata` with those fields of a question that a format has no place for.

  Only what is not empty, or not as usual, is written.
  """
  lists = {name: list(getattr(question, name)) for name in names}
  fields: dict[str, Any] = {n: values for n, values in lists.items() if values}
  if question.answer_type != "string":
    fields["answer_type"] = question.answer_type
  return {"metadata": {OWN: fields}} if fields else {}
