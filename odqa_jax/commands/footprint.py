"""Measures what systems take up, against their exact match.

Bytes are told part by part, of files and on the disk.
"""

import argparse
from typing import Any

_EXAMPLE = """\
example:
  odqa evaluate --system small --questions dev.jsonl --read-k 10 > small.json
  odqa footprint whole=whole small=small packed=small.odqa \\
    --em small=small.json --runtime tree packed=minimal --out ladder

ladder/report.json has the bytes of runtime, models, index, text, tokenizer and
other of every rung, of files and on the disk; ladder/footprint.png the exact
match against the size.
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa footprint`."""
  parser.epilog = _EXAMPLE
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  add = parser.add_argument
  add(
    "rungs",
    nargs="+",
    metavar="NAME=PATH",
    help="in their order: a system folder, a packed system, or any folder",
  )
  add(
    "--em",
    nargs="+",
    default=[],
    metavar="NAME=FILE",
    help="what odqa evaluate has printed of a rung",
  )
  add(
    "--runtime",
    nargs="+",
    default=[],
    metavar="[NAME=]DIR",
    help="the tree that runs a rung, or without a name all others",
  )
  add("--out", required=True, help="the folder of report.json and the picture")


def run(args: argparse.Namespace) -> dict[str, Any]:
  """Writes report and picture."""
  import sys
  from pathlib import Path

  from odqa_jax.runtime.files import write_json
  from odqa_jax.runtime.paths import PNG, REPORT, check_folder, check_output
  from odqa_jax.runtime.plots import plot_footprint
  from odqa_jax.runtime.report import versions
  from odqa_jax.serving.footprint import (
    footprint_table,
    measure_ladder,
    named_rungs,
  )

  out = Path(args.out)
  check_folder(out)
  report, picture = out / "report.json", out / "footprint.png"
  check_output(report, args.em, REPORT)
  check_output(picture, (), PNG)
  rows = measure_ladder(named_rungs(args.rungs, args.em, args.runtime))
  print(footprint_table(rows), file=sys.stderr)
  out.mkdir(parents=True, exist_ok=True)
  write_json(report, {"rows": rows, "unit": "bytes", "versions": versions()})
  figures: dict[str, Any] = {"report": str(report)}
  if any("em" in row for row in rows):
    plot_footprint(rows, picture)
    figures["picture"] = str(picture)
  shown = ("total", "disk_total", "em", "leaky")
  figures["rungs"] = {
    row["name"]: {name: row[name] for name in shown if name in row}
    for row in rows
  }
  return figures
