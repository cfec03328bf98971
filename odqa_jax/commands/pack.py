"""Writes a system into one file, which answers on NumPy alone.

launch/minimal.py builds the smallest tree that runs it.
"""

import argparse
from typing import Any

from odqa_jax.commands.flags import short_dtype

_EXAMPLE = """\
example:
  odqa pack --system system --index int8 --weights f16 --out system.odqa
  odqa answer --system system.odqa --question "who wrote Emma"
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa pack`."""
  parser.epilog = _EXAMPLE
  add = parser.add_argument
  add("--system", required=True, help="from odqa assemble")
  add("--out", required=True, help="FILE.odqa, for odqa answer --system")
  add(
    "--index",
    type=short_dtype,
    default="f32",
    help="its numbers: f32; or int8: a row has one scale",
  )
  add(
    "--weights",
    type=short_dtype,
    default="f32",
    help="of the networks: f32; f16; or int8: likewise",
  )
  add(
    "--text",
    default="exact",
    help="exact; or tokens: word pieces, without capitals and passage ids",
  )
  add(
    "--compress",
    action="store_true",
    help="weights too; nothing is lost, opening takes longer",
  )


def run(args: argparse.Namespace) -> dict[str, Any]:
  """Writes the file."""
  from odqa_jax.serving.pack import PackOptions, pack_system

  options = PackOptions(args.index, args.weights, args.text, args.compress)
  return {"pack": args.out} | pack_system(args.system, args.out, options)
