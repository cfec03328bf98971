"""Fusion: optima found by other means, and what must not change them."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from candidate_sets import make_set
from command_line import last_line, run

from odqa_jax.data.questions.sets import Question
from odqa_jax.reading.candidates import (
  COMPONENTS,
  Candidates,
  CandidateSet,
  Generated,
  Span,
  write_candidates,
)
from odqa_jax.reading.fusion import (
  Choice,
  Fusion,
  choice_loss,
  fit_choice,
  fit_spans,
  load_fusion,
  save_fusion,
  span_loss,
  tune,
)
from odqa_jax.runtime.files import Damage

L2 = 1e-2


def make_features(seed, questions=40, components=3):
  """Scores of questions with a right and a wrong span."""
  rng = np.random.default_rng(seed)
  counts = rng.integers(2, 7, questions)
  right = rng.random(counts.sum()) < 0.4
  starts = np.cumsum(counts) - counts
  right[starts], right[starts + 1] = True, False
  features = rng.normal(size=(len(right), components))
  features[:, 0] += right
  return features, right, counts


# ---- Objectives and optima, by other means ----


def slow_span_loss(weights, features, right, counts, l2):
  """Question by question, in plain NumPy."""
  total, start = 0.0, 0
  for count in counts:
    scores = features[start : start + count] @ weights
    chances = np.exp(scores) / np.exp(scores).sum()
    total -= np.log(chances[right[start : start + count]].sum())
    start += count
  return total / len(counts) + l2 / 2 * (weights**2).sum()


def slow_choice_loss(weights, inputs, extractive, l2):
  chance = 1 / (1 + np.exp(-(inputs @ weights)))
  likely = np.where(extractive, chance, 1 - chance)
  return -np.log(likely).mean() + l2 / 2 * (weights**2).sum()


def numerical_gradient(value, at, step=1e-6):
  return np.array(
    [
      (value(at + step * e) - value(at - step * e)) / (2 * step)
      for e in np.eye(len(at))
    ]
  )


def newton(value, size, steps=40, step=1e-4):
  """The optimum by Newton's method on differences of the slow objective."""
  at = np.zeros(size)
  axes = np.eye(size) * step
  for _ in range(steps):
    slope = numerical_gradient(value, at, step)
    bend = np.array(
      [
        [
          (value(at + a + b) - value(at + a - b))
          - (value(at - a + b) - value(at - a - b))
          for b in axes
        ]
        for a in axes
      ]
    ) / (4 * step**2)
    assert (np.linalg.eigvalsh(bend) > 0).all()
    at = at - np.linalg.solve(bend, slope)
  return at


@pytest.mark.parametrize("seed", range(3))
def test_objectives_and_gradients(seed):
  features, right, counts = make_features(seed)
  rng = np.random.default_rng(seed)
  for loss, slow, size, given in (
    (span_loss, slow_span_loss, 3, (features, right, counts, L2)),
    (choice_loss, slow_choice_loss, 3, (features, right, L2)),
  ):
    weights = rng.normal(size=size)
    value, gradient = loss(weights, *given)
    np.testing.assert_allclose(value, slow(weights, *given), rtol=1e-12)
    wanted = numerical_gradient(lambda w: slow(w, *given), weights)  # noqa: B023
    np.testing.assert_allclose(gradient, wanted, atol=1e-8)


def test_objectives_of_large_scores_are_finite():
  features, right, counts = make_features(0)
  value, gradient = span_loss(np.full(3, 1e4), features, right, counts, L2)
  assert np.isfinite(value) and np.isfinite(gradient).all()
  value, gradient = choice_loss(np.full(3, 1e4), features, right, L2)
  assert np.isfinite(value) and np.isfinite(gradient).all()


def test_the_weights_are_newtons_optimum():
  features, right, counts = make_features(1)
  starts = np.cumsum(counts) - counts
  groups = np.split(features, starts[1:])
  centred = np.concatenate([g - g.mean(axis=0) for g in groups])
  scale = centred.std(axis=0)

  def value(weights):
    return slow_span_loss(weights, centred / scale, right, counts, L2)

  wanted = newton(value, 3) / scale
  # Differences of float64 leave seven digits.
  np.testing.assert_allclose(
    fit_spans(features, right, counts, L2), wanted, rtol=1e-6, atol=1e-7
  )


def test_the_choice_is_newtons_optimum():
  rng = np.random.default_rng(2)
  scores = rng.normal(size=(60, 2)) * [3, 0.5] + [-8, -1]
  extractive = rng.random(60) < 1 / (1 + np.exp(-scores[:, 0] - 8))
  mean, scale = scores.mean(axis=0), scores.std(axis=0)
  inputs = np.column_stack([(scores - mean) / scale, np.ones(60)])
  found = newton(lambda w: slow_choice_loss(w, inputs, extractive, L2), 3)
  wanted = np.append(found[:2] / scale, found[2] - mean @ (found[:2] / scale))
  np.testing.assert_allclose(
    fit_choice(scores, extractive, L2), wanted, rtol=1e-6, atol=1e-7
  )


# ---- What must not matter ----


def changed(candidates: CandidateSet, change) -> CandidateSet:
  """The same with other scores: `change(question, name, score)`."""
  found = []
  for i, c in enumerate(candidates.candidates):
    spans = [
      dataclasses.replace(
        s, scores={n: change(i, n, x) for n, x in s.scores.items()}
      )
      for s in c.spans
    ]
    found.append(dataclasses.replace(c, spans=tuple(spans)))
  return CandidateSet(candidates.components, tuple(found))


def answers(fusion, candidates):
  return [fusion.answer(c) for c in candidates.candidates]


def test_the_order_of_spans_and_questions_does_not_matter():
  candidates, questions = make_set(60, 0)
  mixed = tuple(
    dataclasses.replace(c, spans=c.spans[::-1])
    for c in candidates.candidates[::-1]
  )
  other = CandidateSet(candidates.components, mixed)
  fusion = tune(candidates, questions)
  assert tune(other, questions) == fusion
  assert answers(fusion, other)[::-1] == answers(fusion, candidates)


def test_equal_spans_are_decided_by_their_place():
  spans = [
    Span(text, passage, 0, 1, {"retriever": -1.0})
    for text, passage in (("second", "p2"), ("first", "p1"))
  ]
  fusion = Fusion({"retriever": "1"}, {"retriever": 1.0}, None, {}, 1.0)
  for order in itertools.permutations(spans):
    assert fusion.answer(Candidates("q", order)).text == "first"


def test_the_scale_of_a_component_is_absorbed_by_its_weight():
  candidates, questions = make_set(80, 1)
  before = tune(candidates, questions)
  factor = {"retriever": 1000.0, "reranker": 0.01}
  scaled = changed(candidates, lambda i, n, x: x * factor.get(n, 1.0))
  after = tune(scaled, questions)
  for name, weight in before.weights.items():
    np.testing.assert_allclose(
      after.weights[name] * factor.get(name, 1.0), weight, rtol=1e-5
    )
  for a, b in zip(
    answers(before, candidates), answers(after, scaled), strict=True
  ):
    assert (a.text, a.extractive) == (b.text, b.extractive)


def test_what_is_the_same_for_all_spans_does_not_change_the_weights():
  candidates, questions = make_set(80, 2, COMPONENTS[:3])
  shifted = changed(
    candidates, lambda i, n, x: x + (5.0 * i if n == "retriever" else 0.0)
  )
  before, after = (tune(c, questions).weights for c in (candidates, shifted))
  for name, weight in before.items():
    np.testing.assert_allclose(after[name], weight, rtol=1e-5, atol=1e-7)


def test_a_component_that_says_nothing_is_left_out():
  """Its weight is 0, and the rest is as without it."""
  candidates, questions = make_set(80, 3, spans=7)
  # Equal within a question; its mean may be rounded.
  flat = changed(candidates, lambda i, n, x: -0.1 * i if n == "reranker" else x)
  fusion = tune(flat, questions)
  assert abs(fusion.weights["reranker"]) < 1e-12
  rest = ("retriever", "extractive_reader", "reader")
  without = tune(flat, questions, components=rest)
  for name in rest:
    np.testing.assert_allclose(
      fusion.weights[name], without.weights[name], rtol=1e-5
    )
  for a, b in zip(answers(fusion, flat), answers(without, flat), strict=True):
    assert (a.text, a.extractive) == (b.text, b.extractive)


def test_weight_zero_is_the_component_left_out():
  candidates, _ = make_set(30, 4)
  weights = {"retriever": 0.7, "extractive_reader": 1.1, "reader": 0.4}
  choice = Choice(1.0, -1.0, 0.2)
  less = Fusion(dict.fromkeys(weights, "1"), weights, choice, {}, 1.0)
  more = dataclasses.replace(less, weights=weights | {"reranker": 0.0})
  for a, b in zip(
    answers(less, candidates), answers(more, candidates), strict=True
  ):
    assert (a.text, a.span) == (b.text, b.span)
    np.testing.assert_allclose([a.score, a.margin], [b.score, b.margin])


# ---- What is learnt, and from what ----


def test_fusion_beats_its_best_component_on_other_questions():
  candidates, questions = make_set(300, 5)
  fusion = tune(candidates, questions)
  other, _ = make_set(300, 6)

  def score(system):
    return np.mean([a.text.lower() == "answer" for a in answers(system, other)])

  alone = [
    score(tune(candidates, questions, components=[name])) for name in COMPONENTS
  ]
  assert score(fusion) > max(alone)
  # The weights are in the order of what the components know.
  weights = [fusion.weights[name] for name in COMPONENTS]
  assert sorted(weights) == [weights[i] for i in (0, 1, 3, 2)]


def test_without_the_generative_reader_the_answer_is_a_span():
  candidates, questions = make_set(40, 7)
  fusion = tune(candidates, questions, components=["extractive_reader"])
  assert fusion.choice is None
  assert all(a.extractive for a in answers(fusion, candidates))


def test_the_answer_tells_its_passage_and_all_scores():
  candidates, questions = make_set(40, 8)
  fusion = tune(candidates, questions)
  for c in candidates.candidates:
    answer = fusion.answer(c)
    assert answer.span in c.spans and set(answer.span.scores) == {*COMPONENTS}
    wanted = sum(fusion.weights[n] * x for n, x in answer.span.scores.items())
    np.testing.assert_allclose(answer.score, wanted, rtol=1e-12)
    assert answer.extractive == (answer.margin >= 0)
    chosen = answer.span.text if answer.extractive else c.generated.text
    assert answer.text == chosen


def test_few_candidates():
  fusion = Fusion({}, {"reader": 1.0}, Choice(1.0, -1.0, 0.0), {}, 1.0)
  written = Generated("written", -1.0)
  span = Span("span", "p", 0, 4, {"reader": -0.5})
  assert fusion.answer(Candidates("q", ())).text == ""
  assert fusion.answer(Candidates("q", (), written)).text == "written"
  assert fusion.answer(Candidates("q", (span,))).text == "span"
  assert fusion.answer(Candidates("q", (span,), written)).text == "span"
  high = Generated("written", 0.0)
  assert fusion.answer(Candidates("q", (span,), high)).text == "written"


def test_one_side_that_is_always_right_has_an_optimum():
  scores = np.random.default_rng(0).normal(size=(20, 2))
  for side in (True, False):
    found = fit_choice(scores, np.full(20, side), L2)
    margins = scores @ found[:2] + found[2]
    assert np.isfinite(found).all() and ((margins > 0) == side).all()
  assert fit_choice(np.zeros((0, 2)), np.zeros(0, bool), L2).tolist() == [0] * 3


def test_missing_components_are_named():
  candidates, questions = make_set(10, 0, COMPONENTS[:2])
  with pytest.raises(ValueError, match="component 'reader' has scored none"):
    tune(candidates, questions, components=["retriever", "reader"])


def test_nothing_to_learn_from_is_told():
  candidates, questions = make_set(10, 0)
  others = [Question(q.id, "?", ("something else",)) for q in questions]
  with pytest.raises(ValueError, match=r"none of 10 questions .* right span"):
    tune(candidates, others)
  with pytest.raises(ValueError, match="--l2 0"):
    tune(candidates, questions, l2=0.0)


def test_what_cannot_be_decided_decides_nothing():
  """All spans right or all wrong; both answers right or both wrong."""
  candidates, questions = make_set(80, 2, spans=2)
  accepted = {q.id: q for q in questions}
  comparable, decided = [], []
  fusion = tune(candidates, questions)
  for c in candidates.candidates:
    hits = [s.text == "Answer" for s in c.spans]
    if 0 < sum(hits) < len(hits):
      comparable.append(c)
    best = fusion.answer(c)
    span, written = best.span.text == "Answer", c.generated.text == "answer"
    if span != written:
      decided.append(((best.score, c.generated.score), span))
  assert fusion.tuned_on == {
    "questions": 80, "comparable": len(comparable), "decided": len(decided)
  }  # fmt: skip
  assert len(comparable) < 80 and len(decided) < 80
  fewer = CandidateSet(candidates.components, tuple(comparable))
  asked = [accepted[c.question_id] for c in comparable]
  assert tune(fewer, asked).weights == fusion.weights
  scores, extractive = zip(*decided, strict=True)
  wanted = fit_choice(np.array(scores), np.array(extractive), fusion.l2)
  choice = fusion.choice
  np.testing.assert_allclose(
    [choice.fused, choice.generated, choice.bias], wanted, rtol=1e-9
  )


def test_questions_without_answers_are_left_out():
  candidates, questions = make_set(30, 1)
  kept = questions[:20] + [
    dataclasses.replace(q, answers=()) for q in questions[20:]
  ]
  first = CandidateSet(candidates.components, candidates.candidates[:20])
  assert tune(candidates, kept) == tune(first, questions[:20])


# ---- Files ----


def test_a_fusion_is_kept_with_its_components(tmp_path):
  candidates, questions = make_set(40, 9)
  path = tmp_path / "fusion.json"
  for components in (None, ["retriever"]):
    fusion = tune(candidates, questions, components=components)
    save_fusion(path, fusion)
    assert load_fusion(path) == fusion
    assert load_fusion(path, candidates.components) == fusion


def test_other_components_are_refused(tmp_path):
  candidates, questions = make_set(40, 9)
  path = tmp_path / "fusion.json"
  save_fusion(path, tune(candidates, questions))
  given = dict(candidates.components)
  del given["reranker"]
  given["reader"] = "0123456789abcdef"
  with pytest.raises(ValueError, match="tuned for other components") as error:
    load_fusion(path, given)
  said = str(error.value)
  assert "reranker version of r (not here)" in said
  assert "reader version of r (here 0123456789ab)" in said
  assert "retriever" not in said


def test_what_was_tuned_on_runs_is_of_no_system(tmp_path):
  candidates, questions = make_set(40, 9)
  components = dict(candidates.components) | {"reranker": "run:0123456789"}
  candidates = dataclasses.replace(candidates, components=components)
  path = tmp_path / "fusion.json"
  save_fusion(path, tune(candidates, questions))
  with pytest.raises(
    ValueError, match="write the candidates with `odqa answer"
  ):
    load_fusion(path, components | {"reranker": "89abcdef"})


def test_damage_is_found(tmp_path):
  candidates, questions = make_set(40, 9)
  path = tmp_path / "fusion.json"
  save_fusion(path, tune(candidates, questions))
  content = json.loads(path.read_text())
  content["weights"]["reader"] += 1e-9
  path.write_text(json.dumps(content))
  with pytest.raises(Damage, match="does not match its checksum"):
    load_fusion(path)
  path.write_text(json.dumps({"kind": "system"}))
  with pytest.raises(ValueError, match="is no fusion"):
    load_fusion(path)


def test_sizes_are_those_that_were_tuned_with_unless_given():
  sizes = {"k": 40, "read_k": 9, "spans": 3}
  found, questions = make_set(20, 0)
  found = dataclasses.replace(found, sizes=sizes)
  fusion = tune(found, questions)
  assert fusion.sized({}, 100) == sizes
  assert fusion.sized({"k": None, "spans": 7}, 100) == sizes | {"spans": 7}
  # There are fewer passages, or fewer are asked for, than are read.
  assert fusion.sized({}, 30) == sizes | {"k": 30}
  assert fusion.sized({"k": 5}, 100) == sizes | {"k": 5, "read_k": 5}
  assert fusion.sized({}, 4) == {"k": 4, "read_k": 4, "spans": 3}
  unknown = dataclasses.replace(fusion, sizes={})
  assert unknown.sized({"k": 5}, 9) == {"k": 5, "read_k": None, "spans": None}


def test_candidates_of_other_sizes_are_not_measured(capsys, tmp_path):
  found, questions = make_set(20, 0)
  lines = [
    {"id": q.id, "question": q.question, "answer": [*q.answers]}
    for q in questions
  ]
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (tmp_path / "q.jsonl").write_text(text)
  for name, k in (("dev", 40), ("test", 20)):
    made = dataclasses.replace(found, sizes={"k": k})
    write_candidates(tmp_path / f"{name}.jsonl", made)
  code, _, err = run(
    capsys, "fuse", "--candidates", tmp_path / "dev.jsonl", "--questions",
    tmp_path / "q.jsonl", "--test-candidates", tmp_path / "test.jsonl",
    "--test-questions", tmp_path / "q.jsonl", "--out", tmp_path / "f.json",
  )  # fmt: skip
  assert code == 2 and "were made with k=20, and" in last_line(err)
  assert not (tmp_path / "f.json").exists()
