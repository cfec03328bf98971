"""Lists of strings as text: JSON, or a Python literal. Nothing is evaluated."""

import ast
import json
import re
import warnings

# A Python string as repr writes it, or Python 2's with its u; no other prefix,
# and no triple quotes.
_STRING = re.compile(
  r"""u?(?:'(?:[^'\\\r\n]|\\.)*'|"(?:[^"\\\r\n]|\\.)*")""", re.DOTALL
)
_SPACE = re.compile(r"\s*")
_WRITE = (
  """write ["first", "second"] or ['first', 'second']. Expressions are not """
  "evaluated."
)


def list_of_strings(text: str) -> list[str]:
  r"""The strings of a list, which is read as JSON if it is JSON.

  So `["and\/or"]` is JSON's `and/or`, and `['it\'s']` is Python's. Strings
  without a comma between them, which NumPy prints and Python would join, are
  no list.

  Raises:
    ValueError: if it is no list of plain strings, saying why.
  """
  try:
    value = json.loads(text)
  except (ValueError, RecursionError):
    return _python_list(text)
  if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
    raise ValueError(f"{text[:80]!r} is not a list of plain strings; {_WRITE}")
  return value


def _python_list(text: str) -> list[str]:
  body = text.strip()
  if not body.startswith("["):
    raise ValueError(f"{text[:80]!r} is not a list of plain strings; {_WRITE}")
  at, found, comma = _skip(body, 1), [], True
  while body[at : at + 1] not in ("]", ""):
    string = _STRING.match(body, at)
    if string is None:
      raise ValueError(
        f"{text[:80]!r} is not a list of plain strings (look at "
        f"{body[at : at + 20]!r}); {_WRITE}"
      )
    if not comma:
      raise ValueError(
        f"{text[:80]!r} has no comma before {string[0][:40]}, as NumPy prints "
        f"an array; {_WRITE}"
      )
    found.append(_unquoted(string[0]))
    at = _skip(body, string.end())
    comma = body[at : at + 1] == ","
    at = _skip(body, at + comma)
  if body[at:] != "]":
    raise ValueError(
      f"{text[:80]!r} is no list literal: it has no end, or goes on after it; "
      f"{_WRITE}"
    )
  return found


def _skip(text: str, at: int) -> int:
  space = _SPACE.match(text, at)
  return space.end() if space else at


def _unquoted(literal: str) -> str:
  if "\\" not in literal:
    return literal.removeprefix("u")[1:-1]
  try:
    with warnings.catch_warnings():
      # Python keeps the backslash of an escape that it does not know.
      warnings.simplefilter("ignore")
      return str(ast.literal_eval(literal))
  except (SyntaxError, ValueError) as error:
    raise ValueError(
      f"{literal[:80]} is no string literal ({error}); {_WRITE}"
    ) from error
