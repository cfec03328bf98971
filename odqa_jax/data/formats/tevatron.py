"""Tevatron's training sets, whose passages are a corpus too, and its corpora.

Checked against texttron/tevatron: `docs/datasets.md` and README, "Training
Data" and "Corpus Data"; the later form names passages by
`positive_document_ids` and `negative_document_ids` alone, and may call the
query `query_text`.
"""

from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.formats import fields
from odqa_jax.data.formats.joined import (
  joined_corpus,
  joined_passages,
  joined_questions,
)
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.raw.formats import Beginning, Format, has_keys
from odqa_jax.data.raw.records import RawFile, Record

_LISTS = ("positive_passages", "negative_passages")
_ID_LISTS = ("positive_document_ids", "negative_document_ids")


def question(record: Record, n: int) -> Question:
  """query_id, query, both kinds of passages; `answers` where it has them."""
  query = "query" if "query" in record else "query_text"
  positives, negatives = (
    _passage_ids(record, passages, ids)
    for passages, ids in zip(_LISTS, _ID_LISTS, strict=True)
  )
  return Question(
    id=fields.identifier(record.get("query_id", n)),
    question=fields.text(record, query),
    answers=fields.answers(record),
    positive_ids=positives,
    negative_ids=tuple(i for i in negatives if i not in positives),
  )


def _passage_ids(record: Record, passages: str, ids: str) -> tuple[str, ...]:
  if passages not in record:
    return fields.ids(record, ids)
  names = [
    fields.identifier(p.get("docid")) for p in fields.objects(record, passages)
  ]
  return tuple(dict.fromkeys(names))


def passages_of_question(record: Record) -> list[Passage]:
  """The positives and negatives of a training record."""
  return [passage(c) for key in _LISTS for c in fields.objects(record, key)]


def passage(record: Record) -> Passage:
  """docid, text; title where there is one."""
  return Passage(
    fields.identifier(record.get("docid")),
    fields.optional_text(record, "title"),
    fields.text(record, "text"),
  )


def _is_training_set(start: Beginning) -> str:
  keys = start.keys or frozenset()
  fits = "query_id" in keys and not keys.isdisjoint((_LISTS[0], _ID_LISTS[0]))
  return f"{start.kind} with query_id and {_LISTS[0]} or {_ID_LISTS[0]}" * fits


TRAINING_SET = Format(
  "tevatron",
  "Tevatron's JSON lines of query_id, query, positive_ and negative_passages",
  _is_training_set,
  questions=joined_questions(RawFile.records, question),
  passages=joined_passages(passages_of_question),
)
CORPUS = Format(
  "tevatron_corpus",
  "Tevatron's JSON lines of docid, title and text",
  has_keys("docid", "text"),
  passages=joined_corpus(passage),
)
