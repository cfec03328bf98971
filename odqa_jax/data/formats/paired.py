"""Records of a question and the one passage that answers it."""

from typing import Any

from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.formats import fields
from odqa_jax.data.formats.joined import joined_passages, joined_questions
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.raw.formats import Format, has_keys
from odqa_jax.data.raw.records import RawFile, Record


def paragraph_question(record: Record, n: int) -> Question:
  """id, question, answers, and the positive passage `title#paragraph`."""
  del n
  paragraph = fields.identifier(record.get("paragraph"))
  return Question(
    id=fields.identifier(record.get("id")),
    question=fields.text(record, "question"),
    answers=fields.answers(record),
    positive_ids=(f"{fields.text(record, 'title')}#{paragraph}",),
  )


def sentence_question(record: Record, n: int) -> Question:
  """Its sentence is the positive; there are no answers in this format."""
  sentence = fields.text(record, "sentence")
  return Question(
    id=str(n),
    question=fields.text(record, "question"),
    answers=(),
    positive_ids=(fields.content_id("sentence", sentence),),
  )


def sentence_passages(record: Record) -> list[Passage]:
  """The sentence of a {sentence, question} pair."""
  text = fields.text(record, "sentence")
  return [Passage(fields.content_id("sentence", text), "", text)]


def qed(record: Record, n: int) -> Question:
  """Every span of `original_nq_answers`; the paragraph is the positive."""
  groups = record.get("original_nq_answers") or []
  spans = [_span(span) for group in _items(groups) for span in _items(group)]
  paragraph = fields.text(record, "paragraph_text")
  return Question(
    id=fields.identifier(record.get("example_id", n)),
    question=fields.text(record, "question_text"),
    answers=tuple(dict.fromkeys(spans)),
    positive_ids=(fields.content_id("qed", paragraph),),
  )


def _items(value: Any) -> list[Any]:
  if not isinstance(value, list):
    raise ValueError(
      f"'original_nq_answers' holds {fields.shown(value)}, not a list of lists "
      "of spans."
    )
  return value


def _span(span: Any) -> str:
  if not isinstance(span, dict):
    raise ValueError(f"a span is {fields.shown(span)}, not an object.")
  return fields.text(span, "string")


def qed_passages(record: Record) -> list[Passage]:
  """The paragraph of a QED example."""
  text = fields.text(record, "paragraph_text")
  title = fields.text(record, "title_text")
  return [Passage(fields.content_id("qed", text), title, text)]


QED = Format(
  "qed",
  "QED's JSON lines; its paragraphs are passages",
  has_keys("question_text", "paragraph_text"),
  questions=joined_questions(RawFile.records, qed),
  passages=joined_passages(qed_passages),
)
SENTENCE_QUESTION = Format(
  "sentence_question",
  "a sentence, which is a passage, and a question",
  has_keys("sentence", "question"),
  questions=joined_questions(RawFile.records, sentence_question),
  passages=joined_passages(sentence_passages),
)
PARAGRAPH_QUESTION = Format(
  "paragraph_question",
  "id, question, answers, title and paragraph number",
  has_keys("question", "title", "paragraph"),
  questions=joined_questions(RawFile.records, paragraph_question),
)
