"""Tells what a file or folder is, on a page.

It exits with 2 where something is damaged.
"""

import argparse
import json
from typing import Any

_EXAMPLE = """\
example:
  odqa inspect data
  odqa inspect work/sup --verify
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa inspect`."""
  parser.epilog = _EXAMPLE
  add = parser.add_argument
  add("path", help="an artifact, dataset, workdir, model folder, run or file")
  add("--json", action="store_true", help="the page as JSON")
  add("--n", type=int, default=3, help="records to show")
  add("--verify", action="store_true", help="read every byte, however many")


def run(args: argparse.Namespace) -> dict[str, Any]:
  """Prints the page; a damaged or unknown thing is an error after it."""
  from odqa_jax.inspection.inspect import inspect

  page = inspect(args.path, n=args.n, verify=args.verify)
  problems = page.all_problems()
  if not args.json:
    print(page.text(), end="\n\n")
  elif problems:
    print(json.dumps(page.as_json()))
  if problems:
    more = f" And {len(problems) - 1} more." if len(problems) > 1 else ""
    raise ValueError(f"{problems[0]}{more}")
  if args.json:
    return page.as_json()
  return {"path": page.path, "kind": page.kind, "problems": 0}
