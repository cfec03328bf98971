"""The sub-commands, as functions of their flags that return figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from odqa_jax.commands.answering import (
  answer,
  evaluate_checkpoint,
  open_corpus,
  open_index,
  open_questions,
)
from odqa_jax.data.mining.bm25 import Bm25
from odqa_jax.data.mining.entities import TYPES
from odqa_jax.data.prepare import prepare as prepare_dataset
from odqa_jax.demo.demo import run_demo
from odqa_jax.evaluation.measures import (
  Ranking,
  evaluate_ranking,
  evaluate_run,
  write_run,
)
from odqa_jax.models.hf.minilm import resolve_folder
from odqa_jax.plan.plan import plan
from odqa_jax.retrieval.index import export_npy
from odqa_jax.retrieval.retriever import (
  load_retriever,
  search_questions,
  truncate,
  write_index,
)
from odqa_jax.retrieval.storage import read_manifest
from odqa_jax.runtime.config import load_config
from odqa_jax.runtime.mesh import is_primary, make_mesh, sync
from odqa_jax.runtime.progress import progress_bar
from odqa_jax.training.train import train as train_model

# Every sub-command is a function of this module; see `main.run_command`.
__all__ = [
  "answer",
  "demo",
  "evaluate",
  "index",
  "plan",
  "prepare",
  "search",
  "train",
]

DTYPES = {"f32": "float32", "bf16": "bfloat16", "int8": "int8"}


def _split(names: str) -> list[str]:
  return [name for name in names.split(",") if name]


def prepare(
  corpus: str,
  questions: str,
  out: str,
  tokenizer: str,
  vocabulary_size: int,
  pairs: str,
  negatives: int,
  spans: str,
  reader_tokenizer: str,
) -> dict[str, Any]:
  """`odqa prepare`. With several processes the first one works."""
  figures: dict[str, Any] = {}
  if is_primary():
    figures = prepare_dataset(
      corpus=_split(corpus),
      questions=_split(questions),
      out=out,
      tokenizer=str(resolve_folder(tokenizer)) if tokenizer else "",
      vocabulary_size=vocabulary_size,
      pairs=_split(pairs),
      negatives=negatives,
      spans=TYPES if spans == "default" else _split(spans),
      reader_tokenizer=reader_tokenizer,
    )
  sync("prepare")
  return figures


def train(
  config: str, workdir: str, overrides: Sequence[str]
) -> dict[str, Any]:
  """`odqa train`."""
  return train_model(load_config(config, overrides), workdir)


def index(
  checkpoint: str,
  corpus: str,
  out: str,
  dtype: str,
  dimensions: int | None,
  batch_tokens: int | None,
  npy: str | None,
) -> dict[str, Any]:
  """`odqa index`."""
  opened = open_corpus(corpus)
  retriever = load_retriever(resolve_folder(checkpoint))
  if dimensions is not None:
    retriever = truncate(retriever, dimensions)
  with progress_bar("encode", len(opened), "passage") as update:
    write_index(
      retriever,
      opened,
      out,
      mesh=make_mesh(),
      dtype=DTYPES[dtype],
      batch_tokens=batch_tokens,
      progress=update,
    )
  if npy:
    export_npy(out, npy)
  manifest = read_manifest(Path(out))
  return {k: manifest[k] for k in ("count", "width", "dtype", "encoder")}


def search(
  checkpoint: str,
  index: str,
  corpus: str,
  questions: str,
  k: int,
  out: str,
  backend: str,
) -> dict[str, Any]:
  """`odqa search`."""
  asked = open_questions(questions)
  opened = open_corpus(corpus)
  retriever = load_retriever(resolve_folder(checkpoint))
  searched = open_index(retriever, opened, index, backend)
  with progress_bar("search", len(asked), "question") as update:
    scores, rows = search_questions(
      retriever,
      searched,
      opened,
      [q.question for q in asked],
      k=k,
      progress=update,
    )
  ranking = Ranking(tuple(q.id for q in asked), rows, scores)
  if is_primary():
    write_run(Path(out), ranking, asked, opened)
  sync("search")
  found = {"questions": len(asked), "k": k, "run": out, "backend": backend}
  return found | searched.metrics()


def evaluate(
  run: str | None,
  checkpoint: str | None,
  index: str | None,
  questions: str,
  corpus: str,
  qrels: str | None,
  k: int,
  bm25: bool,
  backend: str,
) -> dict[str, Any]:
  """`odqa evaluate`: a run file, a checkpoint, or BM25; or all of them."""
  if run is None and checkpoint is None and not bm25:
    raise ValueError(
      "give --run FILE, --checkpoint DIR with --index, or --bm25."
    )
  if checkpoint is not None and index is None:
    raise ValueError("--checkpoint needs --index DIR; it is made when absent.")
  asked, opened = open_questions(questions), open_corpus(corpus)
  texts = [q.question for q in asked]
  ids = tuple(q.id for q in asked)
  figures: dict[str, Any] = {}
  if run is not None:
    figures["run"] = evaluate_run(Path(run), asked, opened, qrels=qrels)
  if checkpoint is not None and index is not None:
    figures["checkpoint"] = evaluate_checkpoint(
      resolve_folder(checkpoint),
      index,
      asked,
      opened,
      qrels=qrels,
      k=k,
      backend=backend,
    )
  if bm25:
    rows, scores = Bm25.build(opened).search(texts, k)
    figures["bm25"] = evaluate_ranking(
      Ranking(ids, rows, scores), asked, opened, qrels=qrels
    )
  return figures


def demo(workdir: str, preset: str, seed: int) -> dict[str, Any]:
  """`odqa demo`."""
  return run_demo(workdir, preset, seed)
