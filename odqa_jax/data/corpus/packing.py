"""Token ids of passages and questions → the inputs of an encoder."""

import abc
from collections.abc import Sequence
from itertools import chain

import numpy as np
from jaxtyping import Int, Int32

from odqa_jax.runtime.blocks import BlockArray
from odqa_jax.text.tokenizer import Tokenizer

# Rows packed at once: their tokens stay in the processor's cache.
_BLOCK_ROWS = 2048


class PackedPassages(abc.ABC):
  """Passages whose tokens lie row after row, and how an encoder reads them.

  Attributes:
    text_tokens: ids of all texts, no special tokens.
    text_offsets: [n+1]; row i has text_tokens[offsets[i]:offsets[i+1]].
    title_tokens: ids of all titles; likewise title_offsets.
  """

  text_tokens: np.ndarray | BlockArray
  text_offsets: np.ndarray | BlockArray
  title_tokens: np.ndarray | BlockArray
  title_offsets: np.ndarray | BlockArray

  @property
  @abc.abstractmethod
  def tokenizer(self) -> Tokenizer:
    """The word pieces that made the ids."""

  def __len__(self) -> int:
    return len(self.text_offsets) - 1

  def packed_lengths(
    self, max_length: int, *, title: bool = True
  ) -> Int32[np.ndarray, " n"]:
    """Lengths that `passage_inputs` would return for every row.

    Args:
      max_length: tokens at most, at least 2.
      title: whether title and a `[SEP]` precede the text.
    """
    _check_length(max_length)
    total = np.diff(self.text_offsets) + 2
    if title:
      total += np.diff(self.title_offsets) + 1
    return np.minimum(total, max_length).astype(np.int32)

  def passage_inputs(
    self, rows: Int[np.ndarray, " n"], length: int, *, title: bool = True
  ) -> tuple[Int32[np.ndarray, "n l"], Int32[np.ndarray, " n"]]:
    """Encoder inputs: `[CLS] title [SEP] text [SEP]`, cut and padded.

    What is too long is cut at the right, before the final `[SEP]`.

    Args:
      rows: which passages, in any order, with repeats or without.
      length: width of the result, at least 2.
      title: whether title and its `[SEP]` precede the text.

    Returns:
      Token ids, `[PAD]` from each row's length on; and the lengths, special
      tokens included.

    Raises:
      IndexError: if a row is not in the corpus (negative ones are not).
      ValueError: if the ids are T5's, which has no `[CLS]` and `[SEP]`.
    """
    pad_id = self.tokenizer.pad_id
    _check_length(length)
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
      raise IndexError(
        f"rows {rows.min()} to {rows.max()} of a corpus of {len(self)} passages"
      )
    ids = np.full((len(rows), length), pad_id, np.int32)
    lengths = np.empty(len(rows), np.int32)
    for i in range(0, len(rows), _BLOCK_ROWS):
      block = slice(i, i + _BLOCK_ROWS)
      lengths[block] = self._pack(rows[block], ids[block], title)
    return ids, lengths

  def _pack(
    self,
    rows: Int[np.ndarray, " n"],
    ids: Int32[np.ndarray, "n l"],
    title: bool,
  ) -> Int[np.ndarray, " n"]:
    """Writes one block of `passage_inputs` into `ids`; returns the lengths."""
    width = ids.shape[1]
    tokenizer = self.tokenizer
    ids[:, 0] = tokenizer.cls_id
    body = np.ones(len(rows), np.int64)
    if title:
      starts, ends = self.title_offsets[rows], self.title_offsets[rows + 1]
      place(ids, self.title_tokens, starts, ends, body)
      separator = body + ends - starts
      fits = np.flatnonzero(separator < width)
      ids[fits, separator[fits]] = tokenizer.sep_id
      body = separator + 1
    starts, ends = self.text_offsets[rows], self.text_offsets[rows + 1]
    place(ids, self.text_tokens, starts, ends, body)
    lengths = np.minimum(body + ends - starts + 1, width)
    ids[np.arange(len(rows)), lengths - 1] = tokenizer.sep_id
    return lengths


def _check_length(length: int) -> None:
  if length < 2:
    raise ValueError(
      f"length {length} leaves no room for [CLS] and [SEP]; it must be at "
      "least 2; raise it."
    )


def place(
  out: Int32[np.ndarray, "n l"],
  tokens: np.ndarray | BlockArray,
  starts: Int[np.ndarray, " n"],
  ends: Int[np.ndarray, " n"],
  columns: Int[np.ndarray, " n"],
) -> None:
  """Copies `tokens[starts[i]:ends[i]]` to row i from `columns[i]` on.

  What passes the right edge is left out.
  """
  rows, width = out.shape
  counts = np.minimum(ends - starts, np.maximum(width - columns, 0))
  before = np.cumsum(counts) - counts
  position = np.arange(int(counts.sum()))
  source = np.repeat(starts - before, counts) + position
  target = np.repeat(np.arange(rows) * width + columns - before, counts)
  if isinstance(tokens, BlockArray):
    tokens = tokens.within(starts, starts + counts)
  out.reshape(-1)[target + position] = tokens[source]


def pack_questions(
  token_lists: Sequence[Sequence[int] | np.ndarray],
  length: int,
  tokenizer: Tokenizer,
) -> tuple[Int32[np.ndarray, "n l"], Int32[np.ndarray, " n"]]:
  """Encoder inputs of questions: `[CLS] question [SEP]`, cut and padded.

  Args:
    token_lists: ids of every question, from `Tokenizer.encode_batch`.
    length: width of the result, at least 2; longer questions are cut at the
      right, before the `[SEP]`.
    tokenizer: gives the ids of the special tokens.

  Returns:
    Token ids, `[PAD]` from each row's length on; and the lengths, special
    tokens included.
  """
  _check_length(length)
  rows = len(token_lists)
  tokens, offsets = _joined(token_lists)
  ends, counts = offsets[1:], np.diff(offsets)
  ids = np.full((rows, length), tokenizer.pad_id, np.int32)
  ids[:, 0] = tokenizer.cls_id
  place(ids, tokens, ends - counts, ends, np.ones(rows, np.int64))
  lengths = np.minimum(counts + 2, length)
  ids[np.arange(rows), lengths - 1] = tokenizer.sep_id
  return ids, lengths.astype(np.int32)


class PassageTokens(PackedPassages):
  """Passages in memory, tokenised for one call of an encoder."""

  def __init__(
    self,
    texts: Sequence[str],
    titles: Sequence[str],
    tokenizer: Tokenizer,
    *,
    title: bool,
  ) -> None:
    """Tokenises them.

    Args:
      texts: of the passages; one may be empty.
      titles: likewise, as many.
      tokenizer: of the encoder.
      title: whether titles are read where nothing else is said.
    """
    self._tokenizer, self._title = tokenizer, title
    tokens = tokenizer.encode_batch
    self.text_tokens, self.text_offsets = _joined(tokens(list(texts)))
    self.title_tokens, self.title_offsets = _joined(tokens(list(titles)))

  @property
  def tokenizer(self) -> Tokenizer:
    """See `PackedPassages`."""
    return self._tokenizer

  def id(self, row: int) -> str:
    """A name for messages."""
    return str(row)

  def packed_lengths(
    self, max_length: int, *, title: bool | None = None
  ) -> Int32[np.ndarray, " n"]:
    """See `PackedPassages`."""
    title = self._title if title is None else title
    return super().packed_lengths(max_length, title=title)

  def passage_inputs(
    self,
    rows: Int[np.ndarray, " n"],
    length: int,
    *,
    title: bool | None = None,
  ) -> tuple[Int32[np.ndarray, "n l"], Int32[np.ndarray, " n"]]:
    """See `PackedPassages`."""
    title = self._title if title is None else title
    return super().passage_inputs(rows, length, title=title)


def _joined(
  token_lists: Sequence[Sequence[int] | np.ndarray],
) -> tuple[Int32[np.ndarray, " t"], Int[np.ndarray, " m"]]:
  """Tokens one list after the other, and where each begins and ends."""
  counts = np.fromiter(map(len, token_lists), np.int64, len(token_lists))
  offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
  tokens = np.fromiter(
    chain.from_iterable(token_lists), np.int32, int(offsets[-1])
  )
  return tokens, offsets
