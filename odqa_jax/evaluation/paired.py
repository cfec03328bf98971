"""Systems compared on the questions that all of them were asked.

rows = compare_outcomes({"a": outcomes_a, "b": outcomes_b})
rows[1]["em"]["p"]
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64
from scipy.stats import permutation_test

from odqa_jax.evaluation.outcomes import Outcome
from odqa_jax.evaluation.statistics import bootstrap_intervals, mcnemar

_RESAMPLED = 9999
_AT_ONCE = 256


def compare_outcomes(
  systems: Mapping[str, Sequence[Outcome]], *, seed: int = 0
) -> list[dict[str, Any]]:
  """Means with intervals, and what the first is to every other.

  Args:
    systems: name → outcomes, of which those of questions that all systems have
      are compared, measure by measure.
    seed: of the resampling.

  Returns:
    A row a system: `name`, and by measure `value`, `interval` (95 %, bootstrap
    over questions), `questions` and, from the second system on, against the
    first `difference`, `difference_95`, `p` (McNemar's exact test for what is
    right or wrong, else a paired permutation test, two-sided, not corrected
    for the number of systems).

  Raises:
    ValueError: if a measure that two systems have is of no common question.
  """
  values = {
    name: {o.id: o.measures() for o in outcomes}
    for name, outcomes in systems.items()
  }
  rows: list[dict[str, Any]] = [{"name": name} for name in systems]
  names = dict.fromkeys(
    m for found in values.values() for each in found.values() for m in each
  )
  for measure in names:
    held = {
      system: {q: m[measure] for q, m in found.items() if measure in m}
      for system, found in values.items()
    }
    held = {system: of for system, of in held.items() if of}
    for name, told in _compared(measure, held, seed).items():
      rows[list(systems).index(name)][measure] = told
  return rows


def _compared(
  measure: str, held: Mapping[str, Mapping[str, float]], seed: int
) -> dict[str, dict[str, Any]]:
  """One measure of the systems that have it."""
  first, *_ = held.values()
  common = [q for q in first if all(q in of for of in held.values())]
  if not common:
    raise ValueError(
      f"{measure}: {', '.join(held)} have no question in common; compare "
      "results of one question set."
    )
  table = np.array([[of[q] for of in held.values()] for q in common])
  intervals = bootstrap_intervals(table, seed=seed)
  rows = {}
  for i, name in enumerate(held):
    rows[name] = {
      "value": float(table[:, i].mean()),
      "interval": intervals[i].tolist(),
      "questions": len(common),
    }
    if i:
      rows[name] |= _against(table[:, 0], table[:, i], seed)
  return rows


def _against(
  first: Float64[np.ndarray, " n"], other: Float64[np.ndarray, " n"], seed: int
) -> dict[str, Any]:
  difference = other - first
  ends = bootstrap_intervals(difference[:, None], seed=seed)[0]
  told = {
    "difference": float(difference.mean()),
    "difference_95": ends.tolist(),
  }
  if np.isin(np.stack([first, other]), (0.0, 1.0)).all():
    only_first, only_here, p = mcnemar(first == 1, other == 1)
    return told | {"only_first": only_first, "only_here": only_here, "p": p}
  test = permutation_test(
    (other, first),
    lambda a, b, axis: (a - b).mean(axis=axis),
    permutation_type="samples",
    vectorized=True,
    n_resamples=_RESAMPLED,
    batch=_AT_ONCE,
    rng=np.random.default_rng(seed),
  )
  return told | {"p": float(test.pvalue)}
