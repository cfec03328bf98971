"""What the default demo learns from, is measured on, and asks."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from odqa_jax.data.embedded.sets import EMBEDDED
from odqa_jax.data.questions.sets import Question, question_record
from odqa_jax.demo.presets import SystemPreset
from odqa_jax.runtime.files import replace_file

Item = TypeVar("Item")

CORPORA = ("vital_articles", "factbook_facts")
# As ids of the first corpus begin.
ARTICLE = "vital/"
TRAIN, HELD_OUT = "train", "held_out"
# In words of nobody's data; the articles answer them.
ASKED = (
  "Who was the first human in space?",
  "How do plants turn sunlight into energy?",
  "Which ship sank after hitting an iceberg in 1912?",
)


def spread(items: Sequence[Item], count: int) -> list[Item]:
  """At most `count` of them, evenly spaced."""
  count = min(count, len(items))
  return [items[i * len(items) // count] for i in range(count)]


def write_question_files(preset: SystemPreset, folder: Path) -> list[Path]:
  """Questions as JSON lines, as anybody may write their own.

  Args:
    preset: how many.
    folder: for `train.jsonl` and `held_out.jsonl`.

  Raises:
    ImportError: if the packages that they are from are not installed.
  """
  countries, articles = EMBEDDED["factbook_short"], EMBEDDED["vital_articles"]
  sets = {
    TRAIN: [
      *spread([*countries("train")], preset.country_questions),
      *spread([*articles("train")], preset.article_questions),
    ],
    HELD_OUT: spread([*countries("test")], preset.held_out),
  }
  folder.mkdir(parents=True, exist_ok=True)
  paths = []
  for name, questions in sets.items():
    paths.append(folder / f"{name}.jsonl")
    replace_file(paths[-1], _lines(questions).encode())
  return paths


def _lines(questions: Iterable[Question]) -> str:
  kept = ("id", "question", "answers", "positive_ids")
  rows = (question_record(question) for question in questions)
  records = ({name: row[name] for name in kept} for row in rows)
  return "".join(
    json.dumps(record, ensure_ascii=False) + "\n" for record in records
  )
