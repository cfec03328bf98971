"""Measures runs, a system, a checkpoint and BM25, side by side.

The table goes to stderr, all figures as JSON to stdout.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from odqa_jax.commands.flags import (
  FOUND,
  add_backend,
  add_choose_on_test,
  add_exclude_self,
  add_format,
  add_spans,
  add_system,
  names_pack,
  span_sources,
  split_names,
  take_system,
)

# Of figures in JSON: what rounding hides is less than a question in a million.
_DIGITS = 6
# What stands in the JSON beside systems.
_JSON_NAMES = ("corpus", "leaky", "card", "differences")

_EXAMPLE = """\
example:
  odqa evaluate --run first=dev.trec --run second=new.trec \\
    --questions dev.jsonl --corpus data --bm25
  odqa evaluate --system system --questions dev.jsonl --card figures.json
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa evaluate`."""
  parser.epilog = _EXAMPLE
  add = parser.add_argument
  add(
    "--run",
    action="append",
    default=[],
    dest="runs",
    metavar="[NAME=]FILE",
    help="run.trec or run.json, as often as there are runs; with texts it "
    "needs no --corpus",
  )
  add_system(parser)
  add_spans(parser)
  add("--questions", required=True, help="a file or prepared set")
  add_format(parser)
  add("--qrels", help="TREC or BEIR judgements for the gold-passage measures")
  add("--relevant", type=int, default=1, help="least grade that is relevant")
  add(
    "--k",
    type=int,
    help="passages that are searched for; by default as a system's fusion was "
    "tuned, or 100",
  )
  add("--cutoffs", default="", help="of the shares: 1,3,10; by default 1,5,…")
  add("--bm25", action="store_true", help="measure BM25 as well")
  add(
    "--save-run",
    action="append",
    default=[],
    metavar="[NAME=]FILE",
    help="run.trec or run.json to write, of what searches here: bm25, "
    "checkpoint or system",
  )
  add("--card", help="FILE.json: all that stands behind the figures; and .md")
  add("--seed", type=int, default=0, help="of the confidence intervals")
  add(
    "--tune-scoring",
    help="scoring.json to write: --rank-weight and --read-k, best on these "
    "(dev) questions",
  )
  add_choose_on_test(parser)
  add_exclude_self(parser)
  add_backend(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
  """Gives the figures of each thing that is named."""
  from odqa_jax.commands.measured import (
    ask,
    ask_bm25,
    ask_pack,
    measured_runs,
    read_spans,
    searching_name,
  )
  from odqa_jax.data.formats.files import open_questions
  from odqa_jax.data.prepare import open_corpus
  from odqa_jax.evaluation.systems import possible_k
  from odqa_jax.retrieval.backends.table import read_backend

  # A typo is told before a checkpoint is loaded.
  read_backend(args.backend)
  runs = _named_files(args.runs, "run")
  args.run = next(iter(runs.values()), None)
  pack = names_pack(args)
  if not pack:
    take_system(args)
  _check(args, runs, pack=pack)
  sources = None if pack else span_sources(args)
  if sources is not None and sources.run and len(runs) > 1:
    raise ValueError("an extractive reader reads one --run; name one.")
  args.k = FOUND if args.k is None else args.k
  searches = args.checkpoint is not None or args.bm25
  if args.checkpoint is not None and args.index is None and sources is None:
    raise ValueError("--checkpoint needs --index DIR; it is made when absent.")
  if searches and args.corpus is None:
    raise ValueError("--corpus DIR is needed: what is to be searched.")
  questions = open_questions(args.questions, args.format, args.columns)
  if pack:
    system, packed = ask_pack(args, questions)
    kept = packed.pack.about
    about = _about(kept["corpus"], leaky=kept.get("leaky", False))
    return _told(args, {"system": system}, questions, packed.texts, about)
  corpus = open_corpus(args.corpus) if args.corpus else None
  systems = dict(measured_runs(args, runs, questions, corpus))
  if corpus is None:
    return _told(args, systems, questions, None, {})
  k = possible_k(args.k, corpus) if searches else args.k
  if sources is not None:
    systems |= read_spans(args, sources, questions, corpus, k)
  elif args.checkpoint is not None:
    systems[searching_name(args)] = ask(args, questions, corpus, k)
  if args.bm25:
    systems["bm25"] = ask_bm25(args, questions, corpus, k)
  about = _about(corpus.fingerprint, leaky=corpus.leaky)
  return _told(args, systems, questions, corpus, about)


def _about(corpus: str, *, leaky: bool) -> dict[str, Any]:
  """What the figures are of, in JSON."""
  return {"corpus": corpus} | ({"leaky": True} if leaky else {})


def _named_files(given: list[str], name: str) -> dict[str, str]:
  """Name → file, of `NAME=FILE`; a file alone has its stem, or `name`.

  Raises:
    ValueError: if two have one name.
  """
  named: dict[str, str] = {}
  for item in given:
    key, equals, path = item.partition("=")
    if not equals or Path(item).exists():
      stem = Path(item).name.partition(".")[0]
      key, path = (name if len(given) == 1 else stem), item
    if not key or not path or key in named:
      raise ValueError(
        f"--{name} {item}: each needs a file and a name of its own; write "
        f"--{name} NAME=FILE."
      )
    named[key] = path
  return named


def _check(
  args: argparse.Namespace, runs: Mapping[str, str], *, pack: bool
) -> None:
  """Raises ValueError for flags that do not go together."""
  from odqa_jax.commands.measured import searching_name
  from odqa_jax.evaluation.card_page import check_card
  from odqa_jax.runtime.paths import RUN, check_output

  searching = [searching_name(args)] if pack or args.checkpoint else []
  searching += ["bm25"] if args.bm25 else []
  if not runs and not searching:
    raise ValueError(
      "give --run FILE, --system DIR, --checkpoint DIR with --index, or --bm25."
    )
  if pack and args.bm25:
    raise ValueError("--bm25 searches a corpus; give it without a pack.")
  if args.relevant < 1 or (args.relevant > 1 and not args.qrels):
    raise ValueError(
      f"--relevant {args.relevant}: a grade of --qrels FILE, at least 1."
    )
  if args.tune_scoring is not None:
    _check_tuning(args)
  elif args.choose_on_test:
    raise ValueError("--choose-on-test is for --tune-scoring FILE.")
  if args.card is not None:
    check_card(args.card)
  for name in runs.keys() & {*searching, "reranked", *_JSON_NAMES}:
    raise ValueError(
      f"--run {runs[name]}: {name!r} names other figures here; write --run "
      "NAME=FILE with another name."
    )
  args.cutoffs = _cutoffs(args.cutoffs)
  saved = _named_files(args.save_run, "save-run")
  if len(saved) == 1 and "save-run" in saved and len(searching) == 1:
    saved = {searching[0]: saved["save-run"]}
  for name, path in saved.items():
    if name not in searching:
      raise ValueError(
        f"--save-run {path}: {name!r} does not search here; name one of "
        f"{', '.join(searching) or '--checkpoint, --system, --bm25'}: "
        "NAME=FILE."
      )
    check_output(path, [args.questions, args.qrels, *runs.values()], RUN)
  args.save_run = saved


def _cutoffs(text: str) -> list[int] | None:
  """The numbers between commas; None: those of the measures.

  Raises:
    ValueError: for what is none.
  """
  names = split_names(text)
  if any(not name.isdigit() or int(name) < 1 for name in names):
    raise ValueError(f"--cutoffs {text}: numbers of passages, as in 1,3,10.")
  return sorted({*map(int, names)}) or None


def _check_tuning(args: argparse.Namespace) -> None:
  """Raises ValueError for what is tuned already, or cannot be written."""
  from odqa_jax.data.questions.held_out import choose_on
  from odqa_jax.runtime.paths import SCORING, check_output

  for flag in ("rank_weight", "scoring", "read_k"):
    if getattr(args, flag) is not None:
      raise ValueError(
        f"--tune-scoring finds what --{flag.replace('_', '-')} gives; leave "
        "one of them out."
      )
  check_output(args.tune_scoring, [args.questions, args.run], SCORING)
  args.choice = choose_on(
    args.questions,
    "--rank-weight and --read-k (--tune-scoring)",
    "--choose-on-test",
    allowed=args.choose_on_test,
  )


def _told(
  args: argparse.Namespace,
  systems: Mapping[str, Any],
  questions: Any,
  corpus: Any,
  about: Mapping[str, Any],
) -> dict[str, Any]:
  """Prints the table and the card, writes what is asked for; the figures."""
  import sys

  from odqa_jax.data.runs import write_run
  from odqa_jax.evaluation.card_page import short_card, write_card
  from odqa_jax.evaluation.comparison import SAMPLES, compare
  from odqa_jax.evaluation.tables import print_figures, rounded
  from odqa_jax.runtime.mesh import is_primary, sync

  values = {name: s.values for name, s in systems.items() if s.values}
  comparison = compare(values, seed=args.seed, samples=SAMPLES)
  card = _card(args, systems, comparison, questions, corpus, about)
  if is_primary():
    for name, path in args.save_run.items():
      write_run(path, systems[name].ranking, questions, corpus)
    if values:
      print_figures(values, comparison, leaky="leaky" in about)
    else:
      print(
        f"{args.questions}: nothing can be measured, as no question has an "
        "answer or a positive passage; name these with --qrels FILE.",
        file=sys.stderr,
      )
    print(short_card(card), file=sys.stderr)
    if args.card is not None:
      write_card(args.card, card)
  sync("evaluate")
  figures = {
    name: s.figures | {"intervals": comparison.intervals.get(name, {})}
    for name, s in systems.items()
    if s.figures
  }
  if args.card is not None:
    figures["card"] = args.card
  if card["differences"]:
    figures["differences"] = card["differences"]
  return rounded(figures, _DIGITS) | about


def _card(
  args: argparse.Namespace,
  systems: Mapping[str, Any],
  comparison: Any,
  questions: Any,
  corpus: Any,
  about: Mapping[str, Any],
) -> dict[str, Any]:
  from odqa_jax.data.run_passages import RunPassages
  from odqa_jax.evaluation.card import (
    Measurement,
    corpus_facts,
    excluded_facts,
    make_card,
    part_facts,
    question_facts,
  )
  from odqa_jax.evaluation.comparison import SAMPLES

  texts = RunPassages(args.run) if corpus is None else corpus
  judged = part_facts({"qrels": args.qrels})
  if judged:
    judged["qrels"]["least relevant grade"] = args.relevant
  return make_card(
    {n: Measurement(s.facts, s.values) for n, s in systems.items() if s.values},
    comparison,
    seed=args.seed,
    samples=SAMPLES,
    questions=question_facts(args.questions, questions),
    corpus=corpus_facts(texts, args.corpus or args.system or args.run, about),
    excluded=excluded_facts(questions, texts, own=args.exclude_self),
    **judged,
  )
