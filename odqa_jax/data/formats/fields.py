"""Fields of a record, checked for their types.

Errors here say what is wrong with the record; the reader adds the place.
"""

import hashlib
import reprlib
from typing import Any

from odqa_jax.data.formats.literals import list_of_strings
from odqa_jax.data.raw.records import Record

# Where `odqa convert` keeps, inside `metadata`, what a format has no field for.
OWN = "odqa_jax"
_OWN_LISTS = ("answers", "positive_ids", "negative_ids", "excluded_ids")
_SHOWN_KEYS = 12


def shown(value: Any) -> str:
  """A value for an error: short, however long or deep it is."""
  brief = reprlib.Repr()
  brief.maxstring = brief.maxother = 60
  return brief.repr(value)


def shown_keys(record: Record) -> str:
  """The first keys of a record, in order."""
  return shown_list(sorted(record))


def shown_list(names: list[str]) -> str:
  """The first of some names."""
  more = ", …" if len(names) > _SHOWN_KEYS else ""
  return f"[{', '.join(map(shown, names[:_SHOWN_KEYS]))}{more}]"


def digest(text: str) -> str:
  """Tells one text from another.

  Half a surrogate pair is for those to refuse who store the text.
  """
  content = text.encode("utf-8", "surrogatepass")
  return hashlib.blake2b(content, digest_size=8).hexdigest()


def content_id(kind: str, text: str) -> str:
  """A passage id for a text that has none: the same for the same text."""
  return f"{kind}/{digest(text)}"


def text(record: Record, key: str) -> str:
  """The string at a key.

  Raises:
    ValueError: if there is none.
  """
  value = record.get(key)
  if not isinstance(value, str):
    raise ValueError(
      f"{key!r} is {shown(value)}, not a string; known keys here: "
      f"{shown_keys(record)}. Check the file or force another format."
    )
  return value


def optional_text(record: Record, key: str) -> str:
  """The string at a key; "" where it is null or not there.

  Raises:
    ValueError: if there is something else.
  """
  return "" if record.get(key) is None else text(record, key)


def identifier(value: Any) -> str:
  """An id, which files give as a string or as an integer.

  Raises:
    ValueError: if it is neither.
  """
  if isinstance(value, bool) or not isinstance(value, str | int):
    raise ValueError(f"the id {shown(value)} is no string or integer; mend it.")
  return str(value)


def strings(value: Any, what: str) -> tuple[str, ...]:
  """A list of strings, each once.

  Raises:
    ValueError: if it is none, calling it `what`.
  """
  if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
    raise ValueError(
      f"{what} is {shown(value)}, not a list of strings; write "
      '["first", "second"].'
    )
  return tuple(dict.fromkeys(value))


def answer_strings(value: Any, what: str) -> tuple[str, ...]:
  """Accepted answers: a list, the text of a list, or one string; null is none.

  Raises:
    ValueError: if it is none of them, calling it `what`.
  """
  if value is None:
    return ()
  if isinstance(value, str):
    looks_like_a_list = value.lstrip().startswith("[")
    value = list_of_strings(value) if looks_like_a_list else [value]
  return strings(value, what)


def answers(record: Record) -> tuple[str, ...]:
  """What is at `answers` or `answer`, each once; none where there is neither.

  Raises:
    ValueError: if what is there are no answers.
  """
  key = "answers" if "answers" in record else "answer"
  return answer_strings(record.get(key), repr(key))


def ids(record: Record, key: str) -> tuple[str, ...]:
  """The passage ids at a key, each once; none where there is no such key.

  Raises:
    ValueError: if they are no list of ids.
  """
  value = record.get(key)
  if value is None:
    return ()
  if not isinstance(value, list):
    raise ValueError(f"{key!r} is {shown(value)}, not a list of passage ids.")
  return tuple(dict.fromkeys(map(identifier, value)))


def objects(record: Record, key: str) -> list[Record]:
  """The objects of the list at a key; none where there is no such key.

  Raises:
    ValueError: if they are no list of objects.
  """
  value = record.get(key)
  if value is None:
    return []
  if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
    raise ValueError(f"{key!r} is {shown(value)}, not a list of objects.")
  return value


def own_fields(record: Record) -> dict[str, Any]:
  """The fields of a question that `odqa convert` keeps in `metadata`.

  Raises:
    ValueError: if they are of other types.
  """
  metadata = record.get("metadata")
  own = metadata.get(OWN) if isinstance(metadata, dict) else None
  if own is None:
    return {}
  known = (*_OWN_LISTS, "answer_type")
  if not isinstance(own, dict) or not set(own) <= set(known):
    raise ValueError(
      f"{OWN!r} in 'metadata' is {shown(own)}, not an object of "
      f"{', '.join(known)}; mend or remove it."
    )
  found: dict[str, Any] = {
    key: strings(own[key], repr(key)) for key in _OWN_LISTS if key in own
  }
  if "answer_type" in own:
    if own["answer_type"] not in ("string", "regex"):
      raise ValueError(
        f"'answer_type' is {shown(own['answer_type'])}; it must be string or "
        "regex."
      )
    found["answer_type"] = own["answer_type"]
  return found
