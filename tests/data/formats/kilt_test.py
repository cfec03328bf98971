"""KILT: provenance becomes ids of the knowledge source's paragraphs."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.questions.sets import Question
from tests.support.format_examples import EXAMPLES, KILT_SOURCE, json_lines
from tests.support.reading import parquet, passages_of, questions_of, written


def task(*provenance: dict[str, Any]) -> dict[str, Any]:
  return {
    "id": "1",
    "input": "q?",
    "output": [{"answer": "a", "provenance": list(provenance)}],
  }


def test_answers_and_provenance_of_all_outputs(tmp_path: Path) -> None:
  path = written(tmp_path / "dev.jsonl", EXAMPLES["kilt"])
  assert questions_of(path) == [
    Question(
      "5ab6d",
      "Which city is the capital of Aruba?",
      ("Oranjestad", "Oranjestad, Aruba"),
      positive_ids=("42#1", "42#2", "7"),
    ),
    Question("test", "A test question, which has no output", ()),
  ]


def test_a_paragraph_is_a_passage(tmp_path: Path) -> None:
  path = written(tmp_path / "source.jsonl", EXAMPLES["kilt_source"])
  wanted = [
    Passage("42#1", "Aruba", "Aruba is an island."),
    Passage("42#3", "Aruba", "BULLET::::- Its capital is Oranjestad."),
  ]
  assert passages_of(path) == wanted
  texts = KILT_SOURCE[0]["text"]
  nested = {
    "wikipedia_id": 42,
    "wikipedia_title": "Aruba",
    "text": {"paragraph": texts, "paragraph_id": list(range(len(texts)))},
  }
  assert passages_of(parquet(tmp_path / "source.parquet", nested)) == wanted


def test_parquet_says_null_or_minus_one_for_what_is_not_known(
  tmp_path: Path,
) -> None:
  unknown = {"wikipedia_id": "9", "start_paragraph_id": -1}
  known = {"wikipedia_id": "8", "start_paragraph_id": 5}
  path = parquet(tmp_path / "dev.parquet", task(known, unknown))
  (row,) = pq.read_table(path).to_pylist()
  assert [p["wikipedia_id"] for p in row["output"][0]["provenance"]] == [
    "8",
    "9",
  ]
  assert questions_of(path) == [
    Question("1", "q?", ("a",), positive_ids=("8#5", "9"))
  ]


@pytest.mark.parametrize(
  ("record", "message"),
  [
    (task({"title": "no page"}), "the id None is no string"),
    (
      task({"wikipedia_id": 1, "start_paragraph_id": "x"}),
      "'start_paragraph_id' is 'x'",
    ),
    (
      task({"wikipedia_id": 1, "start_paragraph_id": 3, "end_paragraph_id": 1}),
      "from paragraph 3 to 1",
    ),
    (
      task(
        {
          "wikipedia_id": 1,
          "start_paragraph_id": 0,
          "end_paragraph_id": 10**12,
        }
      ),
      "from paragraph 0 to",
    ),
    ({"id": "trivia", "output": []}, "'input' is None"),
    ({"id": "1", "input": "q", "output": {"answer": "a"}}, "not a list of obj"),
  ],
)
def test_bad_records_name_the_line(
  tmp_path: Path, record: dict[str, Any], message: str
) -> None:
  path = written(tmp_path / "dev.jsonl", json_lines(record))
  with pytest.raises(ValueError, match=rf"dev.jsonl:1: .*{message}"):
    questions_of(path)
