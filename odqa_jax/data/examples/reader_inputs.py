"""Question and passage as one input of a reader's encoder.

    prefix question prefix title prefix text suffix

The prefixes are the vocabulary's: `[CLS]` and `[SEP]` for word pieces,
"question:", "title:" and "context:" for a published T5. What is too long is
cut at the end of the passage. The paper leaves out the title (A.3).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int, Int32

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.packing import place
from odqa_jax.data.examples.batch import Batch
from odqa_jax.runtime.blocks import BlockArray
from odqa_jax.text.reader_vocabulary import ReaderVocabulary

# The null document: a passage without text, below all rows of the corpus.
NULL_ROW = -1
# Feature of a passage token that stands in the question, and of every token of
# a passage whose whole title does; sums of both are features as well.
IN_QUESTION, TITLE_IN_QUESTION = 1, 2
OVERLAP_FEATURES = 4


class ReaderInputs:
  """Packs questions with rows of a token store.

  Args:
    vocabulary: of the reader.
    store: the passages in that vocabulary: the corpus itself, or a second
      store of the same passages.
    length: longest input in tokens.
    title: whether the passage's title is read.
    overlap_features: whether tokens are marked that question and passage share.

  Raises:
    ValueError: if the store was tokenised by another vocabulary.
  """

  def __init__(
    self,
    vocabulary: ReaderVocabulary,
    store: Corpus,
    *,
    length: int,
    title: bool,
    overlap_features: bool,
  ) -> None:
    self.vocabulary = vocabulary
    self.store = store
    self.length = length
    self.title = title
    self.overlap_features = overlap_features
    text = np.diff(store.text_offsets)
    self._parts = text + (np.diff(store.title_offsets) if title else 0)

  def fixed_tokens(self) -> int:
    """Tokens that are neither question nor passage."""
    v = self.vocabulary
    title = len(v.title_prefix) if self.title else 0
    fixed = len(v.question_prefix) + len(v.passage_prefix) + len(v.suffix)
    return fixed + title

  def longest(self, question_length: int) -> int:
    """Tokens of the longest input of any passage with such a question."""
    rows = np.array([[int(self._parts.argmax())]])
    return int(self.lengths(np.array([question_length]), rows).max())

  def lengths(
    self,
    question_lengths: Int[np.ndarray, " b"],
    rows: Int[np.ndarray, "b k"],
  ) -> Int32[np.ndarray, "b k"]:
    """Tokens of every input that `pack` would make."""
    passages = np.where(rows >= 0, self._parts[np.maximum(rows, 0)], 0)
    total = passages + question_lengths[:, None] + self.fixed_tokens()
    return np.minimum(total, self.length).astype(np.int32)

  def pack(
    self,
    question_ids: Int[np.ndarray, "b q"],
    question_lengths: Int[np.ndarray, " b"],
    rows: Int[np.ndarray, "b k"],
    pad: int,
  ) -> Batch:
    """Reader inputs of every question with each of its passages.

    Args:
      question_ids: questions in the reader's vocabulary, padded.
      question_lengths: their real tokens.
      rows: passages; `NULL_ROW` stands for the null document.
      pad: width of the result, at most `length`.

    Returns:
      `reader_ids` [b, k, l] and `reader_lengths` [b, k] int32, and
      `overlap_features` [b, k, l] int32 if asked for.
    """
    b, k = rows.shape
    ids = np.full((b * k, pad), self.vocabulary.pad_id, np.int32)
    column = np.zeros(b * k, np.int64)
    flat = rows.reshape(-1)

    def put(
      tokens: np.ndarray | BlockArray, starts: np.ndarray, ends: np.ndarray
    ) -> None:
      nonlocal column
      place(ids, tokens, starts, ends, column)
      column = column + (ends - starts)

    def put_fixed(tokens: Sequence[int]) -> None:
      zeros = np.zeros(b * k, np.int64)
      put(np.array(tokens, np.int32), zeros, zeros + len(tokens))

    def put_rows(tokens: BlockArray, offsets: BlockArray) -> None:
      starts = offsets[np.maximum(flat, 0)]
      ends = offsets[np.maximum(flat, 0) + 1]
      put(tokens, starts, np.where(flat >= 0, ends, starts))

    put_fixed(self.vocabulary.question_prefix)
    starts = np.repeat(np.arange(b) * question_ids.shape[1], k)
    put(
      question_ids.reshape(-1), starts, starts + np.repeat(question_lengths, k)
    )
    question_end = column
    if self.title:
      put_fixed(self.vocabulary.title_prefix)
      put_rows(self.store.title_tokens, self.store.title_offsets)
    put_fixed(self.vocabulary.passage_prefix)
    put_rows(self.store.text_tokens, self.store.text_offsets)
    suffix = self.vocabulary.suffix
    lengths = np.minimum(column + len(suffix), pad)
    for i, token in enumerate(suffix):
      ids[np.arange(b * k), lengths - len(suffix) + i] = token
    out = {
      "reader_ids": ids.reshape(b, k, pad),
      "reader_lengths": lengths.reshape(b, k).astype(np.int32),
    }
    if self.overlap_features:
      out["overlap_features"] = self._overlap(
        out["reader_ids"],
        out["reader_lengths"],
        question_end.reshape(b, k),
        question_ids,
        question_lengths,
        rows,
      )
    return out

  def _overlap(
    self,
    ids: Int[np.ndarray, "b k l"],
    lengths: Int[np.ndarray, "b k"],
    starts: Int[np.ndarray, "b k"],
    question_ids: Int[np.ndarray, "b q"],
    question_lengths: Int[np.ndarray, " b"],
    rows: Int[np.ndarray, "b k"],
  ) -> Int32[np.ndarray, "b k l"]:
    """Marks the tokens after the question that it shares with the passage."""
    places = np.arange(ids.shape[2])[None, None, :]
    passage = (places >= starts[:, :, None]) & (places < lengths[:, :, None])
    sought = question_ids.copy()
    # Padding of the question must not match anything.
    sought[
      np.arange(sought.shape[1])[None, :] >= question_lengths[:, None]
    ] = -1
    shared = np.zeros(ids.shape, bool)
    for j in range(sought.shape[1]):
      shared |= ids == sought[:, j][:, None, None]
    special = [*self.vocabulary.passage_prefix, *self.vocabulary.suffix]
    shared &= ~np.isin(ids, special)
    title = self._title_in_question(question_ids, question_lengths, rows)
    features = IN_QUESTION * shared + TITLE_IN_QUESTION * title[:, :, None]
    return np.where(passage, features, 0).astype(np.int32)

  def _title_in_question(
    self,
    question_ids: Int[np.ndarray, "b q"],
    question_lengths: Int[np.ndarray, " b"],
    rows: Int[np.ndarray, "b k"],
  ) -> Bool[np.ndarray, "b k"]:
    hits = np.zeros(rows.shape, bool)
    offsets, titles = self.store.title_offsets, self.store.title_tokens
    for i, (ids, length) in enumerate(
      zip(question_ids, question_lengths, strict=True)
    ):
      question = ids[:length].astype("<u4").tobytes()
      for j, row in enumerate(rows[i]):
        if row >= 0:
          title = titles[offsets[row] : offsets[row + 1]].astype("<u4")
          hits[i, j] = len(title) > 0 and _contains(question, title.tobytes())
    return hits


def _contains(whole: bytes, part: bytes) -> bool:
  """Whether `part` stands in `whole` at a border of 4 bytes."""
  at = whole.find(part)
  while at >= 0 and at % 4:
    at = whole.find(part, at + 1)
  return at >= 0


def answer_places(
  reader_ids: Int[np.ndarray, "b k l"],
  reader_lengths: Int[np.ndarray, "b k"],
  question_lengths: Int[np.ndarray, " b"],
  answer_ids: Int[np.ndarray, "b t"],
  answer_lengths: Int[np.ndarray, " b"],
) -> tuple[Int32[np.ndarray, "b k"], Int32[np.ndarray, "b k"]]:
  """Where each answer first occurs in each passage, token for token.

  Args:
    reader_ids: from `ReaderInputs.pack`.
    reader_lengths: likewise.
    question_lengths: tokens of each question; the answer is sought after it.
    answer_ids: answers and their ends.
    answer_lengths: tokens of each, with its end.

  Returns:
    First and last place among the k·l tokens of the question; −1 for none.
  """
  b, k, l = reader_ids.shape
  last = np.maximum(answer_lengths - 2, 0)
  match = np.ones((b, k, l), bool)
  for j in range(int(last.max(initial=0)) + 1):
    shifted = np.full((b, k, l), -1, np.int64)
    shifted[:, :, : l - j] = reader_ids[:, :, j:]
    same = shifted == answer_ids[:, j][:, None, None]
    match &= same | (j > last)[:, None, None]
  places = np.arange(l)[None, None, :]
  match &= places > question_lengths[:, None, None]
  match &= places + last[:, None, None] < reader_lengths[:, :, None]
  match &= (answer_lengths > 1)[:, None, None]
  occurs = match.any(axis=2)
  first = match.argmax(axis=2) + np.arange(k)[None, :] * l
  starts = np.where(occurs, first, -1).astype(np.int32)
  ends = np.where(occurs, first + last[:, None], -1).astype(np.int32)
  return starts, ends
