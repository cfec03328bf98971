"""Relevance judgements (qrels) beside a file of queries: who is right for what.

The layouts: BEIR's TSV with the header query-id, corpus-id, score; the same as
JSON or Parquet (MTEB; NanoBEIR has no score, since all that is listed is
right); and TREC's `qid 0 docid grade`. A grade above 0 makes a positive. Ids
stay as they are written.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from odqa_jax.data.formats import fields
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.raw.formats import Beginning, beginning
from odqa_jax.data.raw.records import Place, RawFile, Record

QUERY, PASSAGE, GRADE = "query-id", "corpus-id", "score"


@dataclasses.dataclass
class Judged:
  """What is said of one query.

  Attributes:
    file: which judges it first.
    place: where.
    grades: of passages.
  """

  file: RawFile
  place: Place
  grades: dict[str, float] = dataclasses.field(default_factory=dict)

  @property
  def positives(self) -> tuple[str, ...]:
    """The passages with a grade above 0, in the order of the file."""
    return tuple(name for name, grade in self.grades.items() if grade > 0)


def is_judgements(start: Beginning) -> bool:
  """Whether a file holds them, in one of BEIR's layouts."""
  names = start.columns[:2] if start.keys is None else start.keys
  return {QUERY, PASSAGE}.issubset(names)


def is_trec_judgements(row: list[str]) -> bool:
  """Whether a row, split at white space, is surely `qid 0 docid grade`."""
  return row[1:2] in (["0"], ["Q0"]) and _is_judgement(row)


def _is_judgement(row: list[str]) -> bool:
  """Judgements made in rounds have their number in place of the 0."""
  return len(row) == 4 and re.fullmatch(r"-?\d+(\.0*)?", row[3]) is not None


def _layout(file: RawFile) -> Iterator[tuple[Place, Record]]:
  start = beginning(file)
  if start.keys is not None:
    return file.records()
  if is_judgements(start):
    return file.table_rows("\t")
  return _trec_rows(file)


def _trec_rows(file: RawFile) -> Iterator[tuple[Place, Record]]:
  for place, line in file.lines():
    # At ASCII's white space, as trec_eval; ids may hold other space.
    row = re.split(r"[ \t\r\f\v]+", line.strip(" \t\r\f\v"))
    if _is_judgement(row):
      yield place, {QUERY: row[0], PASSAGE: row[2], GRADE: row[3]}
    else:
      file.reject(
        place,
        f"{line[:60]!r} is no judgement; write the header {QUERY}, {PASSAGE}, "
        f"{GRADE} between tabs and such rows, or TREC's `qid 0 docid grade`.",
      )


def _judgement(record: Record) -> tuple[str, str, float]:
  names = (fields.identifier(record.get(key)) for key in (QUERY, PASSAGE))
  grade: Any = record.get(GRADE, 1)
  try:
    value = float(grade)
  except (TypeError, ValueError):
    value = math.nan
  if not math.isfinite(value) or isinstance(grade, bool):
    raise ValueError(
      f"{GRADE!r} is {fields.shown(grade)}, not a number; mend the grade."
    )
  return *names, value  # type: ignore[return-value]


def read_judgements(files: Iterable[RawFile]) -> dict[str, Judged]:
  """The judgements of each query, in the order of the files.

  Raises:
    ValueError: with the place, for a row that is no judgement, and a passage
      that is judged twice with two grades.
  """
  judged: dict[str, Judged] = {}
  for file in files:
    for place, record in _layout(file):
      if (row := file.attempt(place, _judgement, record)) is None:
        continue
      query, passage, grade = row
      grades = judged.setdefault(query, Judged(file, place)).grades
      if grades.setdefault(passage, grade) != grade:
        file.reject(
          place,
          f"{passage!r} has the grade {grade:g} for the query {query!r}, and "
          f"had {grades[passage]:g} before; remove one of the rows.",
        )
  return judged


def judged_questions(
  files: Sequence[RawFile],
  question_of: Callable[[Any], Question],
  judged: dict[str, Judged],
  layout: Callable[[RawFile], Iterator[tuple[Place, Any]]],
  *,
  only: bool,
) -> Iterator[tuple[Place, Question]]:
  """The questions of some files, with their positives.

  Args:
    files: the queries.
    question_of: makes a question of a record; without positives.
    judged: of `read_judgements`.
    layout: gives the records.
    only: leaves out what is not judged, and misses what is not there.

  Raises:
    ValueError: if `only` and a judged query is not in the files.
  """
  found = set()
  for file in files:
    for place, record in layout(file):
      question = file.attempt(place, question_of, record)
      if question is None:
        continue
      found.add(question.id)
      if question.id in judged:
        yield place, with_positives(question, judged[question.id])
      elif not only:
        yield place, question
  for name, judgement in judged.items() if only else ():
    if name not in found:
      judgement.file.reject(
        judgement.place,
        f"the query {name!r} is judged here and is not in {files[0].path}; "
        "give both files of one dataset.",
      )


def with_positives(question: Question, judged: Judged) -> Question:
  """The question with the passages that are judged right for it."""
  return dataclasses.replace(question, positive_ids=judged.positives)
