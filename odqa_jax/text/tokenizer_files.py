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
  except RecursionError as error:
    raise ValueError(
      f"{file}: brackets nested too deep; get the file again."
    ) from error
  if not isinstance(parsed, dict):
    raise ValueError(f"{file}: not a JSON object; name another file.")
  return parsed


def check_parts(parsed: Mapping[str, Any], file: Path) -> None:
  """Checks vocabulary and added tokens of a tokenizer.json.

  Raises:
    ValueError: if the vocabulary is neither token → id nor a list of
      [piece, score], or an added token has no id or no text.
  """
  model = parsed["model"]
  vocab = model.get("vocab")
  good = isinstance(vocab, dict) and all(type(i) is int for i in vocab.values())
  if isinstance(vocab, list):
    good = type(model.get("unk_id", 0)) is int and all(
      isinstance(pair, list)
      and len(pair) == 2
      and isinstance(pair[0], str)
      and isinstance(pair[1], int | float)
      for pair in vocab
    )
  if not good:
    raise ValueError(f"{file}: its model.vocab is none; get the file again.")
  added = parsed.get("added_tokens") or ()
  for entry in added if isinstance(added, list | tuple) else (None,):
    known = isinstance(entry, dict) and type(entry.get("id")) is int
    if not known or not isinstance(entry.get("content"), str):
      raise ValueError(
        f"{file}: added_tokens holds {entry!r}, which has no id and content; "
        "get the file again."
      )


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
