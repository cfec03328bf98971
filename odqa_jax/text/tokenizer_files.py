"""What every tokenizer does with its files and with text that is not valid."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from odqa_jax.runtime.files import replace_file


def read_text(file: Path) -> str:
  """The text of a tokenizer file; ValueError if it is not UTF-8."""
  try:
    return file.read_bytes().decode("utf-8")
  except UnicodeDecodeError as error:
    raise ValueError(
      f"{file}: byte {error.start} is not UTF-8; a tokenizer file is UTF-8 "
      "text; name another file."
    ) from error


def parse_json(text: str, file: Path) -> dict[str, Any]:
  """The JSON object in `text`, which came from `file`; else ValueError."""
  try:
    parsed = json.loads(text)
  except json.JSONDecodeError as error:
    raise ValueError(
      f"{file}:{error.lineno}: {error.msg}; the file must be JSON; get "
      "it again."
    ) from error
  if not isinstance(parsed, dict):
    raise ValueError(f"{file}: not a JSON object; name another file.")
  return parsed


def write_files(directory: str | Path, files: Mapping[str, str]) -> None:
  """Writes name → text into a folder, each whole or not at all."""
  for name, content in files.items():
    replace_file(Path(directory) / name, content.encode())


def cuts_at_spaces(backend: tokenizers.Tokenizer) -> bool:
  """Whether the ids of a text are those of its parts between spaces.

  They are, unless a token of the vocabulary's owner reaches over a space.
  """
  return not any(
    token.lstrip or token.rstrip or any(c.isspace() for c in token.content)
    for token in backend.get_added_tokens_decoder().values()
  )


def check_unicode(texts: Sequence[str]) -> None:
  """Raises ValueError for the first text that holds a lone surrogate."""
  for i, text in enumerate(texts):
    try:
      text.encode("utf-8")
    except UnicodeEncodeError as error:
      raise ValueError(
        f"text {i} is {text[:60]!r}, which holds a lone surrogate; text must "
        "be valid Unicode; repair its source."
      ) from error
