"""What each component adds to a fusion: all subsets of them, in one table.

rows = ablate(candidates, questions)
print(ablation_table(rows))
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from odqa_jax.data.questions.sets import Question
from odqa_jax.evaluation.statistics import bootstrap_intervals, mcnemar
from odqa_jax.reading.candidates import (
  Candidates,
  CandidateSet,
  is_right,
  same_components,
)
from odqa_jax.reading.fusion import L2, Fusion, tune
from odqa_jax.runtime.report import text_table
from odqa_jax.text.answers import f1

# The answer that the generative reader has written, alone.
GENERATED = "generated answer"
_NOTHING = "(nothing)"


@dataclasses.dataclass(frozen=True)
class Measured:
  """Candidates and the questions that are measured; see `ablate`."""

  candidates: CandidateSet
  questions: Sequence[Question]

  def pairs(self) -> list[tuple[Question, Candidates]]:
    """The questions that have answers, with their candidates.

    Raises:
      ValueError: if there are none, or candidates of other questions.
    """
    found = self.candidates.of(self.questions)
    pairs = zip(self.questions, found, strict=True)
    answered = [(q, c) for q, c in pairs if q.answers]
    if not answered:
      raise ValueError(
        "no question has an answer to compare with; give some that have."
      )
    return answered


def ablate(
  tuned_on: Measured,
  measured_on: Measured | None = None,
  *,
  components: Sequence[str] | None = None,
  l2: float = L2,
  seed: int = 0,
) -> list[dict[str, Any]]:
  """Tunes a fusion of every subset of the components, and measures it.

  Args:
    tuned_on: a dev set.
    measured_on: a test set of the same components; None: the dev set itself,
      which flatters the larger subsets a little.
    components: see `tune`; None: all that have scored.
    l2: see `tune`.
    seed: of the bootstrap.

  Returns:
    A row for each subset, from none to all, and one of the generated answer
    alone where there is one: `name`, `em`, `f1` (None where all references are
    patterns), `em_95` and `f1_95` (bootstrap over questions), `extractive` (the
    share of questions answered by a span), and against the fusion of all
    components, the last subset, McNemar's `only_here`, `only_all` and `p`.

  Raises:
    ValueError: see `tune`; or if the sets have other components.
  """
  measured = measured_on or tuned_on
  theirs = measured.candidates.components
  if not same_components(theirs, tuned_on.candidates.components):
    raise ValueError(
      f"the candidates to measure are of the components {dict(theirs)}, those "
      f"to tune on of {dict(tuned_on.candidates.components)}; make both with "
      "the same."
    )
  pairs = measured.pairs()
  names = [n for n in theirs if components is None or n in components]
  subsets = [
    subset
    for size in range(len(names) + 1)
    for subset in itertools.combinations(names, size)
  ]
  given = tuned_on.candidates, tuned_on.questions
  systems: dict[str, Callable[[Candidates], tuple[str, bool]]] = {}
  if any(c.generated for _, c in pairs):
    systems[GENERATED] = _generated
  for subset in subsets:
    fusion = tune(*given, components=subset, l2=l2)
    systems[" + ".join(subset) or _NOTHING] = _answerer(fusion)
  return _rows(systems, pairs, seed)


def _generated(candidates: Candidates) -> tuple[str, bool]:
  return (candidates.generated.text if candidates.generated else ""), False


def _answerer(fusion: Fusion) -> Callable[[Candidates], tuple[str, bool]]:
  def answer(candidates: Candidates) -> tuple[str, bool]:
    found = fusion.answer(candidates)
    return found.text, found.extractive

  return answer


def _rows(
  systems: dict[str, Callable[[Candidates], tuple[str, bool]]],
  pairs: Sequence[tuple[Question, Candidates]],
  seed: int,
) -> list[dict[str, Any]]:
  """The figures of every system; the last one is the fusion of all."""
  answers = {
    name: [answer(candidates) for _, candidates in pairs]
    for name, answer in systems.items()
  }
  questions = [question for question, _ in pairs]
  right = {
    name: np.array(
      [is_right(a, q) for (a, _), q in zip(given, questions, strict=True)]
    )
    for name, given in answers.items()
  }
  plain = np.array([q.answer_type == "string" for q in questions])
  overlap = {
    name: np.array(
      [
        f1(a, q.answers)
        for (a, _), q in zip(given, questions, strict=True)
        if q.answer_type == "string"
      ]
    )
    for name, given in answers.items()
  }
  hits = np.stack([*right.values()], axis=1)
  em = _figures("em", hits.astype(np.float64), seed)
  overlaps: list[dict[str, Any]] = [{"f1": None, "f1_95": None}] * len(systems)
  if plain.any():
    overlaps = _figures("f1", np.stack([*overlap.values()], axis=1), seed)
  *_, whole = right.values()
  rows = []
  for i, name in enumerate(systems):
    only_here, only_all, p = mcnemar(right[name], whole)
    extractive = float(np.mean([spans for _, spans in answers[name]]))
    row = {"name": name, "questions": len(pairs), **em[i], **overlaps[i]}
    row |= {"extractive": extractive}
    rows.append(row | {"only_here": only_here, "only_all": only_all, "p": p})
  return rows


def _figures(
  name: str, values: Float[np.ndarray, "n m"], seed: int
) -> list[dict[str, Any]]:
  intervals = bootstrap_intervals(values, seed=seed)
  means = values.astype(np.float64).mean(axis=0)
  return [
    {name: float(mean), f"{name}_95": interval.tolist()}
    for mean, interval in zip(means, intervals, strict=True)
  ]


def ablation_table(rows: Sequence[dict[str, Any]]) -> str:
  """The rows of `ablate` as text, in percent."""
  head = ["components", "EM", "95 %", "F1", "95 %", "spans", "p"]
  cells = [
    [
      row["name"],
      *_share(row["em"], row["em_95"]),
      *_share(row["f1"], row["f1_95"]),
      f"{100 * row['extractive']:.1f}",
      f"{row['p']:.3g}",
    ]
    for row in rows
  ]
  return text_table([head, *cells], right=range(1, len(head)))


def _share(
  value: float | None, interval: Sequence[float] | None
) -> tuple[str, str]:
  if value is None or interval is None:
    return "-", "-"
  low, high = interval
  return f"{100 * value:.1f}", f"{100 * low:.1f}–{100 * high:.1f}"
