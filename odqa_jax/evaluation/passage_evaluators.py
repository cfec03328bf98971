"""Measuring networks that read what others have found, while they train.

- a reranker: `recall@k`, `gold@k` of `config.evaluate.run`, put in its order;
- an extractive reader: `em`, `f1` of its answers from the passages of that run;
- a pruner: `accuracy`, and `f1` of finding the gold passages of the dev set
  among as many random others;
- a passage filter: `hit_ratio` of the pool that `config.data.pool_questions`
  keeps out of training.

Of a run the first `config.evaluate.k` passages are read of every question.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.found import FoundExamples, Pool
from odqa_jax.data.examples.golden import golden_passages
from odqa_jax.data.examples.loader import Examples
from odqa_jax.data.examples.retrieved import check_run_texts
from odqa_jax.data.questions.sets import Question, QuestionSet
from odqa_jax.data.runs import Ranking, read_run
from odqa_jax.evaluation.evaluators import (
  Evaluator,
  check_best,
  dev_questions,
  in_one_row,
)
from odqa_jax.evaluation.measures import (
  AnswerText,
  answer_measures,
  evaluate_ranking,
)
from odqa_jax.reading.extract import (
  ROLE,
  SpanReader,
  read_spans,
  span_reader,
  with_params,
  without_params,
)
from odqa_jax.reading.pair_scores import PassageScores, rerank
from odqa_jax.reading.passage_spans import best_answers
from odqa_jax.reading.trained_scorer import make_scorer
from odqa_jax.runtime.settings import Settings
from odqa_jax.text.byte_pairs import BytePairTokenizer
from odqa_jax.text.tokenizer import Tokenizer

Description = Mapping[str, Any]
PairTokenizer = Tokenizer | BytePairTokenizer

# Of the random passages that a pruner is measured on, whatever it trains by.
_SEED = 0


def make_passage_evaluator(
  settings: Settings,
  descriptions: Mapping[str, Description],
  tokenizer: PairTokenizer,
  corpus: Corpus,
  examples: Examples,
) -> Evaluator | None:
  """Measures the dev questions, or None if that is not asked for.

  Args:
    settings: `settings.evaluate` says what is measured.
    descriptions: of the one component that is trained, by its role.
    tokenizer: of it.
    corpus: of the training; the evidence unless the settings name another.
    examples: of the training; those of a filter have its pool.

  Returns:
    A function of (parameters, anything), the same on all processes.

  Raises:
    ValueError: if the dev set does not exist, the run is not of it, or
      `config.evaluate.best` is nothing that is measured.
  """
  evaluate = settings.evaluate
  ((role, description),) = descriptions.items()
  if isinstance(examples, FoundExamples):
    if not len(examples.pool.rows):
      return None
    check_best(evaluate, ("hit_ratio",))
    return _filtering(description, tokenizer, corpus, examples.pool)
  if not evaluate.questions:
    return None
  if evaluate.corpus:
    corpus = Corpus(evaluate.corpus)
  questions = dev_questions(evaluate)
  if role == "passage_classifier":
    check_best(evaluate, ("accuracy", "f1"))
    return _judging(description, tokenizer, corpus, questions)
  ranking = _run_of(settings, questions, corpus)
  if role == ROLE:
    # Of no answers: to see which measures there are.
    names = _answered([""] * len(questions), questions)
    evaluator = _reading(description, tokenizer, corpus, questions, ranking)
  else:
    names = in_one_row(evaluate_ranking(ranking, questions, corpus))
    evaluator = _reranking(description, tokenizer, corpus, questions, ranking)
  check_best(evaluate, [*names])
  return evaluator


def _run_of(
  settings: Settings, questions: Sequence[Question], corpus: Corpus
) -> Ranking:
  """The first passages of `config.evaluate.run`, for the dev questions.

  Raises:
    ValueError: if it is a run of others, or has none.
  """
  evaluate = settings.evaluate
  everything = list(QuestionSet(Path(evaluate.questions)))
  ranking = read_run(evaluate.run, everything, corpus)
  check_run_texts(evaluate.run, corpus)
  wanted = {question.id for question in questions}
  chosen = [q.id in wanted for q in everything]
  k = evaluate.k or settings.data.passages
  ids = tuple(question.id for question in questions)
  found = Ranking(ids, ranking.rows[chosen], ranking.scores[chosen]).cut(k)
  if not (found.rows >= 0).any():
    raise ValueError(
      f"config.evaluate.run={evaluate.run}: has no passage for any of "
      f"{len(ids)} questions of {evaluate.questions}; give a run of them, from "
      "odqa search."
    )
  return found


def _reranking(
  description: Description,
  tokenizer: PairTokenizer,
  corpus: Corpus,
  questions: Sequence[Question],
  ranking: Ranking,
) -> Evaluator:
  """Of a reranker."""

  def evaluate(params: Any, live: object) -> dict[str, float]:
    del live
    # The loop around forbids silent transfers; here they are the work.
    with jax.transfer_guard("allow"):
      scorer = make_scorer(description, params["reranker"], tokenizer)
      ranked = rerank(scorer, ranking, questions, corpus)
    return in_one_row(evaluate_ranking(ranked, questions, corpus))

  return evaluate


def _answered(
  texts: Sequence[str], questions: Sequence[Question]
) -> dict[str, float]:
  """`em` and `f1`, as far as the questions allow."""
  figures = answer_measures([*map(AnswerText, texts)], questions)
  return {name: figures[name] for name in ("em", "f1") if name in figures}


def _reading(
  description: Description,
  tokenizer: PairTokenizer,
  corpus: Corpus,
  questions: Sequence[Question],
  ranking: Ranking,
) -> Evaluator:
  """Of an extractive reader; compiles at the first checkpoint alone."""
  # Without parameters: between checkpoints they would take up the devices.
  kept: SpanReader | None = None
  texts = [question.question for question in questions]

  def evaluate(params: Any, live: object) -> dict[str, float]:
    nonlocal kept
    del live
    with jax.transfer_guard("allow"):
      if kept is None:
        reader = span_reader(description, params[ROLE], tokenizer, corpus)
      else:
        reader = with_params(kept, params[ROLE])
      kept = without_params(reader)
      best = [
        best_answers(found, corpus, most=1)
        for found in read_spans(reader, texts, ranking.rows, most=1)
      ]
    found = [answers[0].text if answers else "" for answers in best]
    return _answered(found, questions)

  return evaluate


def _judging(
  description: Description,
  tokenizer: PairTokenizer,
  corpus: Corpus,
  questions: Sequence[Question],
) -> Evaluator:
  """Of a pruner: one random passage for each gold one, as its authors do."""
  golden = golden_passages(questions, corpus, negatives=1, seed=_SEED)
  rows, places = np.unique(golden.rows, return_inverse=True)

  def evaluate(params: Any, live: object) -> dict[str, float]:
    del live
    with jax.transfer_guard("allow"):
      scorer = make_scorer(description, params["passage_classifier"], tokenizer)
      scores = PassageScores(scorer, corpus, rows=rows)(range(len(rows)))
    needed, found = ~golden.irrelevant, scores[places] <= 0
    right = int((needed & found).sum())
    return {
      "accuracy": float((needed == found).mean()),
      # Of precision and recall the harmonic mean.
      "f1": 2 * right / int(needed.sum() + found.sum()),
    }

  return evaluate


def _filtering(
  description: Description,
  tokenizer: PairTokenizer,
  corpus: Corpus,
  pool: Pool,
) -> Evaluator:
  """Of a passage filter: what it would keep of the pool, Sec. 2.1's hit_val."""

  def evaluate(params: Any, live: object) -> dict[str, float]:
    del live
    with jax.transfer_guard("allow"):
      scorer = make_scorer(description, params["passage_filter"], tokenizer)
      score = PassageScores(scorer, corpus, rows=pool.rows)
      irrelevance = score(range(len(pool.rows)))
    return {"hit_ratio": pool.hit_ratio(-irrelevance)}

  return evaluate
