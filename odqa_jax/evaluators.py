"""Measuring a model while it trains, at every checkpoint.

An evaluator is a function of the model and its live parameters that returns
`{name: value}`; `config.evaluate.best` names the value that the best
checkpoint is chosen by.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from odqa_jax.data.corpus import Corpus
from odqa_jax.data.question_sets import QuestionSet
from odqa_jax.evaluate import Ranking, evaluate_ranking
from odqa_jax.mesh import is_primary, sync
from odqa_jax.models.bert import EncoderConfig
from odqa_jax.retriever import index_corpus, make_retriever, search_questions

Evaluator = Callable[[EncoderConfig, Any], dict[str, float]]

DEV_K = 100


def make_evaluator(
  config: ConfigDict, corpus: Corpus, mesh: Mesh, workdir: Path
) -> Evaluator | None:
  """Retrieval of the dev questions over a corpus, or None if not asked for.

  Args:
    config: a training config; `config.evaluate` says what is measured.
    corpus: the training corpus, searched unless the config names another.
    mesh: holds the temporary index.
    workdir: the temporary index is made and deleted here.

  Raises:
    ValueError: if the dev set does not exist, or k passages do not.
  """
  if not config.evaluate.questions:
    return None
  questions = list(QuestionSet(Path(config.evaluate.questions)))
  if config.evaluate.corpus:
    corpus = Corpus(config.evaluate.corpus)
  texts = [q.question for q in questions]
  ids = tuple(q.id for q in questions)
  folder = workdir / "dev_index"

  def remove_index() -> None:
    if is_primary():
      shutil.rmtree(folder, ignore_errors=True)
      shutil.rmtree(f"{folder}.partial", ignore_errors=True)
    sync("dev index removed")

  def evaluate(encoder: EncoderConfig, params: Any) -> dict[str, float]:
    retriever = make_retriever(
      encoder,
      params,
      corpus.tokenizer,
      question_length=config.data.question_length,
      passage_length=config.data.passage_length,
      title=config.data.title,
    )
    # What an evaluation that was killed left behind is of other parameters.
    remove_index()
    # The loop around forbids silent transfers; here they are the work.
    with jax.transfer_guard("allow"):
      index = index_corpus(retriever, corpus, folder, mesh=mesh)
      scores, rows = search_questions(
        retriever, index, corpus, texts, k=min(DEV_K, len(corpus))
      )
    remove_index()
    figures = evaluate_ranking(Ranking(ids, rows, scores), questions, corpus)
    return {
      f"{measure}@{k}": value
      for measure in ("recall", "gold")
      for k, value in figures.get(measure, {}).items()
    }

  return evaluate
