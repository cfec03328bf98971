"""What every tokenizer does with its files and with text that is not valid."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


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
  directory = Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  for name, content in files.items():
    temporary = directory / f".{name}.tmp"
    temporary.write_bytes(content.encode("utf-8"))
    os.replace(temporary, directory / name)


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
