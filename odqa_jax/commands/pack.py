"""Writes a system into one file, which answers on NumPy alone."""

import argparse
from typing import Any


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa pack`."""
  add = parser.add_argument
  add("--system", required=True, help="from odqa assemble")
  add("--out", required=True, help="FILE.odqa, for odqa answer --system")
  add("--index", default="f32", help="f32; or int8: a row has one scale")
  add("--weights", default="f32", help="f32; f16; or int8: likewise")
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
