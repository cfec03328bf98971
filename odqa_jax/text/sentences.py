"""Cuts texts into pieces that begin sentences and tokenise independently."""

import re
import string
from itertools import pairwise

import sentencex

# BERT's rules split at these whatever follows, so that the tokens of the parts
# are the tokens of the whole.
_SPACES = frozenset(" \t\n\r")
_BORDERS = _SPACES | frozenset(string.punctuation)
_CLOSING = re.compile(r"[\"'\u2019\u201d\u00bb)\]}]+(?:\s+|\Z)")
_FINAL = re.compile(
  r"[.!?\u2026\u3002\uff01\uff1f][\"'\u2019\u201d\u00bb)\]}]*\s*\Z"
)
_WIDE_SPACE = re.compile(r"[^\S\x00-\x7f]")


def split_sentences(text: str, *, spaces_only: bool = False) -> list[str]:
  """Cuts an English text before each sentence.

  Args:
    text: the text.
    spaces_only: cut only where whitespace ends a part: SentencePiece marks the
      begin of a word, and would take the rest of one for a word.

  Returns:
    Parts that concatenate to `text`, one or more; WordPiece tokens of the
    parts (SentencePiece tokens, if `spaces_only`) concatenate to those of the
    text.
  """
  # sentencex 1.0 takes the space in "J\u00a0." for one byte, and panics.
  plain = text if text.isascii() else _WIDE_SPACE.sub(" ", text)
  borders = _SPACES if spaces_only else _BORDERS
  cuts, end = [0], 0
  for sentence in sentencex.segment("en", plain):
    end = cut = end + len(sentence)
    # It cuts "Yes.) No." before the bracket.
    if not plain[cut - 1].isspace() and (closing := _CLOSING.match(text, cut)):
      cut = closing.end()
    if text[cut - 1] in borders and cuts[-1] < cut < len(text):
      cuts.append(cut)
  return [text[a:b] for a, b in pairwise([*cuts, len(text)])]


def ends_sentence(text: str) -> bool:
  """Whether `text` ends in final punctuation, closing quotes aside."""
  # The end only: a search through the whole text would be wasted.
  return _FINAL.search(text[-20:]) is not None
