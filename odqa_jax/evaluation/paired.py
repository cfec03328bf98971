"""Results of questions compared with those of the first file.

rows = compare_outcomes({"a": outcomes_a, "b": outcomes_b})
rows[1]["em"]["p"]
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from odqa_jax.evaluation.comparison import Comparison, compare
from odqa_jax.evaluation.outcomes import Outcome


def compare_outcomes(
  systems: Mapping[str, Sequence[Outcome]], *, seed: int = 0
) -> list[dict[str, Any]]:
  """Means with intervals, and what every other is to the first.

  Args:
    systems: name → outcomes, of which those of questions that all systems have
      are compared, measure by measure.
    seed: of the resampling.

  Returns:
    A row a system: `name`, and by measure `value`, `interval` (95 %, bootstrap
    over questions), `questions` and, from the second system that has it on,
    against the first of those `difference`, `difference_95`, `p` (McNemar's
    exact test for what is right or wrong, else by the paired bootstrap; not
    corrected for the number of systems).

  Raises:
    ValueError: if systems have a measure of no common question.
  """
  values = {
    name: {o.id: o.measures() for o in outcomes}
    for name, outcomes in systems.items()
  }
  rows: dict[str, dict[str, Any]] = {name: {"name": name} for name in systems}
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
      rows[name][measure] = told
  return list(rows.values())


def _compared(
  measure: str, held: Mapping[str, Mapping[str, float]], seed: int
) -> dict[str, dict[str, Any]]:
  """One measure of the systems that have it."""
  first, *_ = held
  common = [q for q in held[first] if all(q in of for of in held.values())]
  if not common:
    raise ValueError(
      f"{measure}: {', '.join(held)} have no question in common; compare "
      "results of one question set."
    )
  table = {
    name: {measure: np.array([of[q] for q in common], np.float64)}
    for name, of in held.items()
  }
  found = compare(table, seed=seed)
  rows = {
    name: {
      "value": float(table[name][measure].mean()),
      "interval": list(found.intervals[name][measure]),
      "questions": len(common),
    }
    for name in held
  }
  for name, told in _against(found, first).items():
    rows[name] |= told
  return rows


def _against(found: Comparison, first: str) -> dict[str, dict[str, Any]]:
  """What the others are better by than the first."""
  return {
    each.second: {
      "difference": -each.difference,
      "difference_95": [-end for end in reversed(each.interval)],
      "p": each.p if each.mcnemar is None else each.mcnemar,
    }
    for each in found.differences
    if each.first == first
  }
