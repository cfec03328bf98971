"""Outcomes of questions, and systems compared on those that they share."""

import json

import pytest

from odqa_jax.data.questions.sets import Question
from odqa_jax.evaluation.measures import AnswerText, answer_measures
from odqa_jax.evaluation.outcomes import (
  Found,
  Outcome,
  read_file,
  read_outcomes,
)
from odqa_jax.evaluation.paired import compare_outcomes


def outcome(name, answer=None, hits=(), references=("new york",)):
  passages = tuple(Found(f"p{i}", "", "", None, h) for i, h in enumerate(hits))
  return Outcome(name, "which?", references, answer, {}, passages)


def test_measures_are_those_that_can_be_known():
  assert outcome("a", "New York!").measures() == {"em": 1.0, "f1": 1.0}
  told = outcome("a", "york", (False, True)).measures()
  assert told == {"em": 0.0, "f1": pytest.approx(2 / 3), "recall@1": 0.0}
  five = outcome("a", None, (False, True, False, False, False)).measures()
  assert five == {"recall@1": 0.0, "recall@5": 1.0}
  assert outcome("a", "x", (True,), references=()).measures() == {}
  assert outcome("a", None, (None, True)).measures() == {}
  assert outcome("a", None, (False,)).first_hit == 0


def test_patterns_match_as_in_evaluation():
  asked = Question("q", "when?", (r"19\d\d",), "regex")
  references, kind = asked.answers, asked.answer_type
  for text, right in [("1984", 1.0), ("in 1984", 0.0)]:
    told = Outcome("q", "when?", references, text, {}, (), 0, kind)
    assert told.measures() == {"em": right}
    assert answer_measures([AnswerText(text)], [asked])["em"] == right


def test_short_lists_of_a_run_are_misses(tmp_path):
  def listed(*answered):
    return [
      {"id": str(i), "title": "", "text": "york" if hit else "no"}
      for i, hit in enumerate(answered)
    ]

  lists = [listed(True, 0, 0, 0, 0), listed(0, 0), []]
  records = [
    {"id": f"q{i}", "question": "which?", "answers": ["york"], "ctxs": ctxs}
    for i, ctxs in enumerate(lists)
  ]
  path = tmp_path / "run.json"
  path.write_text(json.dumps(records))
  found = read_outcomes(run=path)
  assert [o.measures() for o in found] == [
    {"recall@1": 1.0, "recall@5": 1.0},
    {"recall@1": 0.0, "recall@5": 0.0},
    {"recall@1": 0.0, "recall@5": 0.0},
  ]


def test_passages_without_ids_are_told_in_one_line(tmp_path):
  path = tmp_path / "run.json"
  record = {"question": "which?", "answers": ["york"], "ctxs": [{"text": "a"}]}
  path.write_text(json.dumps([record]))
  with pytest.raises(ValueError, match=r"run.json.*no result of a question"):
    read_outcomes(run=path)


def test_only_common_questions_count():
  first = [outcome(f"q{i}", "new york" if i < 3 else "no") for i in range(6)]
  second = [outcome(f"q{i}", "new york") for i in range(2, 9)]
  one, other = compare_outcomes({"a": first, "b": second})
  assert one["em"]["questions"] == other["em"]["questions"] == 4
  assert one["em"]["value"] == 0.25
  assert other["em"]["difference"] == 0.75
  assert other["em"]["p"] == pytest.approx(2 / 2**3)
  low, high = other["em"]["difference_95"]
  assert 0 <= low < 0.75 < high <= 1


def test_a_share_of_tokens_is_tested_by_the_bootstrap():
  texts = ["new york", "york", "new", "no", "york x", "new york x y"]
  first = [outcome(f"q{i}", "no") for i in range(6)]
  second = [outcome(f"q{i}", text) for i, text in enumerate(texts)]
  told = compare_outcomes({"a": first, "b": second})[1]["f1"]
  values = [o.measures()["f1"] for o in second]
  assert told["difference"] == pytest.approx(sum(values) / 6)
  low, high = told["difference_95"]
  assert 0 < low < told["difference"] < high < 1
  # Only if question 3 is drawn six times is there no difference.
  assert told["p"] < 0.01


def test_a_measure_that_one_system_lacks_is_compared_among_the_others():
  read = [outcome("q", "no", (True,))]
  rows = compare_outcomes(
    {"run": [outcome("q", None, (False,))], "read": read, "again": read}
  )
  assert "em" not in rows[0]
  assert "p" not in rows[1]["em"] and "p" in rows[2]["em"]
  assert rows[1]["recall@1"]["difference"] == 1.0


def test_passages_of_a_run_go_to_its_answers(tmp_path):
  run, told = tmp_path / "run.json", tmp_path / "answers.jsonl"
  context = {"id": "p", "title": "t", "text": "in New York", "score": 1}
  record = {"id": "q", "question": "which?", "answers": ["new york"]}
  run.write_text(json.dumps([record | {"ctxs": [context]}]))
  answer = {"id": "q", "question": "which?", "references": ["new york"]}
  told.write_text(json.dumps(answer | {"answer": "york"}) + "\n")
  (found,) = read_outcomes(answers=told, run=run)
  assert (found.answer, found.first_hit, found.right) == ("york", 1, False)
  assert found.passages[0] == Found("p", "t", "in New York", 1.0, True)
  (alone,) = read_file(run)
  assert alone.answer is None and alone.passages == found.passages
  assert read_file(told)[0].passages == ()
  told.write_text(json.dumps(answer | {"answer": "york", "id": "z"}) + "\n")
  with pytest.raises(ValueError, match="has none of the 1 questions"):
    read_outcomes(answers=told, run=run)
