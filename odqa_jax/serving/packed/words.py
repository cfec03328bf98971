"""Text of word pieces, with the place of each: what token ids are read back to.

>>> join(["the", "spider", "-", "man", "cost", "$", "1", ",", "000", "."])[0]
'the spider-man cost $1,000.'

Word pieces have lost capitals and spaces. Where a space stood is told by the
rules of English print. Of what is lost the measures of answers do not see
capitals and most punctuation.
"""

from collections.abc import Sequence

_NO_SPACE_BEFORE = frozenset(".,;:!?)]}%”")
_NO_SPACE_AFTER = frozenset("([{$£€#“")
# Without spaces if there is a word on each side.
_JOINING = frozenset("-/'’")
_QUOTE = '"'


def join(pieces: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
  """The text of pieces, and where each begins and ends in it.

  Args:
    pieces: of one vocabulary of BERT; `##` marks what goes on with a word.
  """
  text: list[str] = []
  places: list[tuple[int, int]] = []
  end, quoted = 0, False
  padded = ["", "", *pieces, ""]
  for i, piece in enumerate(pieces):
    goes_on = piece.startswith("##") and len(piece) > 2
    word = piece[2:] if goes_on else piece
    two, one, after = padded[i], padded[i + 1], padded[i + 3]
    if word == _QUOTE:
      glued, quoted = quoted, not quoted
    elif one == _QUOTE:
      glued = quoted
    else:
      glued = goes_on or _glued(two, one, word, after)
    gap = "" if glued or not end else " "
    text += (gap, word)
    places.append((end + len(gap), end + len(gap) + len(word)))
    end = places[-1][1]
  return "".join(text), places


def _glued(two: str, one: str, word: str, after: str) -> bool:
  """Whether no space stands before a word, by its neighbours' pieces."""
  if word in _NO_SPACE_BEFORE or one in _NO_SPACE_AFTER:
    return True
  if word in _JOINING:
    return _is_word(one) and _is_word(after)
  if one in _JOINING:
    return _is_word(two) and _is_word(word)
  # 1,000 and 3.5, but not "in 1990, 12 of them".
  numbers = two.isdigit() and word.isdigit()
  return numbers and (one == "." or (one == "," and len(word) == 3))


def _is_word(piece: str) -> bool:
  return piece.removeprefix("##")[:1].isalnum()
