"""Searches with a whole system, answers where it has a reader, and measures.

evaluate_checkpoint(
  "work/joint", "work/index", questions, corpus, k=100, backend="exact"
)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.mining.bm25_build import bm25_of
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.runs import Ranking
from odqa_jax.evaluation.measures import answer_measures, evaluate_ranking
from odqa_jax.reading.answer import (
  Answer,
  default_batch_size,
  encode_request,
  read_batches,
  search_request,
)
from odqa_jax.reading.system import holds_reader, load_system
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

  The index is that beside the corpus, or one made for this alone.

  Raises:
    ValueError: if no passage has a word to index, or k is too large.
    ImportError: if the extra `bm25` is not installed.
  """
  texts = [question.question for question in questions]
  with (
    progress_bar("index for BM25", len(corpus), "passages") as update,
    bm25_of(corpus, progress=update) as bm25,
  ):
    rows, scores = bm25.search(texts, k)
  ranking = Ranking(tuple(q.id for q in questions), rows, scores)
  return evaluate_ranking(ranking, questions, corpus, qrels=qrels)


def evaluate_checkpoint(
  checkpoint: str | Path,
  index: str,
  questions: Sequence[Question],
  corpus: Corpus,
  *,
  k: int,
  backend: str,
  qrels: str | None = None,
  read_k: int | None = None,
) -> dict[str, Any]:
  """Retrieval and, of a checkpoint with a reader, its answers.

  Args:
    checkpoint: see `load_retriever`, `load_system`.
    index: its folder; made when absent.
    questions: those to measure on.
    corpus: the evidence.
    k: passages that are searched for.
    backend: of the search.
    qrels: see `evaluate_ranking`.
    read_k: passages that a reader gets, at most k; None: as in training.

  Raises:
    ValueError: if the parts do not belong together, or a checkpoint without a
      reader is to read.
  """
  if not holds_reader(checkpoint):
    if read_k is not None:
      raise ValueError(f"--read-k {read_k}: {checkpoint} has no reader.")
    retriever = load_retriever(checkpoint)
    searched = make_index(retriever, corpus, index, backend)
    ranking = rank_passages(retriever, searched, corpus, questions, k=k)
    return evaluate_ranking(ranking, questions, corpus, qrels=qrels)
  system = load_system(checkpoint, corpus)
  read_k = min(system.config.k, k) if read_k is None else read_k
  if not 0 <= read_k <= k:
    raise ValueError(
      f"--read-k {read_k}: choose from 0 (closed book) to --k {k}."
    )
  searched = make_index(system.retriever, corpus, index, backend)
  request = encode_request(system, [q.question for q in questions])
  scores, rows = search_request(system, searched, request, k=k)
  ranking = Ranking(tuple(q.id for q in questions), rows, scores)
  figures = evaluate_ranking(ranking, questions, corpus, qrels=qrels)
  rows = rows[:, :read_k]
  size = default_batch_size(system, read_k)
  answers: list[Answer] = []
  with progress_bar("read", len(request), "questions") as update:
    for batch in read_batches(system, request, rows, batch_size=size):
      answers += batch.answers(max_tokens=system.config.answer_length)
      update(len(answers))
  measured = answer_measures(answers, questions)
  del measured["questions"]
  return figures | {"read_k": read_k} | measured
