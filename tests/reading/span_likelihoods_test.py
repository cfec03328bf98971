"""Likelihoods of given texts by a reader that writes, and its own answer."""

import dataclasses

import numpy as np
import pytest
from small_reader import ANSWER_LENGTH, small_system, use_one_device

from odqa_jax.reading.answer import encode_request, read_batches
from odqa_jax.reading.span_likelihoods import (
  Asked,
  GenerativeReader,
  read_and_score,
)

# f32 sums of a few tokens, each of about −5, in another order or padding.
NEAR = {"rtol": 0, "atol": 5e-5}
LONG = "the small quiet golden northern harbour of the wooden tower"
ASKED = [
  Asked("what is known of the red castle", np.array([7, 3, 9, 4]), ["red king"]),
  Asked("who", np.array([5, -1, 2]), ["a castle", LONG, "a castle", "red"]),
  Asked("which sailor", np.array([1, 2, 3, 4]), []),
  Asked("where", np.array([-1, -1]), ["red"]),
  Asked("where is the tower", np.array([8, 6, 0, 1, 9, 2]), [LONG, "king"]),
]  # fmt: skip


@pytest.fixture(params=["fid", "individual", "joint"])
def system(request, toy_data, monkeypatch):
  use_one_device(monkeypatch)
  return small_system(request.param, toy_data)


def read(system, asked, batch_size=4, **options):
  reader = GenerativeReader(system, batch_size, **options)
  return list(read_and_score(reader, iter(asked)))


def alone(system, asked):
  """The question alone, with the passages that should be read."""
  rows = [row for row in asked.rows if row >= 0][: system.config.k]
  request = encode_request(system, [asked.question])
  rows = np.array([rows], np.int32)
  (batch,) = read_batches(system, request, rows, batch_size=1)
  return batch


def writing(system, text):
  """The same system, which writes one text whatever it reads."""
  (ids,) = system.vocabulary.encode_batch([text])
  ids = [*ids, system.vocabulary.eos_id]
  assert len(ids) < ANSWER_LENGTH
  ids += [system.vocabulary.pad_id] * (ANSWER_LENGTH - len(ids))

  def generate(params, reading, *, max_tokens, beams):
    b, k = reading.lengths.shape
    c = k if system.config.fusion == "answers" else 1
    return np.broadcast_to(np.array(ids, np.int32), (b, c, max_tokens))

  predictor = dataclasses.replace(system.predictor, generate=generate)
  return dataclasses.replace(system, predictor=predictor)


def test_texts_are_scored_as_what_is_written(system):
  asked = [a._replace(texts=[*a.texts, "red king"]) for a in ASKED]
  for each, said in zip(asked, read(writing(system, "red king"), asked)):
    assert said.answer.text == "red king"
    assert len(said.log_probs) == len(each.texts)
    np.testing.assert_allclose(said.log_probs[-1], said.answer.log_prob, **NEAR)
    batch = alone(system, each)
    for text, value in zip(each.texts, said.log_probs, strict=True):
      (ids,) = system.vocabulary.encode_batch([text])
      target = [*ids, system.vocabulary.eos_id]
      # Whole, though a reader is trained with so many tokens at most.
      assert (len(target) > ANSWER_LENGTH) == (text == LONG)
      expected = batch.log_probs([target], len(target))
      np.testing.assert_allclose([value], expected, **NEAR)
      if text == LONG:
        cut = target[:ANSWER_LENGTH]
        assert value < batch.log_probs([cut], len(cut))[0] - 1


def same(some, others):
  for one, other in zip(some, others, strict=True):
    assert one.answer.text == other.answer.text
    np.testing.assert_allclose(
      one.answer.log_prob, other.answer.log_prob, **NEAR
    )
    np.testing.assert_allclose(one.log_probs, other.log_probs, **NEAR)


def test_order_batches_and_holes_do_not_matter(system):
  plain = read(system, ASKED)
  same(read(system, ASKED[::-1], batch_size=2)[::-1], plain)
  holes = [
    a._replace(rows=np.insert(a.rows, [0, len(a.rows)], -1)) for a in ASKED
  ]
  same(read(system, holes, batch_size=1), plain)
  rows = [a.rows[a.rows >= 0][: system.config.k] for a in ASKED]
  assert [len(r) for r in rows] == [4, 2, 4, 0, 4]
  passages = [
    {p.row for p in said.answer.passages if p.row >= 0} for said in plain
  ]
  assert passages == [set(r.tolist()) for r in rows]


def test_questions_stream(system):
  taken = []

  def asked():
    for each in ASKED:
      taken.append(each)
      yield each

  reader = GenerativeReader(system, 2)
  for i, _ in enumerate(read_and_score(reader, asked())):
    assert len(taken) <= i - i % 2 + 2
  assert i + 1 == len(taken) == len(ASKED)
  with pytest.raises(ValueError, match="question 1 of 1 is empty"):
    read(system, [ASKED[0]._replace(question=" ")])


@pytest.mark.eight_devices
def test_eight_devices_say_what_one_says(toy_data, monkeypatch):
  eight = read(small_system("joint", toy_data), ASKED)
  use_one_device(monkeypatch)
  same(read(small_system("joint", toy_data), ASKED), eight)
