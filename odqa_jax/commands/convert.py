"""A dataset folder → files in the formats of other tools.

odqa_jax/data/README.md says what each format holds.
"""

import argparse
from typing import Any

from odqa_jax.commands.flags import add_format, split_names

_EXAMPLE = """\
example:
  odqa convert --corpus data --questions dev --to beir --out beir
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa convert`."""
  parser.epilog = _EXAMPLE
  add = parser.add_argument
  add("--corpus", required=True, help="a dataset or corpus folder")
  add("--questions", default="", help="sets of it, other sets, or files: A[,…]")
  add_format(parser)
  add("--run", help="run.trec or run.json of the questions")
  add("--to", required=True, help="beir, flashrag, dpr, trec or tfds")
  add("--out", required=True, help="the folder to write")


def run(args: argparse.Namespace) -> dict[str, Any]:
  """With several processes the first one works."""
  from odqa_jax.data.convert.content import open_content
  from odqa_jax.data.convert.convert import check_target, convert
  from odqa_jax.runtime.mesh import is_primary, sync

  check_target(args.to, args.run)
  figures: dict[str, Any] = {}
  if is_primary():
    content = open_content(
      args.corpus,
      split_names(args.questions),
      run=args.run,
      format=args.format,
      columns=args.columns,
    )
    figures = convert(content, args.to, args.out)
  sync("convert")
  return figures
