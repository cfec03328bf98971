"""The second half of `odqa demo`: a small reader, then end-to-end training.

Closed book → reader on retrieved passages → from that one start: Fusion-in-
Decoder, Joint Top-k, Individual Top-k with one and with both encoders.
"""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.sets import Question
from odqa_jax.demo.presets import RUNS, ReaderPreset
from odqa_jax.evaluation.measures import answer_measures, evaluate_ranking
from odqa_jax.evaluation.systems import rank_passages
from odqa_jax.reading.answer import Answer, answer_questions, default_batch_size
from odqa_jax.reading.system import ReadingSystem, load_reading_system
from odqa_jax.retrieval.retriever import index_corpus
from odqa_jax.retrieval.searchable import Searchable
from odqa_jax.runtime.config import base_config
from odqa_jax.runtime.mesh import make_mesh
from odqa_jax.runtime.progress import progress_bar
from odqa_jax.runtime.settings import read_settings
from odqa_jax.training.train import train

# Tied embeddings of deviation 1 need larger steps: sqrt(128).
EMBEDDING_RATE = 11.3


def reader_stage(
  preset: ReaderPreset,
  retriever: ConfigDict,
  data: Path,
  question_set: str,
  index: Path,
  *,
  task: str,
  steps: int,
  k: int,
  rate: float,
  init_from: str,
  passage_encoder: bool = False,
  force_gold: bool = False,
) -> ConfigDict:
  """The training config of one stage with a reader.

  Args:
    preset: sizes.
    retriever: the config that the retriever was trained with.
    data: the dataset folder.
    question_set: the name of the training questions.
    index: of the retriever that all stages begin with.
    task: see `tasks.TASKS`.
    steps: how many.
    k: passages of a question.
    rate: peak learning rate.
    init_from: the workdir of the retriever, or of retriever and reader.
    passage_encoder: whether it is trained.
    force_gold: whether the gold passage is among the k.
  """
  config = base_config()
  config.task = task
  config.seed = retriever.seed
  config.steps = steps
  config.batch_size = preset.batch_size
  config.log_every = max(steps // 20, 1)
  config.init_from = init_from
  config.model.update(retriever.model.to_dict())
  config.model.shared = False
  config.model.dropout = 0.0
  config.data.update(retriever.data.to_dict())
  config.data.source = "answers"
  config.data.pairs = ""
  config.data.questions = str(data / "questions" / question_set)
  config.data.reader_length = preset.length
  config.data.answer_length = 24
  # One program a stage: compiling takes longer than padding here.
  config.data.reader_buckets = False
  # Passages of a few words need their title.
  config.data.reader_title = True
  config.reader.preset = preset.model
  config.reader.dropout = 0.0
  config.reader.scan = False
  config.reader.depthwise_convolution = True
  config.reader.mimetic = True
  config.reader.overlap_features = True
  config.reader.span_loss = 2.0
  config.objective.temperature = retriever.objective.temperature
  config.objective.passage_encoder = passage_encoder
  config.retrieval.k = k
  config.retrieval.force_gold = force_gold
  config.retrieval.index = str(index)
  if passage_encoder:
    # The first index that `snapshot` swaps in is that of the weights at the
    # start, so runs of one or two refreshes learn nothing from it.
    config.retrieval.refresh = "blocking"
    config.retrieval.refresh_every = preset.refresh_every
  config.optimizer.learning_rate = rate
  config.optimizer.warmup = 0.1
  config.optimizer.b2 = 0.98
  config.optimizer.multipliers = (
    ("reader/shared/embedding", EMBEDDING_RATE),
    ("retriever/.*", preset.retriever_factor),
  )
  config.checkpoint.every = steps
  read_settings(config.lock())
  return config


def _measure(
  system: ReadingSystem,
  index: Searchable | None,
  questions: Sequence[Question],
  answered: Sequence[Question],
  k: int,
) -> tuple[dict[str, Any], list[Answer]]:
  """Recall on all questions, EM and F1 on those to be answered."""
  figures: dict[str, Any] = {}
  if index is not None:
    ranking = rank_passages(
      system.retriever, index, system.corpus, questions, k=100
    )
    figures = evaluate_ranking(ranking, questions, system.corpus)
  with progress_bar("answer", len(answered), "questions") as update:
    answers = answer_questions(
      system,
      index,
      [q.question for q in answered],
      k=k,
      batch_size=default_batch_size(system, k),
      max_tokens=system.config.answer_length,
      progress=update,
    )
  measured = answer_measures(answers, answered)
  measured["answered"] = measured.pop("questions")
  return figures | measured, answers


@dataclasses.dataclass(frozen=True)
class ReaderStages:
  """The second half of the demo: training and measuring readers.

  Attributes:
    preset: sizes.
    root: the workdir; each stage has a folder there.
    retriever: workdir of the retriever that all begin with; its index is in
      `index/` under the same name.
    retriever_config: what it was trained with.
    question_set: the name of the training questions.
    corpus: the evidence.
    questions: what recall is measured on.
    answered: what EM and F1 are measured on.
    stages: times a stage by name.
    rows: figures; one row is added for each reader.
  """

  preset: ReaderPreset
  root: Path
  retriever: Path
  retriever_config: ConfigDict
  question_set: str
  corpus: Corpus
  questions: Sequence[Question]
  answered: Sequence[Question]
  stages: Callable[[str], AbstractContextManager[None]]
  rows: list[dict[str, Any]]

  def train(self, name: str, folder: str, **settings: Any) -> Path:
    """Trains one stage; returns its workdir."""
    config = reader_stage(
      self.preset,
      self.retriever_config,
      self.root / "data",
      self.question_set,
      self.root / "index" / self.retriever.name,
      **settings,
    )
    with self.stages(f"train {name}"):
      train(config, self.root / folder)
    return self.root / folder

  def measure(
    self, name: str, workdir: Path, k: int, *, own_index: bool = False
  ) -> list[Answer]:
    """Adds the row of a reader with k passages; returns its answers.

    Unless its passage encoder was trained, it has the index of all.
    """
    with self.stages(f"measure {name}"):
      system = load_reading_system(workdir, self.corpus)
      folder = workdir.name if own_index else self.retriever.name
      index = None
      if k:
        index = index_corpus(
          system.retriever,
          self.corpus,
          self.root / "index" / folder,
          mesh=make_mesh(),
        )
      figures, answers = _measure(
        system, index, self.questions, self.answered, k
      )
    self.rows.append({"name": name, **figures})
    return answers

  def run(self) -> list[Answer]:
    """All stages; returns the answers of Joint Top-k, if it was run."""
    preset, start = self.preset, str(self.retriever)
    if preset.closed_book_steps:
      closed = self.train(
        "closed book",
        "closed_book",
        task="fid",
        steps=preset.closed_book_steps,
        k=0,
        rate=preset.gold_rate,
        init_from=start,
      )
      self.measure("closed book (k = 0)", closed, 0)
    if preset.gold_steps:
      gold = self.train(
        "reader, gold passage",
        "reader_gold",
        task="fid",
        steps=preset.gold_steps,
        k=1,
        rate=preset.gold_rate,
        init_from=start,
        force_gold=True,
      )
      start = str(gold)
    reader = self.train(
      f"reader, {preset.k} passages",
      "reader",
      task="fid",
      steps=preset.steps,
      k=preset.k,
      rate=preset.rate,
      init_from=start,
      force_gold=True,
    )
    self.measure("reader (start)", reader, preset.k_answer)
    answers: list[Answer] = []
    for folder in preset.runs:
      name, task, passage_encoder = RUNS[folder]
      workdir = self.train(
        name,
        folder,
        task=task,
        steps=preset.end_steps,
        k=preset.k,
        rate=preset.end_rate,
        init_from=str(reader),
        passage_encoder=passage_encoder,
      )
      written = self.measure(
        name, workdir, preset.k_answer, own_index=passage_encoder
      )
      answers = written if task == "joint" else answers
    return answers
