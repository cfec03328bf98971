"""Makes a system folder of checkpoints, index and corpus.

It holds where its parts lie, and their hashes: a part that has changed since is
refused. odqa answer, serve, evaluate and pack take it as --system.
"""

import argparse
from typing import Any

_EXAMPLE = """\
example:
  odqa assemble --retriever work/sup --index work/index --corpus data \\
    --reader work/fid --reranker work/reranker \\
    --extractive-reader work/extractive --fusion fusion.json --out system
  odqa answer --system system
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa assemble`."""
  parser.epilog = _EXAMPLE
  add = parser.add_argument
  add("--retriever", required=True, help="a checkpoint; see odqa index")
  add("--index", required=True, help="made by it")
  add("--corpus", required=True, help="of the index")
  add(
    "--reader",
    help="a checkpoint that writes; without --extractive-reader by default the "
    "retriever's, if it has one",
  )
  add("--reader-corpus", help="the corpus in the reader's own vocabulary")
  add("--reranker", help="a checkpoint, for the extractive reader")
  add("--extractive-reader", help="a checkpoint")
  add("--fusion", help="fusion.json of these components")
  add("--scoring", help="scoring.json of the extractive reader")
  add("--out", required=True, help="the system folder")


def run(args: argparse.Namespace) -> dict[str, Any]:
  """Writes the folder."""
  from odqa_jax.runtime.mesh import is_primary, sync
  from odqa_jax.runtime.paths import check_folder
  from odqa_jax.serving.system_folder import PARTS, assemble

  check_folder(args.out)
  parts = {name: getattr(args, name) for name in PARTS}
  given = {name: path for name, path in parts.items() if path is not None}
  versions: dict[str, str] = {}
  if is_primary():
    versions = dict(assemble(args.out, given).hashes)
  sync("assemble")
  return {"system": args.out, "parts": versions}
