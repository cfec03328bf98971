"""The search that a TPU or GPU runs, on the CPU: the best rows, ties by row."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odqa_jax.retrieval.backends import grouped
from odqa_jax.retrieval.backends.grouped import best_by_groups

GROUP = 16


def reference(queries, rows, count, k):
  """The k best of the first `count` rows, equal scores by row."""
  rows = np.asarray(rows, np.float64)[:count]
  scores = np.asarray(queries, np.float64) @ rows.T
  order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
  return np.take_along_axis(scores, order, axis=1), order


def whole_numbers(*shape, seed=0, top=3):
  """Small whole numbers: scores are exact, and many are equal."""
  values = np.random.default_rng(seed).integers(-top, top + 1, shape)
  return jnp.asarray(values, jnp.float32)


# A GPU's kernel takes widths that are multiples of 16; else XLA multiplies.
@pytest.fixture(params=[("tpu", None), ("gpu", 16), ("gpu", 24)])
def searched(request):
  """The k best rows, as a platform finds those of this width."""
  platform, width = request.param
  best = functools.partial(
    best_by_groups, platform=platform, interpret=platform == "gpu"
  )

  def search(queries, rows, count, k):
    wide = width or rows.shape[1]
    queries, rows = (
      jnp.pad(x, ((0, 0), (0, wide - x.shape[1]))) for x in (queries, rows)
    )
    found = jax.jit(best, static_argnums=3)(queries, rows, jnp.int32(count), k)
    return jax.tree.map(np.asarray, found)

  return search


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("count", [640, 633, 320, 50])
def test_the_best_rows_in_order(searched, dtype, count):
  queries, rows = whole_numbers(7, 8), whole_numbers(640, 8, seed=1)
  rows = rows.at[count:].set(0).astype(dtype)
  scores, found = searched(queries, rows, count, 9)
  expected = reference(queries, rows, count, 9)
  np.testing.assert_array_equal(scores, expected[0])
  np.testing.assert_array_equal(found, expected[1])


def test_padding_is_never_found_though_its_scores_are_higher(searched):
  """All scores are negative, those of the padding 0, or worse, positive."""
  queries = jnp.ones((2, 4))
  # The 15 best rows stand in 15 groups; a 16th one is divided by `count`.
  rows = jnp.full((20 * GROUP, 4), -9.0).at[3 : 15 * GROUP : GROUP].set(-1)
  count = 15 * GROUP + 5
  for padding in (0.0, 100.0):
    padded = rows.at[count:].set(padding)
    scores, found = searched(queries, padded, count, 15)
    expected = reference(queries, padded, count, 15)
    np.testing.assert_array_equal(found, expected[1])
    np.testing.assert_array_equal(scores, expected[0])


def test_the_best_may_share_a_group_or_stand_in_k_of_them(searched):
  queries = jnp.ones((1, 2))
  together = jnp.zeros((10 * GROUP, 2)).at[32:40].set(1)
  assert searched(queries, together, 160, 8)[1].tolist() == [[*range(32, 40)]]
  apart = jnp.zeros((10 * GROUP, 2)).at[::GROUP].set(1)
  expected = [[i * GROUP for i in range(9)]]
  assert searched(queries, apart, 160, 9)[1].tolist() == expected


def test_a_device_with_fewer_rows_than_k_fills_up_with_nothing(searched):
  """Of 8 devices the last ones may hold no passage at all."""
  queries, rows = whole_numbers(3, 4), whole_numbers(8 * GROUP, 4)
  for count in (2, 0, -500):
    scores, found = searched(queries, rows, count, 5)
    real = max(count, 0)
    assert np.isneginf(scores[:, real:]).all()
    np.testing.assert_array_equal(
      found[:, :real], reference(queries, rows, real, 5)[1]
    )


def test_minus_zero_is_zero_and_a_score_of_minus_infinity_is_found(searched):
  rows = jnp.zeros((8 * GROUP, 2)).at[5].set(-0.0)
  found = searched(jnp.ones((1, 2)), rows, 128, 7)[1]
  assert found.tolist() == [[*range(7)]]
  # What overflows is still a row, and padding is not.
  sunk = jnp.full((8 * GROUP, 2), -3e38)
  scores, found = searched(jnp.ones((1, 2)), sunk, 6, 6)
  assert found.tolist() == [[*range(6)]] and np.isfinite(scores).all()


def test_many_questions_take_several_passes(searched, monkeypatch):
  monkeypatch.setattr(grouped, "_QUESTIONS", 4)
  queries, rows = whole_numbers(11, 8), whole_numbers(320, 8, seed=1)
  monkeypatch.setattr(grouped, "_QUESTIONS_UNFUSED", 3)
  scores, found = searched(queries, rows, 311, 6)
  expected = reference(queries, rows, 311, 6)
  np.testing.assert_array_equal(found, expected[1])
  np.testing.assert_array_equal(scores, expected[0])


def test_float32_questions_are_not_rounded_to_bfloat16_rows(searched):
  """Questions that differ in their last bits only find different rows."""
  rng = np.random.default_rng(0)
  rows = jnp.asarray(rng.standard_normal((640, 16)), jnp.bfloat16)
  queries = jnp.asarray(rng.standard_normal((5, 16)), jnp.float32)
  scores, found = searched(queries, rows, 640, 20)
  expected = reference(queries, rows, 640, 20)
  np.testing.assert_array_equal(found, expected[1])
  np.testing.assert_allclose(scores, expected[0], rtol=2e-6, atol=2e-6)


def test_a_width_without_a_kernel_is_told(caplog):
  queries, rows = whole_numbers(3, 8), whole_numbers(64, 8)
  with caplog.at_level("WARNING"):
    best_by_groups(queries, rows, jnp.int32(64), 2, platform="gpu")
  assert "no kernel searches float32 rows of width 8" in caplog.text
