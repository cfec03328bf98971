"""Answers as people and programs see them: with passages, marks, confidence.

A record has the keys of `answer_record` or `span_record`, and

- `question`;
- `confidence`: of a span, its share of the softmax over those that were
  compared, equal texts together, by the score that decided; of a written
  answer its probability; null where there is no answer;
- `decided_by`: `extractive_reader`, `reader`, or `fusion`, which weighs both;
- `kind`: `span` of a passage or `written`; null where there is no answer;
- `passages`: what was read, the first one first: `n` from 1, `id`, `title`,
  `text`, `scores` (component → score, as it gives it) and `highlights`, places
  in the text (`start`, `end`, in characters, ascending, none within another;
  `answer`: whether it is the answer, not another span that was compared);
- `marks`: numbers of the passages that hold the answer.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.special import softmax

from odqa_jax.data.corpus.passages import PassageTexts
from odqa_jax.reading.answer import Answer
from odqa_jax.reading.extract import ROLE
from odqa_jax.reading.records import answer_record, span_record
from odqa_jax.reading.span_answers import GENERATOR, Passages, SpanAnswers
from odqa_jax.text.answers import normalise_answer

Record = dict[str, Any]
# Places of a written answer that are shown in one passage.
_PLACES = 20


def found_passages(
  corpus: PassageTexts,
  rows: Int[np.ndarray, " k"],
  scores: Mapping[str, Float[np.ndarray, " k"]],
) -> list[Record]:
  """The passages of one question; rows below 0 are none."""
  return [
    {
      "n": n,
      "id": corpus.id(row),
      "title": corpus.title(row),
      "text": corpus.text(row),
      "scores": {name: _finite(x[i]) for name, x in scores.items()},
      "highlights": [],
    }
    for n, (i, row) in enumerate(
      ((i, row) for i, row in enumerate(rows.tolist()) if row >= 0), 1
    )
  ]


def written_view(question: str, answer: Answer, corpus: PassageTexts) -> Record:
  """What a reader wrote; its words are looked for in the passages."""
  rows = np.array([p.row for p in answer.passages], np.int64)
  # The null document has no text to show.
  real = [p for p in answer.passages if p.row >= 0]
  passages = found_passages(corpus, rows[rows >= 0], {})
  for shown, read in zip(passages, real, strict=True):
    shown |= {
      "score": read.score,
      "prob": read.prob,
      "scores": {"retriever": read.score},
      "highlights": _places(answer.text, shown["text"]),
    }
  return _record(
    question,
    {**answer_record(answer), "passages": passages},
    confidence=math.exp(min(answer.log_prob, 0.0)),
    decided_by=GENERATOR,
    kind="written",
  )


def span_view(
  question: str,
  found: SpanAnswers,
  read: Passages,
  place: int,
  corpus: PassageTexts,
) -> Record:
  """What an extractive reader found, or what was written beside it.

  Args:
    question: its text.
    found: of it.
    read: what was read for all questions.
    place: of this one among them.
    corpus: the evidence.
  """
  scores = {name: x[place] for name, x in read.scores.items()}
  rows = read.rows[place]
  passages = found_passages(
    corpus, rows[rows >= 0], {n: x[rows >= 0] for n, x in scores.items()}
  )
  for passage in passages:
    passage["highlights"] = _spans_of(passage, found)
  kind = "span" if found.extractive else "written"
  return _record(
    question,
    {**span_record(found), "passages": passages},
    confidence=_confidence(found),
    decided_by=ROLE if found.decision is None else "fusion",
    kind=kind if found.text else None,
  )


def _record(question: str, record: Record, **more: Any) -> Record:
  marks = [
    passage["n"]
    for passage in record["passages"]
    if any(h["answer"] for h in passage["highlights"])
  ]
  return {"question": question, **record, **more, "marks": marks}


def _confidence(found: SpanAnswers) -> float | None:
  """See the module."""
  if not found.text:
    return None
  if not found.extractive:
    assert found.generated is not None
    return math.exp(min(found.generated.score, 0.0))
  scores = [
    a.answer.log_prob if a.fused is None else a.fused for a in found.answers
  ]
  wanted = normalise_answer(found.text)
  same = [normalise_answer(a.span.text) == wanted for a in found.answers]
  return float(min(softmax(scores)[same].sum(), 1.0))


def _spans_of(passage: Record, found: SpanAnswers) -> list[Record]:
  """Places of the spans in a passage, the best where they overlap."""
  wanted = normalise_answer(found.text)
  places: list[Record] = []
  for each in found.answers:
    span = each.span
    if span.passage != passage["id"]:
      continue
    if all(span.end <= p["start"] or span.start >= p["end"] for p in places):
      same = bool(wanted) and normalise_answer(span.text) == wanted
      places.append({"start": span.start, "end": span.end, "answer": same})
  if not found.extractive and not any(p["answer"] for p in places):
    places = _places(found.text, passage["text"])
  return sorted(places, key=lambda p: p["start"])


def _places(answer: str, text: str) -> list[Record]:
  """Where the words of a written answer stand in a text."""
  words = answer.split()
  if not words:
    return []
  pattern = r"\s+".join(map(re.escape, words))
  found = re.finditer(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE)
  places = [{"start": m.start(), "end": m.end(), "answer": True} for m in found]
  return places[:_PLACES]


def _finite(value: Any) -> float | None:
  return float(value) if math.isfinite(value) else None


def pieces(
  text: str, highlights: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str]]:
  """A text in pieces, each with "", "span" or "answer"."""
  cut, end = [], 0
  for place in highlights:
    kind = "answer" if place["answer"] else "span"
    cut.append((text[end : place["start"]], ""))
    cut.append((text[place["start"] : place["end"]], kind))
    end = place["end"]
  cut.append((text[end:], ""))
  return [piece for piece in cut if piece[0]]
