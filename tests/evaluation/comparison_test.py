"""Intervals and differences against counting, and against scipy."""

import numpy as np
import pytest
from scipy import stats

from odqa_jax.evaluation.comparison import compare
from odqa_jax.evaluation.statistics import bootstrap_p, mcnemar
from odqa_jax.evaluation.tables import print_figures


def test_systems_are_resampled_alike_and_only_where_they_count():
  rng = np.random.default_rng(0)
  first = rng.random(300)
  second = first - 0.1
  some = np.where(np.arange(300) < 150, first, np.nan)
  found = compare(
    {"a": {"ndcg@10": first, "map": some}, "b": {"ndcg@10": second}}, seed=3
  )
  # A constant difference has no spread, if questions are drawn together.
  (difference,) = found.differences
  assert difference.difference == pytest.approx(0.1)
  assert difference.interval == pytest.approx((0.1, 0.1))
  assert difference.p == pytest.approx(2 / 2001) and difference.mcnemar is None
  # Against the normal interval of a mean, of the questions that count.
  for name, values in (("ndcg@10", first), ("map", first[:150])):
    half = 1.96 * values.std(ddof=1) / len(values) ** 0.5
    ends = values.mean() - half, values.mean() + half
    assert found.intervals["a"][name] == pytest.approx(ends, abs=0.15 * half)
  again = compare({"a": {"map": some}}, seed=3).intervals["a"]["map"]
  assert again == found.intervals["a"]["map"]


@pytest.mark.parametrize("width", ["40", "80"])
def test_no_figure_is_cut_in_a_narrow_terminal(monkeypatch, capsys, width):
  monkeypatch.setenv("COLUMNS", width)
  values = {f"system {i}": {"em": np.eye(9)[i]} for i in range(6)}
  print_figures(values, compare(values))
  said = capsys.readouterr().err
  assert "…" not in said and said.count("11.1") >= 6
  assert all(name in said for name in values)


def test_figures_of_other_questions_are_not_compared():
  values = np.array([1.0, 0.0, 1.0, np.nan])
  other = np.array([1.0, 0.0, np.nan, 1.0])
  found = compare({"a": {"em": values}, "b": {"em": other}})
  assert not found.differences


def test_p_of_the_bootstrap_is_near_that_of_a_paired_t_test():
  rng = np.random.default_rng(1)
  for shift in (0.0, 0.04, 0.08):
    first, noise = rng.random(200), rng.normal(0, 0.3, 200)
    second = first + shift + noise - noise.mean()
    found = compare({"a": {"f1": first}, "b": {"f1": second}}, samples=4000)
    wanted = stats.ttest_rel(first, second).pvalue
    assert found.differences[0].p == pytest.approx(wanted, abs=0.04)


def test_p_counts_ties_on_both_sides():
  draws = np.array([[0.1, 0.0], [0.2, 0.0], [-0.1, 0.0], [0.3, 0.0]])
  np.testing.assert_allclose(bootstrap_p(draws), [2 * 2 / 5, 1.0])


def test_right_and_wrong_is_tested_by_mcnemar():
  first = np.array([1.0] * 8 + [0.0] * 2 + [1.0] * 5 + [np.nan])
  second = np.array([0.0] * 8 + [1.0] * 2 + [1.0] * 5 + [np.nan])
  (found,) = compare({"a": {"em": first}, "b": {"em": second}}).differences
  assert found.questions == 15
  assert found.mcnemar == mcnemar(first[:15] > 0, second[:15] > 0)[2]
  assert found.difference == pytest.approx(6 / 15)
