"""The first half of `odqa demo`: data, and a retriever trained and measured.

Random weights → ICT → supervised training, each searched and measured beside
BM25.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.prepare import prepare
from odqa_jax.data.questions.sets import Question, QuestionSet
from odqa_jax.data.runs import Ranking
from odqa_jax.demo.presets import Preset
from odqa_jax.demo.stages import Stages
from odqa_jax.evaluation.measures import evaluate_ranking
from odqa_jax.evaluation.systems import evaluate_bm25, rank_passages
from odqa_jax.models.dual_encoder import DualEncoder
from odqa_jax.retrieval.retriever import (
  Retriever,
  index_corpus,
  load_retriever,
  make_retriever,
)
from odqa_jax.runtime.config import base_config
from odqa_jax.runtime.mesh import make_mesh
from odqa_jax.runtime.progress import progress_bar
from odqa_jax.runtime.settings import read_settings
from odqa_jax.training.initial_retriever import encoder_config
from odqa_jax.training.train import train

SPLITS = ("train", "test")
K = 100


def stage_config(
  preset: Preset, data: Path, *, source: str, seed: int, init_from: str
) -> ConfigDict:
  """The training config of one stage of the demo."""
  config = base_config()
  ict = source == "ict"
  config.seed = seed
  config.steps = preset.ict_steps if ict else preset.supervised_steps
  config.batch_size = preset.batch_size
  config.log_every = max(config.steps // 20, 1)
  config.init_from = init_from
  config.data.source = source
  config.data.corpus = str(data / "corpus")
  config.data.question_length = preset.question_length
  config.data.passage_length = preset.passage_length
  config.data.hard_negatives = 0 if ict else 1
  if not ict:
    names = [f"{name}-train" for name in preset.sets]
    config.data.questions = ",".join(str(data / "questions" / n) for n in names)
    config.data.pairs = ",".join(str(data / "pairs" / n) for n in names)
  config.model.preset = preset.model
  config.model.dropout = 0.0 if ict else 0.1
  # One shared encoder: with minutes of training it learns twice as much.
  config.model.shared = True
  config.model.pooling = "mean"
  config.model.scan = False
  config.objective.temperature = preset.temperature
  config.optimizer.learning_rate = (
    preset.ict_rate if ict else preset.supervised_rate
  )
  config.optimizer.warmup = 0.05
  config.checkpoint.every = config.steps
  config.lock()
  read_settings(config)
  return config


def held_out_questions(data: Path, name: str, limit: int) -> list[Question]:
  """At most `limit` test questions of a set, evenly spaced."""
  questions = QuestionSet(data / "questions" / f"{name}-test")
  count = min(limit, len(questions))
  return [questions[i * len(questions) // count] for i in range(count)]


def prepare_data(preset: Preset, data: Path) -> tuple[Corpus, list[Question]]:
  """The embedded corpus, and the held-out questions that are measured."""
  prepare(
    corpus=preset.sets,
    questions=[f"{name}:{split}" for name in preset.sets for split in SPLITS],
    out=data,
    vocabulary_size=preset.vocabulary,
    pairs=[f"{name}-train" for name in preset.sets],
  )
  questions = [
    question
    for name in preset.sets
    for question in held_out_questions(data, name, preset.test_questions)
  ]
  return Corpus(data / "corpus"), questions


def random_retriever(config: ConfigDict, corpus: Corpus) -> Retriever:
  """The untrained model that the stages begin from."""
  settings = read_settings(config)
  model = encoder_config(settings.model, corpus.tokenizer.vocab_size)
  params = DualEncoder(model).init(jax.random.key(settings.seed))
  return make_retriever(
    model,
    params,
    corpus.tokenizer,
    question_length=settings.data.question_length,
    passage_length=settings.data.passage_length,
    title=settings.data.title,
  )


@dataclasses.dataclass(frozen=True)
class RetrieverStages:
  """The first half of the demo: training and measuring retrievers.

  Attributes:
    preset: sizes.
    root: the workdir; each stage has a folder there, and one under `index/`.
    seed: of all stages.
    corpus: the evidence.
    questions: what recall is measured on.
    stages: times a stage by name.
    rows: figures; one row is added for each retriever.
  """

  preset: Preset
  root: Path
  seed: int
  corpus: Corpus
  questions: list[Question]
  stages: Stages
  rows: list[dict[str, Any]]

  def config(self, source: str, init_from: str) -> ConfigDict:
    """The training config of one stage."""
    return stage_config(
      self.preset,
      self.root / "data",
      source=source,
      seed=self.seed,
      init_from=init_from,
    )

  def train(self, name: str, folder: str, source: str, init_from: str) -> Path:
    """Trains one stage; returns its workdir."""
    with self.stages(f"train {name}"):
      train(self.config(source, init_from), self.root / folder)
    return self.root / folder

  def measure(self, name: str, retriever: Retriever, folder: str) -> Ranking:
    """Adds the row of a retriever; its index is kept in `folder`."""
    with self.stages(f"measure {name}"):
      with progress_bar("encode", len(self.corpus), "passages") as update:
        index = index_corpus(
          retriever,
          self.corpus,
          self.root / "index" / folder,
          mesh=make_mesh(),
          progress=update,
        )
      ranking = rank_passages(
        retriever, index, self.corpus, self.questions, k=K
      )
      figures = evaluate_ranking(ranking, self.questions, self.corpus)
    self.rows.append({"name": name, **figures})
    return ranking

  def run(self) -> tuple[Path, Ranking]:
    """All stages; returns the last one's workdir and its ranking."""
    trained = []
    if self.preset.baselines:
      untrained = random_retriever(self.config("ict", ""), self.corpus)
      self.measure("random BERT", untrained, "start")
      trained.append(("supervised", "supervised", ""))
    ict = self.train("ICT", "ict", "ict", "")
    self.measure("ICT", load_retriever(ict), "ict")
    trained.append(("ICT + supervised", "ict_supervised", str(ict)))
    for name, folder, init_from in trained:
      workdir = self.train(name, folder, "pairs", init_from)
      ranking = self.measure(name, load_retriever(workdir), folder)
    with self.stages("measure BM25"):
      figures = evaluate_bm25(self.questions, self.corpus, k=K)
    self.rows.append({"name": "BM25", **figures})
    return workdir, ranking
