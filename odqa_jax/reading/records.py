"""Answers for people and for files."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from odqa_jax.data.questions.sets import Question
from odqa_jax.reading.answer import Answer
from odqa_jax.reading.span_answers import SpanAnswer, SpanAnswers
from odqa_jax.runtime.files import replacing
from odqa_jax.runtime.report import text_table

# Characters of a span in a table on the screen.
_SHOWN = 60


def answer_record(answer: Answer) -> dict[str, Any]:
  """An answer as JSON has it."""
  return {
    "answer": answer.text,
    "log_prob": answer.log_prob,
    "candidates": [
      {"answer": text, "log_prob": log_prob}
      for text, log_prob in answer.candidates
    ],
    "passages": [
      {"id": p.id, "title": p.title, "score": p.score, "prob": p.prob}
      for p in answer.passages
    ],
  }


def show_answer(question: str, answer: Answer) -> str:
  """Question, answer and passages as text."""
  table = [["passage", "title", "score", "prob"]]
  for p in answer.passages:
    name = (p.id, p.title) if p.row >= 0 else ("", "(no passage)")
    table.append([*name, f"{p.score:.3f}", f"{p.prob:.3f}"])
  others = [
    f"  {log_prob:8.3f}  {text}" for text, log_prob in answer.candidates[1:]
  ]
  return "\n".join(
    [
      f"? {question}",
      f"= {answer.text}   (log-probability {answer.log_prob:.3f})",
      *others,
      "",
      text_table(table, right=(2, 3)),
    ]
  )


def span_record(answers: SpanAnswers) -> dict[str, Any]:
  """Spans as JSON has them.

  `answer`, `k`, and `spans`, the best first: each with `text`, its `passage`
  (an id), its place there (`start`, `end`, in characters), `scores` (component
  → log-score), `parts` (head of the extractive reader → log-probability) and,
  where there is a fusion, `fused`. With a generative reader also `generated`
  (its `text` and `score`, the log-probability), `extractive` (whether the
  answer is the first span) and `margin` (above 0 the span is preferred; null
  where no fusion has chosen between the two).
  """
  record: dict[str, Any] = {"answer": answers.text, "k": answers.k}
  if answers.generated is not None:
    record |= {
      "extractive": answers.extractive,
      "margin": answers.margin,
      "generated": dataclasses.asdict(answers.generated),
    }
  return record | {"spans": [_span(answer) for answer in answers.answers]}


def _span(answer: SpanAnswer) -> dict[str, Any]:
  fused = {} if answer.fused is None else {"fused": answer.fused}
  record = dataclasses.asdict(answer.span)
  return record | {"parts": dict(answer.answer.scores)} | fused


def show_spans(question: str, answers: SpanAnswers) -> str:
  """Question, answer and spans as text."""
  names = list(answers.answers[0].scores) if answers.answers else []
  fused = bool(answers.answers) and answers.answers[0].fused is not None
  table = [["span", "passage", "place", *names, *(["fused"] if fused else [])]]
  for found in answers.answers:
    span = found.span
    figures = [found.scores[name] for name in names]
    if found.fused is not None:
      figures.append(found.fused)
    place = f"{span.start}-{span.end}"
    cells = [f"{value:.3f}" for value in figures]
    table.append([_shown(span.text), span.passage, place, *cells])
  lines = [f"? {question}", f"= {answers.text}{_choice(answers)}", ""]
  return "\n".join([*lines, text_table(table, right=range(3, len(table[0])))])


def _shown(text: str) -> str:
  """A text on one line of a table, cut where it is long."""
  line = " ".join(text.split())
  # By characters, as not every script has spaces between words.
  return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"


def _choice(answers: SpanAnswers) -> str:
  """What was chosen between span and generated answer, and the latter."""
  generated = answers.generated
  if generated is None:
    return ""
  said = "a span" if answers.extractive else "written"
  if answers.margin is not None:
    said += f", margin {answers.margin:.3f}"
  score = f"log-probability {generated.score:.3f}"
  return f"   ({said})\n  written: {generated.text}   ({score})"


def write_answers(
  path: str | Path,
  questions: Sequence[Question],
  answers: Sequence[Answer | SpanAnswers],
) -> None:
  """Writes one JSON object a line; the file appears whole.

  The keys are those of `answer_record` or `span_record`, and `id`, `question`,
  `references`; and `answer_type` where these are patterns.
  """
  with (
    replacing(path) as temporary,
    temporary.open("w", encoding="utf-8") as file,
  ):
    for question, answer in zip(questions, answers, strict=True):
      record = {
        "id": question.id,
        "question": question.question,
        "references": list(question.answers),
      }
      if question.answer_type != "string":
        record["answer_type"] = question.answer_type
      record |= (
        span_record(answer)
        if isinstance(answer, SpanAnswers)
        else answer_record(answer)
      )
      line = json.dumps(record, ensure_ascii=False)
      file.write(f"{line}\n")
