"""Flags that several commands share."""

import argparse

# As flags spell them, and as NumPy does.
DTYPES = {"f32": "float32", "bf16": "bfloat16", "int8": "int8"}


def add_backend(parser: argparse.ArgumentParser) -> None:
  """Adds `--backend`."""
  parser.add_argument(
    "--backend",
    default="exact",
    help="exact: rows on the devices; host: on its disk; scann[:key=value,…]",
  )


def add_format(parser: argparse.ArgumentParser) -> None:
  """Adds `--format` and `--columns`."""
  parser.add_argument(
    "--format", help="of raw question files; none: told by their content"
  )
  parser.add_argument(
    "--columns",
    default="",
    help="of a table (Parquet, CSV, TSV, JSON lines) of questions: "
    "question=COLUMN[,answers=COLUMN][,id=…][,positive_ids=…]",
  )


def add_exclude_self(parser: argparse.ArgumentParser) -> None:
  """Adds `--exclude-self`."""
  parser.add_argument(
    "--exclude-self",
    action="store_true",
    help="a passage whose text is the question's own is no result",
  )


def split_names(names: str) -> list[str]:
  """The names between commas."""
  return [name for name in names.split(",") if name]
