"""Measuring a model while it trains, at every checkpoint.

An evaluator is a function of the live parameters and the live index that
returns `{name: value}`; `config.evaluate.best` names the value that the best
checkpoint is chosen by. Those of a retriever measure it (`recall@k`, `gold@k`,
`ndcg@10`, `mrr@10`, `map`) in `dev_passages` passages, see `dev_index.py`;
those with a reader also

- `em`, `f1`: the answers, see `measures.answer_measures`;
- `answer_in_top_k`: the share of questions with an answer in a passage read;
- `passage_entropy`: of p(z | q) over the passages read, in nats, the mean;
- `retrieval_utility`: what the passages add to log p(a | q) of the reference,
  against the null document alone (REALM, Sec. 4), the mean.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.sets import Question, QuestionSet
from odqa_jax.evaluation.dev_index import DevIndex, dev_index_kind
from odqa_jax.evaluation.measures import (
  CUTOFFS,
  OF_GOLD,
  Ranking,
  answer_hits,
  answer_measures,
  evaluate_ranking,
)
from odqa_jax.models.families import Components
from odqa_jax.reading.answer import (
  Answer,
  ReadBatch,
  Request,
  default_batch_size,
  encode_request,
  read_batches,
)
from odqa_jax.reading.gather import PassageGatherer
from odqa_jax.reading.likelihoods import ReadingConfig
from odqa_jax.reading.system import (
  ReadingSystem,
  inputs_for,
  make_system,
  with_params,
  without_params,
)
from odqa_jax.retrieval.retriever import make_retriever
from odqa_jax.retrieval.searchable import Searchable
from odqa_jax.runtime.evaluate_settings import EvaluateSettings
from odqa_jax.runtime.settings import Settings
from odqa_jax.text.reader_vocabulary import ReaderVocabulary

Evaluator = Callable[[Any, Searchable | None], dict[str, float]]

DEV_K = 100


def make_evaluator(
  settings: Settings,
  reading: ReadingConfig | None,
  components: Components,
  corpus: Corpus,
  gatherer: PassageGatherer | None,
  mesh: Mesh,
  workdir: Path,
) -> Evaluator | None:
  """Measures the dev questions over a corpus, or None if not asked for.

  Args:
    settings: `settings.evaluate` says what is measured.
    reading: how the task's reader reads; None without one.
    components: what is trained.
    corpus: of the training, searched unless the settings name another.
    gatherer: of its passages; None without a reader.
    mesh: holds the temporary index.
    workdir: the temporary index is made and deleted here.

  Returns:
    A function of (parameters, live index).

  Raises:
    ValueError: if the dev set does not exist, k passages do not, or
      `config.evaluate.best` is nothing that is measured.
  """
  evaluate = settings.evaluate
  if not evaluate.questions:
    return None
  has_live = reading is not None and reading.k > 0
  if evaluate.corpus:
    has_live, corpus = False, Corpus(evaluate.corpus)
    if gatherer is not None and reading is not None:
      vocabulary = gatherer.inputs.vocabulary.fingerprint
      gatherer = dataclasses.replace(
        gatherer, corpus=corpus, inputs=inputs_for(reading, vocabulary, corpus)
      )
  questions = dev_questions(evaluate)
  index = dev_index(
    settings, corpus, questions, mesh, workdir, has_live=has_live
  )
  if reading is None or gatherer is None:
    dev = _Dev(questions, index, read_k=None, targets=[])
    evaluator = _retrieval_evaluator(dev, settings, components)
  else:
    k = evaluate.k or reading.k
    if not 0 <= k <= len(index):
      raise ValueError(
        f"config.evaluate.k={k}, but {len(index)} passages of the corpus "
        f"{corpus.directory} are searched; choose k from 0 to that number."
      )
    targets = _targets(
      questions, gatherer.inputs.vocabulary, reading.answer_length
    )
    dev = _Dev(questions, index, read_k=k, targets=targets)
    evaluator = _reader_evaluator(dev, settings, reading, components, gatherer)
  check_best(evaluate, dev.names())
  return evaluator


def dev_index(
  settings: Settings,
  corpus: Corpus,
  questions: Sequence[Question],
  mesh: Mesh,
  workdir: Path,
  *,
  has_live: bool,
) -> DevIndex:
  """Where the dev questions of a training are searched.

  Args:
    settings: `settings.evaluate` says which index.
    corpus: that is searched.
    questions: of the dev set.
    mesh: holds a temporary index.
    workdir: it is made and deleted here.
    has_live: whether training searches the same corpus.

  Raises:
    ValueError: see `dev_index_kind`, `DevIndex`.
  """
  evaluate = settings.evaluate
  return DevIndex(
    dev_index_kind(evaluate, has_live=has_live),
    corpus,
    questions,
    passages=evaluate.passages,
    seed=settings.seed,
    mesh=mesh,
    dtype=settings.retrieval.dtype,
    folder=workdir / "dev_index",
  )


def check_best(evaluate: EvaluateSettings, names: Sequence[str]) -> None:
  """Refuses `config.evaluate.best` where it is not measured.

  Args:
    evaluate: the block `config.evaluate`.
    names: of what is.

  Raises:
    ValueError: naming them.
  """
  if not names:
    raise ValueError(
      f"config.evaluate.questions={evaluate.questions}: the questions have "
      "neither answers nor passages of this corpus to measure by."
    )
  if evaluate.best not in names:
    raise ValueError(
      f"config.evaluate.best={evaluate.best!r} is not measured on "
      f"{evaluate.questions}; choose one of {', '.join(names)}."
    )


def in_one_row(figures: Mapping[str, Any]) -> dict[str, float]:
  """What `evaluate_ranking` gives: `recall@k`, `gold@k` and `OF_GOLD`."""
  shares = {
    f"{measure}@{cutoff}": value
    for measure in ("recall", "gold")
    for cutoff, value in figures.get(measure, {}).items()
  }
  return shares | {name: figures[name] for name in OF_GOLD if name in figures}


def dev_questions(evaluate: EvaluateSettings) -> list[Question]:
  """`config.evaluate.questions`, at most `max_questions`, evenly spaced."""
  questions = list(QuestionSet(Path(evaluate.questions)))
  limit = evaluate.max_questions
  if not limit or limit >= len(questions):
    return questions
  return [questions[i * len(questions) // limit] for i in range(limit)]


class _Dev:
  """The dev questions, where they are searched, and what is measured.

  Attributes:
    questions: of the dev set.
    index: where they are searched.
    read_k: passages that a reader gets; None without a reader.
    targets: for every question the first reference that the decoder has room
      for, as token ids, or nothing.
    k: passages that are searched for.
  """

  def __init__(
    self,
    questions: Sequence[Question],
    index: DevIndex,
    *,
    read_k: int | None,
    targets: list[list[int]],
  ) -> None:
    self.questions, self.index = questions, index
    self.read_k, self.targets = read_k, targets
    self._ids = tuple(q.id for q in questions)
    # A closed book needs no search.
    widest = 0 if read_k == 0 else max(DEV_K, read_k or 0)
    self.k = min(widest, len(index))

  def names(self) -> list[str]:
    """Of all that will be measured."""
    cutoffs = [c for c in CUTOFFS if c <= self.k]
    answered = any(q.answers for q in self.questions)
    gold = any(
      self.index.corpus.find(name) is not None
      for q in self.questions
      for name in q.positive_ids
    )
    names = [f"recall@{c}" for c in cutoffs if answered]
    names += [f"gold@{c}" for c in cutoffs if gold]
    names += OF_GOLD if gold and cutoffs else ()
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

  def retrieval_measures(
    self,
    scores: Float[np.ndarray, "n k"],
    rows: Int[np.ndarray, "n k"],
  ) -> dict[str, float]:
    """`recall@k` and `gold@k` of a ranking."""
    if not self.k:
      return {}
    ranking = Ranking(self._ids, rows, scores)
    figures = evaluate_ranking(ranking, self.questions, self.index.corpus)
    return in_one_row(figures) | {"dev_passages": float(len(self.index))}

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
      ranking = Ranking(self._ids, rows, np.zeros(rows.shape, np.float32))
      hits = answer_hits(ranking, self.questions, answered, self.index.corpus)
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


def _retrieval_evaluator(
  dev: _Dev, settings: Settings, components: Components
) -> Evaluator:
  """For tasks without a reader."""
  data = settings.data

  def evaluate(params: Any, live: Searchable | None) -> dict[str, float]:
    # The loop around forbids silent transfers; here they are the work.
    with jax.transfer_guard("allow"):
      retriever = make_retriever(
        components["retriever"].config,
        params["retriever"],
        dev.index.corpus.tokenizer,
        question_length=data.question_length,
        passage_length=data.passage_length,
        title=data.title,
      )
      ranked = dev.index.search(retriever, live, dev.k)
      return dev.retrieval_measures(*ranked)

  return evaluate


def _reader_evaluator(
  dev: _Dev,
  settings: Settings,
  reading: ReadingConfig,
  components: Components,
  gatherer: PassageGatherer,
) -> Evaluator:
  """For tasks with a reader; compiles at the first checkpoint alone."""
  # Without parameters: between checkpoints they would take up the devices.
  kept: ReadingSystem | None = None
  texts = [q.question for q in dev.questions]
  length = reading.answer_length

  def batches(
    system: ReadingSystem, request: Request, rows: Int[np.ndarray, "n k"]
  ) -> Iterator[ReadBatch]:
    size = default_batch_size(system, rows.shape[1])
    return read_batches(system, request, rows, batch_size=size)

  def log_probs(batch: ReadBatch) -> list[float]:
    targets = dev.targets[batch.start : batch.stop]
    return batch.log_probs(targets, length).tolist()

  def evaluate(params: Any, live: Searchable | None) -> dict[str, float]:
    nonlocal kept
    with jax.transfer_guard("allow"):
      if kept is None:
        system = make_system(
          reading,
          components,
          params,
          gatherer,
          question_length=settings.data.question_length,
        )
      else:
        system = with_params(kept, params)
      kept = without_params(system)
      request = encode_request(system, texts)
      scores, rows = dev.index.search(
        system.retriever, live, dev.k, request.embeddings
      )
      read = rows[:, : dev.read_k]
      answers: list[Answer] = []
      helped: list[float] = []
      for batch in batches(system, request, read):
        answers += batch.answers(max_tokens=length)
        helped += log_probs(batch)
      figures = dev.retrieval_measures(scores, rows)
      figures |= dev.reading_measures(answers, read)
      if dev.read_k and any(dev.targets):
        alone = [
          x
          for batch in batches(system, request, read[:, :0])
          for x in log_probs(batch)
        ]
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
