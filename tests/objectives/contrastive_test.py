"""Losses against float64 NumPy, written apart from the code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odqa_jax.objectives import contrastive


def numpy_loss(questions, passages, columns, rows, mask, temperature):
  """−log softmax over the allowed passages, one question at a time."""
  losses = []
  for i, question in enumerate(questions):
    positive = columns[i]
    kept = []
    for j, passage in enumerate(passages):
      same = rows[j] >= 0 and rows[j] == rows[positive]
      if j == positive or (mask[j] and not same):
        kept.append((j, float(question @ passage) / temperature))
    exps = np.array([np.exp(s) for _, s in kept])
    own = next(np.exp(s) for j, s in kept if j == positive)
    losses.append(-np.log(own / exps.sum()))
  return np.array(losses)


@pytest.fixture
def example():
  rng = np.random.default_rng(0)
  b, k, e = 5, 3, 8
  questions = rng.normal(size=(b, e))
  passages = rng.normal(size=(b * k, e))
  rows = rng.integers(0, 9, b * k)
  rows[3], rows[7], rows[4] = rows[0], rows[0], -1
  mask = np.ones(b * k, bool)
  mask[-k:] = False
  return questions, passages, np.arange(b) * k, rows, mask


def ours(questions, passages, columns, rows, mask, temperature):
  scores = contrastive.relevance_scores(
    jnp.asarray(questions), jnp.asarray(passages), temperature
  )
  allowed = contrastive.contrastive_mask(
    jnp.asarray(columns), jnp.asarray(rows), jnp.asarray(mask)
  )
  return contrastive.contrastive_loss(scores, jnp.asarray(columns), allowed)


def test_contrastive_loss_equals_numpy(example):
  with jax.enable_x64(True):
    got = ours(*example, temperature=2.5)
    np.testing.assert_allclose(
      got, numpy_loss(*example, temperature=2.5), rtol=1e-6
    )


def test_contrastive_gradient_equals_finite_differences(example):
  questions, *rest = example
  with jax.enable_x64(True):
    grad = jax.grad(lambda q: jnp.sum(ours(q, *rest, temperature=2.0)))(
      jnp.asarray(questions)
    )
    h = 1e-5
    for i, j in [(0, 0), (2, 5), (4, 7)]:
      up, down = questions.copy(), questions.copy()
      up[i, j] += h
      down[i, j] -= h
      expected = (
        numpy_loss(up, *rest, 2.0).sum() - numpy_loss(down, *rest, 2.0).sum()
      ) / (2 * h)
      # The scores are f32 by contract, so differences of them are coarse.
      np.testing.assert_allclose(grad[i, j], expected, rtol=1e-5)


def test_duplicate_of_the_positive_is_no_negative(example):
  questions, passages, columns, rows, mask = example
  before = ours(*example, temperature=1.0)
  moved = passages.copy()
  moved[3] = moved[7] = 100.0  # Same corpus row as question 0's positive.
  after = ours(questions, moved, columns, rows, mask, temperature=1.0)
  assert float(after[0]) == pytest.approx(float(before[0]), rel=1e-6)


def test_padded_passages_do_not_matter(example):
  questions, passages, columns, rows, mask = example
  before = ours(*example, temperature=1.0)
  moved = passages.copy()
  moved[-2:] = 50.0
  after = ours(questions, moved, columns, rows, mask, temperature=1.0)
  np.testing.assert_allclose(before[:-1], after[:-1], rtol=1e-6)


def test_hits_count_the_best_allowed(example):
  questions, passages, columns, rows, mask = example
  scores = contrastive.relevance_scores(
    jnp.asarray(questions), jnp.asarray(passages), 1.0
  )
  allowed = contrastive.contrastive_mask(
    jnp.asarray(columns), jnp.asarray(rows), jnp.asarray(mask)
  )
  hits = contrastive.contrastive_hits(scores, jnp.asarray(columns), allowed)
  expected = [
    max(
      (j for j in range(len(passages)) if bool(allowed[i, j])),
      key=lambda j: float(questions[i] @ passages[j]),
    )
    == columns[i]
    for i in range(len(questions))
  ]
  assert hits.tolist() == expected


@pytest.mark.parametrize(
  "multiple, width, expected", [(1.0, 64, 8.0), (0.5, 16, 2.0), (0.0, 99, 1.0)]
)
def test_score_temperature(multiple, width, expected):
  assert contrastive.score_temperature(multiple, width) == expected
