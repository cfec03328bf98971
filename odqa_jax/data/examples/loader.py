"""Records → batches of fixed shapes, in an order that (seed, epoch) decides.

Grain shuffles record *numbers* and batches them; each batch of numbers is then
turned into arrays at once, in NumPy. Every process plans the whole global
batch, which costs nothing but a few random numbers, and reads only its own
rows; so all agree on the padded lengths, and the position is the same small
state everywhere.

A batch of questions and passages is a dict of

| key              | shape, dtype       | meaning                             |
|------------------|--------------------|-------------------------------------|
| question_ids     | [b, l] int32       | [CLS] question [SEP]                |
| question_lengths | [b] int32          | tokens before the padding           |
| passage_ids      | [b, k, l] int32    | the positive first, then negatives  |
| passage_lengths  | [b, k] int32       |                                     |
| passage_rows     | [b, k] int32       | identity; below 0 for none          |
| example_mask     | [b] bool           | False for padding                   |
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np
from jaxtyping import Int

from odqa_jax.data.corpus.corpus import Corpus, pack_questions
from odqa_jax.data.mining.pairs import Pairs
from odqa_jax.data.questions.sets import Question

Batch = dict[str, np.ndarray]

# Every pair of a question's and a passage's bucket is compiled once.
BUCKETS = (32, 64, 128, 256, 512)


def bucket_length(lengths: Int[np.ndarray, "..."], longest: int) -> int:
  """The smallest bucket that holds all `lengths`, at most `longest`."""
  need = int(np.max(lengths, initial=1))
  return next((b for b in BUCKETS if need <= b <= longest), longest)


@runtime_checkable
class Examples(Protocol):
  """What can be loaded: numbered examples that come in batches."""

  def __len__(self) -> int: ...

  def batch(
    self,
    indices: Int[np.ndarray, " b"],
    rng: np.random.Generator,
    rows: slice,
  ) -> Batch:
    """The rows `rows` of the batch made of the examples `indices`."""
    ...


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
    negatives = rng.permutation(pairs.negatives(index))
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


def train_batches(
  examples: Examples, batch_size: int, *, seed: int, rows: slice
) -> grain.DatasetIterator:
  """Endless batches; `get_state`/`set_state` save and restore the position.

  Batches run across the border of epochs, so every example is used equally
  often and every batch is full.

  Args:
    examples: what to load.
    batch_size: size of the *global* batch.
    seed: with the epoch's number it decides the order; with the batch's
      number it decides what is drawn inside a batch.
    rows: this process's part of every batch.
  """

  def load(indices: Any, rng: np.random.Generator) -> Batch:
    return examples.batch(np.asarray(indices), rng, rows)

  dataset = (
    grain.MapDataset.range(len(examples))
    .seed(seed)
    .shuffle()
    .repeat()
    .batch(batch_size)
    .random_map(load)
  )
  options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
  return iter(dataset.to_iter_dataset(options))


def question_batches(
  token_lists: list[list[int]],
  tokenizer: Any,
  *,
  batch_size: int,
  longest: int,
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
  """Questions in order, as `(ids, lengths, how many are real)`.

  The last batch is filled up with its own last question, never dropped.
  """
  for start in range(0, len(token_lists), batch_size):
    chunk = token_lists[start : start + batch_size]
    real = len(chunk)
    chunk = chunk + [chunk[-1]] * (batch_size - real)
    pad = bucket_length(np.array([len(t) + 2 for t in chunk]), longest)
    ids, lengths = pack_questions(chunk, pad, tokenizer)
    yield ids, lengths, real
