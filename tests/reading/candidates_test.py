"""Files of candidates: written, read, and refused with their place."""

import dataclasses
import json

import pytest
from candidate_sets import make_set

from odqa_jax.data.questions.sets import Question
from odqa_jax.reading.candidates import (
  Candidates,
  Span,
  is_right,
  read_candidates,
  write_candidates,
)


def test_what_is_written_is_read(tmp_path):
  written, questions = make_set(5, 0)
  sizes = {"k": 40, "read_k": 9, "spans": 3}
  written = dataclasses.replace(written, sizes=sizes)
  write_candidates(tmp_path / "c.jsonl", written)
  read = read_candidates(tmp_path / "c.jsonl")
  assert read == written
  assert [c.question_id for c in read.of(questions[::-1])] == [
    q.id for q in questions[::-1]
  ]


def test_questions_without_candidates_have_none(tmp_path):
  found, questions = make_set(2, 0)
  more = [*questions, Question("q9", "what?", ("a",))]
  assert found.of(more)[2] == Candidates("q9", ())
  with pytest.raises(ValueError, match=r"question 'q0' .and 1 more. belong"):
    found.of(more[2:])


def test_spans_are_ordered_by_their_place():
  spans = [
    Span("x", p, s, s + 1, {}) for p, s in (("b", 0), ("a", 9), ("a", 1))
  ]
  ordered = Candidates("q", tuple(spans)).spans
  assert [(s.passage, s.start) for s in ordered] == [
    ("a", 1), ("a", 9), ("b", 0)
  ]  # fmt: skip


def test_what_is_right():
  assert is_right("The Answer!", Question("q", "?", ("answer",)))
  pattern = Question("q", "?", (r"ans\w+",), answer_type="regex")
  assert is_right("answering", pattern) and not is_right("an answer", pattern)


@pytest.mark.parametrize("sizes", [[3], {"k": 0}, {"k": "3"}, {"m": 3}])
def test_sizes_that_are_none(tmp_path, sizes):
  head = {"components": {"retriever": "1"}, "sizes": sizes}
  (tmp_path / "c.jsonl").write_text(json.dumps(head))
  with pytest.raises(
    ValueError, match=r"c.jsonl:1: sizes .* mend them, or lea"
  ):
    read_candidates(tmp_path / "c.jsonl")


HEAD = {"components": {"retriever": "1", "reader": "2"}}
SPAN = {
  "text": "Ulm",
  "passage": "p0",
  "start": 0,
  "end": 3,
  "scores": {"retriever": -1, "reader": -2},
}


@pytest.mark.parametrize(
  ("lines", "said"),
  [
    ([], ": the file is empty"),
    ([{"id": "q", "spans": []}], ":1: the first line must name"),
    ([{"components": {"ranker": "1"}}], ":1: the first line must name"),
    (
      [HEAD, {"id": "q", "spans": [SPAN | {"scores": {"retriever": -1}}]}],
      r":2: span 1 \('Ulm'\): reader has given no score",
    ),
    (
      [HEAD, {"id": "q", "spans": [], "generated": {"text": "a"}}],
      ":2: no candidates of a question .*KeyError..score",
    ),
    ([HEAD, {"id": "q"}], ":2: no candidates of a question"),
    (
      [HEAD, {"id": "q", "spans": [{"text": "Ulm"}]}],
      ":2: no candidates of a question",
    ),
    (
      [HEAD, {"id": "q", "spans": [SPAN]}, {"id": "q", "spans": []}],
      ":3: the question 'q' comes twice",
    ),
    (
      [
        {"components": {"retriever": "1"}},
        {"id": "q", "spans": [], "generated": {"text": "a", "score": 0}},
      ],
      ":2: has a generated answer, but .* no component 'reader'",
    ),
  ],
)  # fmt: skip
def test_bad_lines_are_told_with_their_place(tmp_path, lines, said):
  path = tmp_path / "c.jsonl"
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  with pytest.raises(ValueError, match=rf"c\.jsonl{said}"):
    read_candidates(path)


def test_a_score_that_overflows_is_refused(tmp_path):
  path = tmp_path / "c.jsonl"
  span = json.dumps(SPAN).replace("-2", "-1e999")
  path.write_text(f'{json.dumps(HEAD)}\n{{"id": "q", "spans": [{span}]}}\n')
  said = r"jsonl:2: span 1 \('Ulm'\): reader has the log-score -inf"
  with pytest.raises(ValueError, match=said):
    read_candidates(path)
