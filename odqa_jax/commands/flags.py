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


def add_system(parser: argparse.ArgumentParser) -> None:
  """Adds `--system`, and the parts that may be named instead."""
  add = parser.add_argument
  add("--system", help="from odqa assemble; instead of the parts")
  add("--checkpoint", help="what searches, and reads if it has a reader")
  add("--index", help="of the checkpoint; made when absent")
  add("--corpus", help="a dataset or corpus folder")
  add("--reader-corpus", help="it in the reader's own vocabulary")


def take_system(args: argparse.Namespace) -> None:
  """Fills in the parts that `--system` names.

  Raises:
    ValueError: if parts are given as well, or the system cannot answer.
  """
  if args.system is None:
    return
  for flag in ("checkpoint", "index", "corpus", "reader_corpus"):
    if getattr(args, flag) is not None:
      raise ValueError(
        f"--system {args.system} has its own {flag.replace('_', '-')}; leave "
        "one of the flags out."
      )
  from odqa_jax.serving.system_folder import open_for_answering

  paths = open_for_answering(args.system).paths
  args.checkpoint = str(paths.get("reader", paths["retriever"]))
  args.index, args.corpus = str(paths["index"]), str(paths["corpus"])
  store = paths.get("reader_corpus")
  args.reader_corpus = store and str(store)
