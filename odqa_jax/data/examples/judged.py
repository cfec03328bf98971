"""Passages alone, title and text, as the arrays of a batch.

passages = JudgedPassages(corpus, length=256, title=True)
passages.batch(table, irrelevant, slice(0, 9))  # table: [b, k] rows
"""

import numpy as np
from jaxtyping import Bool, Int

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.batch import Batch, bucket_length


class JudgedPassages:
  """Passages of which is known whether they are needed.

  The tokens are the corpus's own, packed as for the retriever: what a network
  learns from is what it will score the corpus by.

  Args:
    corpus: the evidence.
    length: longest passage in tokens.
    title: whether passages begin with their title.
  """

  def __init__(self, corpus: Corpus, *, length: int, title: bool) -> None:
    self.corpus = corpus
    self.length = length
    self.title = title
    self._lengths = corpus.packed_lengths(length, title=title)

  def batch(
    self,
    table: Int[np.ndarray, "b k"],
    irrelevant: Bool[np.ndarray, "b k"],
    part: slice,
  ) -> Batch:
    """The arrays of some examples of a global batch.

    Args:
      table: rows of all its examples, which decide the padded length.
      irrelevant: what is known of them.
      part: the examples that this process holds.
    """
    pad = bucket_length(self._lengths[table], self.length)
    rows = table[part]
    ids, lengths = self.corpus.passage_inputs(
      rows.reshape(-1), pad, title=self.title
    )
    lengths = lengths.reshape(rows.shape)
    return {
      "ids": ids.reshape(*rows.shape, pad),
      "lengths": lengths,
      "first_lengths": lengths,
      "passage_rows": rows.astype(np.int32),
      "passage_mask": np.ones(rows.shape, bool),
      "irrelevant": irrelevant[part],
      "example_mask": np.ones(len(rows), bool),
    }
