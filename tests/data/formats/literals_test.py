"""Lists of answers as text: JSON, Python, and what is neither."""

import json
import random

import pytest

from odqa_jax.data.formats.literals import list_of_strings


@pytest.mark.parametrize("write", [repr, json.dumps])
@pytest.mark.parametrize("seed", range(100))
def test_what_python_and_json_write_is_read(seed: int, write) -> None:
  rng = random.Random(seed)
  alphabet = "ab'\"\\,[]\n\t é\u2028\U0001f600/{}#"
  strings = [
    "".join(rng.choices(alphabet, k=rng.randrange(8)))
    for _ in range(rng.randrange(5))
  ]
  assert list_of_strings(write(strings)) == strings


@pytest.mark.parametrize(
  ("text", "strings"),
  [
    (r'["and\/or", "\u00e9"]', ["and/or", "é"]),
    (r"['and\/or']", [r"and\/or"]),
    ("[u'a', u\"b\"]", ["a", "b"]),
    (" [ 'a' ,\n 'b' , ] ", ["a", "b"]),
    (r"['it\'s', '\x41\u00e9\n']", ["it's", "A\u00e9\n"]),
    ("[]", []),
  ],
)
def test_escapes_and_spaces(text: str, strings: list[str]) -> None:
  assert list_of_strings(text) == strings


@pytest.mark.parametrize(
  "text",
  [
    "['a' 'b']",
    "['a'\n 'b']",
    "['a' \"b\"]",
    "['x', 'a' 'b']",
    "['x', 'a'  'b', 'y']",
    "['a''b']",
    "[u'a' u'b']",
    '["a" "b"]',
    "['a' 'b' ... 'c']",
  ],
)
def test_strings_without_a_comma_are_refused(text: str) -> None:
  with pytest.raises(ValueError, match="no comma before"):
    list_of_strings(text)


@pytest.mark.parametrize(
  "text",
  [
    *("b'a'", "r'a'", "f'a'", "rb'a'", '"""a"""', "('a' 'b')", "('a')"),
    *("1", "None", "nan", "['a']", "'a' + 'b'", "'a'.upper()", "*['a']"),
    *("'a' if 1 else 'b'", "x for x in 'ab'", r"'\xZZ'", "'a", "'a'; 'b'"),
  ],
)
def test_what_is_no_plain_string_is_refused(text: str) -> None:
  for whole in (f"[{text}]", f"['x', {text}]"):
    with pytest.raises(ValueError, match=r"no list|not a|no string|no comma"):
      list_of_strings(whole)


@pytest.mark.parametrize(
  "text",
  [
    *("", "a", "'a', 'b'", "('a',)", "{'a'}", "['a'] ['b']", "['a']]"),
    *('{"a": 1}', '"a"', "array(['a'], dtype=object)", "[" * 100_000),
    "['a'" + " " * 99_999,
  ],
)
def test_other_text_is_refused(text: str) -> None:
  with pytest.raises(ValueError, match=r"no list literal|not a list"):
    list_of_strings(text)
