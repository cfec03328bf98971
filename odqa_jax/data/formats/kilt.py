"""KILT: tasks with provenance, and the knowledge source that it points into.

Checked against facebookresearch/KILT (README, "KILT data format" and
"Structure of each record") and the features of kilt_tasks and kilt_wikipedia in
huggingface/datasets, where what is not known is null or -1.

A passage of the knowledge source is a paragraph, and its id is
`WIKIPEDIA_ID#NUMBER`, the number being that of `start_paragraph_id`. The page's
title, which is its first paragraph, and the headings (`Section::::…`) are no
passages. Provenance that names paragraphs becomes the ids of all of them;
provenance that names a page alone (entity linking) becomes `WIKIPEDIA_ID`, as
in corpora of one passage a page. Provenance counts whatever its `bleu_score`.
"""

from typing import Any

from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.formats import fields
from odqa_jax.data.formats.joined import joined_corpus, joined_questions
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.raw.formats import Beginning, Format, has_keys
from odqa_jax.data.raw.records import RawFile, Record

_HEADING = "Section::::"
# The longest article has a few thousand paragraphs.
_MOST_PARAGRAPHS = 10_000


def question(record: Record, n: int) -> Question:
  """id, input, output; test sets have no output, and so no answers."""
  outputs = fields.objects(record, "output")
  answers = [o.get("answer") for o in outputs]
  sources = [s for o in outputs for s in fields.objects(o, "provenance")]
  positives = [name for source in sources for name in _passage_ids(source)]
  return Question(
    id=fields.identifier(record.get("id", n)),
    question=fields.text(record, "input"),
    # An output may be provenance alone.
    answers=fields.strings(
      [a for a in answers if a not in (None, "")], "'answer' of 'output'"
    ),
    positive_ids=tuple(dict.fromkeys(positives)),
  )


def _passage_ids(source: Record) -> list[str]:
  page = fields.identifier(source.get("wikipedia_id"))
  first = _paragraph(source, "start_paragraph_id")
  if first is None:
    return [page]
  last = _paragraph(source, "end_paragraph_id")
  last = first if last is None else last
  if not first <= last < first + _MOST_PARAGRAPHS:
    raise ValueError(
      f"provenance in page {page} goes from paragraph {first} to {last}; mend "
      "start_paragraph_id and end_paragraph_id."
    )
  return [f"{page}#{number}" for number in range(first, last + 1)]


def _paragraph(source: Record, key: str) -> int | None:
  value: Any = source.get(key)
  if value in (None, -1):
    return None
  if isinstance(value, bool) or not isinstance(value, int) or value < 0:
    raise ValueError(
      f"{key!r} is {fields.shown(value)}, not the number of a paragraph."
    )
  return value


def passages(record: Record) -> list[Passage]:
  """The paragraphs of one page of the knowledge source."""
  page = fields.identifier(record.get("wikipedia_id"))
  title = fields.text(record, "wikipedia_title")
  paragraphs = record.get("text")
  if isinstance(paragraphs, dict):  # huggingface/datasets' kilt_wikipedia
    paragraphs = paragraphs.get("paragraph")
  if not isinstance(paragraphs, list) or not all(
    isinstance(p, str) for p in paragraphs
  ):
    raise ValueError(
      f"'text' of page {page} is {fields.shown(paragraphs)}, not a list of "
      "paragraphs."
    )
  kept = enumerate(p.strip() for p in paragraphs)
  return [
    Passage(f"{page}#{number}", title, text)
    for number, text in kept
    if text
    and not text.startswith(_HEADING)
    and not (number == 0 and text == title.strip())
  ]


def _is_task(start: Beginning) -> str:
  keys = start.keys or frozenset()
  fits = "id" in keys and not keys.isdisjoint(("input", "output"))
  other = "question" in keys
  return f"{start.kind} with id, input or output" * (fits and not other)


TASK = Format(
  "kilt",
  "KILT's JSON lines of id, input and output with provenance",
  _is_task,
  questions=joined_questions(RawFile.records, question),
)
SOURCE = Format(
  "kilt_source",
  "KILT's knowledge source; a paragraph is a passage, WIKIPEDIA_ID#NUMBER",
  has_keys("wikipedia_id", "wikipedia_title", "text"),
  passages=joined_corpus(passages),
)
