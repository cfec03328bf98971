"""Searches with a whole system, answers where it has a reader, and measures.

evaluate_checkpoint(
  "work/joint", "work/index", questions, corpus, k=100, backend="exact"
)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.mining.bm25 import Bm25
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.runs import Ranking
from odqa_jax.evaluation.measures import answer_measures, evaluate_ranking
from odqa_jax.reading.answer import Answer, default_batch_size, read_batches
from odqa_jax.reading.system import ReadingSystem, holds_reader, load_system
from odqa_jax.retrieval.folders import make_index
from odqa_jax.retrieval.retriever import (
  Retriever,
  load_retriever,
  search_questions,
)
from odqa_jax.retrieval.searchable import Searchable
from odqa_jax.runtime.progress import progress_bar


def rank_passages(
  retriever: Retriever,
  index: Searchable,
  corpus: Corpus,
  questions: Sequence[Question],
  *,
  k: int,
) -> Ranking:
  """The k best passages of every question; raises what the search does."""
  with progress_bar("search", len(questions), "questions") as update:
    scores, rows = search_questions(
      retriever,
      index,
      corpus,
      [question.question for question in questions],
      k=k,
      progress=update,
    )
  return Ranking(tuple(q.id for q in questions), rows, scores)


def evaluate_bm25(
  questions: Sequence[Question],
  corpus: Corpus,
  *,
  k: int,
  qrels: str | None = None,
) -> dict[str, Any]:
  """The figures of `evaluate_ranking`: the baseline without training.

  Raises:
    ImportError: if the extra `bm25` is not installed.
  """
  texts = [question.question for question in questions]
  rows, scores = Bm25.build(corpus).search(texts, k)
  ranking = Ranking(tuple(q.id for q in questions), rows, scores)
  return evaluate_ranking(ranking, questions, corpus, qrels=qrels)


def trained_k(system: ReadingSystem) -> int:
  """Passages that a reader gets unless something else is wanted."""
  return system.config.evaluate.k or system.config.retrieval.k


def evaluate_checkpoint(
  checkpoint: str | Path,
  index: str,
  questions: Sequence[Question],
  corpus: Corpus,
  *,
  k: int,
  backend: str,
  qrels: str | None = None,
) -> dict[str, Any]:
  """Retrieval and, of a checkpoint with a reader, its answers.

  The reader gets as many passages as in training, at most k; `read_k` says
  how many.

  Args:
    checkpoint: see `load_retriever`, `load_system`.
    index: its folder; made when absent.
    questions: those to measure on.
    corpus: the evidence.
    k: passages that are searched for.
    backend: of the search.
    qrels: see `evaluate_ranking`.

  Raises:
    ValueError: if the parts do not belong together.
  """
  system = load_system(checkpoint, corpus) if holds_reader(checkpoint) else None
  retriever = system.retriever if system else load_retriever(checkpoint)
  searched = make_index(retriever, corpus, index, backend)
  ranking = rank_passages(retriever, searched, corpus, questions, k=k)
  figures = evaluate_ranking(ranking, questions, corpus, qrels=qrels)
  if system is None:
    return figures
  rows = ranking.rows[:, : trained_k(system)]
  size = default_batch_size(system, rows.shape[1])
  texts = [question.question for question in questions]
  answers: list[Answer] = []
  with progress_bar("read", len(texts), "questions") as update:
    for batch in read_batches(system, texts, rows, batch_size=size):
      answers += batch.answers(max_tokens=system.config.data.answer_length)
      update(len(answers))
  measured = answer_measures(answers, questions)
  del measured["questions"]
  return figures | {"read_k": rows.shape[1]} | measured
