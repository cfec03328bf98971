"""Answers compared with texts: normalisation, EM, F1, has-answer.

Two normalisers are in use in the literature and differ on accented text, so
the choice is an argument: "nq" is the rule of the NQ-open evaluation script
(NFD first), "squad" that of the SQuAD script (no Unicode normalisation).

    >>> exact_match("The Beatles", ["beatles"])
    1.0
    >>> has_answer("born in Ulm, Germany", ["ulm"])
    True
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

Variant = Literal["nq", "squad"]
AnswerType = Literal["string", "regex"]

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_REGEX_FLAGS = re.IGNORECASE | re.UNICODE | re.MULTILINE
# Bounds the memory of remembered passages to some tens of MB; a passage is
# retrieved for many questions, but rarely far apart.
_REMEMBERED = 1 << 15


def normalise_answer(text: str, *, variant: Variant = "nq") -> str:
  """Lower-cases, drops ASCII punctuation and articles, squeezes spaces.

  Args:
    text: an answer or a prediction.
    variant: "nq" decomposes accents first (NFD); "squad" does not.
  """
  if variant == "nq":
    text = unicodedata.normalize("NFD", text)
  text = text.lower().translate(_PUNCTUATION)
  return " ".join(_ARTICLES.sub(" ", text).split())


def _check_references(golds: Sequence[str]) -> None:
  if not golds:
    raise ValueError(
      "a question without reference answers cannot be scored; leave such "
      "questions out before calling exact_match, f1 or matches_regex."
    )


def exact_match(
  prediction: str, golds: Sequence[str], variant: Variant = "nq"
) -> float:
  """1.0 if the normalised prediction equals a normalised reference, else 0.0.

  Raises:
    ValueError: if `golds` is empty.
  """
  _check_references(golds)
  target = normalise_answer(prediction, variant=variant)
  return float(
    any(target == normalise_answer(gold, variant=variant) for gold in golds)
  )


def _token_f1(ours: Sequence[str], theirs: Sequence[str]) -> float:
  same = sum((Counter(ours) & Counter(theirs)).values())
  return 2 * same / (len(ours) + len(theirs)) if same else 0.0


def f1(prediction: str, golds: Sequence[str], variant: Variant = "nq") -> float:
  """SQuAD token F1 in [0, 1], the best over the references.

  Raises:
    ValueError: if `golds` is empty.
  """
  _check_references(golds)
  tokens = normalise_answer(prediction, variant=variant).split()
  return max(
    _token_f1(tokens, normalise_answer(gold, variant=variant).split())
    for gold in golds
  )


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
  try:
    return re.compile(pattern, _REGEX_FLAGS)
  except re.error as error:
    raise ValueError(
      f"the answer pattern {pattern!r} is no valid regular expression "
      f"({error}); mend it in the question file, or read the questions with "
      "answer_type 'string'."
    ) from error


@lru_cache(maxsize=4096)
def search_pattern(pattern: str) -> re.Pattern[str]:
  """The pattern of a regex answer, for text that is decomposed (NFD).

  CuratedTREC has accented letters behind a backslash; decomposed, it would
  stand before a plain letter and mean another escape, so it goes first.
  """
  plain = _ESCAPE.sub(lambda m: m[0] if m[1].isascii() else m[1], pattern)
  return _compiled(unicodedata.normalize("NFD", plain))


def matches_regex(prediction: str, patterns: Sequence[str]) -> float:
  """1.0 if a pattern matches from the start of the prediction, else 0.0.

  The NQ-open script's rule for CuratedTREC: ignoring case, anchored at the
  start only, no normalisation.

  Raises:
    ValueError: if `patterns` is empty or one of them does not compile.
  """
  _check_references(patterns)
  return float(any(_compiled(p).match(prediction) for p in patterns))


def token_borders(character: str) -> Literal["word", "mark", "space"]:
  """What a character of decomposed text is to `has_answer`.

  Part of a word, a token of its own, or between tokens.
  """
  kind = unicodedata.category(character)[0]
  if kind in "LNM":
    return "word"
  return "space" if kind in "ZC" else "mark"


class _TokenBorders(dict[int, str]):
  """Character → itself inside a word, spaced out, or a space; for translate.

  Unicode categories decide: letters, numbers and marks make words, separators
  and controls vanish, anything else is a token of its own. `re` knows no
  categories, and its words lack marks, which NFD text is full of. Filled as
  characters are met.
  """

  def __missing__(self, code: int) -> str:
    character = chr(code)
    spaced = {"word": character, "mark": f" {character} ", "space": " "}
    self[code] = spaced[token_borders(character)]
    return self[code]


_BORDERS = _TokenBorders()


def _token_line(text: str) -> str:
  """The lower-cased tokens, each with a space on both sides.

  Tokens hold no white space, so a run of tokens lies in another exactly when
  the one line is a substring of the other: a search in C. The spaces also keep
  `lower` from looking across a border (final sigma).
  """
  spaced = unicodedata.normalize("NFD", text).translate(_BORDERS)
  return f" {' '.join(spaced.split()).lower()} "


_passage_line = lru_cache(maxsize=_REMEMBERED)(_token_line)
_answer_line = lru_cache(maxsize=_REMEMBERED)(_token_line)


def has_answer(
  text: str, answers: Sequence[str], answer_type: str = "string"
) -> bool:
  """Whether a passage contains one of the answers (the rule of DPR).

  Both sides are NFD-normalised. String answers are cut into tokens (runs of
  letters, digits and marks, or single other visible characters), lower-cased,
  and must occur as a contiguous run; an answer without any token never does.
  Regex answers are searched anywhere, ignoring case.

  Args:
    text: the passage's text; the title does not count.
    answers: the question's answers, or patterns.
    answer_type: "string" or "regex".

  Raises:
    ValueError: for another answer type or a pattern that does not compile.
  """
  if answer_type == "string":
    line = _passage_line(text)
    return any(
      answer in line
      for answer in map(_answer_line, answers)
      if not answer.isspace()
    )
  if answer_type == "regex":
    text = unicodedata.normalize("NFD", text)
    return any(search_pattern(answer).search(text) for answer in answers)
  raise ValueError(
    f"answer_type {answer_type!r} is unknown; it is 'string' or 'regex'."
  )
