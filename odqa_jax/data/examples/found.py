"""What a retriever finds for questions, against all else: to train a filter.

    counts = times_found(open_retrieved(questions, runs, corpus), most=200)
    pool = validation_pool(counts, gold_rows, size=10_000, seed=1234)
    examples = FoundExamples(counts, pool, JudgedPassages(corpus, …), base=10)

"Designing a Minimal Retrieve-and-Read System for Open-Domain QA" (Yang and Seo
2021), Sec. 2.1 and A.1. Positives are the first 200 passages of every question,
more often those that many questions have found; negatives are all others, drawn
anew for every batch. A pool of both, which training never sees, tells which
checkpoint is best.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Int64

from odqa_jax.data.corpus.passages import PassageTexts
from odqa_jax.data.examples.batch import Batch
from odqa_jax.data.examples.judged import JudgedPassages
from odqa_jax.data.examples.retrieved import RetrievedQuestions
from odqa_jax.data.questions.sets import Question


def times_found(
  found: RetrievedQuestions, most: int
) -> Int64[np.ndarray, " n"]:
  """How many questions have each passage of the corpus among their first ones.

  Args:
    found: questions with their runs.
    most: passages of a question that count.
  """
  counts = np.zeros(len(found.corpus), np.int64)
  for i in range(len(found)):
    # No passage comes twice in a run.
    counts[found.candidates(i)[:most]] += 1
  return counts


def times_seen(
  counts: Int64[np.ndarray, " n"], base: int
) -> Int64[np.ndarray, " n"]:
  """⌊log_b f + 1⌋ of frequencies, 0 of those that are 0; A.1.

  Counted in whole numbers: the logarithm of 1000 is below 3 in floating point.
  """
  powers = [1]
  while powers[-1] <= counts.max(initial=0):
    powers.append(powers[-1] * base)
  return np.searchsorted(powers, counts, side="right").astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Pool:
  """Passages that are kept out of training, to measure it.

  Attributes:
    rows: of the corpus, ascending.
    needed: those that answer a validation question.
  """

  rows: Int64[np.ndarray, " p"]
  needed: Bool[np.ndarray, " p"]

  def hit_ratio(self, scores: Float[np.ndarray, " p"]) -> float:
    """The share of the needed ones among as many of the highest scores.

    Source: hit_val of Sec. 2.1. Of equal scores the first rows come first.
    """
    count = int(self.needed.sum())
    best = np.argsort(-scores, kind="stable")[:count]
    return float(self.needed[best].mean())


NO_POOL = Pool(np.zeros(0, np.int64), np.zeros(0, bool))


def positive_rows(
  questions: Sequence[Question], corpus: PassageTexts
) -> Int64[np.ndarray, " g"]:
  """Passages that questions name as positive, ascending, each once."""
  names = {name for question in questions for name in question.positive_ids}
  found = {corpus.find(name) for name in names} - {None}
  return np.array(sorted(row for row in found if row is not None), np.int64)


def answering_rows(found: RetrievedQuestions) -> Int64[np.ndarray, " g"]:
  """Passages that a retriever has put first and that hold an answer; A.1."""
  first = ((i, found.candidates(i)[:1].tolist()) for i in range(len(found)))
  rows = {row for i, best in first for row in best if found.answered(i, row)}
  return np.array(sorted(rows), np.int64)


def validation_pool(
  counts: Int64[np.ndarray, " n"],
  needed: Int64[np.ndarray, " g"],
  *,
  size: int,
  seed: int,
) -> Pool:
  """The passages that answer, filled up with random ones that nobody found.

  Args:
    counts: from `times_found`.
    needed: from `positive_rows` or `answering_rows`.
    size: of the pool; 10,000 in A.1.
    seed: of the draw.

  Raises:
    ValueError: if no passage answers, or so many cannot be drawn.
  """
  if not len(needed):
    raise ValueError(
      f"config.data.pool_questions: none of {len(counts)} passages is known to "
      "answer one of its questions; give a set with positive_ids of this "
      "corpus, or its run as config.data.pool_run."
    )
  others = np.setdiff1d(np.flatnonzero(counts == 0), needed)
  missing = size - len(needed)
  if not 0 < missing < len(others):
    raise ValueError(
      f"config.data.pool_size={size}: {len(needed)} passages answer, and of "
      f"{len(others)} others that no question found some must be left to train "
      f"on; choose {len(needed) + 1} to {len(needed) + len(others) - 1}."
    )
  rng = np.random.default_rng(seed)
  rows = np.concatenate([needed, rng.choice(others, missing, replace=False)])
  rows.sort()
  return Pool(rows, np.isin(rows, needed))


class FoundExamples:
  """A passage that was found, and a random one that was not.

  Half of every batch is positive and half negative, as in Sec. 2.1. An epoch
  has every positive as often as `times_seen` says.

  Args:
    counts: from `times_found`.
    pool: what must not be trained on.
    passages: how they are packed.
    base: of the logarithm; 10, and 2 for TriviaQA.

  Attributes:
    pool: see above.
    left_out: passages that were found but are in the pool.

  Raises:
    ValueError: if no positive or no negative is left.
  """

  def __init__(
    self,
    counts: Int64[np.ndarray, " n"],
    pool: Pool,
    passages: JudgedPassages,
    *,
    base: int,
  ) -> None:
    self.pool = pool
    self._passages = passages
    free = np.ones(len(counts), bool)
    free[pool.rows] = False
    rows = np.flatnonzero(free & (counts > 0))
    self._positives = np.repeat(rows, times_seen(counts[rows], base))
    self._negatives = np.flatnonzero(free & (counts == 0))
    held_out = int((counts[pool.rows] > 0).sum())
    self.left_out = {"found, but in the validation pool": held_out}
    if not len(self._positives) or not len(self._negatives):
      raise ValueError(
        f"config.data.run: of {len(counts)} passages {len(rows)} were found "
        f"and {len(self._negatives)} were not, without the validation pool; a "
        "filter needs both: change config.data.passages, or take a larger "
        "corpus."
      )

  def __len__(self) -> int:
    return len(self._positives)

  def batch(
    self,
    indices: Int[np.ndarray, " b"],
    rng: np.random.Generator,
    rows: slice,
  ) -> Batch:
    """The examples `indices`, of which this process holds `rows`."""
    drawn = rng.integers(len(self._negatives), size=len(indices))
    pairs = [self._positives[indices], self._negatives[drawn]]
    table = np.stack(pairs, axis=1)
    irrelevant = np.broadcast_to([False, True], table.shape)
    return self._passages.batch(table, irrelevant, rows)
