"""Texts that are told apart by their words alone."""

import functools
import sys
import unicodedata


def normalise_text(text: str) -> str:
  """Without case, punctuation, and differences in white space or width.

  A text of nothing else stays as it is.
  """
  folded = unicodedata.normalize("NFKC", text).casefold()
  kept = " ".join(folded.translate(_punctuation()).split())
  return kept or text


@functools.cache
def _punctuation() -> dict[int, None]:
  """Takes away what Unicode calls punctuation; symbols are none."""
  codes = range(sys.maxunicode + 1)
  return {
    code: None
    for code in codes
    if unicodedata.category(chr(code)).startswith("P")
  }
