"""Answers of an extractive reader, with what every component says of them.

    passages = Passages.of(ranking)
    for (found,) in answer_with_spans(reader, questions, passages, most=10):
      found.text, found.answers[0].span, found.answers[0].scores

The log-score of retriever and reranker for a span is the log-softmax of their
scores over the passages that are read; that of the extractive reader is the
sum of its log-probabilities; that of a generative reader is the one of its
words (`span_likelihoods.py`), whatever passage they are from.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int
from scipy.special import log_softmax

from odqa_jax.data.corpus.passages import PassageTexts
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.runs import Ranking
from odqa_jax.reading.candidates import Candidates, Generated, Span
from odqa_jax.reading.extract import ROLE, SpanReader, read_spans
from odqa_jax.reading.fusion import FusedAnswer, Fusion
from odqa_jax.reading.passage_spans import (
  ExtractedAnswer,
  PassageSpans,
  best_answers,
)
from odqa_jax.reading.span_likelihoods import (
  Asked,
  GenerativeReader,
  read_and_score,
)

# What a generative reader is called among the components.
GENERATOR = "reader"


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
    generated: by a generative reader; None without one.
    decision: of a fusion; None: the extractive reader decides.
  """

  question_id: str
  k: int
  answers: tuple[SpanAnswer, ...]
  generated: Generated | None = None
  decision: FusedAnswer | None = None

  @property
  def text(self) -> str:
    """The answer; "" without one."""
    if self.decision is not None:
      return self.decision.text
    return self.answers[0].span.text if self.answers else ""

  @property
  def extractive(self) -> bool:
    """Whether the answer is a span, and not what was written."""
    if self.decision is not None:
      return self.decision.extractive
    return bool(self.answers)

  @property
  def margin(self) -> float | None:
    """Above 0 the span is preferred; None where there was no choice."""
    return self.decision.margin if self.decision else None

  @property
  def candidates(self) -> Candidates:
    """For the fusion of components."""
    spans = tuple(a.span for a in self.answers)
    return Candidates(self.question_id, spans, self.generated)


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
  generator: GenerativeReader | None = None,
  fusion: Fusion | None = None,
  sizes: Mapping[int, int] | None = None,
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
    generator: scores the spans too, and writes an answer of its own; for one
      cutoff alone.
    fusion: decides in place of the extractive reader alone.
    sizes: see `read_spans`.

  Raises:
    ValueError: see `check_fusion`, `read_spans`; or for several cutoffs with a
      generative reader.
  """
  if fusion is not None:
    more = [GENERATOR] if generator else []
    check_fusion(fusion, [*passages.scores, ROLE, *more])
  cutoffs = cutoffs or (passages.rows.shape[1],)
  extracted = _extracted(
    reader,
    questions,
    passages,
    most=most,
    cutoffs=cutoffs,
    merge=merge,
    sizes=sizes,
  )
  if generator is not None:
    if len(cutoffs) > 1:
      raise ValueError(
        f"a generative reader reads once, and not at the cutoffs {cutoffs}; "
        "choose one of them."
      )
    extracted = _with_generated(generator, questions, passages, extracted)
  for found in extracted:
    yield [_decided(each, fusion) for each in found]


def _extracted(
  reader: SpanReader,
  questions: Sequence[Question],
  passages: Passages,
  *,
  most: int,
  cutoffs: Sequence[int],
  merge: bool,
  sizes: Mapping[int, int] | None,
) -> Iterator[list[SpanAnswers]]:
  """What the extractive reader finds, for every cutoff."""
  corpus = reader.inputs.corpus
  texts = [question.question for question in questions]
  found = read_spans(reader, texts, passages.rows, most=most, sizes=sizes)
  for i, (question, spans) in enumerate(zip(questions, found, strict=True)):
    real = passages.rows[i] >= 0
    scores = {n: x[i][real].astype(float) for n, x in passages.scores.items()}
    options = {"most": most, "merge": merge}
    yield [
      SpanAnswers(
        question.id, k, _scored(corpus, spans, scores, k=k, **options)
      )
      for k in cutoffs
    ]


def _scored(
  corpus: PassageTexts,
  spans: PassageSpans,
  scores: Mapping[str, Float64[np.ndarray, " m"]],
  *,
  k: int,
  **options: Any,
) -> tuple[SpanAnswer, ...]:
  """Of one question, the best first."""
  places = {row: i for i, row in enumerate(spans.rows[:k].tolist())}
  logs = {name: log_softmax(x[:k]) for name, x in scores.items() if len(x)}
  answers = []
  for answer in best_answers(spans, corpus, k=k, **options):
    said = {n: float(x[places[answer.row]]) for n, x in logs.items()}
    said[ROLE] = answer.log_prob
    place = corpus.id(answer.row), answer.start, answer.end
    answers.append(SpanAnswer(Span(answer.text, *place, said), answer))
  return tuple(answers)


def _with_generated(
  generator: GenerativeReader,
  questions: Sequence[Question],
  passages: Passages,
  extracted: Iterator[list[SpanAnswers]],
) -> Iterator[list[SpanAnswers]]:
  """The same with the scores and the answer of a generative reader."""
  ahead, behind = itertools.tee(extracted)
  asked = (
    Asked(
      question.question,
      rows[: found.k],
      [answer.span.text for answer in found.answers],
    )
    for question, rows, (found,) in zip(
      questions, passages.rows, ahead, strict=True
    )
  )
  said = read_and_score(generator, asked)
  for (found,), (written, log_probs) in zip(behind, said, strict=True):
    answers = tuple(
      dataclasses.replace(answer, span=_and_score(answer.span, value))
      for answer, value in zip(found.answers, log_probs, strict=True)
    )
    generated = Generated(written.text, written.log_prob)
    yield [dataclasses.replace(found, answers=answers, generated=generated)]


def _and_score(span: Span, value: float) -> Span:
  return dataclasses.replace(span, scores={**span.scores, GENERATOR: value})


def _decided(found: SpanAnswers, fusion: Fusion | None) -> SpanAnswers:
  """The spans in the order of their fused scores, and the decision."""
  if fusion is None:
    return found
  # In this order equal scores are decided as `Fusion.answer` does.
  answers = sorted(
    found.answers, key=lambda a: (a.span.passage, a.span.start, a.span.end)
  )
  scores = fusion.scores([a.span for a in answers])
  best_first = np.argsort(-scores, kind="stable").tolist()
  return dataclasses.replace(
    found,
    answers=tuple(
      dataclasses.replace(answers[i], fused=float(scores[i]))
      for i in best_first
    ),
    decision=fusion.answer(found.candidates),
  )
