"""Finds the best passages for every question.

What it writes is measured by odqa evaluate --run, and read by odqa rerank,
odqa answer --run and the training of readers.
"""

import argparse
from typing import Any

from odqa_jax.commands.flags import add_backend, add_exclude_self, add_format

_EXAMPLE = """\
example:
  odqa search --index work/index --questions dev.jsonl --out dev.trec
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa search`."""
  parser.epilog = _EXAMPLE
  add = parser.add_argument
  add("--index", required=True, help="it knows its checkpoint and corpus")
  add("--checkpoint", help="if it is elsewhere now than odqa index had it")
  add("--corpus", help="a dataset or corpus folder, likewise")
  add("--questions", required=True, help="a file or prepared set")
  add_format(parser)
  add("--k", type=int, default=100, help="passages of a question")
  add("--out", required=True, help="NAME.trec, or NAME.json with texts")
  add_exclude_self(parser)
  add_backend(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
  """Writes the run file."""
  from odqa_jax.data.formats.files import open_questions
  from odqa_jax.data.prepare import open_corpus
  from odqa_jax.data.runs import write_run
  from odqa_jax.evaluation.systems import possible_k, rank_passages
  from odqa_jax.retrieval.backends.table import read_backend
  from odqa_jax.retrieval.folders import open_index
  from odqa_jax.retrieval.retriever import load_retriever, with_titles
  from odqa_jax.retrieval.source import given_source
  from odqa_jax.runtime.mesh import is_primary, sync
  from odqa_jax.runtime.paths import RUN, check_output

  # A typo is told before a checkpoint is loaded.
  read_backend(args.backend)
  check_output(args.out, [args.questions, args.corpus], RUN)
  source = given_source(args.index, args.checkpoint, args.corpus)
  questions = open_questions(args.questions, args.format, args.columns)
  corpus = open_corpus(source.corpus)
  retriever = load_retriever(source.checkpoint)
  if source.title:
    retriever = with_titles(retriever)
  k = possible_k(args.k, corpus)
  index = open_index(retriever, corpus, args.index, args.backend)
  ranking = rank_passages(
    retriever,
    index,
    corpus,
    questions,
    k=k,
    exclude_self=args.exclude_self,
  )
  if is_primary():
    write_run(args.out, ranking, questions, corpus)
  sync("search")
  return {
    "questions": len(questions),
    "k": k,
    "run": args.out,
    "backend": args.backend,
    **index.metrics(),
  }
