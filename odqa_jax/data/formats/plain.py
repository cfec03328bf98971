"""Question files without passages: one record, one `Question`.

`n` is the number of the record, from 0: the id of a question that has none.
"""

import itertools

from odqa_jax.data.formats import fields
from odqa_jax.data.formats.joined import joined_questions
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.raw.formats import Beginning, Format, has_keys
from odqa_jax.data.raw.records import RawFile, Record

_EXAMINED = 64
_ASKING = frozenset(
  "who whom whose what when where which why how is are was were do does did "
  "can could name".split()
)


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


def plain_text(line: str, n: int) -> Question:
  """A line that is a question, which has no answers."""
  return Question(id=str(n), question=line.strip(), answers=())


def _is_plain_text(start: Beginning) -> str:
  """Lines of three words or more, each of which must look like a question."""
  if start.keys is not None:
    return ""
  lines = itertools.islice(start.file.raw_lines(), _EXAMINED)
  texts = [line.text.strip() for line in lines if line.text.strip()]
  return "lines that are questions" if all(map(_asks, texts)) else ""


def _asks(text: str) -> bool:
  """Three words, and a question mark, or at least a word that asks.

  What has no question mark must not hold what stands between columns.
  """
  words = text.split()
  if len(words) < 3 or any(char in text for char in "\t{}[]"):
    return False
  asks = words[0].lower() in _ASKING and not any(c in text for c in ',;|"')
  return text.endswith("?") or asks


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
PLAIN_TEXT = Format(
  "plain_text",
  "one question a line, without answers",
  _is_plain_text,
  questions=joined_questions(RawFile.lines, plain_text),
)
