"""Pairs of question and passage as the arrays of a batch.

inputs = PairInputs(vocabulary, corpus, length=256, title=True)
batch, encodings = inputs.pack(questions, rows, passage_first=False)
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tokenizers

from odqa_jax.data.corpus.passages import PassageTexts
from odqa_jax.data.examples.batch import Batch
from odqa_jax.text.pairs import Pair, PairVocabulary


class Packed(NamedTuple):
  """Inputs of a batch.

  Attributes:
    batch: the arrays `batch.PAIR_INPUTS`.
    pairs: question → its pairs, as many as it has passages.
    texts: question → the encoded text of each.
  """

  batch: Batch
  pairs: list[list[Pair]]
  texts: list[list[tokenizers.Encoding]]


class PairInputs:
  """Encodes passages with their questions.

  Args:
    vocabulary: of the network.
    corpus: the evidence, whose texts are encoded.
    length: longest pair in tokens; all inputs are padded to it.
    title: whether titles are read.
  """

  def __init__(
    self,
    vocabulary: PairVocabulary,
    corpus: PassageTexts,
    *,
    length: int,
    title: bool,
  ) -> None:
    self.vocabulary = vocabulary
    self.corpus = corpus
    self.length = length
    self.title = title

  def pack(
    self,
    questions: Sequence[Sequence[int]],
    rows: Sequence[Sequence[int]],
    *,
    passages: int,
    passage_first: bool,
  ) -> Packed:
    """The inputs of every question with each of its rows.

    Args:
      questions: their tokens, cut to what shall be read.
      rows: passages of each question, `passages` at most.
      passages: size of the axis; what is missing is masked.
      passage_first: the order of R2-D2's extractive reader; else a reranker's.
    """
    flat = [row for some in rows for row in some]
    texts = iter(self.vocabulary.encodings([*map(self.corpus.text, flat)]))
    titles = iter(self.vocabulary.encode_batch([*map(self._title, flat)]))
    join = (
      self.vocabulary.passage_first
      if passage_first
      else self.vocabulary.question_first
    )
    pairs: list[list[Pair]] = []
    encodings: list[list[tokenizers.Encoding]] = []
    for question, some in zip(questions, rows, strict=True):
      found = [next(texts) for _ in some]
      named = [next(titles) for _ in some]
      encodings.append(found)
      pairs.append(
        [
          join(question, name if self.title else None, text.ids, self.length)
          for name, text in zip(named, found, strict=True)
        ]
      )
    return Packed(self._arrays(pairs, rows, passages), pairs, encodings)

  def _title(self, row: int) -> str:
    return self.corpus.title(row) if self.title else ""

  def _arrays(
    self,
    pairs: Sequence[Sequence[Pair]],
    rows: Sequence[Sequence[int]],
    passages: int,
  ) -> Batch:
    shape = (len(pairs), passages)
    ids = np.full((*shape, self.length), self.vocabulary.pad_id, np.int32)
    lengths = np.zeros(shape, np.int32)
    first_lengths = np.zeros(shape, np.int32)
    passage_rows = np.full(shape, -1, np.int32)
    for i, some in enumerate(pairs):
      passage_rows[i, : len(some)] = rows[i]
      for j, pair in enumerate(some):
        ids[i, j, : len(pair.ids)] = pair.ids
        lengths[i, j] = len(pair.ids)
        first_lengths[i, j] = pair.first_length
    return {
      "ids": ids,
      "lengths": lengths,
      "first_lengths": first_lengths,
      "passage_rows": passage_rows,
      "passage_mask": passage_rows >= 0,
      "example_mask": np.ones(len(pairs), bool),
    }
