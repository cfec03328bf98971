"""The stage that makes a corpus: passages → token ids, sentences, articles."""

from collections.abc import Sequence
from functools import cached_property
from itertools import chain, pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool

from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.corpus.store import hash_id
from odqa_jax.data.parts.files import Arrays, pack_texts, unpack_texts
from odqa_jax.text.sentencepiece import AnyTokenizer, SentencePieceTokenizer
from odqa_jax.text.sentences import ends_sentence, split_sentences
from odqa_jax.text.word_cache import WordCache

_FIELDS = {"ids": "id", "titles": "title", "texts": "text"}


def pack_passages(
  passages: Sequence[Passage],
  lines: Sequence[int],
  places: Sequence[str],
  previous: Passage | None,
) -> Arrays:
  """The input of a part.

  Args:
    passages: consecutive ones.
    lines: their numbers in the source.
    places: where they stand, for messages.
    previous: the one before the first; None at the start of the corpus.
  """
  first = first_opens(previous, passages[0])
  arrays = {"lines": np.array(lines), "opens": first}
  columns = {n: [getattr(p, f) for p in passages] for n, f in _FIELDS.items()}
  for name, texts in (*columns.items(), ("places", list(places))):
    packed = pack_texts([text.encode() for text in texts])
    arrays[name], arrays[f"{name}_lengths"] = packed
  return arrays


class TokenisePassages:
  """The stage; what it returns are the columns of `CorpusStore`."""

  def __init__(self, tokenizer: AnyTokenizer) -> None:
    self._tokenizer = tokenizer
    self._whole_words = isinstance(tokenizer, SentencePieceTokenizer)

  def __reduce__(self) -> tuple[Any, ...]:
    return TokenisePassages, (self._tokenizer,)

  @cached_property
  def _cache(self) -> WordCache:
    return WordCache(self._tokenizer)

  def __call__(self, arrays: Arrays) -> Arrays:
    """What `pack_passages` has packed → columns.

    Raises:
      ValueError: if a text has no token, naming its place.
    """
    ids, titles, texts = (
      unpack_texts(arrays[name], arrays[f"{name}_lengths"]) for name in _FIELDS
    )
    articles, sentences = opens(titles, texts, arrays["opens"])
    parts = [split_sentences(t, spaces_only=self._whole_words) for t in texts]
    tokens, lengths = self._cache.encode(list(chain.from_iterable(parts)))
    row = np.repeat(np.arange(len(texts)), [len(p) for p in parts])
    text_lengths = np.bincount(row, lengths, len(texts)).astype(np.int64)
    if not text_lengths.all():
      places = unpack_texts(arrays["places"], arrays["places_lengths"])
      raise ValueError(
        f"{places[int(np.argmin(text_lengths))]}: no character of the text is "
        "in the tokenizer's rules (control or unassigned ones only); remove "
        "the passage."
      )
    starts = np.cumsum(lengths) - lengths
    starts, row = starts[lengths > 0], row[lengths > 0]
    begins = (np.diff(row, prepend=-1) == 0) | sentences[row]
    title_tokens, title_lengths = self._cache.encode(titles)
    return {
      "text_tokens": tokens,
      "text_tokens_lengths": text_lengths,
      "title_tokens": title_tokens,
      "title_tokens_lengths": title_lengths,
      "sentence_starts": starts[begins],
      "article_starts": np.flatnonzero(articles),
      "hashes": np.array([hash_id(i) for i in ids], np.uint64),
      "lines": arrays["lines"],
      **{n: arrays[n] for n in _FIELDS},
      **{f"{n}_lengths": arrays[f"{n}_lengths"] for n in _FIELDS},
    }


def first_opens(
  previous: Passage | None, first: Passage
) -> Bool[np.ndarray, " 2"]:
  """Whether a passage begins an article, and a sentence.

  Args:
    previous: the one before it; None at the start of the corpus.
    first: the passage.
  """
  article = previous is None or previous.title != first.title
  sentence = article or (previous is not None and ends_sentence(previous.text))
  return np.array([article, sentence])


def opens(
  titles: list[str], texts: list[str], first: Bool[np.ndarray, " 2"]
) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
  """Which passages begin an article, and which a sentence.

  Args:
    titles: of consecutive passages.
    texts: likewise.
    first: of the first one, see `first_opens`.
  """
  articles = [bool(first[0]), *(a != b for a, b in pairwise(titles))]
  ends = (ends_sentence(text) for text in texts[:-1])
  sentences = [bool(first[1]), *ends]
  return np.array(articles), np.array(articles) | np.array(sentences)
