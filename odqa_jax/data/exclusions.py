"""Passages that are no results of a question.

exclusions = find_exclusions(questions, corpus, own=True)
scores, rows = search_embeddings(index, x, k, exclusions=exclusions)
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from odqa_jax.data.corpus.passages import PassageTexts
from odqa_jax.data.questions.sets import Question
from odqa_jax.text.normalised import normalise_text

# Scores, best first, and rows; -1 for none.
Ranked = tuple[Float[np.ndarray, "n k"], Int[np.ndarray, "n k"]]


class Exclusions:
  """What is never returned for each of some questions.

  That is what a question excludes by its ids (BRIGHT), and, where it is asked
  for, a passage whose text, with or without its title, is the question's own
  but for case, punctuation and white space: the self-hits of sets whose
  questions were taken from the corpus (Quora, CQADupStack, ArguAna).
  """

  def __init__(
    self,
    questions: Sequence[Question],
    corpus: PassageTexts,
    *,
    own: bool = False,
  ) -> None:
    """Looks the ids up; those that the corpus lacks exclude nothing."""
    self._corpus = corpus
    self._listed = [
      np.array([r for r in map(corpus.find, q.excluded_ids) if r is not None])
      for q in questions
    ]
    self._texts = [normalise_text(q.question) for q in questions] if own else []

  def search(
    self, search: Callable[[int], Ranked], k: int, count: int
  ) -> Ranked:
    """The k best results: it looks deeper until every question has as many.

    Args:
      search: gives the best rows of all questions, at most `depth` of each.
      k: results of a question.
      count: passages that can be found; more are not asked for.

    Returns:
      As `search`; where a question has fewer than k results the rest is row -1
      with score -inf.
    """
    spare = max(map(len, self._listed), default=0) + bool(self._texts)
    # In powers of two: every depth is compiled once.
    depth = min(k + (1 << spare.bit_length()) - 1, count)
    while True:
      scores, rows = search(depth)
      allowed = self._allowed(rows)
      if depth == count or (allowed.sum(1) >= k).all():
        return _best(scores, rows, allowed, k)
      depth = min(2 * depth, count)

  def left(
    self, scores: Float[np.ndarray, "n d"], rows: Int[np.ndarray, "n d"]
  ) -> Ranked:
    """All that was found without the exclusions, filled up as by `search`."""
    return _best(scores, rows, self._allowed(rows), rows.shape[1])

  def _allowed(self, rows: Int[np.ndarray, "n d"]) -> Bool[np.ndarray, "n d"]:
    allowed = np.array(
      [
        ~np.isin(found, listed)
        for found, listed in zip(rows, self._listed, strict=True)
      ],
      bool,
    ).reshape(rows.shape)
    for i, text in enumerate(self._texts):
      allowed[i] &= [
        row < 0 or not self._is(text, row) for row in rows[i].tolist()
      ]
    return allowed

  def _is(self, text: str, row: int) -> bool:
    body = self._corpus.text(row)
    titled = f"{self._corpus.title(row)} {body}"
    return text in (normalise_text(body), normalise_text(titled))


def _best(
  scores: Float[np.ndarray, "n d"],
  rows: Int[np.ndarray, "n d"],
  allowed: Bool[np.ndarray, "n d"],
  k: int,
) -> Ranked:
  """The k best that are allowed, filled up with none."""
  if allowed.all() and rows.shape[1] == k:
    return scores, rows
  # Stable: what is allowed stays in its order.
  order = np.argsort(~allowed, axis=1, kind="stable")[:, :k]
  kept = np.take_along_axis(allowed, order, 1)
  rows = np.where(kept, np.take_along_axis(rows, order, 1), -1)
  scores = np.where(kept, np.take_along_axis(scores, order, 1), -np.inf)
  missing = (0, 0), (0, k - rows.shape[1])
  return (
    np.pad(scores, missing, constant_values=-np.inf),
    np.pad(rows, missing, constant_values=-1),
  )


def find_exclusions(
  questions: Sequence[Question], corpus: PassageTexts, *, own: bool = False
) -> Exclusions | None:
  """What the questions exclude; None where that is nothing."""
  if own or any(question.excluded_ids for question in questions):
    return Exclusions(questions, corpus, own=own)
  return None
