"""CuratedTREC, whose answers are regular expressions."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from odqa_jax.data.formats.dpr import dpr_qas
from odqa_jax.data.formats.joined import joined_questions
from odqa_jax.data.formats.plain import nq_open
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.raw.formats import Beginning, Format, beginning
from odqa_jax.data.raw.records import Place, RawFile, Record, Row

# Kinds of TREC's question answering track.
_TYPES = ("factoid", "list", "definition", "other")
# Constructs that answers in plain words seldom have. A third of CuratedTREC's
# patterns have one; of 12,000 answers of NQ and TriviaQA not one has.
_PATTERN = re.compile(r"\\[sdwbSDWB.]|\.\*|[)\]]\?|\([^()|]*\|[^()]*\)")
_SHARE = 0.2


def curated_trec(record: Record | Row, n: int) -> Question:
  """id, type, question, regex; or a record or row of another form."""
  if isinstance(record, dict):
    plain = nq_open(record, n)
  elif len(record) == 2:
    plain = dpr_qas(record, n)
  elif len(record) == 4:
    name, _, question, pattern = record
    plain = Question(id=name, question=question, answers=(pattern,))
  else:
    raise ValueError(
      f"{len(record)} columns, not the 4 of id, type, question and regular "
      "expression; check the tabs."
    )
  return Question(
    plain.id, plain.question, plain.answers, "regex", plain.positive_ids
  )


def _records(file: RawFile) -> Iterator[tuple[Place, Any]]:
  start = beginning(file)
  if start.keys is not None:
    return file.records()
  # The published TSV is unquoted (its patterns hold quotes); DPR's is not.
  return file.tab_rows() if len(start.columns) == 4 else file.csv_rows()


def _is_trec(start: Beginning) -> str:
  """Four columns, the second a type; other forms look like plain answers."""
  columns = start.columns
  if len(columns) != 4 or columns[1] not in _TYPES:
    return ""
  return f"rows of 4 columns, the second {columns[1]!r}"


def look_like_patterns(questions: Sequence[Question]) -> int:
  """How many questions have a regular expression for an answer; 0 for few.

  Patterns stand alone: each question has one answer.
  """
  if any(len(question.answers) != 1 for question in questions):
    return 0
  signs = sum(bool(_PATTERN.search(q.answers[0])) for q in questions)
  return signs if signs > _SHARE * len(questions) else 0


CURATED_TREC = Format(
  "curated_trec",
  "CuratedTREC: answers are regular expressions; TSV, or as in nq_open",
  _is_trec,
  questions=joined_questions(_records, curated_trec),
)
