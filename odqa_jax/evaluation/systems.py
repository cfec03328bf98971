"""Searches with a whole system, answers where it has a reader, and measures.

evaluate_checkpoint(
  "work/joint", "work/index", questions, corpus, k=100, backend="exact"
)
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.passages import PassageTexts
from odqa_jax.data.exclusions import Exclusions, find_exclusions
from odqa_jax.data.mining.bm25 import Bm25
from odqa_jax.data.mining.bm25_build import bm25_of
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.runs import Ranking
from odqa_jax.evaluation.measures import (
  Measured,
  answer_measures,
  answer_values,
  evaluate_ranking,
  measure_ranking,
)
from odqa_jax.reading.answer import (
  Answer,
  check_found,
  default_batch_size,
  encode_request,
  read_batches,
  search_request,
)
from odqa_jax.reading.system import holds_reader, load_reading_system
from odqa_jax.retrieval.folders import make_index
from odqa_jax.retrieval.retriever import (
  Retriever,
  load_retriever,
  search_questions,
)
from odqa_jax.retrieval.searchable import Searchable
from odqa_jax.runtime.mesh import is_primary
from odqa_jax.runtime.progress import progress_bar


def rank_passages(
  retriever: Retriever,
  index: Searchable,
  corpus: Corpus,
  questions: Sequence[Question],
  *,
  k: int,
  exclude_self: bool = False,
) -> Ranking:
  """The k best passages of every question.

  Args:
    retriever: what encodes the questions.
    index: see `search_questions`.
    corpus: the evidence.
    questions: what they exclude is no result.
    k: passages of a question.
    exclude_self: whether passages that are the question itself are none too.

  Raises:
    ValueError: if the search cannot be done.
  """
  with progress_bar("search", len(questions), "questions") as update:
    scores, rows = search_questions(
      retriever,
      index,
      corpus,
      [question.question for question in questions],
      k=k,
      exclusions=find_exclusions(questions, corpus, own=exclude_self),
      progress=update,
    )
  return Ranking(tuple(q.id for q in questions), rows, scores)


def possible_k(k: int, corpus: PassageTexts) -> int:
  """`k`, or the whole of a corpus that has fewer passages.

  Raises:
    ValueError: if it is below 1.
  """
  if k < 1:
    raise ValueError(f"--k {k}: at least 1 passage is searched for.")
  if k > len(corpus) and is_primary():
    print(
      f"--k {k}: the corpus has {len(corpus)} passages, all are ranked.",
      file=sys.stderr,
    )
  return min(k, len(corpus))


def evaluate_bm25(
  questions: Sequence[Question],
  corpus: Corpus,
  *,
  k: int,
  exclude_self: bool = False,
  **options: Any,
) -> dict[str, Any]:
  """The figures of `evaluate_ranking`: the baseline without training."""
  ranking = rank_bm25(questions, corpus, k=k, exclude_self=exclude_self)
  return evaluate_ranking(ranking, questions, corpus, **options)


def rank_bm25(
  questions: Sequence[Question],
  corpus: Corpus,
  *,
  k: int,
  exclude_self: bool = False,
) -> Ranking:
  """What BM25 finds; see `rank_passages`.

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
    rows, scores = _search_bm25(
      bm25, texts, k, find_exclusions(questions, corpus, own=exclude_self)
    )
  return Ranking(tuple(q.id for q in questions), rows, scores)


def _search_bm25(
  bm25: Bm25, texts: Sequence[str], k: int, exclusions: Exclusions | None
) -> tuple[np.ndarray, np.ndarray]:
  """Rows, best first, and scores."""
  if exclusions is None:
    return bm25.search(texts, k)

  def search(depth: int) -> tuple[np.ndarray, np.ndarray]:
    rows, scores = bm25.search(texts, depth)
    return scores, rows

  scores, rows = exclusions.search(search, k, len(bm25))
  return rows, scores


class Asked(NamedTuple):
  """What a system has found and answered.

  Attributes:
    ranking: what it has found.
    measured: all its measures.
  """

  ranking: Ranking
  measured: Measured


def evaluate_checkpoint(
  checkpoint: str | Path,
  index: str,
  questions: Sequence[Question],
  corpus: Corpus,
  **options: Any,
) -> dict[str, Any]:
  """The figures of `ask_checkpoint`."""
  asked = ask_checkpoint(checkpoint, index, questions, corpus, **options)
  return asked.measured.figures


def ask_checkpoint(
  checkpoint: str | Path,
  index: str,
  questions: Sequence[Question],
  corpus: Corpus,
  *,
  k: int,
  backend: str,
  read_k: int | None = None,
  exclude_self: bool = False,
  reader_corpus: Corpus | None = None,
  **options: Any,
) -> Asked:
  """Retrieval and, of a checkpoint with a reader, its answers.

  Args:
    checkpoint: see `load_retriever`, `load_reading_system`.
    index: its folder; made when absent.
    questions: those to measure on.
    corpus: the evidence.
    k: passages that are searched for.
    backend: of the search.
    read_k: passages that a reader gets, at most k; None: as in training.
    exclude_self: see `rank_passages`.
    reader_corpus: see `load_reading_system`.
    options: of `measure_ranking`.

  Raises:
    ValueError: if the parts do not belong together, or a checkpoint without a
      reader is to read.
  """
  if not holds_reader(checkpoint):
    if read_k is not None:
      raise ValueError(f"--read-k {read_k}: {checkpoint} has no reader.")
    retriever = load_retriever(checkpoint)
    searched = make_index(retriever, corpus, index, backend)
    ranking = rank_passages(
      retriever, searched, corpus, questions, k=k, exclude_self=exclude_self
    )
    return Asked(
      ranking, measure_ranking(ranking, questions, corpus, **options)
    )
  system = load_reading_system(checkpoint, corpus, reader_corpus)
  read_k = min(system.config.k, k) if read_k is None else read_k
  if not 0 <= read_k <= k:
    raise ValueError(
      f"--read-k {read_k}: choose from 0 (closed book) to --k {k}."
    )
  searched = make_index(system.retriever, corpus, index, backend)
  request = encode_request(system, [q.question for q in questions])
  exclusions = find_exclusions(questions, corpus, own=exclude_self)
  scores, rows = search_request(
    system, searched, request, k=k, exclusions=exclusions
  )
  ranking = Ranking(tuple(q.id for q in questions), rows, scores)
  found = measure_ranking(ranking, questions, corpus, **options)
  rows = check_found(rows[:, :read_k])
  size = default_batch_size(system, read_k)
  answers: list[Answer] = []
  with progress_bar("read", len(request), "questions") as update:
    for batch in read_batches(system, request, rows, batch_size=size):
      answers += batch.answers(max_tokens=system.config.answer_length)
      update(len(answers))
  measured = answer_measures(answers, questions)
  del measured["questions"]
  figures = found.figures | {"read_k": read_k} | measured
  values = found.values | answer_values(answers, questions)
  return Asked(ranking, Measured(figures, values))
