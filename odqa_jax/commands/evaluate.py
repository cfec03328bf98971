"""Measures a run file, a system or checkpoint, or BM25."""

import argparse
from typing import Any

from odqa_jax.commands.flags import (
  add_backend,
  add_exclude_self,
  add_format,
  add_spans,
  add_system,
  names_pack,
  span_sources,
  take_system,
)


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa evaluate`."""
  add = parser.add_argument
  add("--run", help="run.trec or run.json; with texts it needs no --corpus")
  add_system(parser)
  add_spans(parser)
  add("--questions", required=True)
  add_format(parser)
  add("--qrels", help="TREC qrels for the gold-passage measures")
  add("--k", type=int, default=100, help="passages that are searched for")
  add("--bm25", action="store_true", help="measure BM25 as well")
  add(
    "--tune-scoring",
    help="scoring.json to write: --rank-weight and --read-k, best on these "
    "(dev) questions",
  )
  add_exclude_self(parser)
  add_backend(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
  """Gives the figures of each thing that is named."""
  from odqa_jax.data.corpus.corpus import Corpus
  from odqa_jax.data.formats.files import open_questions
  from odqa_jax.data.prepare import open_corpus
  from odqa_jax.data.run_passages import RunPassages
  from odqa_jax.evaluation.measures import evaluate_run
  from odqa_jax.evaluation.systems import (
    evaluate_bm25,
    evaluate_checkpoint,
    possible_k,
  )
  from odqa_jax.models.hf.minilm import resolve_folder
  from odqa_jax.retrieval.backends.table import read_backend

  # A typo is told before a checkpoint is loaded.
  read_backend(args.backend)
  if names_pack(args):
    return _evaluate_pack(args)
  take_system(args)
  if args.tune_scoring is not None:
    _check_tuning(args)
  if args.run is None and args.checkpoint is None and not args.bm25:
    raise ValueError(
      "give --run FILE, --system DIR, --checkpoint DIR with --index, or --bm25."
    )
  sources = span_sources(args)
  if args.checkpoint is not None and args.index is None and sources is None:
    raise ValueError("--checkpoint needs --index DIR; it is made when absent.")
  searches = args.checkpoint is not None or args.bm25
  if searches and args.corpus is None:
    raise ValueError("--corpus DIR is needed: what is to be searched.")
  questions = open_questions(args.questions, args.format, args.columns)
  corpus = open_corpus(args.corpus) if args.corpus else None
  k = possible_k(args.k, corpus) if searches and corpus else args.k
  figures: dict[str, Any] = {}
  if args.run is not None:
    figures["run"] = evaluate_run(
      args.run,
      questions,
      RunPassages(args.run) if corpus is None else corpus,
      qrels=args.qrels,
      exclude_self=args.exclude_self,
    )
  if corpus is None:
    return figures
  figures["corpus"] = corpus.fingerprint
  if corpus.leaky:
    figures["leaky"] = True
  if sources is not None:
    figures["system" if args.system else "checkpoint"] = _read_spans(
      args, sources, questions, corpus, k
    )
  elif args.checkpoint is not None:
    store = args.reader_corpus and Corpus(args.reader_corpus)
    figures["system" if args.system else "checkpoint"] = evaluate_checkpoint(
      resolve_folder(args.checkpoint),
      args.index,
      questions,
      corpus,
      qrels=args.qrels,
      k=k,
      backend=args.backend,
      read_k=args.read_k,
      exclude_self=args.exclude_self,
      reader_corpus=store,
    )
  if args.bm25:
    figures["bm25"] = evaluate_bm25(
      questions,
      corpus,
      qrels=args.qrels,
      k=k,
      exclude_self=args.exclude_self,
    )
  return figures


def _check_tuning(args: argparse.Namespace) -> None:
  """Raises ValueError for what is tuned already, or cannot be written."""
  from odqa_jax.runtime.paths import SCORING, check_output

  for flag in ("rank_weight", "scoring", "read_k"):
    if getattr(args, flag) is not None:
      raise ValueError(
        f"--tune-scoring finds what --{flag.replace('_', '-')} gives; leave "
        "one of them out."
      )
  check_output(args.tune_scoring, [args.questions, args.run], SCORING)


def _tuned(
  args: argparse.Namespace, extraction: Any, questions: Any
) -> dict[str, Any]:
  """Writes what is best on the questions, and tells it."""
  from odqa_jax.reading.answer_scoring import save_scoring
  from odqa_jax.runtime.mesh import is_primary, sync
  from odqa_jax.serving.tuning import tune_scoring

  version = extraction.versions["extractive_reader"]
  scoring, figures = tune_scoring(extraction, questions, version=version)
  if is_primary():
    save_scoring(args.tune_scoring, scoring)
  sync("scoring")
  return {"scoring": args.tune_scoring} | figures


def _evaluate_pack(args: argparse.Namespace) -> dict[str, Any]:
  """The figures of a system in one file."""
  from odqa_jax.data.formats.files import open_questions
  from odqa_jax.evaluation.systems import possible_k
  from odqa_jax.serving.pack_answers import measure_pack
  from odqa_jax.serving.packed.system import open_packed

  if args.bm25:
    raise ValueError("--bm25 searches a corpus; give it without a pack.")
  questions = open_questions(args.questions, args.format, args.columns)
  system = open_packed(args.system)
  k = possible_k(args.k, system.texts)
  figures = measure_pack(
    system,
    questions,
    k=k,
    read_k=system.tuned_read_k(k) if args.read_k is None else args.read_k,
    most=args.spans,
    merge=args.merge,
    qrels=args.qrels,
  )
  about = system.pack.about
  label = {"leaky": True} if about.get("leaky") else {}
  return {"corpus": about["corpus"], **label, "system": figures}


def _read_spans(
  args: argparse.Namespace,
  sources: Any,
  questions: Any,
  corpus: Any,
  k: int,
) -> dict[str, Any]:
  """The figures of an extractive reader, and of what it reads."""
  from odqa_jax.evaluation.measures import evaluate_ranking
  from odqa_jax.serving.extraction import measure_spans, open_extraction

  extraction = open_extraction(
    sources, questions, corpus, k=k, read_k=args.read_k
  )
  figures: dict[str, Any] = {}
  if sources.run is None:
    figures = evaluate_ranking(
      extraction.ranking, questions, corpus, qrels=args.qrels
    )
  if extraction.reranked is not None:
    figures["reranked"] = evaluate_ranking(
      extraction.reranked, questions, corpus, qrels=args.qrels
    )
  if args.tune_scoring is not None:
    return figures | {"tuned": _tuned(args, extraction, questions)}
  read = measure_spans(
    extraction,
    questions,
    read_k=args.read_k,
    most=args.spans,
    merge=args.merge,
  )
  return figures | {"read": read}
