"""The systems that `odqa evaluate` measures, and what is known of each."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.run_passages import RunPassages
from odqa_jax.data.runs import Ranking
from odqa_jax.evaluation.card import (
  part_facts,
  step_facts,
  tuned_facts,
  tuned_on,
)
from odqa_jax.evaluation.index_loss import index_facts
from odqa_jax.evaluation.measures import Values, measure_ranking, measure_run
from odqa_jax.evaluation.systems import ask_checkpoint, possible_k, rank_bm25
from odqa_jax.models.hf.minilm import resolve_folder
from odqa_jax.reading.answer_scoring import save_scoring
from odqa_jax.retrieval.retriever import load_retriever
from odqa_jax.runtime.mesh import is_primary, sync
from odqa_jax.serving.extraction import (
  Extraction,
  Sources,
  measure_spans,
  open_extraction,
)
from odqa_jax.serving.pack_answers import measure_pack
from odqa_jax.serving.packed.system import PackedSystem, open_packed
from odqa_jax.serving.system_folder import SYSTEM
from odqa_jax.serving.tuning import tune_scoring


class System(NamedTuple):
  """What was measured of one system.

  Attributes:
    figures: see `Measured`.
    values: likewise.
    facts: what it is, and what its numbers were chosen on, for the card.
    ranking: what was found; None where nothing was searched.
  """

  figures: dict[str, Any]
  values: Values
  facts: dict[str, Any]
  ranking: Ranking | None = None


def searching_name(args: argparse.Namespace) -> str:
  """What the figures of the flags' own system are called."""
  return "system" if args.system else "checkpoint"


def _options(args: argparse.Namespace) -> dict[str, Any]:
  """What all systems are measured by."""
  return {
    "qrels": args.qrels,
    "cutoffs": args.cutoffs,
    "least_grade": args.relevant,
  }


def measured_runs(
  args: argparse.Namespace,
  runs: Mapping[str, str],
  questions: Sequence[Question],
  corpus: Corpus | None,
) -> Iterator[tuple[str, System]]:
  """The run files, by name."""
  for name, path in runs.items():
    measured = measure_run(
      path,
      questions,
      RunPassages(path) if corpus is None else corpus,
      exclude_self=args.exclude_self,
      **_options(args),
    )
    facts = {"k": measured.figures["k"], "missing": measured.figures["missing"]}
    yield name, System(*measured, part_facts({"run": path}) | facts)


def ask(
  args: argparse.Namespace,
  questions: Sequence[Question],
  corpus: Corpus,
  k: int,
) -> System:
  """Whatever searches, and writes answers if it has a reader."""
  checkpoint = resolve_folder(args.checkpoint)
  asked = ask_checkpoint(
    checkpoint,
    args.index,
    questions,
    corpus,
    k=k,
    backend=args.backend,
    read_k=args.read_k,
    exclude_self=args.exclude_self,
    reader_corpus=args.reader_corpus and Corpus(args.reader_corpus),
    **_options(args),
  )
  facts = _system(args) | part_facts({"checkpoint": args.checkpoint})
  facts["k"] = k
  if "read_k" in asked.measured.figures:
    facts["read_k"] = asked.measured.figures["read_k"]
  facts["chosen_on"] = {"step": step_facts(checkpoint)["chosen_on"]}
  facts |= _index(args, checkpoint, args.index, questions, corpus)
  return System(*asked.measured, facts, asked.ranking)


def _system(args: argparse.Namespace) -> dict[str, Any]:
  """The file that names the parts of a system, whose hashes it has."""
  if args.system is None:
    return {}
  return part_facts({"system": str(Path(args.system) / SYSTEM)})


def _index(
  args: argparse.Namespace,
  retriever: str | Path | None,
  index: str | None,
  questions: Sequence[Question],
  corpus: Corpus,
) -> dict[str, Any]:
  """What is known of an index, where a card is asked for."""
  if args.card is None or index is None:
    return {}
  found = load_retriever(resolve_folder(str(retriever)))
  return {"index": index_facts(found, index, args.backend, corpus, questions)}


def ask_bm25(
  args: argparse.Namespace,
  questions: Sequence[Question],
  corpus: Corpus,
  k: int,
) -> System:
  """The baseline without training."""
  ranking = rank_bm25(questions, corpus, k=k, exclude_self=args.exclude_self)
  measured = measure_ranking(ranking, questions, corpus, **_options(args))
  return System(*measured, {"k": k}, ranking)


def _tuned(
  args: argparse.Namespace,
  extraction: Extraction,
  questions: Sequence[Question],
) -> dict[str, Any]:
  """Writes what is best on the questions, and tells it."""
  version = extraction.versions["extractive_reader"]
  scoring, figures = tune_scoring(
    extraction, questions, version=version, chosen_on=str(args.choice)
  )
  if is_primary():
    save_scoring(args.tune_scoring, scoring)
  sync("scoring")
  return {"scoring": args.tune_scoring} | figures


def ask_pack(
  args: argparse.Namespace, questions: Sequence[Question]
) -> tuple[System, PackedSystem]:
  """A system in one file."""
  system = open_packed(args.system)
  k = possible_k(args.k, system.texts)
  read_k = system.tuned_read_k(k) if args.read_k is None else args.read_k
  asked = measure_pack(
    system,
    questions,
    k=k,
    read_k=read_k,
    most=args.spans,
    merge=args.merge,
    **_options(args),
  )
  facts = part_facts({"pack": args.system}) | {"k": k, "read_k": read_k}
  options = system.pack.about["options"]
  facts["packed"] = options
  if system.chosen_on is not None:
    facts["chosen_on"] = tuned_on(system.chosen_on)
  facts["index"] = {
    "dtype": options["index"],
    "backend": "the pack",
    "loss": "not measured",
  }
  return System(*asked.measured, facts, asked.ranking), system


def read_spans(
  args: argparse.Namespace,
  sources: Sources,
  questions: Sequence[Question],
  corpus: Corpus,
  k: int,
) -> dict[str, System]:
  """An extractive reader, what it reads, and that reranked."""
  extraction = open_extraction(
    sources, questions, corpus, k=k, read_k=args.read_k
  )
  figures: dict[str, Any] = {}
  values: Values = {}
  systems: dict[str, System] = {}
  options = _options(args)
  if sources.run is None:
    figures, values = measure_ranking(
      extraction.ranking, questions, corpus, **options
    )
  if extraction.reranked is not None:
    reranked = measure_ranking(
      extraction.reranked, questions, corpus, **options
    )
    figures["reranked"] = reranked.figures
    systems["reranked"] = System({}, reranked.values, {"k": k})
  if args.tune_scoring is not None:
    figures["tuned"] = _tuned(args, extraction, questions)
  else:
    read = measure_spans(
      extraction,
      questions,
      read_k=args.read_k,
      most=args.spans,
      merge=args.merge,
    )
    figures["read"], values = read.figures, values | read.values
  facts = _span_facts(args, questions, corpus, k)
  system = System(figures, values, facts, extraction.ranking)
  return {searching_name(args): system} | systems


def _span_facts(
  args: argparse.Namespace,
  questions: Sequence[Question],
  corpus: Corpus,
  k: int,
) -> dict[str, Any]:
  """The parts of an extractive reader, and what they were chosen on."""
  names = ("checkpoint", "retriever", "reranker", "reader", "run", "fusion")
  parts = {name: getattr(args, name) for name in names}
  facts = _system(args) | part_facts(parts) | {"k": k}
  facts |= {"read_k": args.read_k, "rank_weight": args.rank_weight}
  chosen = {
    f"step of the {name}": step_facts(resolve_folder(path))["chosen_on"]
    for name, path in parts.items()
    if path and name not in ("run", "fusion")
  }
  facts["chosen_on"] = chosen | tuned_facts(args.scoring, args.fusion)
  return facts | _index(args, args.retriever, args.index, questions, corpus)
