"""Chooses how a reader's answers are scored, on dev questions alone.

    scoring, figures = tune_scoring(extraction, questions, version=version)

"Designing a Minimal Retrieve-and-Read System for Open-Domain Question
Answering" (Yang and Seo 2021), A.3: λ and the number of passages are those with
the highest exact match; a test set is then measured with these, and not with
the number that would be best there.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from odqa_jax.data.questions.sets import Question
from odqa_jax.evaluation.measures import AnswerText, answer_measures
from odqa_jax.reading.answer_scoring import AnswerScoring
from odqa_jax.reading.extract import read_spans, with_rank_weight
from odqa_jax.reading.passage_spans import best_answers
from odqa_jax.serving.extraction import Extraction

# The authors'.
CUTOFFS = (1, *range(10, 101, 10))
SPANS = 5
WEIGHTS = tuple(i / 20 for i in range(21))


def tune_scoring(
  extraction: Extraction,
  questions: Sequence[Question],
  *,
  version: str,
  chosen_on: str = "",
) -> tuple[AnswerScoring, dict[str, Any]]:
  """Measures every λ and number of passages, and DPR's rule beside them.

  Of equal ones fewer passages, then DPR's rule, then the smaller λ is chosen.

  Args:
    extraction: what answers; its passages are read once.
    questions: of a dev set.
    version: of its reader, as a system knows it.
    chosen_on: what the set is called.

  Returns:
    What is best, and EM of the rule and of the best λ for every number of
    passages.

  Raises:
    ValueError: if the reader has no such weight, no question has an answer, or
      a generative reader or a fusion would decide.
  """
  if extraction.generator is not None or extraction.fusion is not None:
    raise ValueError(
      "--tune-scoring is for an extractive reader alone, and here another "
      "part decides; leave --reader and the fusion out."
    )
  with_rank_weight(extraction.reader, 0.0)
  width = extraction.passages.rows.shape[1]
  cutoffs = sorted({k for k in CUTOFFS if k < width} | {width})
  options = [(k, w) for k in cutoffs for w in (None, *WEIGHTS)]
  answers: dict[tuple[int, float | None], list[AnswerText]] = {
    option: [] for option in options
  }
  corpus = extraction.reader.inputs.corpus
  texts = [question.question for question in questions]
  for found in read_spans(
    extraction.reader, texts, extraction.passages.rows, most=SPANS
  ):
    for k, weight in options:
      weighed = dataclasses.replace(found, rank_weight=weight)
      best = best_answers(weighed, corpus, k=k, most=1)
      answers[k, weight].append(AnswerText(best[0].text if best else ""))
  em = {}
  for option, given in answers.items():
    figures = answer_measures(given, questions)
    if "em" not in figures:
      raise ValueError(
        "--tune-scoring: no question has an answer to compare with; give "
        "questions with answers."
      )
    em[option] = float(figures["em"])
  # Options stand in the order in which equal ones are preferred.
  k, weight = options[int(np.argmax([em[option] for option in options]))]
  rule = max(em[each, None] for each in cutoffs)
  scoring = AnswerScoring(
    weight, k, em[k, weight], rule, len(questions), version, chosen_on
  )
  return scoring, _told(scoring, cutoffs, em)


def _told(
  scoring: AnswerScoring,
  cutoffs: Sequence[int],
  em: dict[tuple[int, float | None], float],
) -> dict[str, Any]:
  """The chosen values, and EM by the number of passages."""
  by_k = {}
  for k in cutoffs:
    values = [em[k, weight] for weight in WEIGHTS]
    best = WEIGHTS[int(np.argmax(values))]
    by_k[str(k)] = {
      "rule": em[k, None], "weighed": em[k, best], "rank_weight": best
    }  # fmt: skip
  chosen = dataclasses.asdict(scoring)
  del chosen["reader"]
  return chosen | {"by_k": by_k}
