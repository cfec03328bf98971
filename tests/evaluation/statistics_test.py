"""Shares and their intervals against counts by hand and published tables."""

from math import comb

import numpy as np
import pytest
from scipy.stats import binom

from odqa_jax.evaluation.statistics import (
  bootstrap_intervals,
  mcnemar,
  recall_at,
  wilson_interval,
)


def test_recall_counts_questions_with_a_hit_in_the_top_k() -> None:
  hits = np.array([[0, 1, 0], [0, 0, 0], [1, 1, 0], [0, 0, 1]], bool)
  assert recall_at(hits, [1, 2, 3]) == {1: 0.25, 2: 0.5, 3: 0.75}
  with pytest.raises(ValueError, match="recall@5 cannot be measured on 3"):
    recall_at(hits, [1, 5])
  with pytest.raises(ValueError, match="no questions"):
    recall_at(hits[:0], [1])


def test_wilson_interval_has_its_textbook_values() -> None:
  # Newcombe (1998), Table I, method 3: 81 of 263, 15 of 148, 0 of 20.
  for count, of, low, high in [
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0, 0.1611),
  ]:
    interval = wilson_interval(count, of)
    assert interval == pytest.approx((low, high), abs=1e-4)
  with pytest.raises(ValueError, match="3 successes of 2"):
    wilson_interval(3, 2)


def test_bootstrap_intervals_against_the_binomial():
  """Resampling a share is drawing from a binomial."""
  values = np.zeros((200, 3))
  values[:60, 0] = 1
  values[:, 1] = 1
  values[:60, 2] = 2
  found = bootstrap_intervals(values, samples=4000)
  wanted = binom.ppf([0.025, 0.975], 200, 0.3) / 200
  # A quantile of 4,000 draws is at most one question off; 90 % would be two.
  np.testing.assert_allclose(found[0], wanted, atol=0.006)
  assert found[1].tolist() == [1, 1]
  # All columns are resampled alike.
  np.testing.assert_allclose(found[2], 2 * found[0], rtol=1e-12)
  again = bootstrap_intervals(values, samples=4000)
  np.testing.assert_array_equal(found, again)
  other = bootstrap_intervals(values, seed=1, samples=50)
  assert not np.array_equal(other, bootstrap_intervals(values, samples=50))
  with pytest.raises(ValueError, match="no questions"):
    bootstrap_intervals(values[:0])


def test_mcnemar_by_hand():
  first = np.array([1] * 8 + [0] * 2 + [1] * 5 + [0] * 5, bool)
  second = np.array([0] * 8 + [1] * 2 + [1] * 5 + [0] * 5, bool)
  only_first, only_second, p = mcnemar(first, second)
  assert (only_first, only_second) == (8, 2)
  tail = sum(comb(10, i) for i in range(3)) / 2**10
  np.testing.assert_allclose(p, 2 * tail, rtol=1e-12)
  assert mcnemar(second, first) == (2, 8, p)
  assert mcnemar(first, first) == (0, 0, 1.0)
