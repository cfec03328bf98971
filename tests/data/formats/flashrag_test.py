"""FlashRAG's questions, and the title that its contents begin with."""

from pathlib import Path

import pytest

from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.formats.flashrag import split_contents
from odqa_jax.data.questions.sets import Question
from tests.support.format_examples import EXAMPLES, json_lines
from tests.support.reading import passages_of, questions_of, written


def test_questions_have_golden_answers(tmp_path: Path) -> None:
  path = written(tmp_path / "test.jsonl", EXAMPLES["flashrag"])
  assert questions_of(path) == [
    Question(
      "test_0",
      "who got the first nobel prize in physics?",
      ("Wilhelm Conrad Röntgen",),
    ),
    Question(
      "test_1",
      "when is the next deadpool movie?",
      ("May 18, 2018", "2018"),
    ),
  ]


@pytest.mark.parametrize(
  ("contents", "wanted"),
  [
    ('"Aaron"\ntext', ("Aaron", "text")),
    ("Aaron\ntext\nmore", ("Aaron", "text\nmore")),
    ('"Heroes" (song)\ntext', ('"Heroes" (song)', "text")),
    ('""Heroes" (song)"\ntext', ('"Heroes" (song)', "text")),
    ('"\ntext', ('"', "text")),
    ("\ntext", ("", "text")),
    ("one line", ("", "one line")),
    ('"quoted"', ("", '"quoted"')),
  ],
)
def test_the_first_line_is_the_title(
  contents: str, wanted: tuple[str, str]
) -> None:
  assert split_contents(contents) == wanted


def test_passages_and_a_title_of_their_own(tmp_path: Path) -> None:
  extra = {"id": 3, "title": "T", "text": "x", "contents": "all"}
  path = written(
    tmp_path / "wiki.jsonl", EXAMPLES["flashrag_corpus"] + json_lines(extra)
  )
  assert passages_of(path) == [
    Passage("0", "Aaron", 'Aaron Aaron ( or ; "Ahärôn") is a prophet'),
    Passage("1", "Malta", "Valletta is its capital.\nIt is small."),
    Passage("2", "", "no title, one line"),
    Passage("3", "T", "x"),
  ]


def test_choices_by_number_are_no_answers(tmp_path: Path) -> None:
  path = written(
    tmp_path / "arc.jsonl",
    json_lines({"id": "1", "question": "q", "golden_answers": [2]}),
  )
  with pytest.raises(ValueError, match=r"arc.jsonl:1: 'golden_answers' is"):
    questions_of(path)
