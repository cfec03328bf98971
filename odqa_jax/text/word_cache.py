"""Token ids of many texts, each word tokenised once.

    cache = WordCache(load_tokenizer("bert/"))
    tokens, lengths = cache.encode(["He ran.", "She ran."])

Both kinds of tokenizer cut at a space whatever stands around it, so that the
ids of a text are those of its words; and most words come again. It takes a
third of the time of tokenising the texts, and gives the same ids.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain, count

import numpy as np
from jaxtyping import Int64, Shaped

from odqa_jax.text.sentencepiece import AnyTokenizer

# Words that are remembered: some 40 MB in every process.
_WORDS = 2**18
# Longer ones hardly come again.
_LONGEST = 64
# Characters taken at once, so that the memory does not grow with the texts.
_BLOCK = 2**20


class WordCache:
  """A tokenizer that remembers words.

  Attributes:
    dtype: of the ids.
  """

  def __init__(self, tokenizer: AnyTokenizer, words: int = _WORDS) -> None:
    """Remembers so many words at most: those that come first."""
    small = tokenizer.vocab_size <= 2**16
    self.dtype = np.dtype("<u2" if small else "<u4")
    self._tokenizer = tokenizer
    self._most = words if tokenizer.cuts_at_spaces else 0
    self._index: dict[str, int] = {}
    # Of the words in the index: their ids, one after the other.
    self._ids = np.zeros(0, self.dtype)
    self._ends = np.zeros(1, np.int64)

  def encode(
    self, texts: Sequence[str]
  ) -> tuple[Shaped[np.ndarray, " t"], Int64[np.ndarray, " n"]]:
    """The ids of all texts, one after the other, and how many each has.

    Raises:
      ValueError: if a text is not valid Unicode.
    """
    if not self._most:
      return _flatten(self._tokenizer.encode_batch(texts), self.dtype)
    tokens = [np.zeros(0, self.dtype)]
    lengths = np.zeros(len(texts), np.int64)
    for numbers, pieces in _blocks(texts):
      ids, counts = self._encode(pieces)
      tokens.append(ids)
      np.add.at(lengths, numbers, counts)
    return np.concatenate(tokens), lengths

  def _encode(
    self, texts: list[str]
  ) -> tuple[Shaped[np.ndarray, " t"], Int64[np.ndarray, " n"]]:
    words = " ".join(texts).split(" ")
    new = self._learn(words)
    rows = np.fromiter(map(self._index.__getitem__, words), np.int64)
    ends = self._ends[rows + 1]
    counts = ends - self._ends[rows]
    shift = ends - np.cumsum(counts)
    tokens = self._ids[np.repeat(shift, counts) + np.arange(counts.sum())]
    self._forget(new)
    per_text = np.array([text.count(" ") + 1 for text in texts])
    firsts = np.cumsum(per_text) - per_text
    return tokens, np.add.reduceat(counts, firsts)

  def _learn(self, words: list[str]) -> list[str]:
    """Takes up the words that are new; returns them, long ones last."""
    new = sorted(set(words).difference(self._index), key=len)
    if new:
      ids, counts = _flatten(self._tokenizer.encode_batch(new), self.dtype)
      self._index.update(zip(new, count(len(self._index)), strict=False))
      self._ids = np.concatenate([self._ids, ids])
      ends = self._ends[-1] + np.cumsum(counts)
      self._ends = np.concatenate([self._ends, ends])
    return new

  def _forget(self, new: list[str]) -> None:
    """Keeps, of the last words learnt, what there is room for."""
    room = self._most - (len(self._index) - len(new))
    spare = new[min(bisect_right(new, _LONGEST, key=len), room) :]
    for word in spare:
      del self._index[word]
    self._ends = self._ends[: len(self._index) + 1]
    self._ids = self._ids[: self._ends[-1]]


def _flatten(
  lists: Sequence[Sequence[int]], dtype: np.dtype
) -> tuple[Shaped[np.ndarray, " t"], Int64[np.ndarray, " n"]]:
  counts = np.fromiter(map(len, lists), np.int64, len(lists))
  flat = np.fromiter(chain.from_iterable(lists), dtype, int(counts.sum()))
  return flat, counts


def _blocks(texts: Sequence[str]) -> Iterator[tuple[list[int], list[str]]]:
  """Pieces of texts, with the numbers of these, some characters at a time."""
  numbers: list[int] = []
  pieces: list[str] = []
  size = 0
  for number, text in enumerate(texts):
    for piece in _pieces(text) if len(text) > _BLOCK else (text,):
      numbers.append(number)
      pieces.append(piece)
      size += len(piece)
      if size >= _BLOCK:
        yield numbers, pieces
        numbers, pieces, size = [], [], 0
  if pieces:
    yield numbers, pieces


def _pieces(text: str) -> Iterator[str]:
  """A text that is cut at spaces, which are left out."""
  start = 0
  while len(text) - start > _BLOCK:
    cut = text.find(" ", start + _BLOCK)
    if cut < 0:
      break
    yield text[start:cut]
    start = cut + 1
  yield text[start:]
