"""The ids that a reader reads and writes.

    vocabulary = reader_vocabulary(corpus.any_tokenizer)
    ids = [*vocabulary.encode_batch(["10,000 km"])[0], vocabulary.eos_id]
    vocabulary.decode(ids)  # "10,000 km"

A reader on BERT's word pieces ("End-to-End Training of Neural Retrievers",
Section 3) shares them with the retriever, so that the passages are tokenised
once; it adds a begin, an end and the sentinels of T5's denoising behind them. A
published T5 has its own pieces, and then a second token store.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from odqa_jax.text.sentencepiece import AnyTokenizer, SentencePieceTokenizer
from odqa_jax.text.tokenizer import Tokenizer
from odqa_jax.text.tokenizer_config import CONFIG
from odqa_jax.text.tokenizer_files import parse_json, read_text, write_files
from odqa_jax.text.word_joining import join_words

SENTINELS = 100
# Names of the ids that the decoder begins and ends with, beside word pieces.
_BEGIN, _END = "[BEGIN]", "[END]"


@runtime_checkable
class ReaderIds(Protocol):
  """What a reader's network needs to know of its vocabulary.

  Attributes:
    size: number of ids; every id is below it.
    pad_id: what follows the end of a sequence.
    start_id: the decoder's first input.
    eos_id: the end of a target.
  """

  size: int
  pad_id: int
  start_id: int
  eos_id: int


@runtime_checkable
class ReaderVocabulary(ReaderIds, Protocol):
  """Text ↔ ids of a reader, and how its input is put together.

  An input is `question_prefix`, question, then (if titles are read)
  `title_prefix`, title, then `passage_prefix`, text, `suffix`.

  Attributes:
    sentinel_ids: 100 ids that stand for spans taken out of a text.
    fingerprint: sha256 (hex) of vocabulary and rules.
    question_prefix: ids before the question; likewise `title_prefix`,
      `passage_prefix`.
    suffix: ids after the text.
  """

  sentinel_ids: tuple[int, ...]
  fingerprint: str
  question_prefix: tuple[int, ...]
  title_prefix: tuple[int, ...]
  passage_prefix: tuple[int, ...]
  suffix: tuple[int, ...]

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Ids of every text; nothing is added, nothing cut."""

  def decode(self, ids: Sequence[int]) -> str:
    """Text up to the first end; padding, start and sentinels left out."""

  def save(self, directory: str | Path) -> None:
    """Writes the files of a tokenizer for transformers."""


class WordPieceVocabulary:
  """BERT word pieces, then begin, end and sentinels; see `ReaderVocabulary`.

  The tokenizer's ids keep their meaning. An input looks as BERT's of a pair:
  `[CLS] question [SEP] title [SEP] text [SEP]`.
  """

  def __init__(self, tokenizer: Tokenizer):
    """Takes the retriever's tokenizer."""
    first = tokenizer.vocab_size
    self._tokenizer = tokenizer
    self.pad_id: int = tokenizer.pad_id
    self.start_id: int = first
    self.eos_id: int = first + 1
    self.size: int = first + 2 + SENTINELS
    self.sentinel_ids: tuple[int, ...] = tuple(range(first + 2, self.size))
    self.fingerprint: str = _hash("wordpiece", tokenizer.fingerprint)
    self.question_prefix: tuple[int, ...] = (tokenizer.cls_id,)
    self.title_prefix: tuple[int, ...] = (tokenizer.sep_id,)
    self.passage_prefix: tuple[int, ...] = (tokenizer.sep_id,)
    self.suffix: tuple[int, ...] = (tokenizer.sep_id,)
    # One at a time, the pieces keep their "##"; special ones become "".
    self._pieces = [tokenizer.decode([i]) for i in range(first)]

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """See `ReaderVocabulary`."""
    return self._tokenizer.encode_batch(texts)

  def decode(self, ids: Sequence[int]) -> str:
    """See `ReaderVocabulary`; spacing is guessed, case and accents are lost.

    BERT's rules cut at punctuation and forget the spaces there; `join_words`
    restores them as English answers have them.

    Raises:
      IndexError: an id is negative.
    """
    words: list[str] = []
    for i in _until(ids, self.eos_id):
      piece = self._pieces[i] if i < len(self._pieces) else ""
      if not piece.startswith("##"):
        words += [piece] if piece else []
      elif words:
        words[-1] += piece[2:]
      else:
        words.append(piece[2:])
    return join_words(words)

  def save(self, directory: str | Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json for transformers.

    The ids behind the word pieces get names, which are special tokens: a text
    that spells one out becomes it, unlike here.
    """
    folder = Path(directory)
    self._tokenizer.save(folder)
    path = folder / "tokenizer.json"
    content = parse_json(read_text(path), path)
    sentinels = [f"<extra_id_{i}>" for i in range(SENTINELS)]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    content["added_tokens"] += [
      {"id": i, "content": name, "special": True, "normalized": False, **flags}
      for i, name in enumerate([_BEGIN, _END, *sentinels], self.start_id)
    ]
    # What a T5 does not take: token types.
    config = parse_json(read_text(folder / CONFIG), folder / CONFIG) | {
      "bos_token": _BEGIN,
      "eos_token": _END,
      "model_input_names": ["input_ids", "attention_mask"],
    }
    write_files(
      folder,
      {
        path.name: json.dumps(content, ensure_ascii=False),
        CONFIG: json.dumps(config, indent=2) + "\n",
      },
    )


class SentencePieceVocabulary:
  """The pieces of a published T5; see `ReaderVocabulary`.

  Padding starts the decoder, as in T5. An input has Fusion-in-Decoder's words:
  `question: … title: … context: … </s>`.
  """

  def __init__(self, tokenizer: SentencePieceTokenizer):
    """Takes the tokenizer of the T5.

    Raises:
      ValueError: the tokenizer has fewer than 100 sentinels.
    """
    if len(tokenizer.sentinel_ids) < SENTINELS:
      raise ValueError(
        f"the tokenizer has {len(tokenizer.sentinel_ids)} of the {SENTINELS} "
        "tokens <extra_id_0> to <extra_id_99>; save it with extra_ids=100 in "
        "transformers."
      )
    self._tokenizer = tokenizer
    self.pad_id: int = tokenizer.pad_id
    self.start_id: int = tokenizer.pad_id
    self.eos_id: int = tokenizer.eos_id
    self.sentinel_ids: tuple[int, ...] = tokenizer.sentinel_ids[:SENTINELS]
    self.size: int = tokenizer.vocab_size
    self.fingerprint: str = _hash("sentencepiece", tokenizer.fingerprint)
    words = ("question:", "title:", "context:")
    prefixes = [tuple(ids) for ids in tokenizer.encode_batch(words)]
    self.question_prefix: tuple[int, ...] = prefixes[0]
    self.title_prefix: tuple[int, ...] = prefixes[1]
    self.passage_prefix: tuple[int, ...] = prefixes[2]
    self.suffix: tuple[int, ...] = (tokenizer.eos_id,)

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """See `ReaderVocabulary`."""
    return self._tokenizer.encode_batch(texts)

  def decode(self, ids: Sequence[int]) -> str:
    """See `ReaderVocabulary`.

    A published T5 has more rows in its embedding than its tokenizer has ids
    (32,128 and 32,100), for speed. A reader may write such an id: it is no
    text.
    """
    kept = _until(ids, self.eos_id)
    return self._tokenizer.decode([i for i in kept if i < self.size])

  def save(self, directory: str | Path) -> None:
    """See `ReaderVocabulary`."""
    self._tokenizer.save(directory)


def reader_vocabulary(tokenizer: AnyTokenizer) -> ReaderVocabulary:
  """The vocabulary of a reader on a corpus with this tokenizer."""
  if isinstance(tokenizer, SentencePieceTokenizer):
    return SentencePieceVocabulary(tokenizer)
  return WordPieceVocabulary(tokenizer)


def _hash(*parts: str) -> str:
  return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _until(ids: Sequence[int], eos_id: int) -> list[int]:
  """The ids before the first `eos_id`.

  Raises:
    IndexError: an id is negative.
  """
  kept = []
  for i in map(int, ids):
    if i < 0:
      raise IndexError(f"id {i} is negative; decode what a reader wrote.")
    if i == eos_id:
      break
    kept.append(i)
  return kept
