"""BRIGHT: which passages are excluded, and which of two golds counts."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.questions.sets import Question
from tests.support.format_examples import (
  BRIGHT,
  BRIGHT_DOCUMENTS,
  EXAMPLES,
  json_lines,
)
from tests.support.reading import parquet, passages_of, questions_of, written

SHORT = [
  Question(
    "0",
    "Why are insects drawn to light?",
    (),
    positive_ids=("light/Phototaxis_3.txt", "light/Causation_1.txt"),
  ),
  Question(
    "math_7",
    "Prove it.",
    ("42",),
    positive_ids=("math_9",),
    excluded_ids=("math_7", "math_8"),
  ),
]


def test_examples_exclude_passages(tmp_path: Path) -> None:
  path = written(tmp_path / "examples.jsonl", EXAMPLES["bright"])
  assert questions_of(path) == SHORT
  table = parquet(tmp_path / "aops-00000-of-00001.parquet", *BRIGHT)
  assert questions_of(table) == SHORT
  assert [q.excluded_ids for q in questions_of(table)] == [
    tuple(i for i in row["excluded_ids"] if i != "N/A")
    for row in pq.read_table(table).to_pylist()
  ]


def test_long_golds_are_asked_for(tmp_path: Path) -> None:
  path = written(tmp_path / "examples.jsonl", EXAMPLES["bright"])
  assert [q.positive_ids for q in questions_of(path, "bright_long")] == [
    ("light/Phototaxis.txt",),
    (),
  ]


def test_documents_have_no_titles(tmp_path: Path) -> None:
  path = parquet(tmp_path / "documents.parquet", *BRIGHT_DOCUMENTS)
  assert passages_of(path) == [
    Passage("light/Phototaxis_3.txt", "", "Phototaxis is\na movement.")
  ]


def test_a_gold_passage_that_is_excluded_is_refused(tmp_path: Path) -> None:
  path = written(
    tmp_path / "examples.jsonl",
    json_lines(BRIGHT[0], {**BRIGHT[1], "excluded_ids": ["math_9"]}),
  )
  with pytest.raises(ValueError, match=r"examples.jsonl:2: 'math_9' is in"):
    questions_of(path)
