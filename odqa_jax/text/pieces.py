"""What all tokenizers do alike, around one of the Rust library `tokenizers`."""

from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken

from odqa_jax.text.tokenizer_files import check_unicode


class PieceTokenizer:
  """Text ↔ ids, without special tokens or truncation.

  Its kinds put a vocabulary and their rules into `_backend`.
  """

  _backend: tokenizers.Tokenizer

  def encode(self, text: str) -> list[int]:
    """Ids of `text`; no special tokens, no truncation."""
    return self.encode_batch([text])[0]

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Ids of every text, computed on all cores (TOKENIZERS_PARALLELISM).

    Raises:
      ValueError: if a text holds a lone surrogate (it is not valid Unicode).
    """
    try:
      encodings = self._backend.encode_batch_fast(
        list(texts), add_special_tokens=False
      )
    except TypeError:
      # Of a string that is not UTF-8 it says only that it wants a str.
      check_unicode(texts)
      raise
    return [encoding.ids for encoding in encodings]

  def encodings(self, texts: Sequence[str]) -> list[tokenizers.Encoding]:
    """As `encode_batch`; each id with its characters and word in the text."""
    return self._backend.encode_batch(list(texts), add_special_tokens=False)

  def decode(self, ids: Sequence[int]) -> str:
    """Text of the ids; special tokens are left out."""
    return self._backend.decode([int(i) for i in ids])

  def _add(self, entry: Mapping[str, Any], source: str, **flags: Any) -> None:
    """Adds a token in the form of tokenizer.json; the next id must be its own.

    Args:
      entry: its `content` and `id`; −1: whichever is next.
      source: what to name in errors.
      flags: of `AddedToken`.

    Raises:
      ValueError: if it would get another id.
    """
    token = AddedToken(entry["content"], **flags)
    if flags.get("special"):
      self._backend.add_special_tokens([token])
    else:
      self._backend.add_tokens([token])
    given = self._backend.token_to_id(entry["content"])
    if entry["id"] not in (-1, given):
      raise ValueError(
        f"{source}: the added token {entry['content']!r} has id "
        f"{entry['id']}, but the vocabulary gives it {given}; ids must follow "
        "the vocabulary without gaps."
      )
