"""Writes a training run as one page of HTML.

The page needs no network and no other file.
"""

import argparse
from pathlib import Path
from typing import Any

_EXAMPLE = """\
example:
  odqa report work/reader --run dev.json --answers answers.jsonl \\
    --out reader.html
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa report`."""
  parser.epilog = _EXAMPLE
  add = parser.add_argument
  add("workdir", help="of odqa train; the run may still go on")
  add("--out", help="NAME.html; by default report.html in the workdir")
  add("--run", help="NAME.json of odqa search or rerank: what was found")
  add("--answers", help="of odqa answer --out: what was answered")
  add("--samples", type=int, default=12, help="questions that are shown")


def run(args: argparse.Namespace) -> dict[str, Any]:
  """Writes the page; tells where."""
  from odqa_jax.evaluation.outcomes import read_outcomes
  from odqa_jax.inspection.report.page import run_page
  from odqa_jax.inspection.report.workdir import read_workdir
  from odqa_jax.runtime.files import replace_file
  from odqa_jax.runtime.paths import HTML, check_output

  if args.samples < 0:
    raise ValueError(f"--samples {args.samples}: at least 0.")
  found = read_workdir(args.workdir)
  out = Path(args.out or Path(args.workdir) / "report.html")
  check_output(out, [args.run, args.answers], HTML)
  outcomes = []
  if args.run is not None or args.answers is not None:
    outcomes = read_outcomes(run=args.run, answers=args.answers)
  replace_file(out, run_page(found, outcomes, samples=args.samples))
  return {
    "report": str(out),
    "step": found.step,
    "state": found.state,
    "questions": len(outcomes),
  }
