"""Which passages are kept, and where runs find them."""

import numpy as np
import pytest

from odqa_jax.data.corpus.kept import choose_rows, new_rows

SCORES = np.array([0.5, 0.1, 0.9, 0.1, 0.5, 0.7], np.float32)


def test_the_lowest_are_kept_in_their_order_and_ties_go_to_the_first():
  assert choose_rows(SCORES, keep=1).tolist() == [1]
  assert choose_rows(SCORES, keep=3).tolist() == [0, 1, 3]
  assert choose_rows(SCORES, keep=6).tolist() == list(range(6))
  # As many as one asks for, whatever the ties.
  flat = np.zeros(1000, np.float32)
  for keep in (1, 17, 999):
    assert choose_rows(flat, keep=keep).tolist() == list(range(keep))


def test_a_threshold_keeps_what_scores_no_more():
  threshold = float(SCORES[0])
  assert choose_rows(SCORES, threshold=threshold).tolist() == [0, 1, 3, 4]


def test_gold_passages_stay_whatever_they_score():
  gold = np.array([2, 1, 2])
  assert choose_rows(SCORES, keep=1, gold=gold).tolist() == [1, 2]
  assert choose_rows(SCORES, threshold=0.2, gold=gold).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
  ("rule", "message"),
  [
    ({"keep": 0}, "--keep 0: the corpus has 6 passages"),
    ({"keep": -1}, "--keep -1"),
    ({"keep": 7}, "--keep 7: the corpus has 6 passages; keep 1 to 6"),
    ({"threshold": 0.05}, "all 6 passages score more .the lowest 0.1"),
    ({"threshold": 0.05, "gold": np.array([1])}, "all 6 passages"),
    ({"threshold": float("nan")}, "nan: is no score"),
    ({}, "one of them"),
    ({"keep": 1, "threshold": 0.5}, "one of them"),
  ],
)
def test_rules_that_keep_nothing_are_refused(rule, message):
  with pytest.raises(ValueError, match=message):
    choose_rows(SCORES, **rule)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(value):
  scores = SCORES.copy()
  scores[4] = value
  with pytest.raises(ValueError, match="row 4 is"):
    choose_rows(scores, keep=2)


def test_new_rows_against_a_dictionary():
  rng = np.random.default_rng(0)
  kept = np.sort(rng.choice(50, 20, replace=False))
  rows = rng.integers(-1, 50, (7, 9))
  where = {int(row): i for i, row in enumerate(kept)}
  wanted = [[where.get(int(r), -1) for r in line] for line in rows]
  assert new_rows(kept, rows).tolist() == wanted
  # Rows above all that were kept.
  assert new_rows(np.array([3]), np.array([2, 3, 4, 49])).tolist() == [
    -1, 0, -1, -1
  ]  # fmt: skip
