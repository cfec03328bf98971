"""DPR's files: training JSON with contexts, and question-answer TSV."""

from typing import Any

from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.formats import fields
from odqa_jax.data.formats.joined import joined_passages, joined_questions
from odqa_jax.data.formats.literals import list_of_strings
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.raw.formats import Beginning, Format, has_keys
from odqa_jax.data.raw.records import RawFile, Record, Row

_CONTEXTS = ("positive_ctxs", "hard_negative_ctxs", "negative_ctxs")


def dpr_retriever(record: Record, n: int) -> Question:
  """Hard negatives if there are any, else the ordinary ones, as DPR does."""
  positives = _context_ids(record, "positive_ctxs")
  negatives = _context_ids(record, "hard_negative_ctxs") or _context_ids(
    record, "negative_ctxs"
  )
  return Question(
    id=fields.identifier(record.get("id", n)),
    question=fields.text(record, "question"),
    answers=fields.answers(record),
    positive_ids=positives,
    negative_ids=tuple(i for i in negatives if i not in positives),
  )


def _context_id(context: Any) -> str:
  for key in ("passage_id", "psg_id", "id"):
    if isinstance(context, dict) and context.get(key) not in (None, ""):
      return fields.identifier(context[key])
  raise ValueError(
    f"a context has neither 'passage_id' nor 'psg_id': {fields.shown(context)};"
    " passages are told apart by their ids, so give it one."
  )


def _contexts(record: Record, key: str) -> list[Any]:
  contexts = record.get(key)
  if contexts is None:
    return []
  if not isinstance(contexts, list):
    raise ValueError(
      f"{key!r} is {fields.shown(contexts)}, not a list of contexts."
    )
  return contexts


def _context_ids(record: Record, key: str) -> tuple[str, ...]:
  return tuple(dict.fromkeys(map(_context_id, _contexts(record, key))))


def dpr_passages(record: Record) -> list[Passage]:
  """All contexts of a DPR retriever record."""
  contexts = [c for key in _CONTEXTS for c in _contexts(record, key)]
  return [
    Passage(_context_id(c), fields.text(c, "title"), fields.text(c, "text"))
    for c in contexts
  ]


def dpr_qas(row: Row, n: int) -> Question:
  """Two columns: a question and a list of its answers."""
  if len(row) != 2:
    raise ValueError(
      f"{len(row)} columns, not the 2 of a question and its list of answers; "
      "check for a missing answers column, a tab, or an unclosed quote."
    )
  answers = dict.fromkeys(list_of_strings(row[1]))
  return Question(id=str(n), question=row[0], answers=tuple(answers))


def _is_qas(start: Beginning) -> str:
  if start.keys is not None:
    return ""
  try:
    _, row = next(start.file.csv_rows())
  except ValueError:
    # The reader will name it, or leave it out.
    row = list(start.columns)
  return "rows of 2 columns" if len(row) == 2 else ""


DPR_RETRIEVER = Format(
  "dpr_retriever",
  "DPR's training JSON; its contexts are passages",
  has_keys("question", "positive_ctxs"),
  questions=joined_questions(RawFile.records, dpr_retriever),
  passages=joined_passages(dpr_passages),
)
DPR_QAS = Format(
  "dpr_qas",
  "DPR's TSV of a question and a JSON or Python list of its answers",
  _is_qas,
  questions=joined_questions(RawFile.csv_rows, dpr_qas),
)
