"""Parts of a whole system with random weights, as training leaves them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from small_reader import (
  reader_settings,
  save_workdir,
  small_components,
  small_gatherer,
)

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.runs import Ranking, write_run
from odqa_jax.models.bert import BertConfig
from odqa_jax.models.extractive_reader import ExtractiveReader, SpanConfig
from odqa_jax.models.families import describe
from odqa_jax.models.passage_scorer import Reranker, ScorerConfig
from odqa_jax.models.unified_reader import UnifiedConfig, UnifiedReader
from odqa_jax.reading.system import ReadingSystem, make_system
from odqa_jax.retrieval import storage
from odqa_jax.retrieval.retriever import Retriever
from odqa_jax.runtime.checkpoint import Checkpoints
from odqa_jax.text.reader_vocabulary import WordPieceVocabulary
from odqa_jax.training.tasks.table import make_task

LENGTHS = {"question_length": 16, "passage_length": 48, "pair_length": 64}


def save_reranker(corpus: Corpus, workdir: Path, seed: int = 0) -> Path:
  """The workdir of a reranker whose scores differ clearly."""
  return _save(Reranker(ScorerConfig(_bert(corpus))), corpus, workdir, seed)


def save_extractive_reader(
  corpus: Corpus, workdir: Path, seed: int = 0, objective: str = "independent"
) -> Path:
  """The workdir of an extractive reader."""
  config = SpanConfig(_bert(corpus), span=objective != "dpr")
  more = {"span_length": 8, "objective": objective}
  return _save(ExtractiveReader(config), corpus, workdir, seed, **more)


def save_unified_reader(corpus: Corpus, workdir: Path, seed: int = 0) -> Path:
  """The workdir of a unified reader with vectors of four numbers."""
  network = UnifiedReader(UnifiedConfig(_bert(corpus), embedding_dim=4))
  more = {"span_length": 8, "passage_first": True, "objective": "dpr"}
  return _save(network, corpus, workdir, seed, **more)


def random_system(task: str, data: Path, seed: int = 0) -> ReadingSystem:
  """A `small_system` whose weights NumPy draws, which takes no compiler."""
  settings = reader_settings(task, data)
  corpus = Corpus(data / "corpus")
  components = small_components(corpus, WordPieceVocabulary(corpus.tokenizer))
  made = make_task(settings, components)
  assert made.reading is not None
  return make_system(
    made.reading,
    components,
    _random(made.init, seed),
    small_gatherer(settings, corpus),
    question_length=settings.data.question_length,
  )


def save_parts(data: Path, root: Path) -> dict[str, Path]:
  """What `assemble` takes of a retriever and an extractive reader.

  A reranker lies beside them, as `root / "reranker"`.
  """
  corpus = Corpus(data / "corpus")
  save_extractive_reader(corpus, root / "extractive")
  save_reranker(corpus, root / "reranker")
  system = random_system("joint", data)
  save_workdir(system, root / "retriever", with_reader=False)
  random_index(system.retriever, corpus, root / "index")
  return {
    "retriever": root / "retriever",
    "index": root / "index",
    "corpus": data,
    "extractive_reader": root / "extractive",
  }


def _random(init: Callable[..., Any], seed: int) -> Any:
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: rng.normal(0, 0.5, x.shape).astype(np.float32),
    jax.eval_shape(init, jax.random.key(0)),
  )


def _bert(corpus: Corpus) -> BertConfig:
  return BertConfig(
    vocab_size=corpus.tokenizer.vocab_size,
    width=8,
    layers=1,
    heads=2,
    mlp_dim=8,
    max_positions=64,
    scan=False,
  )


def _save(
  network: Any, corpus: Corpus, workdir: Path, seed: int, **more: Any
) -> Path:
  params = _random(network.init, seed)
  described = describe(network)
  role = described["family"]
  made_from = {"tokenizer": corpus.tokenizer.fingerprint, "title": True}
  extra = {
    "config": {},
    "components": {role: described | made_from | LENGTHS | more},
    "reading": None,
    "corpus": corpus.fingerprint,
    "best": None,
  }
  with Checkpoints(workdir / "checkpoints") as checkpoints:
    checkpoints.save(3, {"params": {role: params}}, extra)
    checkpoints.wait()
  corpus.tokenizer.save(workdir / "tokenizer")
  return workdir


def random_index(retriever: Retriever, corpus: Corpus, folder: Path) -> None:
  """The index of a retriever by its manifest; to encode would take longer."""
  width = retriever.encoder.config.output_dim
  rows = np.random.default_rng(0).normal(size=(len(corpus), width))
  partial = folder.with_name("partial")
  partial.mkdir()
  storage.save_shard(partial, 0, 0, rows.astype(np.float32))
  made_from = {
    "encoder": retriever.fingerprint,
    "corpus": corpus.fingerprint,
    "tokenizer": corpus.tokenizer.fingerprint,
    "dtype": "float32",
    "max_length": retriever.passage_length,
    "count": len(corpus),
  }
  storage.finish(partial, folder, made_from, 1)


def write_random_run(
  path: Path, questions: Sequence[Question], corpus: Corpus, k: int
) -> Ranking:
  """A run of k passages of every question, scored k to 1."""
  rng = np.random.default_rng(0)
  rows = np.stack([rng.permutation(len(corpus))[:k] for _ in questions])
  scores = np.tile(np.arange(k, 0, -1.0, dtype=np.float32), (len(rows), 1))
  ranking = Ranking(tuple(q.id for q in questions), rows, scores)
  write_run(path, ranking, questions, corpus)
  return ranking
