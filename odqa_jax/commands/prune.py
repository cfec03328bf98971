"""Cuts corpus and index to the passages that matter.

--curve draws what that costs: recall against the share that is kept.
"""

import argparse
from typing import Any

from odqa_jax.commands.flags import add_choose_on_test, split_names

_EXAMPLE = """\
example:
  odqa prune --checkpoint work/pruner --corpus data --index work/index \\
    --keep 1700000 --keep-gold data/questions/train --out pruned
  odqa prune --scores pruned/scores.npy --corpus data --run dev.json \\
    --questions dev.jsonl --curve curve.png
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa prune`."""
  parser.epilog = _EXAMPLE
  add = parser.add_argument
  add("--corpus", required=True, help="a dataset or corpus folder")
  add("--index", help="of the corpus, cut as well")
  add("--reader-corpus", help="likewise; by default the one beside the corpus")
  add("--checkpoint", help="of a pruner or passage filter: scores passages")
  add(
    "--scores",
    help="or FILE.npy: how irrelevant each passage is, in the order of rows",
  )
  add("--keep", type=int, help="so many passages, the least irrelevant")
  add(
    "--threshold",
    type=float,
    help="or those that are no more irrelevant (a filter's score, negated)",
  )
  add(
    "--keep-gold",
    default="",
    help="question sets, those of training, whose positive passages stay",
  )
  add("--out", help="the folder of what is kept")
  add("--curve", help="FILE.png: recall against the share that is kept")
  add("--run", help="of the whole corpus, deep; what --curve measures")
  add("--questions", help="of the run")
  add("--candidates", help="of the questions: exact match as well")
  add("--frequency-run", help="of other questions: pruning by what is found")
  add("--frequency-questions", help="of that run")
  add("--seed", type=int, default=0, help="of random pruning")
  add_choose_on_test(parser)


def _check(args: argparse.Namespace) -> None:
  """Raises ValueError for flags that do not go together."""
  if (args.checkpoint is None) == (args.scores is None):
    raise ValueError("give either --checkpoint DIR or --scores FILE.npy.")
  if args.out is None and args.curve is None:
    raise ValueError("give --out DIR to prune, or --curve FILE.png to measure.")
  if args.out is None and args.checkpoint is not None:
    raise ValueError(
      "--checkpoint DIR needs --out DIR, where the scores are kept; to measure "
      "alone, give them with --scores OUT/scores.npy."
    )
  for name in ("keep", "threshold", "index", "reader_corpus"):
    if getattr(args, name) is not None and args.out is None:
      flag = name.replace("_", "-")
      raise ValueError(f"--{flag} is for --out DIR; give it too.")
  drawn = ("run", "questions")
  if args.curve and not all(getattr(args, name) for name in drawn):
    raise ValueError("--curve needs --run FILE and --questions FILE.")
  if (args.frequency_run is None) != (args.frequency_questions is None):
    raise ValueError(
      "--frequency-run FILE and --frequency-questions FILE go together."
    )
  for name in (*drawn, "candidates", "frequency_run"):
    if getattr(args, name) and not args.curve:
      flag = name.replace("_", "-")
      raise ValueError(f"--{flag} is for --curve FILE.png; give it too.")


def run(args: argparse.Namespace) -> dict[str, Any]:
  """Writes the folder, or the curve, or both."""
  from pathlib import Path

  from odqa_jax.data.formats.files import open_questions
  from odqa_jax.data.prepare import open_corpus
  from odqa_jax.data.questions.held_out import choose_on
  from odqa_jax.runtime.paths import PNG, check_folder, check_output
  from odqa_jax.serving.pruning import gold_rows
  from odqa_jax.serving.scores import SCORES, read_scores

  _check(args)
  if args.out:
    check_folder(args.out)
  if args.curve:
    choice = choose_on(
      args.questions,
      "how many passages are kept (--curve)",
      "--choose-on-test",
      allowed=args.choose_on_test,
    )
    check_output(args.curve, [args.scores, args.run], PNG)
  corpus = open_corpus(args.corpus)
  scores, leaky = _scores(args, corpus)
  gold = {
    name: gold_rows(open_questions(name), corpus)
    for name in split_names(args.keep_gold)
  }
  # Scoring may take hours: what the curve needs is read before.
  measured = _measured(args, corpus) if args.curve else {}
  figures: dict[str, Any] = {}
  if args.out:
    figures |= _cut(args, corpus, scores, gold, leaky)
  if args.curve:
    if args.checkpoint:
      scores = read_scores(Path(args.out) / SCORES, corpus)
    figures["chosen_on"] = str(choice)
    figures["curve"] = _draw(args, corpus, measured, scores, gold, leaky)
  return figures


def _scores(args: argparse.Namespace, corpus: Any) -> tuple[Any, bool]:
  """Scores of a file, or the network that gives them; whether it is leaky."""
  if args.scores:
    from odqa_jax.serving.scores import is_leaky, read_scores

    return read_scores(args.scores, corpus), is_leaky(args.scores)
  from odqa_jax.models.passage_scorer import ALONE
  from odqa_jax.reading.pair_scores import PassageScores
  from odqa_jax.reading.trained_scorer import load_trained_scorer

  scorer = load_trained_scorer(args.checkpoint, *ALONE)
  return PassageScores(scorer, corpus), scorer.leaky


def _cut(
  args: argparse.Namespace,
  corpus: Any,
  scores: Any,
  gold: dict[str, Any],
  leaky: bool,
) -> dict[str, Any]:
  from pathlib import Path

  from odqa_jax.data.corpus.corpus import Corpus
  from odqa_jax.runtime.progress import progress_bar
  from odqa_jax.serving.pruning import Rule, Whole, prune

  beside = corpus.directory.with_name("reader_corpus")
  store = args.reader_corpus or (beside if beside.is_dir() else None)
  whole = Whole(
    corpus,
    Path(args.index) if args.index else None,
    Corpus(store) if store else None,
  )
  rule = Rule(args.keep, args.threshold, gold)
  with progress_bar("prune", len(corpus), "passages") as update:
    return prune(whole, scores, rule, args.out, leaky=leaky, progress=update)


def _measured(args: argparse.Namespace, corpus: Any) -> dict[str, Any]:
  """What the curve is measured on, and the order by frequency."""
  from odqa_jax.data.formats.files import open_questions
  from odqa_jax.data.runs import read_run
  from odqa_jax.evaluation.pruning import frequency_scores
  from odqa_jax.reading.candidates import read_candidates

  questions = open_questions(args.questions)
  found: dict[str, Any] = {
    "questions": questions,
    "run": read_run(args.run, questions, corpus),
    "candidates": read_candidates(args.candidates) if args.candidates else None,
    "orders": {},
  }
  if args.frequency_run:
    asked = open_questions(args.frequency_questions)
    run = read_run(args.frequency_run, asked, corpus)
    scores = frequency_scores(run, len(corpus), args.seed)
    found["orders"]["frequency"] = scores
  return found


def _draw(
  args: argparse.Namespace,
  corpus: Any,
  measured: dict[str, Any],
  scores: Any,
  gold: dict[str, Any],
  leaky: bool,
) -> list[dict[str, Any]]:
  import sys

  import numpy as np

  from odqa_jax.evaluation.pruning import (
    curve_table,
    pruning_curve,
    random_scores,
  )
  from odqa_jax.runtime.mesh import is_primary
  from odqa_jax.runtime.plots import plot_pruning

  name = "scores (leaky)" if leaky else "scores"
  orders = {name: scores, "random": random_scores(len(corpus), args.seed)}
  rows = pruning_curve(
    measured["run"],
    measured["questions"],
    corpus,
    orders | measured["orders"],
    gold=np.concatenate([np.zeros(0, np.int64), *gold.values()]),
    candidates=measured["candidates"],
  )
  if is_primary():
    print(curve_table(rows), file=sys.stderr)
    plot_pruning(rows, args.curve)
  return rows
