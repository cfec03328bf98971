"""BRIGHT: questions that exclude passages, and their documents.

Checked against xlang-ai/BRIGHT (`run.py`) and the card of xlangai/BRIGHT:
examples are `{query, reasoning, id, excluded_ids, gold_ids_long, gold_ids,
gold_answer}`, documents `{id, content}`, both Parquet. An empty list is written
["N/A"]. `gold_ids` point into `documents`, `gold_ids_long` into
`long_documents`: which of them counts depends on the corpus, so the long ones
are a format of their own, which must be asked for.
"""

from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.formats import fields
from odqa_jax.data.formats.joined import joined_corpus, joined_questions
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.raw.formats import Format, has_keys
from odqa_jax.data.raw.records import RawFile, Record

_NONE = "N/A"


def _named(record: Record, key: str) -> tuple[str, ...]:
  return tuple(i for i in fields.ids(record, key) if i != _NONE)


def _question(record: Record, n: int, gold: str) -> Question:
  positives = _named(record, gold)
  excluded = _named(record, "excluded_ids")
  if both := sorted(set(positives) & set(excluded)):
    raise ValueError(
      f"{both[0]!r} is in {gold!r} and in 'excluded_ids'; a passage that is "
      "never returned cannot be right: remove one."
    )
  answer = fields.optional_text(record, "gold_answer")
  return Question(
    id=fields.identifier(record.get("id", n)),
    question=fields.text(record, "query"),
    answers=() if answer.strip() in ("", _NONE) else (answer,),
    positive_ids=positives,
    excluded_ids=excluded,
  )


def question(record: Record, n: int) -> Question:
  """id, query, gold_ids, excluded_ids; gold_answer is the answer."""
  return _question(record, n, "gold_ids")


def long_question(record: Record, n: int) -> Question:
  """The same with `gold_ids_long`."""
  return _question(record, n, "gold_ids_long")


def document(record: Record) -> Passage:
  """id, content; there are no titles."""
  name = fields.identifier(record.get("id"))
  return Passage(name, "", fields.text(record, "content"))


EXAMPLES = Format(
  "bright",
  "BRIGHT's examples: query, gold_ids and excluded_ids",
  has_keys("query", "gold_ids"),
  questions=joined_questions(RawFile.records, question),
)
LONG_EXAMPLES = Format(
  "bright_long",
  "the same with gold_ids_long, for the corpus of long documents",
  lambda _: "",
  questions=joined_questions(RawFile.records, long_question),
)
DOCUMENTS = Format(
  "bright_documents",
  "BRIGHT's documents: id and content",
  has_keys("id", "content"),
  passages=joined_corpus(document),
)
