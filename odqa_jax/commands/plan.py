"""Does it fit a TPU slice? Compiles without one."""

import argparse
from typing import Any

from odqa_jax.commands.flags import DTYPES


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa plan`."""
  add = parser.add_argument
  add("--config", required=True, help="configs/NAME.py[:key=value,…]")
  add("--topology", required=True, help="v5e:2x4, v5p-8, v6e-8, …")
  add("--passages", type=int, default=21_015_324)
  add("--width", type=int, help="of the index; none: the encoder's")
  add("--index-dtype", choices=list(DTYPES))
  add("--questions", type=int, default=64, help="searched at once")
  add("--k", type=int, default=100)
  add("--programs", default="search,encode,train")
  add("--hbm-gb", type=float, help="GiB of a chip; none: as known")
  add("--vocabulary", type=int, default=30522, help="word pieces")


def run(args: argparse.Namespace) -> dict[str, Any]:
  """Compiles the programs with the overrides `--config.a.b=3`."""
  from odqa_jax.plan.plan import plan

  return plan(
    args.config,
    args.topology,
    args.overrides,
    passages=args.passages,
    width=args.width,
    index_dtype=args.index_dtype and DTYPES[args.index_dtype],
    questions=args.questions,
    k=args.k,
    programs=args.programs,
    hbm_gb=args.hbm_gb,
    vocabulary=args.vocabulary,
  )
