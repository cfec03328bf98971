"""Mines hard negatives with a retriever, BM25, or both.

They go into the pairs of a dataset folder, which odqa train reads.
"""

import argparse
from typing import Any

from odqa_jax.commands.flags import add_backend, split_names

_EXAMPLE = """\
example:
  odqa mine --data data --sets train --retriever work/sup --index work/index \\
    --bm25 --negatives 8
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa mine`."""
  parser.epilog = _EXAMPLE
  add = parser.add_argument
  add("--data", required=True, help="a dataset folder; its pairs are written")
  add("--sets", required=True, help="NAME[,NAME…] of its question sets")
  add("--retriever", help="a checkpoint, which searches its index")
  add("--index", help="of the retriever")
  add("--bm25", action="store_true", help="alone, or by turns with --retriever")
  add("--negatives", type=int, default=8, help="of a question, at most")
  add("--depth", type=int, default=100, help="passages looked at, of each")
  add(
    "--add",
    action="store_true",
    help="to the pairs that there are; else only where a file names none",
  )
  add(
    "--gold",
    help="the file the sets were made of: its paragraphs → passages",
  )
  add("--gold-format", help="of that file; none: told by its content")
  add_backend(parser)


def _check(args: argparse.Namespace) -> None:
  """Raises ValueError for flags that do not go together."""
  if not split_names(args.sets):
    raise ValueError("--sets names none; give the question sets to mine.")
  if not (args.retriever or args.bm25):
    raise ValueError("give --retriever CHECKPOINT with --index, or --bm25.")
  if (args.retriever is None) != (args.index is None):
    raise ValueError("--retriever CHECKPOINT and --index DIR go together.")
  if args.negatives < 0 or args.depth < 1:
    raise ValueError(
      f"--negatives {args.negatives} --depth {args.depth}: none or more of the "
      "best 1 or more passages are mined."
    )
  if args.gold_format and not args.gold:
    raise ValueError("--gold-format is that of --gold FILE; give the file.")


def run(args: argparse.Namespace) -> dict[str, Any]:
  """All processes search; the first one writes."""
  from pathlib import Path

  from odqa_jax.data.corpus.corpus import Corpus
  from odqa_jax.data.mining.bm25_build import bm25_search, index_dataset
  from odqa_jax.data.mining.gold import GoldPassages, read_gold
  from odqa_jax.data.mining.leaks import gold_leaks
  from odqa_jax.data.mining.sets import mine_sets, open_sets
  from odqa_jax.retrieval.folders import make_index
  from odqa_jax.retrieval.mining import mining_search
  from odqa_jax.retrieval.retriever import load_retriever
  from odqa_jax.runtime.mesh import is_primary, sync

  _check(args)
  data, names = Path(args.data), split_names(args.sets)
  corpus = Corpus(data / "corpus")
  # Before the hours that an index takes.
  sets = open_sets(data, names, add=args.add)
  gold = None
  if args.gold:
    paragraphs = read_gold(args.gold, args.gold_format)
    gold = GoldPassages(corpus, paragraphs).positives
  searches = {}
  if args.retriever:
    retriever = load_retriever(args.retriever)
    index = make_index(retriever, corpus, args.index, args.backend)
    name = f"retriever {index.manifest['encoder'][:12]}"
    searches[name] = mining_search(retriever, index, corpus)
  if args.bm25:
    if is_primary():
      index_dataset(data)
    sync("bm25")
    searches["bm25"] = bm25_search(data)
  reports = mine_sets(
    data,
    sets,
    searches,
    negatives=args.negatives,
    depth=args.depth,
    positives=gold,
    write=is_primary(),
  )
  leaks = gold_leaks(data, names) if is_primary() else {}
  sync("mine")
  return {"searches": list(searches), "mining": reports, "leaks": leaks}
