"""Puts the passages of a run in the order of a reranker.

Both orders are measured where the questions have answers or gold passages.
"""

import argparse
from typing import Any

from odqa_jax.commands.flags import add_format

_EXAMPLE = """\
example:
  odqa rerank --checkpoint work/reranker --run dev.json --questions dev.jsonl \\
    --corpus data --out reranked.json
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa rerank`."""
  parser.epilog = _EXAMPLE
  add = parser.add_argument
  add("--checkpoint", required=True, help="of a reranker, or published")
  add("--run", required=True, help="from odqa search: run.trec or run.json")
  add("--questions", required=True, help="of the run: a file or prepared set")
  add_format(parser)
  add("--corpus", required=True, help="the one searched: a dataset or corpus")
  add("--k", type=int, help="the run's best passages alone; by default all")
  add("--out", required=True, help="NAME.trec, or NAME.json with texts")


def run(args: argparse.Namespace) -> dict[str, Any]:
  """Writes the new run; measures it and the old one."""
  import sys

  from odqa_jax.data.examples.retrieved import check_run_texts
  from odqa_jax.data.formats.files import open_questions
  from odqa_jax.data.prepare import open_corpus
  from odqa_jax.data.runs import read_run, write_run
  from odqa_jax.evaluation.measures import evaluate_ranking, recall_table
  from odqa_jax.reading.pair_scores import rerank
  from odqa_jax.reading.trained_scorer import load_trained_scorer
  from odqa_jax.runtime.mesh import is_primary, sync
  from odqa_jax.runtime.paths import RUN, check_output
  from odqa_jax.runtime.progress import progress_bar

  if args.k is not None and args.k < 1:
    raise ValueError(f"--k {args.k}: at least 1 passage is ranked.")
  check_output(args.out, [args.run, args.questions, args.corpus], RUN)
  questions = open_questions(args.questions, args.format, args.columns)
  corpus = open_corpus(args.corpus)
  found = read_run(args.run, questions, corpus).cut(args.k)
  check_run_texts(args.run, corpus)
  reranker = load_trained_scorer(args.checkpoint, "reranker")
  with progress_bar("rerank", found.rows.size, "pairs") as update:
    ranked = rerank(reranker, found, questions, corpus, progress=update)
  if is_primary():
    write_run(args.out, ranked, questions, corpus)
  sync("rerank")
  figures = {
    name: evaluate_ranking(ranking, questions, corpus)
    for name, ranking in (("before", found), ("after", ranked))
  }
  rows = [{"name": name} | row for name, row in figures.items()]
  if is_primary() and any({"recall", "gold"} & set(row) for row in rows):
    print(recall_table(rows), file=sys.stderr)
  return figures | {"run": args.out}
