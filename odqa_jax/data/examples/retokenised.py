"""Passages alone in the ids of another vocabulary than the corpus's.

passages = RetokenisedPassages(corpus, rows, tokenizer, length=256, title=True)
ids, lengths = passages.passage_inputs(np.array([0, 1]), 128)
"""

from typing import Any

import numpy as np
from jaxtyping import Int, Int32

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.batch import pad_tokens
from odqa_jax.text.pairs import PairTokenizer

# Texts that are encoded at once: a tokenizer's records of them take up far more
# memory than the ids.
_TOKENISED = 1024


class RetokenisedPassages:
  """Some rows of a corpus, `<s> title </s></s> text </s>` in RoBERTa's way.

  In BERT's way, with one `[SEP]` in between. The ids are held: take as many
  rows as memory has room for.

  Args:
    corpus: whose texts are encoded.
    rows: of it, in any order; row i here is `rows[i]` there.
    tokenizer: makes the ids.
    length: longest passage in tokens; what is longer is cut before the end.
    title: whether titles are read.

  Attributes:
    manifest: of the corpus; likewise `fingerprint`.
  """

  def __init__(
    self,
    corpus: Corpus,
    rows: Int[np.ndarray, " n"],
    tokenizer: PairTokenizer,
    *,
    length: int,
    title: bool,
  ) -> None:
    self.manifest: Any = corpus.manifest
    self.fingerprint = corpus.fingerprint
    self._corpus, self._rows = corpus, rows
    self._pad_id = tokenizer.pad_id
    self._ids: list[Int32[np.ndarray, " t"]] = []
    for start in range(0, len(rows), _TOKENISED):
      some = rows[start : start + _TOKENISED].tolist()
      texts = tokenizer.encode_batch([*map(corpus.text, some)])
      before: list[list[int]] = [[] for _ in some]
      if title:
        titles = tokenizer.encode_batch([*map(corpus.title, some)])
        before = [[*ids, *tokenizer.pair_separator] for ids in titles]
      for first, text in zip(before, texts, strict=True):
        ids = [tokenizer.cls_id, *first, *text][: length - 1]
        self._ids.append(np.array([*ids, tokenizer.sep_id], np.int32))

  def __len__(self) -> int:
    return len(self._rows)

  def id(self, row: int) -> str:
    """The passage's own name."""
    return self._corpus.id(int(self._rows[row]))

  def packed_lengths(self, max_length: int) -> Int32[np.ndarray, " n"]:
    """Tokens of every passage, cut at `max_length` if that is less."""
    lengths = np.array([*map(len, self._ids)], np.int32)
    return np.minimum(lengths, max_length).astype(np.int32)

  def passage_inputs(
    self, rows: Int[np.ndarray, " m"], length: int
  ) -> tuple[Int32[np.ndarray, "m l"], Int32[np.ndarray, " m"]]:
    """Token ids, padded to a `length` that none exceeds, and lengths."""
    return pad_tokens([self._ids[i] for i in rows], length, self._pad_id)
