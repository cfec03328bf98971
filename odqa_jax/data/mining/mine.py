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
    lacking = [
      i for i, (own, other) in enumerate(named) if not own or not other
    ]
    if not negatives:
      lacking = [i for i in lacking if not named[i][0]]
    ranked = _searched(batch, lacking, bm25, depth)
    for i, (question, (own, other)) in enumerate(
      zip(batch, named, strict=True)
    ):
      if not own:
        own = _distant_positive(question, ranked[i], corpus)
        distant += len(own)
        other = [row for row in other if row not in own]
      if not own:
        without.append(question.id)
        continue
      kept.append(start + i)
      positives.append(own)
      if not other and negatives:
        other = _mined(question, ranked[i], own, corpus, negatives)
      hard.append(other)
    if progress:
      progress(start + len(batch), len(questions))
  if not kept:
    raise ValueError(
      f"no question of {len(questions)} has a positive passage: none names "
      f"one, and no answer is in the best {depth} BM25 passages of this corpus "
      f"(for example {without[:3]})."
    )
  manifest = {
    "corpus": corpus.fingerprint,
    "questions": questions.fingerprint,
    "count": len(kept),
    "distant_positives": distant,
    "without_positive": len(without),
    "examples_without_positive": without[:5],
  }
  return Pairs(
    np.array(kept, np.int64), *_ragged(positives), *_ragged(hard), manifest
  )


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
  chosen: Sequence[int],
  bm25: Callable[[], Bm25],
  depth: int,
) -> dict[int, list[int]]:
  """The rows that share a word with each of the chosen questions."""
  if not chosen:
    return {}
  texts = [batch[i].question for i in chosen]
  rows, scores = bm25().search(texts, depth)
  return {i: rows[n][scores[n] > 0].tolist() for n, i in enumerate(chosen)}


def _distant_positive(
  question: Question, rows: Sequence[int], corpus: Corpus
) -> list[int]:
  for row in rows:
    if has_answer(corpus.text(row), question.answers, question.answer_type):
      return [row]
  return []


def _mined(
  question: Question,
  rows: Sequence[int],
  positives: Sequence[int],
  corpus: Corpus,
  limit: int,
) -> list[int]:
  """The first rows without an answer, at most `limit`."""
  without_answer = (
    row
    for row in rows
    if row not in positives
    and not has_answer(corpus.text(row), question.answers, question.answer_type)
  )
  return list(itertools.islice(without_answer, limit))
