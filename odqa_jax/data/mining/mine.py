"""Mines positives and hard negatives for the questions of a set.

pairs = mine_pairs(questions, corpus, Bm25.build(corpus), negatives=8)
"""

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
  bm25: Bm25,
  *,
  negatives: int = 8,
  depth: int = 50,
  progress: Progress | None = None,
) -> Pairs:
  """Positives and hard negatives for every question that has a positive.

  The positives are a question's gold passages where it names any, else the
  best BM25 passage that contains an answer. Hard negatives are the negatives
  that it names, then the best BM25 passages without an answer.
  "End-to-End Training of Neural Retrievers", Sec. 2.2.1.

  Args:
    questions: a prepared set.
    corpus: the evidence.
    bm25: its BM25 index.
    negatives: most negatives kept per question.
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
    rows, scores = bm25.search([q.question for q in batch], depth)
    for i, question in enumerate(batch):
      found = rows[i][scores[i] > 0]
      own = _rows_of(question, question.positive_ids, corpus)
      if not own:
        own = _distant_positive(question, found, corpus)
        distant += len(own)
      if not own:
        without.append(question.id)
        continue
      named = _rows_of(question, question.negative_ids, corpus)
      kept.append(start + i)
      positives.append(own)
      hard.append(
        _hard_negatives(question, found, own, named, corpus, negatives)
      )
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


def _distant_positive(
  question: Question, found: Int[np.ndarray, " k"], corpus: Corpus
) -> list[int]:
  for row in found.tolist():
    if has_answer(corpus.text(row), question.answers, question.answer_type):
      return [row]
  return []


def _hard_negatives(
  question: Question,
  found: Int[np.ndarray, " k"],
  positives: Sequence[int],
  named: Sequence[int],
  corpus: Corpus,
  limit: int,
) -> list[int]:
  chosen = [row for row in dict.fromkeys(named) if row not in positives]
  chosen = chosen[:limit]
  for row in found.tolist():
    if len(chosen) >= limit:
      break
    if row in positives or row in chosen:
      continue
    text = corpus.text(row)
    if not has_answer(text, question.answers, question.answer_type):
      chosen.append(row)
  return chosen
