"""Answers as people and programs see them."""

import dataclasses
import json

import pytest

from odqa_jax.data.questions.sets import Question
from odqa_jax.reading.candidates import Generated, Span
from odqa_jax.reading.fusion import FusedAnswer
from odqa_jax.reading.passage_spans import ExtractedAnswer
from odqa_jax.reading.records import show_spans, span_record, write_answers
from odqa_jax.reading.span_answers import SpanAnswer, SpanAnswers

SCORES = {"retriever": -0.5, "extractive_reader": -1.25, "reader": -2.0}
SPAN = Span("Ulm", "p0", 33, 36, SCORES)
FOUND = ExtractedAnswer("Ulm", -1.25, 0, 33, 36, {"start": -1.0, "end": -0.25})
WRITTEN = Generated("ulm in bern", -0.75)


def answers(margin=None, fused=None, generated=WRITTEN):
  decision = None
  if fused is not None:
    text = "Ulm" if margin >= 0 else WRITTEN.text
    decision = FusedAnswer(text, SPAN, fused, margin, margin >= 0)
  return SpanAnswers(
    "q", 20, (SpanAnswer(SPAN, FOUND, fused),), generated, decision
  )


def test_a_span_carries_what_every_component_says():
  span = {
    "text": "Ulm", "passage": "p0", "start": 33, "end": 36, "scores": SCORES,
    "parts": {"start": -1.0, "end": -0.25},
  }  # fmt: skip
  assert span_record(answers(generated=None)) == {
    "answer": "Ulm", "k": 20, "spans": [span]
  }  # fmt: skip
  assert span_record(answers()) == {
    "answer": "Ulm", "k": 20, "extractive": True, "margin": None,
    "generated": {"text": "ulm in bern", "score": -0.75}, "spans": [span],
  }  # fmt: skip
  assert span_record(answers(-0.125, -3.5)) == {
    "answer": "ulm in bern", "k": 20, "extractive": False, "margin": -0.125,
    "generated": {"text": "ulm in bern", "score": -0.75},
    "spans": [span | {"fused": -3.5}],
  }  # fmt: skip


@pytest.mark.parametrize(
  ("given", "said"),
  [
    ({"generated": None}, ["= Ulm"]),
    ({}, ["= Ulm   (a span)", "  written: ulm in bern   (log-probability -0"]),
    ({"margin": 0.5, "fused": -3.5}, ["= Ulm   (a span, margin 0.500)"]),
    (
      {"margin": -0.125, "fused": -3.5},
      ["= ulm in bern   (written, margin -0.125)", "  written: ulm in bern"],
    ),
  ],
  ids=str,
)  # fmt: skip
def test_a_person_sees_the_choice(given, said):
  shown = show_spans("where?", answers(**given)).splitlines()
  for line, begins in zip(shown[1:], said, strict=False):
    assert line.startswith(begins)
  assert ("written" in "".join(shown)) == ("generated" not in given)
  (head,) = [line for line in shown if line.startswith("span")]
  fused = ["fused"] if "fused" in given else []
  assert head.split() == ["span", "passage", "place", *SCORES, *fused]
  assert "33-36" in shown[-1] and "-2.000" in shown[-1]


@pytest.mark.parametrize("text", ["Ulm " * 100, "乌尔姆" * 100])
def test_a_long_span_leaves_room_for_the_scores(text):
  span = dataclasses.replace(SPAN, text=text)
  found = SpanAnswers("q", 20, (SpanAnswer(span, FOUND, None),))
  row = show_spans("where?", found).splitlines()[-1]
  assert row.startswith(text[:59] + "…") and len(row) < 120


def test_nothing_to_read_is_no_answer(tmp_path):
  found = SpanAnswers("q", 20, (), WRITTEN)
  assert (found.text, found.extractive, found.margin) == ("", False, None)
  out = tmp_path / "a.jsonl"
  write_answers(out, [Question("q", "where?", ("Ulm",))], [found])
  assert json.loads(out.read_text()) == {
    "id": "q", "question": "where?", "references": ["Ulm"], "answer": "",
    "k": 20, "extractive": False, "margin": None,
    "generated": {"text": "ulm in bern", "score": -0.75}, "spans": [],
  }  # fmt: skip
