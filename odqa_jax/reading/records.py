"""Answers for people and for files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from odqa_jax.data.questions.sets import Question
from odqa_jax.reading.answer import Answer
from odqa_jax.runtime.files import replacing
from odqa_jax.runtime.report import text_table


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


def write_answers(
  path: str | Path, questions: Sequence[Question], answers: Sequence[Answer]
) -> None:
  """Writes one JSON object a line; the file appears whole.

  The keys are those of `answer_record`, and `id`, `question`, `references`.
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
      line = json.dumps(record | answer_record(answer), ensure_ascii=False)
      file.write(f"{line}\n")
