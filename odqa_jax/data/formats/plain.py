"""Question files without passages: one record, one `Question`.

`n` is the number of the record, from 0: the id of a question that has none.
"""

from odqa_jax.data.formats import fields
from odqa_jax.data.formats.joined import joined_questions
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.raw.formats import Format, has_keys
from odqa_jax.data.raw.records import RawFile, Record


def nq_open(record: Record, n: int) -> Question:
  """question, answer or answers; id, positive_ids, negative_ids if given."""
  return Question(
    id=fields.identifier(record.get("id", n)),
    question=fields.text(record, "question"),
    answers=fields.answers(record),
    positive_ids=fields.ids(record, "positive_ids"),
    negative_ids=fields.ids(record, "negative_ids"),
  )


def entity_questions(record: Record, n: int) -> Question:
  """relation, question, answers; the relation begins the id: P106/0."""
  number = fields.identifier(record.get("id", n))
  return Question(
    id=f"{fields.text(record, 'relation')}/{number}",
    question=fields.text(record, "question"),
    answers=fields.answers(record),
  )


def webquestions(record: Record, n: int) -> Question:
  """qId, qText, answers."""
  return Question(
    id=fields.identifier(record.get("qId", n)),
    question=fields.text(record, "qText"),
    answers=fields.answers(record),
  )


NQ_OPEN = Format(
  "nq_open",
  "question, answer or answers; id, positive_ids, negative_ids",
  has_keys("question"),
  questions=joined_questions(RawFile.records, nq_open),
)
ENTITY_QUESTIONS = Format(
  "entity_questions",
  "JSON lines of relation, question and answers",
  has_keys("relation", "question"),
  questions=joined_questions(RawFile.records, entity_questions),
)
WEBQUESTIONS = Format(
  "webquestions",
  "JSON with qId, qText and answers",
  has_keys("qText"),
  questions=joined_questions(RawFile.records, webquestions),
)
