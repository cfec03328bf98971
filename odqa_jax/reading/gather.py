"""Rows of the corpus → the passages of a batch, in training and at inference.

Tokens come from the memory map; nothing is tokenised. `gather` fills what
`batch.PASSAGES` and `batch.READER_INPUT` list.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Int, Int32

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.batch import Batch, bucket_length
from odqa_jax.data.examples.reader_inputs import NULL_ROW, ReaderInputs
from odqa_jax.runtime.mesh import host_slice


@dataclasses.dataclass(frozen=True)
class PassageGatherer:
  """Gathers the tokens of passages.

  Attributes:
    corpus: the evidence.
    inputs: how the reader's inputs are packed.
    passage_length: longest passage of the retriever in tokens.
    title: whether the retriever's passages begin with their title.
    null_document: whether one is added; where there is no passage, always.
    buckets: whether a batch is padded to its longest passage only.
  """

  corpus: Corpus
  inputs: ReaderInputs
  passage_length: int
  title: bool
  null_document: bool
  buckets: bool

  def gather(
    self,
    batch: Batch,
    rows: Int[np.ndarray, "b k"],
    question_lengths: Int[np.ndarray, " b"],
  ) -> Batch:
    """This process's part of a batch with its passages.

    Args:
      batch: this process's `batch.READER_QUESTION` arrays, perhaps with others.
      rows: passages of the whole batch, the same on every process.
      question_lengths: of the whole batch, in the reader's vocabulary; all
        processes pad to its lengths.

    Returns:
      The batch with `batch.PASSAGES`, `batch.READER_INPUT` and, for readers
      that take them, `batch.OVERLAP`.
    """
    if self.null_document or not rows.shape[1]:
      null = np.full((len(rows), 1), NULL_ROW, np.int32)
      rows = np.concatenate([rows, null], axis=1)
    local = rows[host_slice(len(rows))]
    passage_pad, reader_pad = self.passage_length, self.inputs.length
    if self.buckets:
      packed = np.where(rows >= 0, self.lengths[np.maximum(rows, 0)], 2)
      passage_pad = bucket_length(packed, passage_pad)
      inputs = self.inputs.lengths(question_lengths, rows)
      reader_pad = bucket_length(inputs, reader_pad)
    ids, lengths = self._passages(local, passage_pad)
    reader = self.inputs.pack(
      batch["reader_question_ids"],
      batch["reader_question_lengths"],
      local,
      reader_pad,
    )
    return {
      **batch,
      **reader,
      "passage_ids": ids,
      "passage_lengths": lengths,
      "passage_rows": local.astype(np.int32),
    }

  @functools.cached_property
  def longest(self) -> int:
    """The largest of `lengths`."""
    return int(self.lengths.max())

  @functools.cached_property
  def lengths(self) -> Int32[np.ndarray, " n"]:
    """Tokens of every passage of the corpus, for the retriever."""
    return self.corpus.packed_lengths(self.passage_length, title=self.title)

  def _passages(
    self, rows: Int[np.ndarray, "b k"], pad: int
  ) -> tuple[Int32[np.ndarray, "b k l"], Int32[np.ndarray, "b k"]]:
    """Inputs of the passage encoder; the null document has no text."""
    ids, lengths = self.corpus.passage_inputs(
      np.maximum(rows, 0).reshape(-1), pad, title=self.title
    )
    ids = ids.reshape(*rows.shape, pad)
    lengths = lengths.reshape(rows.shape)
    tokenizer = self.corpus.tokenizer
    empty = np.full(pad, tokenizer.pad_id, np.int32)
    empty[:2] = tokenizer.cls_id, tokenizer.sep_id
    ids[rows < 0] = empty
    lengths[rows < 0] = 2
    return ids, lengths
