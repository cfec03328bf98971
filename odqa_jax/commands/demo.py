"""The whole pipeline, on this machine.

Real articles are searched within two minutes; a reader trained in three more
answers. The same command goes on after Ctrl-C.
"""

import argparse
import json
from typing import Any

_EXAMPLE = """\
example:
  odqa demo --serve
  odqa demo --preset scratch --workdir scratch
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa demo`."""
  parser.epilog = _EXAMPLE
  add = parser.add_argument
  add("--workdir", default="demo", help="of all that is made")
  add(
    "--preset",
    default="default",
    help="default: a system from MiniLM; scratch: every objective, from "
    "random weights; full: scratch, trained longer; quick: its code, untrained",
  )
  add("--seed", type=int, default=0, help="of all that is random")
  add("--serve", action="store_true", help="then opens the page (odqa serve)")
  add("--port", type=int, default=8000, help="of the page")


def run(args: argparse.Namespace) -> dict[str, Any]:
  """Runs the demo."""
  import jax

  from odqa_jax.demo.pipeline import run_demo
  from odqa_jax.runtime.paths import check_folder

  check_folder(args.workdir)
  if jax.process_count() > 1:
    raise ValueError("--num-processes: odqa demo runs as one process.")
  if args.serve and args.preset != "default":
    raise ValueError(
      f"--serve shows the system of --preset default, and {args.preset} makes "
      "none; leave one of them out."
    )
  figures = run_demo(args.workdir, args.preset, args.seed)
  if args.serve and "system" in figures:
    print(json.dumps(figures), flush=True)
    _serve(figures["system"], args.port)
  return figures


def _serve(system: str, port: int) -> None:
  """Opens the page on the system that was made."""
  from odqa_jax.commands import serve
  from odqa_jax.demo.presets import SYSTEM

  parser = argparse.ArgumentParser()
  serve.add_flags(parser)
  sizes = ["--k", str(SYSTEM.k), "--read-k", str(SYSTEM.read_k)]
  flags = ["--system", system, *sizes, "--port", str(port)]
  serve.run(parser.parse_args(flags))
