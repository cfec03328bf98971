"""Passages alone, title and text, as the arrays of a batch.

passages = JudgedPassages(corpus, tokenizer, length=256, title=True)
passages.batch(table, irrelevant, slice(0, 9))  # table: [b, k] rows
"""

import numpy as np
from jaxtyping import Bool, Int, Int32

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.batch import Batch, bucket_length
from odqa_jax.data.examples.retokenised import RetokenisedPassages
from odqa_jax.text.pairs import PairTokenizer


class JudgedPassages:
  """Passages of which is known whether they are needed.

  Where the network has the corpus's word pieces, the tokens are the corpus's
  own, packed as for the retriever; otherwise the texts are encoded again.

  Args:
    corpus: the evidence.
    tokenizer: of the network.
    length: longest passage in tokens.
    title: whether passages begin with their title.
  """

  def __init__(
    self,
    corpus: Corpus,
    tokenizer: PairTokenizer,
    *,
    length: int,
    title: bool,
  ) -> None:
    self._corpus, self._tokenizer = corpus, tokenizer
    self._length, self._title = length, title
    self._lengths: Int32[np.ndarray, " n"] | None = None
    if tokenizer.fingerprint == corpus.any_tokenizer.fingerprint:
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
    rows = table[part]
    ids, lengths = self._inputs(table, part)
    lengths = lengths.reshape(rows.shape)
    return {
      "ids": ids.reshape(*rows.shape, -1),
      "lengths": lengths,
      "first_lengths": lengths,
      "passage_rows": rows.astype(np.int32),
      "passage_mask": np.ones(rows.shape, bool),
      "irrelevant": irrelevant[part],
      "example_mask": np.ones(len(rows), bool),
    }

  def _inputs(
    self, table: Int[np.ndarray, "b k"], part: slice
  ) -> tuple[Int32[np.ndarray, "m l"], Int32[np.ndarray, " m"]]:
    """Ids and lengths of the passages of `table[part]`, on one axis."""
    if self._lengths is not None:
      pad = bucket_length(self._lengths[table], self._length)
      rows = table[part].reshape(-1)
      return self._corpus.passage_inputs(rows, pad, title=self._title)
    passages = RetokenisedPassages(
      self._corpus,
      table.reshape(-1),
      self._tokenizer,
      length=self._length,
      title=self._title,
    )
    pad = bucket_length(passages.packed_lengths(self._length), self._length)
    places = np.arange(table.size).reshape(table.shape)[part]
    return passages.passage_inputs(places.reshape(-1), pad)
