"""Gold passages and random others, by which a pruner tells what is needed.

    golden = golden_passages(questions, corpus, negatives=2, seed=1234)
    examples = GoldenExamples(golden, JudgedPassages(corpus, …))

"Pruning the Index Contents for Memory Efficient Open-Domain QA" trains on the
gold passages of NQ's train questions with two random others each, 58,876 · 3 =
176,628; it validates and tests on those of NQ's dev questions with one other
each, 2,166 · 2 = 4,332 and 4,349 · 2 = 8,698. DPR's files, which map questions
to passages, have as many questions; `split_by_gold` parts those of dev.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.passages import PassageTexts
from odqa_jax.data.examples.batch import Batch
from odqa_jax.data.examples.judged import JudgedPassages
from odqa_jax.data.questions.sets import Question


class Golden(NamedTuple):
  """Passages of which is known whether they are needed.

  Attributes:
    rows: of the corpus: a gold passage, then its negatives, then the next.
    irrelevant: False for gold passages.
    left_out: questions without any, by reason.
  """

  rows: Int[np.ndarray, " n"]
  irrelevant: Bool[np.ndarray, " n"]
  left_out: dict[str, int]


def golden_passages(
  questions: Sequence[Question],
  corpus: Corpus,
  *,
  negatives: int,
  seed: int,
) -> Golden:
  """The first gold passage of every question, and random others.

  No gold passage of these questions is drawn as a negative.

  Args:
    questions: with `positive_ids`.
    corpus: the evidence.
    negatives: for each question, at least 1.
    seed: of the draw.

  Raises:
    ValueError: if no question has a gold passage in the corpus, or all passages
      are gold.
  """
  left_out = {"without a gold passage": 0, "with gold not in the corpus": 0}
  first: list[int] = []
  golds: set[int] = set()
  unnamed, elsewhere = left_out
  for question in questions:
    found = map(corpus.find, question.positive_ids)
    rows = [row for row in found if row is not None]
    golds.update(rows)
    if rows:
      first.append(rows[0])
    else:
      left_out[elsewhere if question.positive_ids else unnamed] += 1
  if not first:
    raise ValueError(
      f"config.data.questions: none of {len(questions)} questions has a gold "
      f"passage in {corpus.directory} ({left_out}); give sets with "
      "positive_ids of this corpus."
    )
  if len(golds) == len(corpus):
    raise ValueError(
      f"{corpus.directory}: all {len(corpus)} passages are gold, so none is "
      "irrelevant; give a larger corpus."
    )
  rng = np.random.default_rng(seed)
  drawn = _others(len(first) * negatives, len(corpus), golds, rng)
  groups = np.array(first, np.int64)[:, None]
  table = np.concatenate([groups, drawn.reshape(-1, negatives)], axis=1)
  irrelevant = np.ones(table.shape, bool)
  irrelevant[:, 0] = False
  return Golden(table.reshape(-1), irrelevant.reshape(-1), left_out)


def _others(
  count: int, size: int, golds: set[int], rng: np.random.Generator
) -> Int[np.ndarray, " n"]:
  """Random rows that are not gold."""
  known = np.fromiter(golds, np.int64, len(golds))
  rows = rng.integers(size, size=count)
  while (again := np.flatnonzero(np.isin(rows, known))).size:
    rows[again] = rng.integers(size, size=len(again))
  return rows


def split_by_gold(
  questions: Sequence[Question], corpus: PassageTexts, first: int, *, seed: int
) -> tuple[list[Question], list[Question]]:
  """Parts questions at random; none of one part has the other's gold passage.

  Args:
    questions: those without a gold passage in the corpus are in neither part.
    corpus: the evidence.
    first: questions of the first part; of NQ's dev 2,166.
    seed: of the order.

  Raises:
    ValueError: if there are not enough questions, or so many have one passage
      that no part is of this size.
  """
  groups: dict[int, list[int]] = {}
  for i, question in enumerate(questions):
    rows = (corpus.find(name) for name in question.positive_ids)
    row = next((row for row in rows if row is not None), None)
    if row is not None:
      groups.setdefault(row, []).append(i)
  order = list(groups.values())
  shuffled = np.random.default_rng(seed).permutation(len(order)).tolist()
  chosen: list[int] = []
  for number in shuffled:
    if len(chosen) + len(order[number]) <= first:
      chosen += order[number]
  if len(chosen) != first:
    raise ValueError(
      f"{first} of {sum(map(len, order))} questions with a gold passage cannot "
      f"be parted from the others ({len(chosen)} at most, with this seed); "
      "lower the number."
    )
  mine = set(chosen)
  rest = {i for group in order for i in group} - mine
  return (
    [questions[i] for i in sorted(mine)],
    [questions[i] for i in sorted(rest)],
  )


class GoldenExamples:
  """One passage each, with whether it is irrelevant.

  Args:
    golden: from `golden_passages`.
    passages: how they are packed.

  Attributes:
    left_out: questions without an example, by reason.
  """

  def __init__(self, golden: Golden, passages: JudgedPassages) -> None:
    self.left_out = golden.left_out
    self._golden = golden
    self._passages = passages

  def __len__(self) -> int:
    return len(self._golden.rows)

  def batch(
    self,
    indices: Int[np.ndarray, " b"],
    rng: np.random.Generator,
    rows: slice,
  ) -> Batch:
    """The examples `indices`, of which this process holds `rows`."""
    del rng
    table, irrelevant = self._golden.rows, self._golden.irrelevant
    return self._passages.batch(
      table[indices][:, None], irrelevant[indices][:, None], rows
    )
