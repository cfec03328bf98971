"""The default demo: a system that answers, from MiniLM, within minutes.

MiniLM encodes real articles, and the first questions are answered with them
before anything is trained. Then its question encoder learns from questions, an
extractive reader from what that finds, and both are measured beside BM25 on
questions about other countries and articles.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.views import PassageSample
from odqa_jax.data.mining.bm25 import Bm25
from odqa_jax.data.prepare import prepare
from odqa_jax.data.questions.sets import Question, QuestionSet
from odqa_jax.data.runs import Ranking, write_run
from odqa_jax.demo.presets import SystemPreset
from odqa_jax.demo.stages import Stages
from odqa_jax.demo.system_data import (
  ARTICLE,
  ASKED,
  CORPORA,
  HELD_OUT,
  TRAIN,
  write_question_files,
)
from odqa_jax.demo.system_page import show_found, tell
from odqa_jax.evaluation.measures import answer_measures, evaluate_ranking
from odqa_jax.evaluation.systems import rank_passages
from odqa_jax.reading.extract import load_span_reader
from odqa_jax.reading.span_answers import Passages, answer_with_spans
from odqa_jax.retrieval.backends.table import open_index
from odqa_jax.retrieval.join import join_indexes
from odqa_jax.retrieval.retriever import (
  Retriever,
  encode_questions,
  index_corpus,
  load_retriever,
  make_retriever,
)
from odqa_jax.retrieval.searchable import Searchable, search_embeddings
from odqa_jax.runtime.config import base_config
from odqa_jax.runtime.mesh import is_primary, make_mesh
from odqa_jax.runtime.progress import progress_bar
from odqa_jax.runtime.settings import read_settings
from odqa_jax.serving.system_folder import assemble
from odqa_jax.training.train import train

# Stages in order, and their seconds on two quiet cores.
EXPECTED = {
  "prepare articles, Factbook and questions": 12.0,
  "index the articles": 55.0,
  "index the Factbook": 27.0,
  "measure MiniLM and BM25": 6.0,
  "train the retriever's question encoder": 40.0,
  "search with it": 8.0,
  "train the reader": 95.0,
  "answer the held-out questions": 10.0,
  "assemble the system": 3.0,
}
(
  PREPARE, INDEX_ARTICLES, INDEX_FACTBOOK, MEASURE, TRAIN_RETRIEVER, SEARCH,
  TRAIN_READER, ANSWER, ASSEMBLE,
) = EXPECTED  # fmt: skip
# Passages of a run, and of every ranking that is measured.
_FOUND = 20


def start_retriever(folder: Path, preset: SystemPreset) -> Retriever:
  """MiniLM as it is, with titles: a passage of the Factbook names no country.

  Args:
    folder: its weights.
    preset: how long questions and passages are.
  """
  published = load_retriever(folder)
  return make_retriever(
    published.encoder.config,
    published.params,
    published.tokenizer,
    question_length=preset.question_length,
    passage_length=preset.passage_length,
    title=True,
  )


@dataclasses.dataclass(frozen=True)
class SystemStages:
  """The stages; what is complete in `root` is not done again.

  Attributes:
    preset: sizes.
    root: the workdir.
    seed: of all stages.
    minilm: the folder of the weights.
    stages: times a stage by name.
    rows: figures, one row a system.
  """

  preset: SystemPreset
  root: Path
  seed: int
  minilm: Path
  stages: Stages
  rows: list[dict[str, Any]]

  def run(self) -> Path:
    """All stages; returns the system folder."""
    with self.stages(PREPARE):
      corpus = self._prepare()
    questions = self._questions(HELD_OUT)
    retriever = start_retriever(self.minilm, self.preset)
    index = self._index(retriever, corpus)
    with self.stages(MEASURE):
      lexical = self._bm25(corpus, questions)
      self._add("BM25", lexical, questions, corpus)
      ranking = self._rank(retriever, index, corpus, questions)
      self._add("MiniLM, no training", ranking, questions, corpus)
    with self.stages(TRAIN_RETRIEVER):
      train(self.retriever_config(), self.root / "retriever")
    retriever = load_retriever(self.root / "retriever")
    with self.stages(SEARCH):
      run, asked = self.root / "train_run.json", self._questions(TRAIN)
      found = self._rank(retriever, index, corpus, asked)
      if is_primary():
        write_run(run, found, asked, corpus)
      ranking = self._rank(retriever, index, corpus, questions)
      self._add("MiniLM, trained", ranking, questions, corpus)
    with self.stages(TRAIN_READER):
      train(self.reader_config(run), self.root / "reader")
    with self.stages(ANSWER):
      self.rows[0] |= self._read(lexical, questions, corpus)
      self.rows[-1] |= self._read(ranking, questions, corpus)
    with self.stages(ASSEMBLE):
      return self._assemble()

  def _prepare(self) -> Corpus:
    files = write_question_files(self.preset, self.root / "questions")
    prepare(
      corpus=CORPORA,
      questions=[str(file) for file in files],
      out=self.root / "data",
      tokenizer=str(self.minilm),
      pairs=[TRAIN],
    )
    return Corpus(self.root / "data" / "corpus")

  def _questions(self, name: str) -> list[Question]:
    return list(QuestionSet(self.root / "data" / "questions" / name))

  def _index(self, retriever: Retriever, corpus: Corpus) -> Searchable:
    """Both corpora, the articles first; the first questions are asked there."""
    folder, mesh = self.root / "index", make_mesh()
    article = np.array(
      [corpus.id(row).startswith(ARTICLE) for row in range(len(corpus))]
    )
    parts = {
      INDEX_ARTICLES: ("articles", np.flatnonzero(article)),
      INDEX_FACTBOOK: ("factbook", np.flatnonzero(~article)),
    }
    for stage, (name, rows) in parts.items():
      sample = PassageSample(corpus, rows)
      with (
        self.stages(stage),
        progress_bar("encode", len(rows), "passages") as update,
      ):
        index = index_corpus(
          retriever, sample, folder / name, mesh=mesh, progress=update
        )
      if stage == INDEX_ARTICLES:
        self._ask_first(retriever, index, sample, corpus)
    names = [folder / name for name, _ in parts.values()]
    join_indexes(names, folder / "all", corpus=corpus.fingerprint)
    return open_index(folder / "all", mesh)

  def _ask_first(
    self,
    retriever: Retriever,
    index: Searchable,
    sample: PassageSample,
    corpus: Corpus,
  ) -> None:
    """Prints what is found before anything is trained."""
    scores, rows = search_embeddings(
      index, encode_questions(retriever, ASKED), 1
    )
    tell(
      f"\n{len(sample):,} real articles can be searched, nothing is trained "
      "yet:\n" + show_found(ASKED, sample.rows[rows], scores, corpus)
    )

  def _bm25(self, corpus: Corpus, questions: Sequence[Question]) -> Ranking:
    # Made to mine hard negatives.
    bm25 = Bm25.open(self.root / "data" / "bm25", corpus)
    rows, scores = bm25.search([q.question for q in questions], _FOUND)
    return Ranking(tuple(q.id for q in questions), rows, scores)

  def _rank(
    self,
    retriever: Retriever,
    index: Searchable,
    corpus: Corpus,
    questions: Sequence[Question],
  ) -> Ranking:
    return rank_passages(retriever, index, corpus, questions, k=_FOUND)

  def _add(
    self,
    name: str,
    ranking: Ranking,
    questions: Sequence[Question],
    corpus: Corpus,
  ) -> None:
    figures = evaluate_ranking(ranking, questions, corpus)
    self.rows.append({"name": name, **figures})

  def _read(
    self, ranking: Ranking, questions: Sequence[Question], corpus: Corpus
  ) -> dict[str, Any]:
    """EM and F1 of the reader on what was found."""
    reader = load_span_reader(self.root / "reader", corpus)
    passages = Passages.of(ranking, k=self.preset.read_k)
    answers = []
    with progress_bar("read", len(questions), "questions") as update:
      for (found,) in answer_with_spans(reader, questions, passages, most=1):
        answers.append(found)
        update(len(answers))
    measured = answer_measures(answers, questions)
    del measured["questions"]
    return measured

  def _assemble(self) -> Path:
    folder = self.root / "system"
    if is_primary():
      parts = {
        "retriever": self.root / "retriever",
        "index": self.root / "index" / "all",
        "corpus": self.root / "data" / "corpus",
        "extractive_reader": self.root / "reader",
      }
      assemble(folder, parts)
    return folder

  def _base(self, steps: int, batch_size: int, rate: float) -> ConfigDict:
    """What both trainings share."""
    config = base_config()
    config.seed = self.seed
    config.steps = steps
    config.batch_size = batch_size
    config.log_every = max(steps // 20, 1)
    config.init_from = str(self.minilm)
    config.data.corpus = str(self.root / "data" / "corpus")
    config.data.questions = str(self.root / "data" / "questions" / TRAIN)
    config.data.question_length = self.preset.question_length
    config.model.preset = "init"
    config.model.pooling = "mean"
    config.model.normalise = True
    config.model.dropout = 0.0
    config.model.scan = False
    config.optimizer.learning_rate = rate
    config.optimizer.warmup = 0.1
    config.checkpoint.every = max(steps // 3, 1)
    return config

  def retriever_config(self) -> ConfigDict:
    """The question encoder learns; the passages' vectors stay as they are."""
    preset = self.preset
    config = self._base(
      preset.retriever_steps, preset.retriever_batch, preset.retriever_rate
    )
    config.data.pairs = str(self.root / "data" / "pairs" / TRAIN)
    config.data.passage_length = preset.passage_length
    config.model.shared = False
    config.objective.temperature = preset.temperature
    config.optimizer.multipliers = (("retriever/passage/.*", 0.0),)
    read_settings(config.lock())
    return config

  def reader_config(self, run: Path) -> ConfigDict:
    """An extractive reader on what the retriever found."""
    preset = self.preset
    config = self._base(
      preset.reader_steps, preset.reader_batch, preset.reader_rate
    )
    config.task = "extractive"
    config.data.source = "retrieved_spans"
    config.data.run = str(run)
    config.data.passages = preset.passages
    config.data.pair_length = preset.pair_length
    config.optimizer.multipliers = (
      ("extractive_reader/qa_.*", preset.head_factor),
    )
    read_settings(config.lock())
    return config
