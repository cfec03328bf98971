"""Answers of an extractive reader, with what every component says of them.

    passages = Passages.of({"retriever": ranking})
    for found in answer_with_spans(reader, questions, passages, most=10):
      found.text, found.answers[0].span, found.answers[0].scores

The log-score of retriever and reranker for a span is the log-softmax of their
scores over the passages that are read; that of the extractive reader is the
sum of its log-probabilities.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int
from scipy.special import log_softmax

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.runs import Ranking
from odqa_jax.reading.candidates import Candidates, Span
from odqa_jax.reading.extract import ROLE, SpanReader, read_spans
from odqa_jax.reading.fusion import Fusion
from odqa_jax.reading.passage_spans import (
  ExtractedAnswer,
  PassageSpans,
  best_answers,
)


@dataclasses.dataclass(frozen=True)
class Passages:
  """What is read for every question, the best first.

  Attributes:
    rows: of the corpus; −1 stands for none.
    scores: component → what it gives each, as it does: not yet normalised.
  """

  rows: Int[np.ndarray, "n k"]
  scores: Mapping[str, Float[np.ndarray, "n k"]]

  @staticmethod
  def of(
    searched: Ranking, reranked: Ranking | None = None, k: int | None = None
  ) -> "Passages":
    """The first k passages of a search, or of what a reranker made of it.

    Raises:
      ValueError: if the search lacks a passage that was reranked.
    """
    if reranked is None:
      scores = {"retriever": searched.scores[:, :k]}
      return Passages(searched.rows[:, :k], scores)
    rows = reranked.rows[:, :k]
    found = np.full(rows.shape, -np.inf)
    for i, name in enumerate(searched.question_ids):
      known = dict(zip(searched.rows[i], searched.scores[i], strict=True))
      for j, row in enumerate(rows[i].tolist()):
        if row >= 0 and row not in known:
          raise ValueError(
            f"question {name!r}: the reranked run has passage {j + 1} from "
            "elsewhere than the run that was reranked; give the two that "
            "belong together."
          )
        found[i, j] = known.get(row, -np.inf)
    scores = {"retriever": found, "reranker": reranked.scores[:, :k]}
    return Passages(rows, scores)


@dataclasses.dataclass(frozen=True)
class SpanAnswer:
  """One span, and what was said of it.

  Attributes:
    span: with its passage and place.
    answer: as the extractive reader gives it.
    fused: the fused score; None without a fusion.
  """

  span: Span
  answer: ExtractedAnswer
  fused: float | None = None

  @property
  def scores(self) -> Mapping[str, float]:
    """Component → log-score."""
    return self.span.scores


@dataclasses.dataclass(frozen=True)
class SpanAnswers:
  """What one question is answered with.

  Attributes:
    question_id: of the question.
    k: passages that were read at most.
    answers: the best first; none where there was nothing to read.
  """

  question_id: str
  k: int
  answers: tuple[SpanAnswer, ...]

  @property
  def text(self) -> str:
    """The answer; "" without one."""
    return self.answers[0].span.text if self.answers else ""

  @property
  def candidates(self) -> Candidates:
    """For the fusion of components."""
    return Candidates(self.question_id, tuple(a.span for a in self.answers))


def check_fusion(fusion: Fusion, components: Sequence[str]) -> None:
  """Refuses weights of components that give no scores here.

  Raises:
    ValueError: naming them.
  """
  missing = [name for name in fusion.weights if name not in components]
  if missing:
    raise ValueError(
      f"the fusion weighs {', '.join(missing)}, and spans have the scores of "
      f"{', '.join(components)} alone; tune one with `odqa fuse --components "
      f"{','.join(components)}`."
    )


def answer_with_spans(
  reader: SpanReader,
  questions: Sequence[Question],
  passages: Passages,
  *,
  most: int,
  cutoffs: Sequence[int] = (),
  merge: bool = False,
  fusion: Fusion | None = None,
) -> Iterator[list[SpanAnswers]]:
  """Answers every question; its passages are read once for all cutoffs.

  Args:
    reader: the extractive reader.
    questions: in the order of the passages.
    passages: what is read.
    most: spans that are compared.
    cutoffs: read so many of the first passages, one result for each; none:
      all of them.
    merge: see `best_answers`.
    fusion: decides in place of the reader alone.

  Raises:
    ValueError: see `check_fusion`, `read_spans`.
  """
  if fusion is not None:
    check_fusion(fusion, [*passages.scores, ROLE])
  corpus = reader.inputs.corpus
  texts = [question.question for question in questions]
  found = read_spans(reader, texts, passages.rows, most=most)
  for i, (question, spans) in enumerate(zip(questions, found, strict=True)):
    real = passages.rows[i] >= 0
    scores = {n: x[i][real].astype(float) for n, x in passages.scores.items()}
    yield [
      SpanAnswers(
        question.id,
        k,
        _answers(corpus, spans, scores, fusion, k=k, most=most, merge=merge),
      )
      for k in cutoffs or (passages.rows.shape[1],)
    ]


def _answers(
  corpus: Corpus,
  spans: PassageSpans,
  scores: Mapping[str, Float64[np.ndarray, " m"]],
  fusion: Fusion | None,
  **options: Any,
) -> tuple[SpanAnswer, ...]:
  """Of one question, the best first."""
  k = options["k"]
  places = {row: i for i, row in enumerate(spans.rows[:k].tolist())}
  logs = {name: log_softmax(x[:k]) for name, x in scores.items() if len(x)}
  answers = []
  for answer in best_answers(spans, corpus, **options):
    said = {n: float(x[places[answer.row]]) for n, x in logs.items()}
    said[ROLE] = answer.log_prob
    place = corpus.id(answer.row), answer.start, answer.end
    answers.append(SpanAnswer(Span(answer.text, *place, said), answer))
  if fusion is None or not answers:
    return tuple(answers)
  # In this order equal scores are decided as `Fusion.answer` does.
  answers.sort(key=lambda a: (a.span.passage, a.span.start, a.span.end))
  fused = fusion.scores([a.span for a in answers]).tolist()
  weighed = [
    dataclasses.replace(a, fused=x) for a, x in zip(answers, fused, strict=True)
  ]
  return tuple(sorted(weighed, key=lambda a: -(a.fused or 0.0)))
