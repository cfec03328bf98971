"""Leak checks: questions asked again, and passages that stand there twice."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from known_names import NAMES, Names

from odqa_jax.data.corpus.build import build_corpus
from odqa_jax.data.corpus.corpus import Corpus, Passage
from odqa_jax.data.mining import leaks
from odqa_jax.data.mining.leaks import (
  gold_leaks,
  normalise_text,
  passage_leaks,
  question_leaks,
  role_of,
  span_leaks,
)
from odqa_jax.data.mining.pairs import Pairs
from odqa_jax.data.mining.spans_build import build_spans
from odqa_jax.data.questions.sets import Question, write_questions
from odqa_jax.main import main
from odqa_jax.text.wordpiece_training import train_wordpiece


@pytest.mark.parametrize(
  ("name", "role"),
  [
    ("nq-train", "train"),
    ("factbook-train", "train"),
    ("trainmodel", "train"),
    ("NQ-open.train", "train"),
    ("large2470-train", "train"),
    ("Train", "train"),
    ("train_dev", "train"),
    ("NQ-open.dev", "held_out"),
    ("topics.dpr.trivia.dev", "held_out"),
    ("devtest", "held_out"),
    ("val", "held_out"),
    ("my_validation_set", "held_out"),
    ("squad_test2", "held_out"),
    ("TEST", "held_out"),
    ("evaluation", "held_out"),
    ("toy", ""),
    ("constraint", ""),
    ("contest", ""),
    ("devices", ""),
    ("values", ""),
    ("", ""),
  ],
)
def test_a_set_is_what_its_name_says(name: str, role: str) -> None:
  assert role_of(name) == role


@pytest.mark.parametrize(
  ("one", "other", "same"),
  [
    ("Who wrote  Emma?", "who wrote emma", True),
    ("Who wrote “Emma”?", 'who wrote "emma"', True),
    ("wo liegt die STRASSE", "Wo liegt die Straße?", True),
    ("ｗｈｏ", "who", True),
    ("What is C++?", "what is c", False),
    ("where is Zürich", "where is Zurich", False),
    ("?", "!", False),
    ("¿", "?", False),
  ],
)
def test_questions_are_compared_without_case_and_punctuation(
  one: str, other: str, same: bool
) -> None:
  assert (normalise_text(one) == normalise_text(other)) is same


def write_sets(folder: Path, **sets: Sequence[str]) -> Path:
  for name, texts in sets.items():
    questions = [Question(str(i), text, ("a",)) for i, text in enumerate(texts)]
    write_questions(questions, folder / "questions" / name, name)
  return folder


def test_train_questions_that_are_held_out_are_refused(
  tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  numbered = [f"question {i}" for i in range(9)]
  folder = write_sets(
    tmp_path,
    a_train=[*numbered, "Question 1!"],
    b_train=["another one"],
    a_dev=["QUESTION 1", "question 3?", "question 4", "question 5", "new"],
    a_test=["question 30", "new?"],
    toy=numbered,
  )
  with pytest.raises(ValueError) as refused:
    question_leaks(folder)
  message = str(refused.value)
  assert "4 (80.00%) of a_dev stand in a_train" in message
  assert "['QUESTION 1', 'question 3?', 'question 4']" in message
  assert "--allow-leak" in message and "toy" not in message
  assert question_leaks(folder, allow=True) == {
    "train_questions": [
      {
        "sets": ["a_dev", "a_train"],
        "count": 4,
        "share": 0.8,
        "examples": ["QUESTION 1", "question 3?", "question 4"],
      }
    ],
    "held_out_questions": [
      {
        "sets": ["a_dev", "a_test"],
        "count": 1,
        "share": 0.2,
        "examples": ["new"],
      }
    ],
    "repeated_questions": {"a_train": 1},
  }
  warned = capsys.readouterr().err
  assert "the same questions: 1 (20.00%) of a_dev stand in a_test" in warned
  assert "1 questions of a_train stand in it before" in warned


def test_sets_without_leaks_pass_and_foreign_folders_are_not_read(
  tmp_path: Path,
) -> None:
  clean = {
    "train_questions": [],
    "held_out_questions": [],
    "repeated_questions": {},
  }
  assert question_leaks(tmp_path) == clean
  folder = write_sets(tmp_path, train=["one"], dev=["two"])
  (folder / "questions" / "dev.tmp").mkdir()
  (folder / "questions" / "train.lock").write_text("")
  assert question_leaks(folder) == clean


def make_corpus(folder: Path, texts: Sequence[str]) -> Corpus:
  tokenizer = train_wordpiece(list(texts), 200)
  passages = [Passage(f"p{i}", f"t{i}", text) for i, text in enumerate(texts)]
  build_corpus(passages, folder / "corpus", tokenizer)
  return Corpus(folder / "corpus")


def test_passages_with_one_text_are_counted_once_for_a_corpus(
  tmp_path: Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  make_corpus(tmp_path, ["A b.", "c d", "a  B", "a-b", "C d!", "a b", "e"])
  found = {"count": 3, "examples": [["p0", "p2"], ["p1", "p4"], ["p2", "p5"]]}
  assert passage_leaks(tmp_path) == {"repeated_passages": found}
  assert "3 of 7 passages have the text of an" in capsys.readouterr().err
  with monkeypatch.context() as patch:
    patch.setattr(leaks, "_repeated", lambda *a: pytest.fail("counted again"))
    assert passage_leaks(tmp_path) == {"repeated_passages": found}
  make_corpus(tmp_path, ["c", "d"])
  assert passage_leaks(tmp_path)["repeated_passages"]["count"] == 0


def test_near_copies_of_a_sentences_passage_are_counted(tmp_path: Path) -> None:
  text = "He saw Zürich before the rest of them."
  corpus = make_corpus(
    tmp_path, [text, text, text.replace("rest", "Rest"), "Nothing else here."]
  )
  build_spans(corpus, tmp_path / "spans", Names(NAMES))
  repeated = passage_leaks(tmp_path)["repeated_passages"]["count"]
  assert repeated == 2
  assert span_leaks(tmp_path, repeated) == {
    "own_passages": {"excluded_copies": 2, "near_copies": 1}
  }


def write_lines(path: Path, *records: dict[str, object]) -> str:
  path.write_text("".join(json.dumps(record) + "\n" for record in records))
  return str(path)


def test_prepare_refuses_before_it_mines_and_reports(
  tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  passages = write_lines(
    tmp_path / "p.jsonl",
    *({"id": f"p{i}", "title": "", "text": f"river {i}"} for i in range(4)),
  )
  train = write_lines(
    tmp_path / "train.jsonl",
    {"question": "Which river?", "answer": ["2"], "positive_ids": ["p2"]},
    {"question": "the first river", "answer": ["0"]},
    {"question": "the second river", "answer": ["1"]},
  )
  dev = write_lines(
    tmp_path / "dev.jsonl",
    {"question": "which river", "answer": ["2"], "positive_ids": ["p2", "p3"]},
    {"question": "any river", "answer": ["0"], "positive_ids": ["x"]},
  )
  folder = tmp_path / "data"
  args = ["prepare", "--corpus", passages, "--questions", f"{train},{dev}"]
  args += ["--out", str(folder), "--vocabulary-size", "60", "--pairs", "train"]
  assert main(args) == 2
  assert "1 (50.00%) of dev stand in train" in capsys.readouterr().err
  assert not (folder / "pairs").exists() and not (folder / "bm25").exists()
  assert main([*args, "--allow-leak"]) == 0
  printed = capsys.readouterr()
  found = json.loads(printed.out.splitlines()[-1])["leaks"]
  assert found["train_questions"][0]["count"] == 1
  assert found["repeated_passages"] == {"count": 0, "examples": []}
  # p2; of the others p3 is gold but no positive, and p0 the other way round.
  assert found["gold_passages"] == [
    {"sets": ["dev", "train"], "count": 1, "share": 0.5}
  ]
  assert "1 (50.00%) of the 2 gold passages of dev" in printed.err
  pairs = Pairs.open(folder / "pairs" / "train")
  assert pairs.positive_rows.tolist() == [2, 0, 1]
  assert gold_leaks(folder, ["dev"]) == {"gold_passages": []}
