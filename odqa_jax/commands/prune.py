"""Cuts corpus and index to the passages that matter."""

import argparse
from typing import Any

from odqa_jax.commands.flags import split_names


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa prune`."""
  add = parser.add_argument
  add("--corpus", required=True, help="a dataset or corpus folder")
  add("--index", help="of the corpus, cut as well")
  add("--reader-corpus", help="likewise; by default the one beside the corpus")
  add(
    "--scores",
    required=True,
    help="FILE.npy: how irrelevant each passage is, in the order of the rows",
  )
  add("--keep", type=int, help="so many passages of the lowest scores")
  add("--threshold", type=float, help="or those that score no more")
  add(
    "--keep-gold",
    default="",
    help="question sets, those of training, whose positive passages stay",
  )
  add("--out", required=True, help="the folder of what is kept")


def run(args: argparse.Namespace) -> dict[str, Any]:
  """Writes the folder."""
  from pathlib import Path

  from odqa_jax.data.corpus.corpus import Corpus
  from odqa_jax.data.formats.files import open_questions
  from odqa_jax.data.prepare import open_corpus
  from odqa_jax.runtime.paths import check_folder
  from odqa_jax.runtime.progress import progress_bar
  from odqa_jax.serving.pruning import Rule, Whole, gold_rows, prune
  from odqa_jax.serving.scores import read_scores

  check_folder(args.out)
  corpus = open_corpus(args.corpus)
  beside = corpus.directory.with_name("reader_corpus")
  store = args.reader_corpus or (beside if beside.is_dir() else None)
  whole = Whole(
    corpus,
    Path(args.index) if args.index else None,
    Corpus(store) if store else None,
  )
  whole.check()
  scores = read_scores(args.scores, corpus)
  gold = {
    name: gold_rows(open_questions(name), corpus)
    for name in split_names(args.keep_gold)
  }
  rule = Rule(args.keep, args.threshold, gold)
  with progress_bar("prune", len(corpus), "passages") as update:
    return prune(whole, scores, rule, args.out, progress=update)
