"""SQuAD's nested JSON, versions 1.1 and 2.0; its paragraphs are passages."""

from collections.abc import Iterator
from typing import Any

from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.formats.fields import shown
from odqa_jax.data.formats.joined import joined_questions
from odqa_jax.data.formats.paired import paragraph_question
from odqa_jax.data.raw.formats import Beginning, Format
from odqa_jax.data.raw.records import Place, RawFile, Record


def _paragraphs(
  file: RawFile,
) -> Iterator[tuple[Place, str, int, Record]]:
  """(place, title, number of the paragraph, paragraph)."""
  for at, article in file.array("data"):
    title, paragraphs = file.attempt(at, _article, article) or ("", [])
    for i, paragraph in enumerate(paragraphs):
      yield at._replace(inside=f".paragraphs[{i}]"), title, i, paragraph


def _member(value: Any, key: str, kind: type) -> Any:
  """`value[key]`, of the kind that SQuAD has there."""
  member = value.get(key) if isinstance(value, dict) else None
  if not isinstance(member, kind):
    raise ValueError(
      f"{key!r} of a SQuAD file must be a {kind.__name__} inside an object, "
      f"here it is {shown(member)}; check the file."
    )
  return member


def _article(article: Any) -> tuple[str, list[Any]]:
  title = _member(article, "title", str)
  return title, _member(article, "paragraphs", list)


def _record(question: Any, title: str, number: int) -> Record:
  """As `paragraph_question` takes it."""
  answers = _member(question, "answers", list)
  if not answers:
    raise ValueError(
      "'answers' is an empty list; give an answer, or mark the question "
      '"is_impossible": true, as SQuAD 2.0 does.'
    )
  return {
    "id": question.get("id"),
    "title": title,
    "paragraph": number,
    "question": question.get("question"),
    "answers": [_member(answer, "text", str) for answer in answers],
  }


def _questions(file: RawFile) -> Iterator[tuple[Place, Record]]:
  """Questions that have an answer.

  Without one there is nothing to find in a corpus, so a question that SQuAD
  2.0 marks as impossible would count as a miss whatever is retrieved.
  """
  for at, title, number, paragraph in _paragraphs(file):
    found = file.attempt(at, _member, paragraph, "qas", list)
    for i, question in enumerate(found or ()):
      if isinstance(question, dict) and question.get("is_impossible") is True:
        file.leave_out("questions marked as impossible")
        continue
      place = at._replace(inside=f"{at.inside}.qas[{i}]")
      record = file.attempt(place, _record, question, title, number)
      if record is not None:
        yield place, record


def _passages(file: RawFile) -> Iterator[tuple[Place, Passage]]:
  """The id of a paragraph is `TITLE#PARAGRAPH`, as in positives."""
  for place, title, number, paragraph in _paragraphs(file):
    context = file.attempt(place, _member, paragraph, "context", str)
    if context is not None:
      name = f"{title}#{number}"
      yield place, Passage(name, title.replace("_", " "), context)


def _is_squad(start: Beginning) -> str:
  keys = start.keys or ()
  fits = start.kind == "JSON" and "data" in keys and "question" not in keys
  return "JSON with the key data" if fits else ""


SQUAD = Format(
  "squad",
  "SQuAD's JSON; its paragraphs are passages",
  _is_squad,
  questions=joined_questions(_questions, paragraph_question),
  passages=_passages,
)
