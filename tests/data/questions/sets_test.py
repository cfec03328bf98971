"""Stored question sets: content, order, identity, damage."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from odqa_jax.data.questions.sets import Question, QuestionSet, write_questions
from odqa_jax.runtime.artifact import FORMAT, write_manifest

QUESTIONS = [
  Question("b", "who?", ("é", "x"), "string", ("1",), ("2", "3")),
  Question("a", "where?", (), positive_ids=("4",)),
  Question("c", "when?", (r"\d+|x",), "regex"),
]


def test_stored_set_is_what_was_written_in_order(tmp_path: Path) -> None:
  manifest = write_questions(iter(QUESTIONS), tmp_path / "set", "NQ-open.dev")
  stored = QuestionSet(tmp_path / "set")
  assert len(stored) == manifest["count"] == 3
  assert list(stored) == QUESTIONS
  assert [stored[i] for i in range(-3, 3)] == QUESTIONS * 2
  with pytest.raises(IndexError, match="row 3 of a set of 3"):
    stored[3]
  assert stored.fingerprint == manifest["fingerprint"]
  assert sorted(p.name for p in tmp_path.iterdir()) == ["set"]


def test_stored_set_is_a_tfds_dataset_without_tensorflow(
  tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  import tensorflow_datasets as tfds

  write_questions(QUESTIONS, tmp_path / "set", "2-qs")
  assert capsys.readouterr().out == ""
  source = tfds.builder_from_directory(tmp_path / "set").as_data_source()
  assert source["questions"][0]["id"] == b"b"
  assert [r.decode() for r in source["questions"][0]["answers"]] == ["é", "x"]
  assert "tensorflow" not in sys.modules


def test_order_of_many_questions_is_kept(tmp_path: Path) -> None:
  many = [Question(f"q{i}", f"number {i}?", ("a",)) for i in range(2500)]
  seen: list[int] = []
  write_questions(
    many, tmp_path / "set", "many", progress=lambda done, _: seen.append(done)
  )
  assert list(QuestionSet(tmp_path / "set")) == many
  assert seen == [1024, 2048, 2500]


def test_fingerprint_is_of_the_content_in_order(tmp_path: Path) -> None:
  def fingerprint(name: str, questions: list[Question]) -> str:
    return write_questions(questions, tmp_path / name, name)["fingerprint"]

  base = fingerprint("one", QUESTIONS)
  assert fingerprint("two", QUESTIONS) == base
  assert fingerprint("three", QUESTIONS[::-1]) != base
  assert fingerprint("four", QUESTIONS[:2]) != base


def test_writing_again_changes_nothing_unless_content_did(
  tmp_path: Path,
) -> None:
  def state() -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}

  folder = tmp_path / "set"
  write_questions(QUESTIONS, folder, "set")
  before = state()
  write_questions(QUESTIONS, folder, "set")
  assert state() == before
  assert [p.name for p in tmp_path.iterdir()] == ["set"]
  write_questions(QUESTIONS[:1], folder, "set")
  assert list(QuestionSet(folder)) == QUESTIONS[:1]
  assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_failed_write_leaves_the_old_set(tmp_path: Path) -> None:
  def broken() -> Any:
    yield QUESTIONS[0]
    raise ValueError("file:2: it broke")

  write_questions(QUESTIONS, tmp_path / "set", "set")
  with pytest.raises(ValueError, match="file:2: it broke"):
    write_questions(broken(), tmp_path / "set", "set")
  assert list(QuestionSet(tmp_path / "set")) == QUESTIONS
  assert [p.name for p in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
  ("questions", "message"),
  [
    ([], "no questions to write"),
    ([QUESTIONS[0], QUESTIONS[0]], "'b' is used twice"),
  ],
)
def test_bad_sets_are_refused(
  tmp_path: Path, questions: list[Question], message: str
) -> None:
  with pytest.raises(ValueError, match=message):
    write_questions(questions, tmp_path / "set", "set")
  assert not list(tmp_path.iterdir())


def test_other_folders_are_not_replaced(tmp_path: Path) -> None:
  (tmp_path / "thesis.txt").write_text("precious")
  with pytest.raises(ValueError, match="is no questions folder"):
    write_questions(QUESTIONS, tmp_path, "set")
  assert (tmp_path / "thesis.txt").exists()


def _cut_records(folder: Path) -> None:
  (records,) = folder.glob("*.array_record-*")
  records.write_bytes(records.read_bytes()[:-1])


def _change_manifest(**changes: Any) -> Callable[[Path], None]:
  def change(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    write_manifest(folder, manifest | changes)

  return change


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (_cut_records, "array_record.*the manifest says"),
    (lambda folder: (folder / "features.json").unlink(), "json: missing"),
    (lambda folder: (folder / "manifest.json").unlink(), "holds no questions"),
    (_change_manifest(kind="corpus"), "kind 'corpus' of format 3"),
    (_change_manifest(format=FORMAT + 1), "of format 4, .* of format 3"),
  ],
)
def test_damaged_set_names_the_file(
  tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
  write_questions(QUESTIONS, tmp_path / "set", "set")
  damage(tmp_path / "set")
  with pytest.raises(ValueError, match=message):
    QuestionSet(tmp_path / "set")


def test_damaged_set_is_written_anew(tmp_path: Path) -> None:
  write_questions(QUESTIONS, tmp_path / "set", "set")
  _cut_records(tmp_path / "set")
  write_questions(QUESTIONS, tmp_path / "set", "set")
  assert list(QuestionSet(tmp_path / "set")) == QUESTIONS
