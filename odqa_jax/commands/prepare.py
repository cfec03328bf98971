"""Raw files → a dataset folder, which all other commands read.

Formats are told by content; odqa_jax/data/README.md has them all. Every part is
complete or absent, and a second run on the same input does nothing.
"""

import argparse
from typing import Any

from odqa_jax.commands.flags import add_format, split_names

_EXAMPLE = """\
examples:
  odqa prepare --corpus passages.tsv.gz --questions train.jsonl,dev.jsonl \\
    --pairs train --out data
  odqa prepare --corpus passages.jsonl --questions queries.jsonl \\
    --qrels qrels.tsv --pairs queries --tokenizer minilm --out data

BM25, which mines hard negatives, reads titles as well as texts.
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa prepare`."""
  parser.epilog = _EXAMPLE
  add = parser.add_argument
  add(
    "--corpus",
    required=True,
    help="FILE[,FILE…], tfds:…, or of a package: vital_articles, factbook, "
    "factbook_short, factbook_facts",
  )
  add(
    "--questions",
    default="",
    help="FILE[,…]; or NAME:SPLIT of a package, as factbook:dev; or "
    "tfds:NAME:SPLIT",
  )
  add(
    "--qrels",
    default="",
    help="FILE[,FILE…] of judgements, of BEIR or TREC: the positives of "
    "--questions by their ids, which --pairs learns from",
  )
  add("--out", required=True, help="the dataset folder")
  add(
    "--tokenizer",
    default="",
    help="of the retriever: a Hugging Face folder, vocab.txt, a training "
    "workdir, a name of the Hub, or minilm; by default one is trained on the "
    "corpus",
  )
  add(
    "--vocabulary-size",
    type=int,
    help="word pieces that are trained; by default 8192",
  )
  add_format(parser)
  add(
    "--corpus-format",
    help="of the passage files; by default told by their content",
  )
  add(
    "--corpus-columns",
    default="",
    help="of a table of passages: id=COLUMN,text=COLUMN[,title=COLUMN]",
  )
  add(
    "--max-bad",
    type=int,
    default=0,
    help="bad records to leave out; each is written to OUT/rejected.txt",
  )
  add("--pairs", default="", help="sets to mine: NAME[,NAME…]")
  add("--negatives", type=int, default=8, help="mined where none are named")
  add(
    "--allow-leak",
    action="store_true",
    help="go on though dev or test questions are train questions",
  )
  add("--reader-tokenizer", default="", help="a T5 folder: a second store")
  add(
    "--runner",
    default="local",
    help="who makes the parts: local[:PROCESSES] or beam[:OPTION…]",
  )
  add(
    "--spans",
    nargs="?",
    const="default",
    default="",
    help="find entities to mask: TYPE[,TYPE…]; none named: a choice of ten",
  )
  add(
    "--tagger",
    default="spacy",
    help="what finds them: spacy, gliner:NAME, or the folder of a BERT token "
    "classifier; spacy+dates: and dates by a pattern, likewise the others",
  )


def run(args: argparse.Namespace) -> dict[str, Any]:
  """With several processes the first one works."""
  from odqa_jax.data.mining.entities import default_types
  from odqa_jax.data.prepare import prepare
  from odqa_jax.models.entity_finder import make_finder
  from odqa_jax.models.hf.minilm import resolve_folder
  from odqa_jax.runtime.mesh import is_primary, sync
  from odqa_jax.runtime.paths import check_folder

  check_folder(args.out)
  tokenizer, reader_tokenizer = (
    str(resolve_folder(name, weights=False)) if name else ""
    for name in (args.tokenizer, args.reader_tokenizer)
  )
  figures: dict[str, Any] = {}
  if is_primary():
    types = [] if args.spans == "default" else split_names(args.spans)
    finder = make_finder(args.tagger, types) if args.spans else None
    figures = prepare(
      corpus=split_names(args.corpus),
      questions=split_names(args.questions),
      out=args.out,
      tokenizer=tokenizer,
      vocabulary_size=args.vocabulary_size,
      pairs=split_names(args.pairs),
      negatives=args.negatives,
      spans=types or (default_types(finder) if finder else ()),
      finder=finder,
      reader_tokenizer=reader_tokenizer,
      format=args.format,
      corpus_format=args.corpus_format,
      columns=args.columns,
      corpus_columns=args.corpus_columns,
      max_bad=args.max_bad,
      allow_leak=args.allow_leak,
      runner=args.runner,
      qrels=split_names(args.qrels),
    )
  sync("prepare")
  return figures
