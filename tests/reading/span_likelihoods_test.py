"""Likelihoods of given texts by a reader that writes, and its own answer."""

import dataclasses
import functools

import numpy as np
import pytest
from small_parts import random_system
from small_reader import ANSWER_LENGTH, use_one_device

from odqa_jax.reading.answer import encode_request, read_batches
from odqa_jax.reading.span_likelihoods import (
  Asked,
  GenerativeReader,
  read_and_score,
)

# f32 sums of a few tokens, each of about −10, in another order or padding.
NEAR = {"rtol": 0, "atol": 2e-4}
LONG = "the small quiet golden northern harbour of the wooden tower"
ASKED = [
  Asked("who", np.array([5, -1, 2]), ["a castle", LONG, "a castle", "red"]),
  Asked("which sailor", np.array([1, 2, 3, 4]), []),
  Asked("where", np.array([-1, -1]), ["red"]),
  Asked("where is the tower", np.array([8, 6, 0, 1, 9, 2]), ["king"]),
]


@pytest.fixture(autouse=True)
def mesh(request, monkeypatch):
  """One device, unless a test is marked to use all eight."""
  if "eight_devices" not in request.keywords:
    use_one_device(monkeypatch)


@functools.cache
def one_system(task, data):
  """Kept, and with it what was compiled."""
  return random_system(task, data)


@pytest.fixture(
  params=["joint", pytest.param("individual", marks=pytest.mark.slow)]
)
def system(request, toy_data, mesh):
  return one_system(request.param, toy_data)


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


@pytest.mark.slow
def test_texts_are_scored_as_what_is_written(system):
  some = [ASKED[0], ASKED[3]]
  asked = [a._replace(texts=[*a.texts, "red king"]) for a in some]
  found = read(writing(system, "red king"), asked, batch_size=1)
  for each, said in zip(asked, found, strict=True):
    assert said.answer.text == "red king"
    np.testing.assert_allclose(said.log_probs[-1], said.answer.log_prob, **NEAR)
    batch = alone(system, each)
    for text, value in zip(each.texts, said.log_probs, strict=True):
      (ids,) = system.vocabulary.encode_batch([text])
      target = [*ids, system.vocabulary.eos_id]
      expected = batch.log_probs([target], 16 if text == LONG else 8)
      np.testing.assert_allclose([value], expected, **NEAR)
      # Whole, though a reader is trained with so many tokens at most.
      assert (len(target) > ANSWER_LENGTH) == (text == LONG)
      if text == LONG:
        cut = target[:ANSWER_LENGTH]
        assert value < batch.log_probs([cut], 16)[0] - 1


def same(some, others):
  for one, other in zip(some, others, strict=True):
    assert one.answer.text == other.answer.text
    np.testing.assert_allclose(
      one.answer.log_prob, other.answer.log_prob, **NEAR
    )
    np.testing.assert_allclose(one.log_probs, other.log_probs, **NEAR)


@pytest.mark.slow
def test_order_batches_and_holes_do_not_matter(system):
  plain = read(system, ASKED)
  holes = [
    a._replace(rows=np.insert(a.rows, [0, len(a.rows)], -1)) for a in ASKED
  ]
  same(read(system, holes[::-1], batch_size=1)[::-1], plain)
  passages = [
    {p.row for p in said.answer.passages if p.row >= 0} for said in plain
  ]
  # As many as in training at most.
  assert passages == [{5, 2}, {1, 2, 3, 4}, set(), {8, 6, 0, 1}]


@pytest.mark.slow
def test_questions_stream(system):
  taken = []

  def asked():
    for each in ASKED:
      taken.append(each)
      yield each

  reader = GenerativeReader(system, 1)
  for i, _ in enumerate(read_and_score(reader, asked())):
    assert len(taken) == i + 1
  assert len(taken) == len(ASKED)
  with pytest.raises(ValueError, match="question 1 of 1 is empty"):
    read(system, [ASKED[0]._replace(question=" ")])


@pytest.mark.slow
@pytest.mark.eight_devices
def test_eight_devices_say_what_one_says(toy_data, monkeypatch):
  eight = read(random_system("joint", toy_data), ASKED[:1])
  use_one_device(monkeypatch)
  same(read(one_system("joint", toy_data), ASKED[:1]), eight)
