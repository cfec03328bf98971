"""Questions as a program gives them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from odqa_jax.data.formats.files import open_questions
from odqa_jax.data.questions.sets import Question


def check_texts(texts: Sequence[Any]) -> None:
  """Raises ValueError for one text, which would be taken for its letters."""
  if isinstance(texts, str):
    raise ValueError(f"{texts[:40]!r} is one text; give a list of texts.")


def as_questions(
  questions: str | Path | Sequence[Question],
) -> Sequence[Question]:
  """The questions of a file or prepared set, or those that are given."""
  if isinstance(questions, str | Path):
    return open_questions(questions)
  return questions
