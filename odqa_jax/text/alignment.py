"""Where answers stand in a text, in characters and in tokens.

    >>> answer_spans("Born in Ulm. Ulm is old.", ["ulm"])
    [(8, 11), (13, 16)]
    >>> token_span((8, 11), starts=[0, 5, 8, 11], ends=[4, 7, 11, 12])
    (2, 2)

An answer occurs by the rule of `answers.has_answer`, so that a passage has a
span exactly if it counts as one with the answer. That rule compares decomposed
and lower-cased text; the spans are of the text as it is.
"""

import bisect
import itertools
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from odqa_jax.text.answers import search_pattern, token_borders

Span = tuple[int, int]


class _Words(NamedTuple):
  """The tokens of a text, lower-cased, and where each stands in it."""

  words: tuple[str, ...]
  spans: tuple[Span, ...]


class _Decomposed(NamedTuple):
  """A text in NFD; of each of its characters, where it comes from."""

  text: str
  starts: Sequence[int]
  ends: Sequence[int]


def _decompose(text: str) -> _Decomposed:
  """NFD of a text, letter by letter.

  Marks are put in order when text is decomposed, but none passes a letter. So
  the text falls into letters with their marks, whose origin is known.
  """
  if text.isascii():
    return _Decomposed(text, range(len(text)), range(1, len(text) + 1))
  parts, starts, ends = [], [], []
  start = 0
  for end in range(1, len(text) + 1):
    if end < len(text) and _continues(text[end]):
      continue
    part = unicodedata.normalize("NFD", text[start:end])
    parts.append(part)
    starts += [start] * len(part)
    ends += [end] * len(part)
    start = end
  return _Decomposed("".join(parts), starts, ends)


def _continues(character: str) -> bool:
  """Whether it belongs to the letter before it."""
  first = unicodedata.normalize("NFD", character)[0]
  return unicodedata.combining(first) != 0


def _words(text: str) -> _Words:
  """The tokens of `has_answer`'s rule: words, and other visible characters."""
  decomposed = _decompose(text)
  words: list[str] = []
  spans: list[Span] = []
  for kind, group in itertools.groupby(
    enumerate(decomposed.text), lambda pair: token_borders(pair[1])
  ):
    places = [i for i, _ in group]
    if kind == "space":
      continue
    runs = [places] if kind == "word" else [[i] for i in places]
    for run in runs:
      words.append(decomposed.text[run[0] : run[-1] + 1].lower())
      spans.append((decomposed.starts[run[0]], decomposed.ends[run[-1]]))
  return _Words(tuple(words), tuple(spans))


_answer_words = lru_cache(maxsize=1 << 14)(lambda text: _words(text).words)


def answer_spans(
  text: str, answers: Sequence[str], answer_type: str = "string"
) -> list[Span]:
  """First character and the one after the last of every occurrence.

  Args:
    text: of a passage.
    answers: the question's answers, or patterns.
    answer_type: "string" or "regex".

  Returns:
    In the order of the text, each span once, whichever answers it is of. Those
    of different answers may overlap. Matches without a character are left out.

  Raises:
    ValueError: for another answer type or a pattern that does not compile.
  """
  if answer_type == "regex":
    decomposed = _decompose(text)
    found = {
      (decomposed.starts[match.start()], decomposed.ends[match.end() - 1])
      for answer in answers
      for match in search_pattern(answer).finditer(decomposed.text)
      if match.end() > match.start()
    }
  elif answer_type == "string":
    words, spans = _words(text)
    found = set()
    for answer in answers:
      wanted = _answer_words(answer)
      for first in _occurrences(words, wanted):
        found.add((spans[first][0], spans[first + len(wanted) - 1][1]))
  else:
    raise ValueError(
      f"answer_type {answer_type!r} is unknown; it is 'string' or 'regex'."
    )
  return sorted(found)


def _occurrences(words: Sequence[str], wanted: Sequence[str]) -> list[int]:
  count = len(wanted)
  return [
    i
    for i in range(len(words) - count + 1)
    if count and words[i] == wanted[0] and words[i : i + count] == wanted
  ]


def token_span(
  span: Span, starts: Sequence[int], ends: Sequence[int]
) -> Span | None:
  """First and last of the tokens that hold characters of a span.

  A token that reaches over the border of the span belongs to it. Tokens that
  share a character, as the bytes of a letter do, all belong to it.

  Args:
    span: first character and the one after the last.
    starts: of every token, its first character; ascending.
    ends: the character after its last; ascending.

  Returns:
    None where no token has any of them.
  """
  first = bisect.bisect_right(ends, span[0])
  last = bisect.bisect_left(starts, span[1]) - 1
  return (first, last) if first <= last else None
