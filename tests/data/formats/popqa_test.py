"""PopQA's TSV, whose answers are JSON inside csv's quotes."""

import csv
import json
from pathlib import Path

import pytest

from odqa_jax.data.questions.sets import Question
from tests.support.format_examples import EXAMPLES
from tests.support.reading import parquet, questions_of, written


def test_answers_are_json_inside_csv(tmp_path: Path) -> None:
  path = written(tmp_path / "popQA.tsv", EXAMPLES["popqa"])
  found = questions_of(path)
  assert found[0] == Question(
    "4222362",
    "What is George Rankin's occupation?",
    ("politician", "political leader", "café"),
  )
  with path.open() as file:
    rows = list(csv.DictReader(file, delimiter="\t"))
  assert found == [
    Question(r["id"], r["question"], tuple(json.loads(r["possible_answers"])))
    for r in rows
  ]


def test_parquet_is_the_same(tmp_path: Path) -> None:
  plain = written(tmp_path / "popQA.tsv", EXAMPLES["popqa"])
  with plain.open() as file:
    rows = [
      {**r, "id": int(r["id"])} for r in csv.DictReader(file, delimiter="\t")
    ]
  path = parquet(tmp_path / "popQA.parquet", *rows)
  assert questions_of(path) == questions_of(plain)


@pytest.mark.parametrize(
  ("row", "message"),
  [
    ("1\tq", "2 columns; the header has 3"),
    ("1\tq\tpolitician", "are no JSON list"),
    ("1\tq\t{}", "not a list of strings"),
    ("1\tq\t['numpy' 'cell']", "are no JSON list"),
    ("1\tq\t[1]", "not a list of strings"),
    ("1 2\tq\t[]", "white space"),
  ],
)
def test_bad_rows_name_the_line(tmp_path: Path, row: str, message: str) -> None:
  path = written(
    tmp_path / "popQA.tsv", f"id\tquestion\tpossible_answers\n{row}\n"
  )
  with pytest.raises(ValueError, match=rf"popQA.tsv:2: .*{message}"):
    questions_of(path)
