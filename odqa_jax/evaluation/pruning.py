"""What pruning costs: recall and exact match against the share that is kept.

    orders = {"classifier": scores, "random": random_scores(len(corpus), 0)}
    rows = pruning_curve(ranking, questions, corpus, orders)
    print(curve_table(rows))

A ranking of the whole corpus, without the passages that are gone, is that of
the pruned one: exact search orders what is left alike. It ends earlier, though;
search deep enough, as `short` tells.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Int64

from odqa_jax.data.corpus.kept import choose_rows, new_rows
from odqa_jax.data.corpus.passages import PassageTexts
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.runs import Ranking, check_aligned
from odqa_jax.evaluation.measures import CUTOFFS
from odqa_jax.reading.candidates import CandidateSet, is_right
from odqa_jax.runtime.report import text_table
from odqa_jax.text.answers import has_answer

SHARES = (1.0, 0.5, 0.25, 0.08, 0.04)
_READER = "extractive_reader"


def prune_ranking(ranking: Ranking, kept: Int64[np.ndarray, " m"]) -> Ranking:
  """A ranking of a corpus → that of the corpus that was cut from it.

  Args:
    ranking: rows of the whole.
    kept: the rows that were kept, ascending.

  Returns:
    New rows in the same order; what is gone is left out, and -1 comes last.
  """
  rows = new_rows(kept, ranking.rows)
  # Stable: what is left stays in its order.
  order = np.argsort(rows < 0, axis=1, kind="stable")
  rows = np.take_along_axis(rows, order, 1)
  scores = np.take_along_axis(ranking.scores, order, 1)
  scores = np.where(rows < 0, -np.inf, scores).astype(ranking.scores.dtype)
  return dataclasses.replace(ranking, rows=rows, scores=scores)


def random_scores(count: int, seed: int) -> Float[np.ndarray, " n"]:
  """Scores by which pruning keeps any passages."""
  return np.random.default_rng(seed).random(count)


def frequency_scores(
  ranking: Ranking, count: int, seed: int
) -> Float[np.ndarray, " n"]:
  """Scores by which pruning keeps what a retriever finds most often.

  Args:
    ranking: of other questions than those to measure on.
    count: passages of the corpus.
    seed: decides between those that were found as often.
  """
  found = np.bincount(ranking.rows[ranking.rows >= 0], minlength=count)
  return random_scores(count, seed) - found


def pruning_curve(
  ranking: Ranking,
  questions: Sequence[Question],
  corpus: PassageTexts,
  orders: Mapping[str, Float[np.ndarray, " n"]],
  *,
  shares: Sequence[float] = SHARES,
  gold: Int64[np.ndarray, " g"] | None = None,
  candidates: CandidateSet | None = None,
) -> list[dict[str, Any]]:
  """Measures every way to prune at every share.

  Args:
    ranking: of the questions, over the whole corpus.
    questions: in its order; those without answers are left out.
    corpus: the whole.
    orders: by name, how irrelevant each passage is.
    shares: of the corpus, above 0, at most 1.
    gold: rows that are kept by all of them; see `choose_rows`.
    candidates: of these questions; the exact match is that of the extractive
      reader's best span in a passage that is kept.

  Returns:
    A row for each: `name`, `share`, `kept`, `recall` ({"20": …}), `short` (the
    share of questions with fewer passages left than the largest cutoff), and
    with candidates `em` and `unread`, the share of questions of which no span
    is left: misses here, where a pruned system would read other passages, so
    that `em` is a lower bound of its own (all spans of a reader with DPR's
    objective are of one passage, and are gone with it).

  Raises:
    ValueError: if the ranking is of other questions, none has answers, or the
      extractive reader has not scored the candidates.
  """
  check_aligned(ranking, questions)
  asked = [i for i, q in enumerate(questions) if q.answers]
  if not asked:
    raise ValueError("no question has answers to look for; give some that do.")
  cutoffs = [c for c in CUTOFFS if c <= ranking.rows.shape[1]]
  rows = ranking.rows[asked]
  chosen = [questions[i] for i in asked]
  hits = _all_hits(rows, chosen, corpus)
  spans = None
  if candidates is not None:
    spans = _Spans(candidates, chosen, corpus)
  found = []
  for name, scores in orders.items():
    for share in shares:
      keep = max(round(share * len(corpus)), 1)
      kept = choose_rows(scores, keep=keep, gold=gold)
      # One more for row -1, which is never kept.
      mask = np.zeros(len(corpus) + 1, bool)
      mask[kept] = True
      row = {"name": name, "share": share, "kept": len(kept)}
      row |= _recall(mask[rows], hits, cutoffs)
      found.append(row | (spans.measured(mask) if spans else {}))
  return found


def _all_hits(
  rows: Int[np.ndarray, "n k"],
  questions: Sequence[Question],
  corpus: PassageTexts,
) -> Bool[np.ndarray, "n k"]:
  """Whether each passage has an answer; also those after the first hit."""
  hits = np.zeros(rows.shape, bool)
  for i, question in enumerate(questions):
    for rank, row in enumerate(rows[i].tolist()):
      hits[i, rank] = row >= 0 and has_answer(
        corpus.text(row), question.answers, question.answer_type
      )
  return hits


def _recall(
  left: Bool[np.ndarray, "n k"],
  hits: Bool[np.ndarray, "n k"],
  cutoffs: Sequence[int],
) -> dict[str, Any]:
  ranks = np.cumsum(left, axis=1)
  shares = {
    str(c): float((left & hits & (ranks <= c)).any(axis=1).mean())
    for c in cutoffs
  }
  few = left.sum(axis=1) < max(cutoffs, default=0)
  return {"recall": shares, "short": float(few.mean())}


class _Spans:
  """The extractive reader's spans of all questions, the best first."""

  def __init__(
    self,
    candidates: CandidateSet,
    questions: Sequence[Question],
    corpus: PassageTexts,
  ) -> None:
    if _READER not in candidates.components:
      raise ValueError(
        f"the candidates have no scores of the component {_READER!r}, but of "
        f"{', '.join(candidates.components)}; the curve of exact match is its."
      )
    known = {c.question_id: c for c in candidates.candidates}
    self._questions: list[list[tuple[int, bool]]] = []
    for question in questions:
      spans = known[question.id].spans if question.id in known else ()
      best = sorted(spans, key=lambda span: -span.scores[_READER])
      ranked = []
      for span in best:
        row = corpus.find(span.passage)
        if row is None:
          raise ValueError(
            f"the candidates of question {question.id!r} name the passage "
            f"{span.passage!r}, which the corpus lacks; give those of this "
            "corpus, before it is pruned."
          )
        ranked.append((row, is_right(span.text, question)))
      self._questions.append(ranked)

  def measured(self, mask: Bool[np.ndarray, " n"]) -> dict[str, float]:
    """`em` and `unread`, with the passages that are kept."""
    best = [
      next((hit for row, hit in spans if mask[row]), None)
      for spans in self._questions
    ]
    return {
      "em": float(np.mean([bool(hit) for hit in best])),
      "unread": float(np.mean([hit is None for hit in best])),
    }


def curve_table(rows: Sequence[Mapping[str, Any]]) -> str:
  """The rows of `pruning_curve` as text, in percent."""
  cutoffs = list(rows[0]["recall"])
  measured = ["em", "unread"] if "em" in rows[0] else []
  head = ["pruned by", "share", "kept", *(f"recall@{c}" for c in cutoffs)]
  head += [name.replace("em", "EM") for name in measured] + ["short"]
  cells = [
    [
      row["name"],
      f"{100 * row['share']:g}",
      f"{row['kept']:,}",
      *(f"{100 * row['recall'][c]:.1f}" for c in cutoffs),
      *(f"{100 * row[name]:.1f}" for name in (*measured, "short")),
    ]
    for row in rows
  ]
  return text_table([head, *cells], right=range(1, len(head)))
