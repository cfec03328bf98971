"""Shares and their intervals against counts by hand and published tables."""

import numpy as np
import pytest

from odqa_jax.evaluation.statistics import recall_at, wilson_interval


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
