"""From the best spans of each passage to the answers of a question.

answers = best_answers(found, corpus, k=20, most=10)
answers[0].text, answers[0].log_prob
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64

from odqa_jax.text.answers import normalise_answer


@runtime_checkable
class Texts(Protocol):
  """What spans are places in: a corpus, or the passages of a pack."""

  def text(self, row: int) -> str:
    """The text of a passage."""


@dataclasses.dataclass(frozen=True)
class PassageSpans:
  """The best spans of every passage of one question, t of each.

  Attributes:
    rows: of the corpus.
    starts: first character of a span; −1: there is none.
    ends: the character after its last.
    log_scores: component → log-probability within the passage.
    log_sums: component → logarithm of the passage's sum.
    objective: by which the reader was trained, and answers.
    rank_weight: λ of `answer_scoring.py`, by which it answers; None: by its
      objective.
  """

  rows: Int64[np.ndarray, " m"]
  starts: Int64[np.ndarray, "m t"]
  ends: Int64[np.ndarray, "m t"]
  log_scores: Mapping[str, Float64[np.ndarray, "m t"]]
  log_sums: Mapping[str, Float64[np.ndarray, " m"]]
  objective: str = "independent"
  rank_weight: float | None = None


@dataclasses.dataclass(frozen=True)
class ExtractedAnswer:
  """Words of a passage.

  Attributes:
    text: as they stand there.
    log_prob: the sum of `scores`; of merged spans, log of the sum of theirs.
      With a weight of ranks their weighted sum, which is no probability.
    row: of their passage.
    start: their place there, in characters; `end` is past the last one.
    end: likewise.
    scores: component → log-probability over all passages of the question; of
      a reader with DPR's objective, those of start and end are over the tokens
      of the passage.
  """

  text: str
  log_prob: float
  row: int
  start: int
  end: int
  scores: Mapping[str, float]


def best_answers(
  found: PassageSpans,
  corpus: Texts,
  *,
  most: int,
  k: int | None = None,
  merge: bool = False,
) -> list[ExtractedAnswer]:
  """The likeliest spans of a question, the best first.

  A reader with DPR's objective answers from the passage that it ranks first
  alone: "Dense Passage Retrieval for Open-Domain Question Answering", Sec. 6.1;
  unless its spans compete by a weight of the ranks.
  Of equal spans that of the first row, then of the first place comes first,
  whatever the order of the passages was.

  Args:
    found: its passages, of each as many spans as `most` at least.
    corpus: theirs.
    most: how many.
    k: the first passages alone; None: all.
    merge: of these spans, make one answer of those that are equal once they are
      normalised; its probability is the sum, its place the likeliest.
  """
  rows, starts, ends = found.rows[:k], found.starts[:k], found.ends[:k]
  if not len(rows):
    return []
  scores = _log_probs(found, k)
  total = np.sum([*_weighed(scores, found.rank_weight)], axis=0)
  if found.objective == "dpr" and found.rank_weight is None:
    starts = _of_one_passage(rows, starts, found.log_sums["passage"][:k])
  passages = np.broadcast_to(rows[:, None], starts.shape)
  keys = (ends, starts, passages, -total)
  order = np.lexsort([key.ravel() for key in keys])
  answers: list[ExtractedAnswer] = []
  # Pieces of one letter have its place: their spans are one answer.
  told: set[tuple[int, int, int]] = set()
  for flat in order.tolist():
    i, j = divmod(flat, starts.shape[1])
    if starts[i, j] < 0:
      continue
    row, start, end = int(rows[i]), int(starts[i, j]), int(ends[i, j])
    start, end = _trimmed(corpus.text(row), start, end)
    if start == end or (row, start, end) in told:
      continue
    told.add((row, start, end))
    each = {name: float(x[i, j]) for name, x in scores.items()}
    text = corpus.text(row)[start:end]
    answers.append(
      ExtractedAnswer(text, float(total[i, j]), row, start, end, each)
    )
    if len(answers) == most:
      break
  return _merged(answers) if merge else answers


def _log_probs(
  found: PassageSpans, k: int | None
) -> dict[str, Float64[np.ndarray, "m t"]]:
  """Component → log-probability of every span of the first k passages."""
  scores = {}
  for name, within in found.log_scores.items():
    scores[name] = within[:k]
    # DPR's tokens compete with those of their own passage alone.
    if found.objective != "dpr" or name == "passage":
      sums = found.log_sums[name][:k]
      scores[name] = within[:k] + (sums - np.logaddexp.reduce(sums))[:, None]
  return scores


def _weighed(
  scores: Mapping[str, Float64[np.ndarray, "m t"]], rank_weight: float | None
) -> Iterator[Float64[np.ndarray, "m t"]]:
  """What is summed up: the scores, or (1 − λ) of tokens and 2λ of ranks."""
  for name, values in scores.items():
    if rank_weight is None:
      yield values
    else:
      weight = 2 * rank_weight if name == "passage" else 1 - rank_weight
      # −∞, of no span, stays what it is.
      yield np.where(np.isneginf(values), values, weight * values)


def _of_one_passage(
  rows: Int64[np.ndarray, " m"],
  starts: Int64[np.ndarray, "m t"],
  scores: Float64[np.ndarray, " m"],
) -> Int64[np.ndarray, "m t"]:
  """The starts, −1 outside the best passage; of two, that of the first row."""
  scores = np.where((starts >= 0).any(axis=1), scores, -np.inf)
  chosen = np.lexsort((rows, -scores))[0]
  return np.where(np.arange(len(rows))[:, None] == chosen, starts, -1)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
  """Without white space at either end, which byte-level pieces may have."""
  words = text[start:end]
  start += len(words) - len(words.lstrip())
  return start, start + len(words.strip())


def _merged(answers: Sequence[ExtractedAnswer]) -> list[ExtractedAnswer]:
  same: dict[str, list[ExtractedAnswer]] = {}
  for answer in answers:
    same.setdefault(normalise_answer(answer.text), []).append(answer)
  merged = []
  for some in same.values():
    total = float(np.logaddexp.reduce([a.log_prob for a in some]))
    merged.append(dataclasses.replace(some[0], log_prob=total))
  return sorted(merged, key=lambda a: -a.log_prob)
