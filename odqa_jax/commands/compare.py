"""Puts several trainings, or results of questions, side by side.

Differences come with confidence intervals.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from odqa_jax.commands.flags import split_names

_EXAMPLE = """\
examples:
  odqa compare work/a0 work/a1 work/b0 work/b1 --group --out figures
  odqa compare base=base.jsonl new=new.jsonl

The first is of trainings, two seeds of each config as one line; the second of
answers, or runs, of one question set, each against the first.
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa compare`."""
  parser.epilog = _EXAMPLE
  add = parser.add_argument
  add(
    "runs",
    nargs="+",
    metavar="RUN",
    help="workdirs, or answers.jsonl, or NAME.json of odqa search; LABEL=PATH "
    "gives one a name",
  )
  add("--metrics", default="", help="of workdirs: loss,dev/recall@20,…")
  add(
    "--group",
    action="store_true",
    help="runs that differ in the seed alone are one: mean, and its spread",
  )
  add("--seed", type=int, default=0, help="of the confidence intervals")
  add("--out", help="a folder for comparison.json and curves.png")


def run(args: argparse.Namespace) -> dict[str, Any]:
  """Prints tables; writes figures and curves if asked to."""
  from odqa_jax.inspection.comparison import labels
  from odqa_jax.runtime.files import write_json

  paths = labels(args.runs)
  folders = {k: p for k, p in paths.items() if not Path(p).is_file()}
  files = {k: p for k, p in paths.items() if k not in folders}
  _check_out(args, folders, files)
  figures: dict[str, Any] = {"runs": paths}
  if files:
    figures["questions"] = _compare_files(files, args.seed)
  if folders:
    figures["training"] = _compare_trainings(args, folders)
  if args.out is not None:
    write_json(Path(args.out) / "comparison.json", figures)
    figures["out"] = args.out
  return figures


def _check_out(
  args: argparse.Namespace, folders: dict[str, str], files: dict[str, str]
) -> None:
  """Refuses flags for nothing, and files that must not be written."""
  from odqa_jax.runtime.paths import COMPARISON, PNG, check_folder, check_output

  for flag in ("metrics", "group"):
    if getattr(args, flag) and not folders:
      raise ValueError(f"--{flag} is for workdirs, and there is none.")
  if args.out is not None:
    check_folder(args.out)
    out = Path(args.out)
    check_output(out / "comparison.json", files.values(), COMPARISON)
    check_output(out / "curves.png", [], PNG)


def _compare_files(files: dict[str, str], seed: int) -> list[dict[str, Any]]:
  from odqa_jax.evaluation.outcomes import read_file
  from odqa_jax.evaluation.paired import compare_outcomes
  from odqa_jax.inspection.comparison import question_table

  outcomes = {label: read_file(path) for label, path in files.items()}
  rows = compare_outcomes(outcomes, seed=seed)
  print(question_table(rows), file=sys.stderr)
  return rows


def _compare_trainings(
  args: argparse.Namespace, folders: dict[str, str]
) -> list[dict[str, Any]]:
  from odqa_jax.inspection import comparison
  from odqa_jax.runtime.curves import plot_curves

  runs = comparison.trainings(folders)
  groups = comparison.grouped(runs, by_seed=args.group)
  names = split_names(args.metrics) or comparison.default_metrics(groups)
  comparison.check_metrics(groups, names)
  shares = comparison.shares(groups, names)
  rows = comparison.training_rows(groups, names)
  print(comparison.training_table(rows, shares), file=sys.stderr)
  if args.out is not None:
    curves = comparison.curves(groups, names)
    plot_curves(curves, names, Path(args.out) / "curves.png", shares=shares)
  return rows
