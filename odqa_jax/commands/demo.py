"""The whole pipeline, on this machine."""

import argparse
from typing import Any


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa demo`."""
  add = parser.add_argument
  add("--workdir", default="demo")
  add("--preset", default="default")
  add("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> dict[str, Any]:
  """Runs the demo."""
  from odqa_jax.demo.pipeline import run_demo
  from odqa_jax.runtime.paths import check_folder

  check_folder(args.workdir)
  return run_demo(args.workdir, args.preset, args.seed)
