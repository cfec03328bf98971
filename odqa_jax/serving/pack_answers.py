"""Answers of a pack, in the form of those of its system.

    for (found,) in packed_answers(system, questions, k=100, read_k=5, most=10):
      found.text

What computes is `packed/system.py`; `serving/extraction.py` has the same of a
system that is not packed.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy.special import log_softmax

from odqa_jax.data.questions.sets import Question
from odqa_jax.data.runs import Ranking
from odqa_jax.evaluation.measures import CUTOFFS, Measured, measure_ranking
from odqa_jax.evaluation.systems import Asked
from odqa_jax.reading.candidates import Span
from odqa_jax.reading.extract import ROLE
from odqa_jax.reading.span_answers import SpanAnswer, SpanAnswers
from odqa_jax.runtime.progress import progress_bar
from odqa_jax.serving.extraction import measured_by_k
from odqa_jax.serving.packed.system import PackedSystem, Reading


def read_questions(
  system: PackedSystem,
  questions: Sequence[Question],
  *,
  k: int,
  read_k: int,
  most: int,
) -> Iterator[Reading]:
  """Reads for every question, with progress on the screen."""
  with progress_bar("read", len(questions), "questions") as update:
    for i, question in enumerate(questions):
      yield system.read(question.question, k=k, read_k=read_k, most=most)
      update(i + 1)


def span_answers(
  question: Question, found: Reading, *, k: int, most: int, merge: bool = False
) -> SpanAnswers:
  """The spans of one question out of the first k passages that were read."""
  logs = log_softmax(found.scores[:k].astype(float))
  rows = found.spans.rows.tolist()
  answers = []
  for answer in found.answers(most, k=k, merge=merge):
    said = {
      "retriever": float(logs[rows.index(answer.row)]),
      ROLE: answer.log_prob,
    }
    place = found.texts.id(answer.row), answer.start, answer.end
    answers.append(SpanAnswer(Span(answer.text, *place, said), answer))
  return SpanAnswers(question.id, k, tuple(answers))


def measure_pack(
  system: PackedSystem,
  questions: Sequence[Question],
  *,
  k: int,
  read_k: int | None = None,
  most: int = 10,
  merge: bool = False,
  **options: Any,
) -> Asked:
  """What `odqa evaluate` measures of the system that was packed.

  Args:
    system: the pack.
    questions: those to measure on.
    k: passages that are searched for.
    read_k: the first of these, which are read; None: all, and fewer.
    most: spans that are compared.
    merge: whether equal answers are one.
    options: of `measure_ranking`.
  """
  readings = [
    *read_questions(system, questions, k=k, read_k=read_k or k, most=most)
  ]
  ranking = Ranking(
    tuple(q.id for q in questions),
    np.stack([found.rows for found in readings]).astype(np.int32),
    np.stack([found.scores for found in readings]),
  )
  found = measure_ranking(ranking, questions, system.texts, **options)
  cutoffs = [c for c in CUTOFFS if c < k] + [k]
  answers = {
    cutoff: [
      span_answers(question, reading, k=cutoff, most=most, merge=merge)
      for question, reading in zip(questions, readings, strict=True)
    ]
    for cutoff in (cutoffs if read_k is None else [read_k])
  }
  read = measured_by_k(answers, questions)
  figures = found.figures | {"read": read.figures}
  return Asked(ranking, Measured(figures, found.values | read.values))
