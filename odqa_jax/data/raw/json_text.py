"""JSON that does not fit in memory: values decoded one after another.

Each value is decoded by the standard library's json from a window on the text,
so its depth is bounded (a reader of events keeps a path for each level: 30,000
brackets take it two gigabytes), and so is its length.
"""

import codecs
import io
import json
import re
from collections.abc import Iterator
from json.decoder import JSONDecodeError
from typing import Any

_WINDOW = 1 << 20
_SPACE = " \t\r\n"
# What may follow a value.
_AFTER = frozenset(" \t\r\n,:]}")
_NO_SPACE = re.compile(r"[^ \t\r\n]")


class BrokenJsonError(ValueError):
  """The text is no JSON from here on."""


class Decoder:
  """Decodes JSON values, and keeps what was wrong with them.

  Attributes:
    faults: of the last value: keys that are there twice, of whose values one
      would be lost, and what is no JSON number.
  """

  def __init__(self) -> None:
    self.faults: list[str] = []
    self._json = json.JSONDecoder(
      object_pairs_hook=self._object, parse_constant=self._constant
    )

  def at(self, text: str, start: int = 0) -> tuple[Any, int]:
    """The value that begins at `start`, and where it ends.

    Raises:
      ValueError: if it is broken.
    """
    self.faults.clear()
    try:
      return self._json.raw_decode(text, start)
    except RecursionError:
      raise ValueError("nested too deeply") from None

  def whole(self, text: str) -> Any:
    """The value that is all of a text.

    Raises:
      ValueError: if it is broken, or has a fault.
    """
    text = text.strip(_SPACE)
    value, end = self.at(text)
    if end < len(text):
      raise JSONDecodeError("Extra data", text, end)
    if self.faults:
      raise ValueError(self.faults[0])
    return value

  def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
      names = [name for name, _ in pairs]
      repeated = next(name for name in names if names.count(name) > 1)
      self.faults.append(f"the key {repeated[:60]!r} is there more than once")
    return record

  def _constant(self, name: str) -> None:
    self.faults.append(f"{name} is no JSON number")


class JsonText:
  """The text of a JSON file, read from its start value by value."""

  def __init__(self, stream: io.BufferedIOBase, longest: int) -> None:
    """Reads nothing yet.

    Args:
      stream: UTF-8.
      longest: characters that a value may have.
    """
    self._stream, self._longest = stream, longest
    self._decode = codecs.getincrementaldecoder("utf-8")().decode
    self._decoder = Decoder()
    self._text, self._at, self._ended = "", 0, False
    self._not_text: UnicodeDecodeError | None = None

  def next_char(self) -> str:
    """The next character that is no space, which is not taken; "" at the end.

    Raises:
      BrokenJsonError: if the text is not UTF-8, here and below.
    """
    while True:
      found = _NO_SPACE.search(self._text, self._at)
      self._at = found.start() if found else len(self._text)
      if found or not self._more():
        return found[0] if found else ""

  def take(self, wanted: str) -> str:
    """Takes the next character.

    Raises:
      BrokenJsonError: if it is none of those.
    """
    char = self.next_char()
    if not char or char not in wanted:
      found = repr(char) if char else "the end of the file"
      raise BrokenJsonError(
        f"{found} stands where one of {wanted!r} is expected"
      )
    self._at += 1
    return char

  def value(self) -> tuple[Any, str]:
    """The next value, and what is wrong with it or "".

    Raises:
      BrokenJsonError: if it is broken, nested too deeply, or too long.
    """
    self.next_char()
    while True:
      try:
        value, end = self._decoder.at(self._text, self._at)
        # A number may go on.
        if self._text[end : end + 1] in _AFTER or self._ended:
          self._at = end
          return value, next(iter(self._decoder.faults), "")
      except JSONDecodeError as error:
        if self._ended:
          raise BrokenJsonError(error.msg) from error
      except ValueError as error:
        raise BrokenJsonError(str(error)) from error
      self._more()
      if len(self._text) - self._at > self._longest:
        raise BrokenJsonError(
          f"no JSON, or a value of more than {self._longest:,} characters"
        )

  def items(self) -> Iterator[tuple[Any, str]]:
    """Values of the array that is next, as `value` gives them."""
    self.take("[")
    if self.next_char() == "]":
      self.take("]")
      return
    while True:
      yield self.value()
      if self.take(",]") == "]":
        return

  def keys(self) -> Iterator[str]:
    """Keys of the object that is next; the value of each must be taken."""
    self.take("{")
    if self.next_char() == "}":
      self.take("}")
      return
    while True:
      if self.next_char() != '"':
        raise BrokenJsonError("an object's key is no string")
      key, _ = self.value()
      self.take(":")
      yield key
      if self.take(",}") == "}":
        return

  def end(self) -> None:
    """Raises BrokenJsonError if anything follows."""
    if char := self.next_char():
      raise BrokenJsonError(f"{char!r} stands after the end of the JSON")

  def _more(self) -> bool:
    """Reads on, as much again; whether there was more."""
    if self._ended:
      return False
    if self._not_text is not None:
      raise self._not_text
    left = self._text[self._at :]
    data = self._stream.read(max(_WINDOW, len(left)))
    self._ended = not data
    try:
      text = self._decode(data, self._ended)
    except UnicodeDecodeError as error:
      # What stands before the bad byte is read first.
      text = error.object[: error.start].decode()
      self._not_text, self._ended = error, False
    self._text, self._at = left + text, 0
    return not self._ended
