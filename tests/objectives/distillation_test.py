"""How far a student is from its teacher, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from odqa_jax.objectives.distillation import (
  TokenScores,
  divergence,
  rank_divergence,
  span_divergence,
)
from odqa_jax.objectives.spans import Contexts

Q, N, L = 3, 4, 9
TAU = 3.0


@pytest.fixture(autouse=True)
def double_precision():
  jax.config.update("jax_enable_x64", True)
  yield
  jax.config.update("jax_enable_x64", False)


def softmax(x):
  weights = np.exp(x - x.max())
  return weights / weights.sum()


def kl(teacher, student, tau=TAU):
  p, q = softmax(teacher / tau), softmax(student / tau)
  return float(np.sum(p * (np.log(p) - np.log(q))))


def made(seed=0):
  r = np.random.default_rng(seed)
  mask = np.ones((Q, N), bool)
  mask[1, 2:] = False
  mask[2] = False
  starts = r.integers(0, 3, (Q, N)).astype(np.int32)
  contexts = Contexts(mask, starts, starts + 4)
  teacher, student = (
    TokenScores(*r.normal(0, 3, (2, Q, N, L))) for _ in range(2)
  )
  return jax.tree.map(jnp.asarray, (teacher, student, contexts))


def test_starts_and_ends_are_compared_within_each_passage():
  teacher, student, contexts = made()
  expected = np.zeros(Q)
  for q in range(Q):
    each = []
    for n in np.flatnonzero(contexts.passage_mask[q]):
      inside = slice(int(contexts.starts[q, n]), int(contexts.ends[q, n]))
      each.append(
        sum(
          kl(*(np.asarray(x)[q, n, inside] for x in sides))
          for sides in zip(teacher, student, strict=True)
        )
      )
    expected[q] = np.mean(each) if each else 0.0
  found = span_divergence(teacher, student, contexts, temperature=TAU)
  np.testing.assert_allclose(found, expected, rtol=1e-12)
  assert expected[0] > 0 and expected[2] == 0


def test_ranks_are_compared_among_the_passages_of_a_question():
  r = np.random.default_rng(1)
  teacher, student = jnp.asarray(r.normal(0, 4, (2, Q, N)))
  mask = made()[2].passage_mask
  found = rank_divergence(teacher, student, mask, temperature=TAU)
  for q in range(Q):
    some = np.asarray(mask[q])
    expected = kl(teacher[q, some], student[q, some]) if some.any() else 0.0
    np.testing.assert_allclose(found[q], expected, rtol=1e-12)


def test_a_student_like_its_teacher_has_nothing_to_learn():
  teacher, _, contexts = made()
  shifted = TokenScores(teacher.start + 5.0, teacher.end - 2.0)

  def loss(student):
    found = span_divergence(teacher, student, contexts, temperature=TAU)
    return jnp.sum(found)

  value, gradient = jax.value_and_grad(loss)(shifted)
  np.testing.assert_allclose(value, 0, atol=1e-12)
  jax.tree.map(lambda x: np.testing.assert_allclose(x, 0, atol=1e-12), gradient)


def test_gradients_are_those_of_the_differences():
  teacher, student, contexts = made(2)

  def loss(start, end):
    student = TokenScores(jnp.asarray(start), jnp.asarray(end))
    found = span_divergence(teacher, student, contexts, temperature=TAU)
    return jnp.sum(found * jnp.arange(1.0, Q + 1))

  check_grads(loss, tuple(student), order=1, modes=["rev"])
  start, _ = jax.grad(loss, argnums=(0, 1))(*student)
  assert not start[2].any() and np.isfinite(start).all()


def test_a_higher_temperature_looks_at_what_is_unlikely():
  teacher, student = jnp.array([[9.0, 0.0, -1.0], [9.0, -1.0, 0.0]])
  mask = jnp.ones(3, bool)
  cold, warm = (
    float(divergence(teacher, student, mask, temperature=tau))
    for tau in (1.0, 3.0)
  )
  assert warm > 10 * cold
  np.testing.assert_allclose(warm, kl(teacher, student), rtol=1e-12)


def test_half_precision_is_summed_in_single():
  r = np.random.default_rng(3)
  teacher, student = r.normal(0, 3, (2, 4000))
  low = [jnp.asarray(x, jnp.bfloat16) for x in (teacher, student)]
  found = divergence(*low, jnp.ones(4000, bool), temperature=TAU)
  assert found.dtype == jnp.float32
  exact = kl(*(np.asarray(x, np.float64) for x in low))
  np.testing.assert_allclose(found, exact, rtol=1e-4)
