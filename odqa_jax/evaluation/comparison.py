"""How sure figures are, and whether two systems differ, on the same questions.

found = compare({"bm25": bm25.values, "ours": ours.values}, seed=0)
found.intervals["ours"]["recall@20"]  # (0.71, 0.76)
found.differences[0].p
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

from odqa_jax.evaluation.measures import Values
from odqa_jax.evaluation.statistics import (
  bootstrap_p,
  mcnemar,
  percentile_interval,
  resampled_means,
)

SAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class Difference:
  """What one system is better by than another, in one measure.

  Attributes:
    first: one system.
    second: the other.
    measure: of which this is.
    difference: the first's mean less the second's.
    interval: 95 %, by the paired bootstrap over questions.
    p: two-sided, likewise.
    mcnemar: p of McNemar's exact test, where questions are right or wrong;
      None where they are more or less so.
    questions: that both were measured on.
  """

  first: str
  second: str
  measure: str
  difference: float
  interval: tuple[float, float]
  p: float
  mcnemar: float | None
  questions: int


class Comparison(NamedTuple):
  """Of systems that were asked the same questions.

  Attributes:
    intervals: system → measure → 95 %, by the bootstrap over questions.
    differences: of every two systems in every measure that both have.
  """

  intervals: dict[str, dict[str, tuple[float, float]]]
  differences: list[Difference]


def compare(
  systems: Mapping[str, Values], *, seed: int = 0, samples: int = SAMPLES
) -> Comparison:
  """Resamples the questions, for all systems and measures alike.

  The p of many comparisons are not corrected for their number.

  Args:
    systems: name → values of the questions, in one order for all of them.
    seed: of the resampling.
    samples: how many times the questions are drawn.
  """
  resampled = _resampled(systems, seed, samples)
  intervals: dict[str, dict[str, tuple[float, float]]] = {
    name: {} for name in systems
  }
  for (name, measure), means in resampled.items():
    intervals[name][measure] = _interval(means)
  differences = []
  for first, second in itertools.combinations(systems, 2):
    for measure, values in systems[first].items():
      other = systems[second].get(measure)
      # Figures of other questions are not to be compared.
      if other is None or not np.array_equal(_counted(values), _counted(other)):
        continue
      means = resampled[first, measure] - resampled[second, measure]
      differences.append(_difference(first, second, measure, systems, means))
  return Comparison(intervals, differences)


def _interval(means: Float64[np.ndarray, " s"]) -> tuple[float, float]:
  low, high = percentile_interval(means[:, None])[0].tolist()
  return low, high


def _counted(values: Float64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
  return ~np.isnan(values)


def _resampled(
  systems: Mapping[str, Values], seed: int, samples: int
) -> dict[tuple[str, str], Float64[np.ndarray, " s"]]:
  """(System, measure) → resampled means; those of like questions in one go."""
  groups: dict[bytes, list[tuple[str, str]]] = {}
  for name, values in systems.items():
    for measure, each in values.items():
      groups.setdefault(_counted(each).tobytes(), []).append((name, measure))
  means: dict[tuple[str, str], Float64[np.ndarray, " s"]] = {}
  for keys in groups.values():
    columns = np.stack([systems[name][m] for name, m in keys], axis=1)
    drawn = resampled_means(
      columns[_counted(columns[:, 0])], seed=seed, samples=samples
    )
    means |= dict(zip(keys, drawn.T, strict=True))
  return means


def _difference(
  first: str,
  second: str,
  measure: str,
  systems: Mapping[str, Values],
  means: Float64[np.ndarray, " s"],
) -> Difference:
  counted = _counted(systems[first][measure])
  one, other = (systems[name][measure][counted] for name in (first, second))
  exact = None
  if np.isin([one, other], [0, 1]).all():
    exact = mcnemar(one > 0, other > 0)[2]
  return Difference(
    first,
    second,
    measure,
    float(one.mean() - other.mean()),
    _interval(means),
    float(bootstrap_p(means[:, None])[0]),
    exact,
    len(one),
  )
