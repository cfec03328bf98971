"""A Wikipedia dump → passages of 100 words.

They are what odqa prepare --corpus takes. It needs the extra wikipedia.
"""

import argparse
from typing import Any

from odqa_jax.commands.flags import split_names

_EXAMPLE = """\
example:
  odqa wikipedia --dump enwiki-latest-pages-articles.xml.bz2 \\
    --out psgs_w100.tsv.gz
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa wikipedia`."""
  parser.epilog = _EXAMPLE
  add = parser.add_argument
  add(
    "--dump",
    required=True,
    help="FILE[,FILE…]: *-pages-articles.xml, plain or compressed",
  )
  add("--out", required=True, help="as psgs_w100.tsv; .tsv or .tsv.gz")
  add("--words", type=int, default=100, help="of a passage")
  add(
    "--limit",
    type=int,
    help="read the first so many pages that may be articles; by default all",
  )
  add(
    "--runner",
    default="local",
    help="local[:PROCESSES], all cores by default; or beam[:OPTION…]",
  )


def run(args: argparse.Namespace) -> dict[str, Any]:
  """With several processes the first one works."""
  from odqa_jax.data.parts.run import parse_runner
  from odqa_jax.data.wikipedia.build import build_passages
  from odqa_jax.runtime.mesh import is_primary, sync
  from odqa_jax.runtime.progress import progress_bar

  figures: dict[str, Any] = {}
  if is_primary():
    with progress_bar("articles", 0, "pages") as update:
      figures = build_passages(
        split_names(args.dump),
        args.out,
        words=args.words,
        limit=args.limit,
        runner=parse_runner(args.runner),
        progress=update,
      )
  sync("wikipedia")
  return figures
