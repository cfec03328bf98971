"""Which sets are test sets, and that nothing is chosen on them."""

import pytest

from odqa_jax.data.questions.held_out import choose_on, is_test_set
from odqa_jax.data.questions.sets import Question, write_questions


@pytest.mark.parametrize(
  ("source", "test"),
  [
    ("data/questions/test", True),
    ("data/questions/nq-test.qa", True),
    ("nq-test.qa.csv.gz", True),
    ("TriviaQA_Test.jsonl", True),
    ("test2.jsonl", True),
    ("factbook:test", True),
    ("tfds:web_questions:test", True),
    ("the-testset.jsonl", True),
    ("NQ-open.dev.jsonl", True),
    ("data/questions/NQ-open.dev", True),
    ("natural_questions_open:validation", True),
    ("natural_questions_open-validation", True),
    # A folder above says where a set lies.
    ("test/dev.jsonl", False),
    ("data/questions/dev", False),
    ("contest-dev.jsonl", False),
    ("latest.jsonl", False),
    ("nq-dev.qa.csv", False),
    ("NQ-open.train.jsonl", False),
    ("NQ-open.efficientqa.dev.1.1.jsonl", False),
    ("factbook:dev", False),
    ("squad:validation", False),
  ],
)
def test_names_of_test_sets(source, test):
  assert is_test_set(source) == test


def test_a_set_that_was_renamed_is_known_by_its_manifest(tmp_path):
  folder = tmp_path / "nq-test"
  write_questions([Question("0", "who?", ("me",))], folder, "nq-test")
  folder.rename(tmp_path / "dev")
  assert is_test_set(tmp_path / "dev")
  write_questions([Question("0", "who?", ("me",))], tmp_path / "d", "dev")
  assert not is_test_set(tmp_path / "d")


def test_choosing_needs_leave_and_says_so():
  with pytest.raises(ValueError) as told:
    choose_on("data/nq-test", "the fusion", "--choose-on-test")
  message = str(told.value)
  assert "\n" not in message
  for part in ("data/nq-test", "the fusion", "--choose-on-test"):
    assert part in message
  choice = choose_on("data/nq-test", "x", "--choose-on-test", allowed=True)
  assert str(choice) == "nq-test (a test set, as told)"
  assert str(choose_on("data/dev", "x", "f", allowed=True)) == "dev"
