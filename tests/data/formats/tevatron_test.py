"""Tevatron's training sets and corpora, and DPR's ids in them."""

from pathlib import Path

import pytest

from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.questions.sets import Question
from tests.support.format_examples import EXAMPLES, TEVATRON, json_lines
from tests.support.reading import parquet, passages_of, questions_of, written

WANTED = Question(
  "1",
  "What is the capital of Aruba?",
  ("Oranjestad",),
  positive_ids=("7",),
  negative_ids=("9", "8"),
)


def test_passages_of_a_training_set_hold_its_ids(tmp_path: Path) -> None:
  path = written(tmp_path / "train.jsonl", EXAMPLES["tevatron"])
  assert questions_of(path) == [WANTED]
  assert passages_of(path) == [
    Passage("7", "Aruba", "It is Oranjestad."),
    Passage("9", "", "It is Valletta."),
    Passage("8", "", "It is Paris."),
  ]
  assert questions_of(parquet(tmp_path / "t.parquet", *TEVATRON)) == [WANTED]


def test_ids_alone_name_passages_too(tmp_path: Path) -> None:
  record = {
    "query_id": 1,
    "query_text": "What is the capital of Aruba?",
    "positive_document_ids": [7],
    "negative_document_ids": ["9", "8", "7"],
    "answers": ["Oranjestad"],
  }
  path = written(tmp_path / "train.jsonl", json_lines(record))
  assert questions_of(path) == [WANTED]


def test_a_corpus_may_lack_titles(tmp_path: Path) -> None:
  path = written(tmp_path / "corpus.jsonl", EXAMPLES["tevatron_corpus"])
  assert passages_of(path) == [
    Passage("7", "Aruba", "It is Oranjestad."),
    Passage("8", "", "It is Paris."),
  ]


def test_a_passage_without_an_id_names_the_line(tmp_path: Path) -> None:
  record = {**TEVATRON[0], "positive_passages": [{"title": "t", "text": "x"}]}
  path = written(tmp_path / "train.jsonl", json_lines(record))
  with pytest.raises(ValueError, match=r"train.jsonl:1: the id None"):
    questions_of(path)
