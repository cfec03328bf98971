"""Measuring a unified reader while it trains: what it finds, and answers.

Its own passages are read, found in an index that is made anew with the present
weights: `config.evaluate.index`, see `dev_index.py`. Yang and Seo 2021 measured
on what the first retriever had found, and name that a flaw (A.5).

- `recall@k`, `gold@k` in `dev_passages` passages;
- `em`, `f1`: the answers by DPR's rule from the first `config.evaluate.k`, else
  `DEV_READ`;
- `mean_em`: of `em` with 1, 10, 20, … of these, as the authors choose a step.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.runs import Ranking
from odqa_jax.evaluation.dev_index import DevIndex
from odqa_jax.evaluation.evaluators import (
  DEV_K,
  Evaluator,
  check_best,
  dev_index,
  dev_questions,
  in_one_row,
)
from odqa_jax.evaluation.measures import (
  AnswerText,
  answer_measures,
  evaluate_ranking,
)
from odqa_jax.models.roles import UNIFIED, role_params, roles
from odqa_jax.models.unified_reader import UnifiedReader
from odqa_jax.reading.extract import (
  SpanReader,
  read_spans,
  span_reader,
  with_params,
  without_params,
)
from odqa_jax.reading.passage_spans import best_answers
from odqa_jax.retrieval.retriever import make_retriever
from odqa_jax.retrieval.searchable import Searchable
from odqa_jax.runtime.settings import Settings
from odqa_jax.text.tokenizer import Tokenizer

# Passages that are read unless the settings say how many.
DEV_READ = 50
_CUTOFFS = (1, 10, 20, 30, 40, 50)


def make_unified_evaluator(
  settings: Settings,
  network: UnifiedReader,
  description: Mapping[str, Any],
  tokenizer: Tokenizer,
  corpus: Corpus,
  mesh: Mesh,
  workdir: Path,
) -> Evaluator | None:
  """Measures the dev questions, or None if that is not asked for.

  Args:
    settings: `settings.evaluate` says what is measured.
    network: what is trained.
    description: of it, as checkpoints hold it.
    tokenizer: of it.
    corpus: of the training; searched unless the settings name another.
    mesh: holds the temporary index.
    workdir: the temporary index is made and deleted here.

  Returns:
    A function of (parameters, anything), the same on all processes.

  Raises:
    ValueError: if the dev set does not exist, k passages do not, or
      `config.evaluate.best` is nothing that is measured.
  """
  evaluate = settings.evaluate
  if not evaluate.questions:
    return None
  if evaluate.corpus:
    corpus = Corpus(evaluate.corpus)
  questions = dev_questions(evaluate)
  index = dev_index(settings, corpus, questions, mesh, workdir, has_live=False)
  read_k = evaluate.k or min(DEV_READ, len(index))
  if read_k > len(index):
    raise ValueError(
      f"config.evaluate.k={read_k}, but {len(index)} passages of the corpus "
      f"{corpus.directory} are searched; lower it."
    )
  dev = _Dev(questions, index, read_k)
  check_best(evaluate, dev.names())
  # Without parameters: between checkpoints they would take up the devices.
  kept: SpanReader | None = None

  def measure(params: Any, live: Searchable | None) -> dict[str, float]:
    nonlocal kept
    del live
    described = {UNIFIED: description}
    data = settings.data
    with jax.transfer_guard("allow"):
      retriever = make_retriever(
        network.config.encoder,
        role_params("retriever", described, params),
        tokenizer,
        question_length=data.question_length,
        passage_length=data.passage_length,
        title=data.title,
      )
      if kept is None:
        reader = span_reader(
          roles(described)["extractive_reader"],
          params[UNIFIED],
          tokenizer,
          corpus,
        )
      else:
        reader = with_params(kept, params[UNIFIED])
      kept = without_params(reader)
      found = index.search(retriever, None, dev.k)
      del retriever
      return dev.measures(reader, *found)

  return measure


class _Dev:
  """The dev questions, where they are searched, and what is measured.

  Attributes:
    questions: of the dev set.
    index: where they are searched.
    k: passages that are searched for.
    cutoffs: numbers of passages that are read; the last one is the most.
  """

  def __init__(
    self, questions: Sequence[Question], index: DevIndex, read_k: int
  ) -> None:
    self.questions, self.index = questions, index
    self.k = min(max(DEV_K, read_k), len(index))
    self.cutoffs = [k for k in _CUTOFFS if k < read_k] + [read_k]
    self._texts = [q.question for q in questions]
    self._ids = tuple(q.id for q in questions)

  def names(self) -> list[str]:
    """Of all that will be measured."""
    # Of nothing found and no answers: to see which measures there are.
    rows = np.zeros((len(self.questions), self.k), np.int32)
    empty = [[AnswerText("")] * len(self.questions)] * len(self.cutoffs)
    return [*self._found(rows, rows.astype(np.float32)), *self._answered(empty)]

  def measures(
    self, reader: SpanReader, scores: np.ndarray, rows: np.ndarray
  ) -> dict[str, float]:
    """Of what was found, and of what is read in it."""
    corpus = self.index.corpus
    answers: list[list[AnswerText]] = [[] for _ in self.cutoffs]
    read = rows[:, : self.cutoffs[-1]]
    for spans in read_spans(reader, self._texts, read, most=1):
      for k, given in zip(self.cutoffs, answers, strict=True):
        best = best_answers(spans, corpus, k=k, most=1)
        given.append(AnswerText(best[0].text if best else ""))
    return self._found(rows, scores) | self._answered(answers)

  def _found(self, rows: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    ranking = Ranking(self._ids, rows, scores)
    figures = evaluate_ranking(ranking, self.questions, self.index.corpus)
    return in_one_row(figures) | {"dev_passages": float(len(self.index))}

  def _answered(
    self, answers: Sequence[Sequence[AnswerText]]
  ) -> dict[str, float]:
    each = [answer_measures(given, self.questions) for given in answers]
    figures: dict[str, float] = {
      name: each[-1][name] for name in ("em", "f1") if name in each[-1]
    }
    if "em" in figures:
      figures["mean_em"] = float(np.mean([one["em"] for one in each]))
    return figures
