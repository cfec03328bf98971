"""Spans that an extractive reader finds, read in parts and read whole."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from six_passages import make_corpus

from odqa_jax.data.examples.pair_inputs import PairInputs
from odqa_jax.models.bert import BertConfig
from odqa_jax.models.extractive_reader import ExtractiveReader, SpanConfig
from odqa_jax.objectives.best_spans import best_spans
from odqa_jax.objectives.spans import Contexts, SpanScores
from odqa_jax.reading.extract import make_span_reader, read_spans
from odqa_jax.reading.passage_spans import (
  ExtractedAnswer,
  _merged,
  best_answers,
)
from odqa_jax.text.pairs import PairVocabulary

LENGTH, LONGEST = 40, 4
QUESTIONS = ["where was Einstein born?", "what flows through Vienna?"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  return make_corpus(tmp_path_factory.mktemp("six") / "corpus")


def make_reader(corpus, objective="independent", **heads):
  """Random weights, larger than those of training: scores differ clearly."""
  bert = BertConfig(
    vocab_size=corpus.tokenizer.vocab_size,
    width=8,
    layers=1,
    heads=2,
    mlp_dim=8,
  )
  network = ExtractiveReader(SpanConfig(bert, **heads))
  params = network.init(jax.random.key(3))
  params = jax.tree.map(lambda x: 4 * x if x.ndim > 1 else x, params)
  return make_span_reader(
    network,
    params,
    PairInputs(
      PairVocabulary(corpus.tokenizer), corpus, length=LENGTH, title=True
    ),
    question_length=16,
    span_length=LONGEST,
    objective=objective,
  )


@pytest.fixture(scope="module")
def reader(corpus):
  return make_reader(corpus)


def together(reader, question, rows, most):
  """All passages of a question in one batch, as training sees them."""
  tokens = reader.inputs.vocabulary.encode_batch([question])
  packed = reader.inputs.pack(
    tokens, [rows], passages=len(rows), passage_first=True
  )
  batch, pairs = packed.batch, packed.pairs[0]
  found = reader.network.read(
    reader.params,
    *(
      jnp.array(batch[name][0]) for name in ("ids", "lengths", "first_lengths")
    ),
  )
  contexts = Contexts(
    jnp.array(batch["passage_mask"]),
    jnp.array([[p.context_start for p in pairs]]),
    jnp.array([[p.context_end for p in pairs]]),
  )
  scores = SpanScores(*(None if x is None else x[None] for x in found))
  best = best_spans(scores, contexts, most=most, longest=LONGEST)
  return jax.tree.map(lambda x: np.asarray(x[0]), best), packed


@pytest.mark.slow
@pytest.mark.parametrize(
  "heads", [{}, {"span": False}, {"span": False, "passage": False}], ids=str
)
def test_parts_are_normalised_as_the_whole(corpus, heads):
  reader = make_reader(corpus, **heads)
  rows = [3, 0, 2, 1, 4]
  best, packed = together(reader, QUESTIONS[0], rows, most=6)
  found = next(read_spans(reader, QUESTIONS[:1], np.array([rows]), most=6))
  answers = best_answers(found, corpus, most=6)
  assert [a.row for a in answers] == [rows[i] for i in best.passages]
  for n, answer in enumerate(answers):
    # f32 in two orders of summation; the values are of the order of 10.
    assert answer.log_prob == pytest.approx(best.total[n], abs=1e-4)
    for name, values in best.log_scores.items():
      assert answer.scores[name] == pytest.approx(values[n], abs=1e-4)
    assert sum(answer.scores.values()) == pytest.approx(answer.log_prob)
    offsets = packed.texts[0][best.passages[n]].offsets
    start, end = best.starts[n] - 1, best.ends[n] - 1
    assert (answer.start, answer.end) == (offsets[start][0], offsets[end][1])
    assert answer.text == corpus.text(answer.row)[answer.start : answer.end]


def logits(reader, question, rows):
  """What the network says of each passage, with where its text is."""
  tokens = reader.inputs.vocabulary.encode_batch([question])
  packed = reader.inputs.pack(
    tokens, [rows], passages=len(rows), passage_first=True
  )
  names = ("ids", "lengths", "first_lengths")
  inputs = (jnp.array(packed.batch[name][0]) for name in names)
  found = jax.jit(reader.network.read)(reader.params, *inputs)
  scores = (found.start, found.end, found.passage)
  return [np.asarray(x, np.float64) for x in scores], packed


def by_hand(scores, packed, rows):
  """DPR's answers: spans of the best passage, the best first, in float64."""
  start, end, passage = (x[: len(rows)] for x in scores)
  best = int(np.argmax(passage))
  pair, offsets = packed.pairs[0][best], packed.texts[0][best].offsets
  inside = range(pair.context_start, pair.context_end)
  of_passage = passage[best] - np.logaddexp.reduce(passage)
  starts = start[best] - np.logaddexp.reduce(start[best, inside])
  ends = end[best] - np.logaddexp.reduce(end[best, inside])
  spans = []
  for s in inside:
    for e in inside[s - inside.start :][:LONGEST]:
      place = offsets[s - inside.start][0], offsets[e - inside.start][1]
      spans.append((of_passage + starts[s] + ends[e], rows[best], *place))
  return sorted(spans, reverse=True)


def test_a_reader_of_dpr_answers_from_the_passage_that_it_ranks_first(corpus):
  heads = {"span": False}
  reader = make_reader(corpus, "dpr", **heads)
  rows = np.array([[3, 0, 2, 1, 4], [4, 1, 3, 0, 2]])
  elsewhere = 0
  found = read_spans(reader, QUESTIONS, rows, most=6)
  for question, some, spans in zip(QUESTIONS, rows, found, strict=True):
    said = logits(reader, question, some.tolist())
    for k in (1, 2, 5):
      wanted = by_hand(*said, some[:k].tolist())
      answers = best_answers(spans, corpus, most=6, k=k)
      got = [(a.log_prob, a.row, a.start, a.end) for a in answers]
      np.testing.assert_allclose(got, wanted[:6], atol=1e-4)
      for answer in answers:
        assert sum(answer.scores.values()) == pytest.approx(answer.log_prob)
      together = dataclasses.replace(spans, objective="independent")
      row = best_answers(together, corpus, most=1, k=k)[0].row
      elsewhere += row != answers[0].row
  assert elsewhere


def test_a_place_is_one_answer_whatever_its_pieces(corpus):
  reader = make_reader(corpus)
  found = next(read_spans(reader, QUESTIONS[:1], np.array([[3, 0]]), most=4))
  whole_ = best_answers(found, corpus, most=8)
  # As with pieces of one letter, two spans of tokens have the place of one.
  starts, ends = found.starts.copy(), found.ends.copy()
  starts[0, 1], ends[0, 1] = starts[0, 0], ends[0, 0]
  same = dataclasses.replace(found, starts=starts, ends=ends)
  answers = best_answers(same, corpus, most=8)
  assert len({(a.row, a.start, a.end) for a in answers}) == len(answers)
  assert len(answers) == len(whole_) - 1


def test_of_equally_ranked_passages_the_first_row_is_answered_from(corpus):
  reader = make_reader(corpus, "dpr", span=False)
  # The last two passages are the same.
  for rows in ([4, 5], [5, 4]):
    found = next(read_spans(reader, QUESTIONS[:1], np.array([rows]), most=3))
    assert {a.row for a in best_answers(found, corpus, most=3)} == {4}
  # What the best passage has no span of is answered by the next one.
  starts = np.where((found.rows == 4)[:, None], -1, found.starts)
  found = dataclasses.replace(found, starts=starts)
  assert {a.row for a in best_answers(found, corpus, most=3)} == {5}


def test_a_reader_of_dpr_needs_a_head_of_passages(corpus):
  with pytest.raises(ValueError, match="has no head of passages"):
    make_reader(corpus, "dpr", span=False, passage=False)


def same(one, other):
  assert [(a.row, a.start, a.end) for a in one] == [
    (a.row, a.start, a.end) for a in other
  ]
  np.testing.assert_allclose(
    [a.log_prob for a in one], [a.log_prob for a in other], atol=1e-4
  )


def test_order_holes_and_batches_do_not_matter(reader, corpus):
  rows = np.array([[0, 1, 2, 3], [3, 2, 4, 0]])
  plain = list(read_spans(reader, QUESTIONS, rows, most=5))
  holes = np.array([[-1, 3, 2, 1, 0], [0, 4, -1, 2, 3]])
  moved = list(read_spans(reader, QUESTIONS, holes, most=5, batch_tokens=1))
  for one, other in zip(plain, moved, strict=True):
    same(best_answers(one, corpus, most=5), best_answers(other, corpus, most=5))


def test_equal_spans_are_ordered_by_row(reader, corpus):
  # The last two passages are the same.
  for rows in ([4, 5], [5, 4]):
    found = next(read_spans(reader, QUESTIONS[:1], np.array([rows]), most=3))
    answers = best_answers(found, corpus, most=4)
    assert [a.row for a in answers] == [4, 5, 4, 5]


def test_the_first_k_are_what_k_passages_give(reader, corpus):
  rows = np.array([[3, 0, 2, 1, 4]])
  whole = next(read_spans(reader, QUESTIONS[:1], rows, most=5))
  for k in (1, 3, 5, 20, 100):
    alone = next(read_spans(reader, QUESTIONS[:1], rows[:, :k], most=5))
    same(
      best_answers(whole, corpus, most=5, k=k),
      best_answers(alone, corpus, most=5),
    )


def test_questions_without_passages_have_no_answer(reader, corpus):
  rows = np.array([[-1, -1], [0, -1]])
  none, one = read_spans(reader, QUESTIONS, rows, most=2)
  assert best_answers(none, corpus, most=2) == []
  assert len(best_answers(one, corpus, most=2)) == 2
  assert list(read_spans(reader, [], np.zeros((0, 2), int), most=2)) == []
  (none,) = read_spans(reader, ["?"], np.zeros((1, 0), int), most=2)
  assert best_answers(none, corpus, most=2) == []


def test_groups_of_questions_are_taken_apart_again(reader, corpus, monkeypatch):
  rows = np.array([[0, 1], [2, -1], [3, 4], [1, 5]])
  asked = QUESTIONS * 2
  plain = list(read_spans(reader, asked, rows, most=3))
  monkeypatch.setattr("odqa_jax.reading.extract._PAIRS", 3)
  for one, other in zip(
    plain, read_spans(reader, asked, rows, most=3), strict=True
  ):
    assert one.rows.tolist() == other.rows.tolist()
    same(best_answers(one, corpus, most=3), best_answers(other, corpus, most=3))


def test_equal_answers_are_merged_by_their_probability():
  def answer(text, prob, row):
    return ExtractedAnswer(text, float(np.log(prob)), row, 0, 1, {})

  merged = _merged(
    [answer("Bern", 0.4, 0), answer("the Ulm", 0.3, 1), answer("ulm.", 0.2, 2)]
  )
  assert [(a.text, a.row) for a in merged] == [("the Ulm", 1), ("Bern", 0)]
  assert np.exp(merged[0].log_prob) == pytest.approx(0.5)


def test_weights_that_are_not_finite_are_told(reader):
  params = jax.tree.map(lambda x: x * np.nan, reader.params)
  broken = dataclasses.replace(reader, params=params)
  with pytest.raises(
    ValueError, match=re.escape("scores of a passage are not")
  ):
    list(read_spans(broken, QUESTIONS[:1], np.array([[0]]), most=1))
