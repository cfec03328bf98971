"""A reading system with random weights, as small as it can be."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from ml_collections import ConfigDict

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.reader_inputs import ReaderInputs
from odqa_jax.models.bert import BertConfig
from odqa_jax.models.dual_encoder import DualEncoder, EncoderConfig
from odqa_jax.models.families import Components, describe
from odqa_jax.models.t5 import T5, T5Config
from odqa_jax.reading import answer
from odqa_jax.reading import system as answer_system
from odqa_jax.reading.gather import PassageGatherer
from odqa_jax.reading.system import ReadingSystem, make_system
from odqa_jax.retrieval import encoding, retriever
from odqa_jax.runtime.checkpoint import Checkpoints
from odqa_jax.runtime.config import base_config
from odqa_jax.runtime.mesh import make_mesh
from odqa_jax.runtime.settings import Settings, read_settings
from odqa_jax.text.reader_vocabulary import WordPieceVocabulary
from odqa_jax.training.tasks.table import make_task
from odqa_jax.training.tasks.task import Task

ANSWER_LENGTH = 6
# What puts arrays on devices while answering.
PLACES = (answer, answer_system, encoding, retriever)


def one_device() -> Mesh:
  return make_mesh(devices=jax.devices()[:1])


def use_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
  """One device compiles in half the time of eight; the mesh is `one_device`."""
  for module in PLACES:
    monkeypatch.setattr(module, "make_mesh", lambda **_: one_device())


def reader_config(task: str, data: Path, **settings: Any) -> ConfigDict:
  """A training config of a task with a reader on the toy data."""
  config = base_config()
  config.task = task
  config.data.corpus = str(data / "corpus")
  config.data.question_length = 32
  config.data.passage_length = 48
  config.data.reader_length = 64
  config.data.answer_length = ANSWER_LENGTH
  config.retrieval.k = 4
  # Random embeddings are alike: passages should neither be equal nor one alone.
  config.objective.temperature = 0.2
  config.update_from_flattened_dict(settings)
  return config.lock()


def reader_settings(task: str, data: Path, **settings: Any) -> Settings:
  """The same, typed."""
  return read_settings(reader_config(task, data, **settings))


def small_components(
  corpus: Corpus, vocabulary: WordPieceVocabulary, **reader: Any
) -> Components:
  bert = BertConfig(
    vocab_size=corpus.tokenizer.vocab_size,
    width=16,
    layers=1,
    heads=2,
    mlp_dim=32,
    max_positions=64,
    dropout=0.1,
    attention_dropout=0.1,
  )
  t5 = T5Config(
    vocab_size=vocabulary.size,
    width=16,
    layers=1,
    decoder_layers=2,
    heads=2,
    head_dim=8,
    mlp_dim=32,
    pad_id=vocabulary.pad_id,
    eos_id=vocabulary.eos_id,
    start_id=vocabulary.start_id,
    **reader,
  )
  retriever = DualEncoder(EncoderConfig(bert, pooling="mean"))
  return {"retriever": retriever, "reader": T5(t5)}


def small_params(task: Task, components: Components, seed: int = 0) -> Any:
  """Random weights that look at the passages, and end some answers early."""
  params = jax.device_get(task.init(jax.random.key(seed)))
  reader = params["reader"]
  # T5's head starts out so sharp that a reader repeats its input.
  table = np.array(reader["shared"]["embedding"])
  table *= 0.3
  table[components["reader"].config.eos_id] *= 5
  reader["shared"]["embedding"] = table
  cross = reader["decoder"]["block"]["layer_1"]["EncDecAttention"]
  cross["o"]["kernel"] = 12 * np.array(cross["o"]["kernel"])
  cross["k"]["kernel"] = 4 * np.array(cross["k"]["kernel"])
  return params


def small_gatherer(settings: Settings, corpus: Corpus) -> PassageGatherer:
  inputs = ReaderInputs(
    WordPieceVocabulary(corpus.tokenizer),
    corpus,
    length=settings.data.reader_length,
    title=settings.data.reader_title,
    overlap_features=settings.reader.overlap_features,
  )
  return PassageGatherer(
    corpus=corpus,
    inputs=inputs,
    passage_length=settings.data.passage_length,
    title=settings.data.title,
    null_document=settings.retrieval.null_document,
    buckets=settings.data.reader_buckets,
  )


def small_parts(
  settings: Settings, corpus: Corpus, seed: int = 0
) -> tuple[Task, Components, Any, PassageGatherer]:
  """Task, components, parameters and gatherer of a run."""
  vocabulary = WordPieceVocabulary(corpus.tokenizer)
  features = {"overlap_features": 4} if settings.reader.overlap_features else {}
  components = small_components(corpus, vocabulary, **features)
  task = make_task(settings, components)
  params = small_params(task, components, seed)
  return task, components, params, small_gatherer(settings, corpus)


def small_system(
  task: str, data: Path, seed: int = 0, **settings: Any
) -> ReadingSystem:
  run = reader_settings(task, data, **settings)
  made, components, params, gatherer = small_parts(
    run, Corpus(data / "corpus"), seed
  )
  assert made.reading is not None
  return make_system(
    made.reading,
    components,
    params,
    gatherer,
    question_length=run.data.question_length,
  )


def save_workdir(
  system: ReadingSystem,
  workdir: Path,
  *,
  with_reader: bool = True,
  reader_tokenizer: str | None = None,
) -> Path:
  """A training workdir as the loop leaves it behind, at step 3."""
  corpus, retriever = system.corpus, system.retriever
  described = {
    "retriever": describe(system.components["retriever"])
    | {
      "tokenizer": corpus.tokenizer.fingerprint,
      "question_length": retriever.question_length,
      "passage_length": retriever.passage_length,
      "title": retriever.title,
    }
  }
  if with_reader:
    name = reader_tokenizer or system.vocabulary.fingerprint
    described["reader"] = describe(system.components["reader"])
    described["reader"] |= {"tokenizer": name}
  extra = {
    "config": {},
    "components": described,
    "reading": dataclasses.asdict(system.config) if with_reader else None,
    "corpus": corpus.fingerprint,
    "best": None,
  }
  params = {name: system.params[name] for name in described}
  if with_reader and "bias" in system.params:
    params["bias"] = system.params["bias"]
  with Checkpoints(workdir / "checkpoints") as checkpoints:
    checkpoints.save(3, {"params": params}, extra)
    checkpoints.wait()
  corpus.tokenizer.save(workdir / "tokenizer")
  return workdir
