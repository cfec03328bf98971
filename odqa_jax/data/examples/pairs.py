"""Questions with their passages: a positive and hard negatives mined before."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.packing import pack_questions
from odqa_jax.data.examples.batch import Batch, bucket_length
from odqa_jax.data.mining.pairs import Pairs
from odqa_jax.data.questions.sets import Question


class PairExamples:
  """A question, its first positive and `hard_negatives` drawn negatives.

  "End-to-End Training of Neural Retrievers", Sec. 2.2.1. A pair with fewer
  negatives than asked for is filled up with random rows of the corpus.

  Args:
    sets: question sets, each with the pairs that number its questions.
    corpus: the evidence; its tokenizer encodes the questions.
    question_length: longest question in tokens, with special tokens.
    passage_length: longest passage in tokens, with special tokens.
    hard_negatives: negatives per question, 0 or more.
    title: whether passages begin with their title.
  """

  def __init__(
    self,
    sets: Sequence[tuple[list[Question], Pairs]],
    corpus: Corpus,
    *,
    question_length: int,
    passage_length: int,
    hard_negatives: int,
    title: bool,
  ) -> None:
    self.sets = [pairs for _, pairs in sets]
    self.ends = np.cumsum([len(pairs) for pairs in self.sets])
    self.corpus = corpus
    self.left_out: dict[str, int] = {}
    self.question_length = question_length
    self.hard_negatives = hard_negatives
    self.passage_length = passage_length
    self.title = title
    texts = [
      questions[int(i)].question
      for questions, pairs in sets
      for i in pairs.question
    ]
    self.tokens = corpus.tokenizer.encode_batch(texts)
    self.lengths = corpus.packed_lengths(passage_length, title=title)

  def __len__(self) -> int:
    return int(self.ends[-1])

  def _passage_rows(
    self, index: int, rng: np.random.Generator
  ) -> Int[np.ndarray, " k"]:
    which = int(np.searchsorted(self.ends, index, side="right"))
    pairs = self.sets[which]
    index -= int(self.ends[which]) - len(pairs)
    positives = pairs.positive(index)
    # A copy: NumPy refuses to shuffle what is mapped, if there is none of it.
    negatives = rng.permutation(np.array(pairs.negatives(index)))
    rows = [int(positives[0]), *negatives[: self.hard_negatives].tolist()]
    while len(rows) <= self.hard_negatives:
      row = int(rng.integers(len(self.corpus)))
      if row not in positives:
        rows.append(row)
    return np.array(rows, np.int64)

  def batch(
    self,
    indices: Int[np.ndarray, " b"],
    rng: np.random.Generator,
    rows: slice,
  ) -> Batch:
    """The examples `indices`, of which this process holds `rows`."""
    passages = np.stack([self._passage_rows(int(i), rng) for i in indices])
    passage_pad = bucket_length(self.lengths[passages], self.passage_length)
    question_pad = bucket_length(
      np.array([len(self.tokens[i]) + 2 for i in indices]),
      self.question_length,
    )
    question_ids, question_lengths = pack_questions(
      [self.tokens[i] for i in indices[rows]],
      question_pad,
      self.corpus.tokenizer,
    )
    local = passages[rows]
    passage_ids, passage_lengths = self.corpus.passage_inputs(
      local.reshape(-1), passage_pad, title=self.title
    )
    return {
      "question_ids": question_ids,
      "question_lengths": question_lengths,
      "passage_ids": passage_ids.reshape(*local.shape, passage_pad),
      "passage_lengths": passage_lengths.reshape(local.shape),
      "passage_rows": local.astype(np.int32),
      "example_mask": np.ones(len(local), bool),
    }
