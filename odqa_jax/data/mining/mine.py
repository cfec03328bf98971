"""Mines positives and hard negatives for the questions of a set.

pairs = mine_pairs(questions, corpus, lambda: Bm25.build(corpus), negatives=8)
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Int

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.mining.bm25 import Bm25
from odqa_jax.data.mining.pairs import Pairs
from odqa_jax.data.questions.sets import Question, QuestionSet
from odqa_jax.text.answers import has_answer

Progress = Callable[[int, int], None]

# Questions searched at once.
_BATCH = 256


def mine_pairs(
  questions: QuestionSet,
  corpus: Corpus,
  bm25: Callable[[], Bm25],
  *,
  negatives: int = 8,
  depth: int = 50,
  progress: Progress | None = None,
) -> Pairs:
  """Positives and hard negatives for every question that has a positive.

  The positives are a question's gold passages where it names any, else the
  best BM25 passage that contains an answer. Hard negatives are all those that
  it names, else the best BM25 passages without an answer.
  "End-to-End Training of Neural Retrievers", Sec. 2.2.1.

  Args:
    questions: a prepared set.
    corpus: the evidence.
    bm25: gives its BM25 index; called only for questions that lack something,
      since a large corpus takes hours and much memory.
    negatives: most negatives that are mined for a question.
    depth: how many BM25 passages are looked at.
    progress: called with questions done and in all.

  Raises:
    ValueError: if a gold or negative passage is not in the corpus, or no
      question has a positive.
  """
  depth = min(depth, len(corpus))
  kept, positives, hard, without = [], [], [], []
  distant = 0
  for start, batch in _batches(questions):
    named = [_named(question, corpus) for question in batch]
    lacks = [not own or (negatives and not other) for own, other in named]
    ranked = _searched(batch, np.flatnonzero(lacks), bm25, depth)
    for i, question in enumerate(batch):
      own, other = _completed(question, *named[i], ranked[i], corpus, negatives)
      if not own:
        without.append(question.id)
        continue
      distant += not question.positive_ids
      kept.append(start + i)
      positives.append(own)
      hard.append(other)
    if progress:
      progress(start + len(batch), len(questions))
  if not kept:
    raise ValueError(
      f"no question of {len(questions)} has a positive passage: none names "
      f"one, and no answer is in the best {depth} BM25 passages of this corpus "
      f"(for example {without[:3]})."
    )
  rows = np.array(kept, np.int64), *_ragged(positives), *_ragged(hard)
  manifest = {
    "corpus": corpus.fingerprint,
    "questions": questions.fingerprint,
    "count": len(kept),
    "distant_positives": distant,
    "without_positive": len(without),
    "examples_without_positive": without[:5],
  }
  return Pairs(*rows, manifest)


def _batches(
  questions: QuestionSet,
) -> Iterator[tuple[int, list[Question]]]:
  for start in range(0, len(questions), _BATCH):
    stop = min(start + _BATCH, len(questions))
    yield start, [questions[i] for i in range(start, stop)]


def _ragged(
  lists: Sequence[Sequence[int]],
) -> tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]:
  offsets = np.cumsum([0, *map(len, lists)])
  values = np.array([row for rows in lists for row in rows], np.int64)
  return values, offsets


def _named(question: Question, corpus: Corpus) -> tuple[list[int], list[int]]:
  """Rows of the positives, and of the other negatives, that it names."""
  positives = _rows_of(question, question.positive_ids, corpus)
  negatives = _rows_of(question, question.negative_ids, corpus)
  return positives, [
    row for row in dict.fromkeys(negatives) if row not in positives
  ]


def _rows_of(
  question: Question, ids: Sequence[str], corpus: Corpus
) -> list[int]:
  try:
    return [corpus.row_of(passage_id) for passage_id in ids]
  except KeyError as error:
    raise ValueError(
      f"question {question.id!r} names a passage that the corpus lacks: "
      f"{error.args[0]}; prepare the questions with the corpus they belong to."
    ) from error


def _searched(
  batch: Sequence[Question],
  chosen: Int[np.ndarray, " _"],
  bm25: Callable[[], Bm25],
  depth: int,
) -> list[list[int]]:
  """Rows that share a word with each of the chosen questions; else none."""
  ranked: list[list[int]] = [[] for _ in batch]
  if len(chosen):
    texts = [batch[i].question for i in chosen]
    for i, rows, scores in zip(
      chosen, *bm25().search(texts, depth), strict=True
    ):
      ranked[i] = rows[scores > 0].tolist()
  return ranked


def _completed(
  question: Question,
  positives: list[int],
  negatives: list[int],
  ranked: Sequence[int],
  corpus: Corpus,
  limit: int,
) -> tuple[list[int], list[int]]:
  """The rows that a question names, and for what it lacks those of BM25.

  That is the best passage with an answer, and at most `limit` without one.
  """

  def answers(row: int) -> bool:
    return has_answer(corpus.text(row), question.answers, question.answer_type)

  if not positives:
    positives = list(itertools.islice(filter(answers, ranked), 1))
    negatives = [row for row in negatives if row not in positives]
  if not negatives:
    others = (r for r in ranked if r not in positives and not answers(r))
    negatives = list(itertools.islice(others, limit))
  return positives, negatives
