"""Measuring a model while it trains, at every checkpoint.

An evaluator is a function of the live parameters, and perhaps the live index,
that returns `{name: value}`; `config.evaluate.best` names the value that the
best checkpoint is chosen by. All tasks measure retrieval (`recall@k`,
`gold@k`); those with a reader also

- `em`, `f1`: the answers, see `evaluate.answer_measures`;
- `answer_in_top_k`: the share of questions with an answer in a passage read;
- `passage_entropy`: of p(z | q) over the passages read, in nats, the mean;
- `retrieval_utility`: what the passages add to log p(a | q) of the reference,
  against the null document alone (REALM, Sec. 4), the mean.
"""

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.reader_inputs import ReaderInputs
from odqa_jax.data.questions.sets import Question, QuestionSet
from odqa_jax.data.runs import find_row
from odqa_jax.evaluation.measures import (
  CUTOFFS,
  Ranking,
  answer_hits,
  answer_measures,
  evaluate_ranking,
)
from odqa_jax.models.components import Models
from odqa_jax.reading.answer import (
  Answer,
  ReadBatch,
  ReadingSystem,
  default_batch_size,
  make_system,
  read_batches,
)
from odqa_jax.reading.system import inputs_for, with_params, without_params
from odqa_jax.retrieval.index import Index
from odqa_jax.retrieval.retriever import (
  Retriever,
  index_corpus,
  make_retriever,
  search_questions,
)
from odqa_jax.retrieval.searchable import Searchable
from odqa_jax.runtime.mesh import is_primary, sync
from odqa_jax.text.reader_vocabulary import ReaderVocabulary

Evaluator = Callable[[Any, Index | None], dict[str, float]]

DEV_K = 100


def make_evaluator(
  config: ConfigDict,
  models: Models,
  corpus: Corpus,
  inputs: ReaderInputs | None,
  mesh: Mesh,
  workdir: Path,
) -> Evaluator | None:
  """Measures the dev questions over a corpus, or None if not asked for.

  Args:
    config: a training config; `config.evaluate` says what is measured.
    models: what is trained.
    corpus: the training corpus, searched unless the config names another.
    inputs: how the reader's inputs are packed from it; None without a reader.
    mesh: holds the temporary index.
    workdir: the temporary index is made and deleted here.

  Returns:
    A function of (parameters, index). An index of the corpus searched is taken
    as it is, else the corpus is encoded with these parameters.

  Raises:
    ValueError: if the dev set does not exist, k passages do not, or
      `config.evaluate.best` is nothing that is measured.
  """
  if not config.evaluate.questions:
    return None
  if config.evaluate.corpus:
    corpus = Corpus(config.evaluate.corpus)
    if inputs is not None:
      inputs = inputs_for(config, inputs.vocabulary.fingerprint, corpus)
  k = config.evaluate.k or config.retrieval.k
  if inputs is not None and not 0 <= k <= len(corpus):
    raise ValueError(
      f"config.evaluate.k={k}, but the corpus {corpus.directory} has "
      f"{len(corpus)} passages; choose k from 0 to that number."
    )
  dev = _Dev(config, models, corpus, inputs, mesh, workdir)
  names = dev.measures()
  if not names:
    raise ValueError(
      f"config.evaluate.questions={config.evaluate.questions}: the questions "
      "have neither answers nor passages of this corpus to measure by."
    )
  if config.evaluate.best not in names:
    raise ValueError(
      f"config.evaluate.best={config.evaluate.best!r} is not measured on "
      f"{config.evaluate.questions}; choose one of {', '.join(names)}."
    )
  if inputs is None:
    return _retrieval_evaluator(dev)
  return _reader_evaluator(dev, inputs)


def dev_questions(config: ConfigDict) -> list[Question]:
  """`config.evaluate.questions`, at most `max_questions`, evenly spaced."""
  questions = list(QuestionSet(Path(config.evaluate.questions)))
  limit = config.evaluate.max_questions
  if not limit or limit >= len(questions):
    return questions
  return [questions[i * len(questions) // limit] for i in range(limit)]


class _Dev:
  """The dev questions and where they are looked up.

  Attributes:
    read_k: passages that a reader gets; None without a reader.
    targets: for every question the first reference that the decoder has room
      for, as token ids, or nothing.
  """

  def __init__(
    self,
    config: ConfigDict,
    models: Models,
    corpus: Corpus,
    inputs: ReaderInputs | None,
    mesh: Mesh,
    workdir: Path,
  ) -> None:
    self.config, self.models = config, models
    self.questions = dev_questions(config)
    self.texts = [q.question for q in self.questions]
    self.corpus = corpus
    self._mesh, self._folder = mesh, workdir / "dev_index"
    self._ids = tuple(q.id for q in self.questions)
    self.read_k: int | None = None
    self.targets: list[list[int]] = []
    if inputs is not None:
      self.read_k = config.evaluate.k or config.retrieval.k
      self.targets = _targets(
        self.questions, inputs.vocabulary, config.data.answer_length
      )
    # A closed book needs no search.
    widest = 0 if self.read_k == 0 else max(DEV_K, self.read_k or 0)
    self._k = min(widest, len(corpus))

  def measures(self) -> list[str]:
    """The names of all that will be measured."""
    cutoffs = [c for c in CUTOFFS if c <= self._k]
    answered = any(q.answers for q in self.questions)
    gold = any(
      find_row(self.corpus, name) is not None
      for q in self.questions
      for name in q.positive_ids
    )
    names = [f"recall@{c}" for c in cutoffs if answered]
    names += [f"gold@{c}" for c in cutoffs if gold]
    if self.read_k is None:
      return names
    measured = {
      "em": answered,
      "f1": any(map(_has_reference, self.questions)),
      "answer_in_top_k": answered and self.read_k,
      "passage_entropy": self.read_k,
      "retrieval_utility": any(self.targets) and self.read_k,
    }
    return names + [
      name for name, is_measured in measured.items() if is_measured
    ]

  def retriever(self, params: Any) -> Retriever:
    """The retriever with these parameters."""
    data = self.config.data
    return make_retriever(
      self.models.encoder.config,
      params,
      self.corpus.tokenizer,
      question_length=data.question_length,
      passage_length=data.passage_length,
      title=data.title,
    )

  def search(
    self, retriever: Retriever, index: Index | None
  ) -> tuple[Float[np.ndarray, "n k"], Int[np.ndarray, "n k"]]:
    """Scores and rows of the dev questions, best first."""
    if not self._k:
      empty = np.zeros((len(self.questions), 0))
      return empty.astype(np.float32), empty.astype(np.int32)
    with self._index(retriever, index) as searched:
      return search_questions(
        retriever, searched, self.corpus, self.texts, k=self._k
      )

  @contextmanager
  def _index(
    self, retriever: Retriever, index: Index | None
  ) -> Iterator[Searchable]:
    """The given index if it is of this corpus, else one made for now."""
    if index is not None:
      if index.manifest.get("corpus") == self.corpus.fingerprint:
        # The caller answers for it; its name may be that of a training step.
        made_by = {"encoder": retriever.fingerprint}
        manifest = {**index.manifest, **made_by}
        yield dataclasses.replace(index, manifest=manifest)
        return
    # What an evaluation that was killed left behind is of other parameters.
    self._remove_index()
    yield index_corpus(
      retriever,
      self.corpus,
      self._folder,
      mesh=self._mesh,
      dtype=self.config.retrieval.dtype,
    )
    self._remove_index()

  def _remove_index(self) -> None:
    if is_primary():
      shutil.rmtree(self._folder, ignore_errors=True)
      shutil.rmtree(f"{self._folder}.tmp", ignore_errors=True)
    sync("dev index removed")

  def retrieval_measures(
    self,
    scores: Float[np.ndarray, "n k"],
    rows: Int[np.ndarray, "n k"],
  ) -> dict[str, float]:
    """`recall@k` and `gold@k` of a ranking."""
    if not self._k:
      return {}
    ranking = Ranking(self._ids, rows, scores)
    figures = evaluate_ranking(ranking, self.questions, self.corpus)
    return {
      f"{measure}@{cutoff}": value
      for measure in ("recall", "gold")
      for cutoff, value in figures.get(measure, {}).items()
    }

  def reading_measures(
    self,
    answers: Sequence[Answer],
    rows: Int[np.ndarray, "n k"],
  ) -> dict[str, float]:
    """What was answered, and how well the passages served."""
    figures = answer_measures(answers, self.questions)
    out: dict[str, float] = {
      name: figures[name] for name in ("em", "f1") if name in figures
    }
    if not self.read_k:
      return out
    answered = [i for i, q in enumerate(self.questions) if q.answers]
    if answered:
      read = rows[:, : self.read_k]
      ranking = Ranking(self._ids, read, np.zeros(read.shape, np.float32))
      hits = answer_hits(ranking, self.questions, answered, self.corpus)
      out["answer_in_top_k"] = float(hits.any(axis=1).mean())
    entropies = [_entropy([p.prob for p in a.passages]) for a in answers]
    return out | {"passage_entropy": float(np.mean(entropies))}


def _has_reference(question: Question) -> bool:
  """Whether a question has an answer that a reader could write."""
  return bool(question.answers) and question.answer_type == "string"


def _entropy(probs: Sequence[float]) -> float:
  """Of a distribution, in nats."""
  some = np.array([p for p in probs if p > 0])
  return float(-np.sum(some * np.log(some)))


def _retrieval_evaluator(dev: _Dev) -> Evaluator:
  """For tasks without a reader."""

  def evaluate(params: Any, index: Index | None) -> dict[str, float]:
    # The loop around forbids silent transfers; here they are the work.
    with jax.transfer_guard("allow"):
      return dev.retrieval_measures(*dev.search(dev.retriever(params), index))

  return evaluate


def _reader_evaluator(dev: _Dev, inputs: ReaderInputs) -> Evaluator:
  """For tasks with a reader; compiles at the first checkpoint alone."""
  # Without parameters: between checkpoints they would take up the devices.
  kept: ReadingSystem | None = None
  length = dev.config.data.answer_length

  def batches(
    system: ReadingSystem, rows: Int[np.ndarray, "n k"]
  ) -> Iterator[ReadBatch]:
    size = default_batch_size(system, rows.shape[1])
    return read_batches(system, dev.texts, rows, batch_size=size)

  def log_probs(batch: ReadBatch) -> list[float]:
    targets = dev.targets[batch.start : batch.stop]
    return batch.log_probs(targets, length).tolist()

  def evaluate(params: Any, index: Index | None) -> dict[str, float]:
    nonlocal kept
    with jax.transfer_guard("allow"):
      if kept is None:
        system = make_system(dev.config, dev.models, params, dev.corpus, inputs)
      else:
        system = with_params(kept, params)
      kept = without_params(system)
      scores, rows = dev.search(system.retriever, index)
      read = rows[:, : dev.read_k]
      answers: list[Answer] = []
      helped: list[float] = []
      for batch in batches(system, read):
        answers += batch.answers(max_tokens=length)
        helped += log_probs(batch)
      figures = dev.retrieval_measures(scores, rows)
      figures |= dev.reading_measures(answers, rows)
      if dev.read_k and any(dev.targets):
        alone = [x for b in batches(system, read[:, :0]) for x in log_probs(b)]
        gains = [
          with_them - without
          for with_them, without, target in zip(
            helped, alone, dev.targets, strict=True
          )
          if target
        ]
        figures["retrieval_utility"] = float(np.mean(gains))
    return figures

  return evaluate


def _targets(
  questions: Sequence[Question], vocabulary: ReaderVocabulary, length: int
) -> list[list[int]]:
  """Every question's first answer that the decoder has room for, or nothing."""
  targets = []
  for question in questions:
    answers = list(question.answers) if _has_reference(question) else []
    ids = [[*t, vocabulary.eos_id] for t in vocabulary.encode_batch(answers)]
    targets.append(next((t for t in ids if 1 < len(t) <= length), []))
  return targets
