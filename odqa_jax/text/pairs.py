"""Question and passage as one input of a network that reads pairs.

    vocabulary = PairVocabulary(load_pair_tokenizer("roberta-base/"))
    pair = vocabulary.question_first(question, title, text, length=256)
    pair.ids[pair.context_start : pair.context_end]  # what fits of the text

Rerankers have the question first, `<s> question </s></s> title text </s>` or
`[CLS] question [SEP] title [SEP] text [SEP]`; R2-D2's extractive reader has it
after the passage: `[CLS] text [SEP] question [SEP] title [SEP]`.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import tokenizers

# Unused entries of RoBERTa's vocabulary, near its end, that R2-D2's reranker
# has before the title and before the text.
TITLE_MARKER, TEXT_MARKER = "madeupword0001", "madeupword0000"
_NEAR_END = 16


@runtime_checkable
class PairTokenizer(Protocol):
  """What makes the ids: BERT's word pieces, or RoBERTa's byte-level ones.

  Attributes:
    vocab_size: number of ids.
    pad_id: what follows the end of an input.
    cls_id: first id of an input.
    sep_id: last id of it, and what ends a part.
    pair_separator: ids between the two segments of a pair.
    fingerprint: sha256 (hex) of vocabulary and rules.
  """

  vocab_size: int
  pad_id: int
  cls_id: int
  sep_id: int
  pair_separator: tuple[int, ...]
  fingerprint: str

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Ids of every text."""

  def encodings(self, texts: Sequence[str]) -> list[tokenizers.Encoding]:
    """Likewise, each id with its characters in the text."""

  def decode(self, ids: Sequence[int]) -> str:
    """Text of ids."""


class Pair(NamedTuple):
  """An input of two segments.

  Attributes:
    ids: with special tokens.
    first_length: how many of them come before the second segment.
    context_start: place of the first token of the passage's text.
    context_end: place after its last that is left.
  """

  ids: list[int]
  first_length: int
  context_start: int
  context_end: int


class PairVocabulary:
  """Puts the tokens of question, title and text together.

  Attributes:
    tokenizer: which makes them.
    pad_id: what follows the end of an input.
    fingerprint: sha256 (hex) of vocabulary and rules.
    title_marker: ids before a title.
    text_marker: ids between title and text.
  """

  def __init__(self, tokenizer: PairTokenizer) -> None:
    """Looks for the two markers; without them, a separator is between."""
    self.tokenizer = tokenizer
    self.pad_id = tokenizer.pad_id
    self.fingerprint = tokenizer.fingerprint
    size = tokenizer.vocab_size
    last = range(max(size - _NEAR_END, 0), size)
    names = {tokenizer.decode([i]).strip(): i for i in last}
    self.title_marker: tuple[int, ...] = ()
    self.text_marker: tuple[int, ...] = (tokenizer.sep_id,)
    if TITLE_MARKER in names and TEXT_MARKER in names:
      self.title_marker = (names[TITLE_MARKER],)
      self.text_marker = (names[TEXT_MARKER],)

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Ids of every text; nothing is added, nothing cut."""
    return self.tokenizer.encode_batch(texts)

  def encodings(self, texts: Sequence[str]) -> list[tokenizers.Encoding]:
    """As `encode_batch`; each id with its characters in the text."""
    return self.tokenizer.encodings(texts)

  def question_first(
    self,
    question: Sequence[int],
    title: Sequence[int] | None,
    text: Sequence[int],
    length: int,
  ) -> Pair:
    """Question, then title and text, of which the end is cut.

    Args:
      question: its tokens, as many as shall be read.
      title: its tokens; None: titles are not read.
      text: tokens of the passage's text.
      length: tokens at most, with special ones.

    Raises:
      ValueError: if the question alone leaves no room.
    """
    tokenizer = self.tokenizer
    first = [tokenizer.cls_id, *question, *tokenizer.pair_separator]
    if len(first) + 1 >= length:
      raise ValueError(
        f"a question of {len(question)} tokens leaves no room for a passage "
        f"in a pair of {length}; lower config.data.question_length, or raise "
        "config.data.pair_length."
      )
    ids = list(first)
    if title is not None:
      ids += [*self.title_marker, *title, *self.text_marker]
    start = min(len(ids), length - 1)
    ids = [*ids, *text][: length - 1]
    return Pair([*ids, tokenizer.sep_id], len(first), start, len(ids))

  def passage_first(
    self,
    question: Sequence[int],
    title: Sequence[int] | None,
    text: Sequence[int],
    length: int,
  ) -> Pair:
    """Text, then question and title, as R2-D2's extractive reader has them.

    What is too long loses ends: of the title, then of the text, then of the
    question; but none is cut to less than its equal share of the room.

    Args:
      question: its tokens.
      title: its tokens; None: titles are not read.
      text: tokens of the passage's text.
      length: tokens at most, with special ones.

    Raises:
      ValueError: if there is no room for one token of each.
    """
    tokenizer = self.tokenizer
    between = tokenizer.pair_separator
    parts = 2 if title is None else 3
    room = length - 2 - len(between) - (parts - 2)
    if room < parts:
      raise ValueError(
        f"config.data.pair_length={length} leaves no room for question and "
        "passage; raise it."
      )
    counts = [len(title or ()), len(text), len(question)]
    for i, count in enumerate(counts):
      over = sum(counts) - room
      counts[i] -= min(max(over, 0), max(count - room // parts, 0))
    text = text[: counts[1]]
    ids = [tokenizer.cls_id, *text, *between]
    first = len(ids)
    ids += [*question[: counts[2]], tokenizer.sep_id]
    if title is not None:
      ids += [*title[: counts[0]], tokenizer.sep_id]
    return Pair(ids, first, 1, 1 + len(text))
