"""What measures a run at its checkpoints, by the networks that it trains."""

from pathlib import Path

from jax.sharding import Mesh

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.loader import Examples
from odqa_jax.data.questions.held_out import Choice, choose_on
from odqa_jax.evaluation.evaluators import Evaluator, make_evaluator
from odqa_jax.evaluation.passage_evaluators import make_passage_evaluator
from odqa_jax.evaluation.unified_evaluator import make_unified_evaluator
from odqa_jax.models.roles import UNIFIED
from odqa_jax.reading.gather import PassageGatherer
from odqa_jax.runtime.settings import Settings
from odqa_jax.training.initial import Initial
from odqa_jax.training.tasks.task import Task


def dev_choices(settings: Settings) -> list[Choice]:
  """The sets that `config.evaluate.best` chooses the checkpoint on.

  Raises:
    ValueError: for a test set, unless `config.evaluate.on_test` allows it.
  """
  named = [settings.evaluate.questions]
  if settings.task == "filter":
    named = settings.data.pool_questions.split(",")
  return [
    choose_on(
      name,
      "the checkpoint (config.evaluate.best)",
      "--config.evaluate.on_test=True",
      allowed=settings.evaluate.on_test,
    )
    for name in named
    if name
  ]


def make_dev_evaluator(
  settings: Settings,
  task: Task,
  initial: Initial,
  corpus: Corpus,
  gatherer: PassageGatherer | None,
  mesh: Mesh,
  workdir: Path,
  examples: Examples,
) -> Evaluator | None:
  """Measures the dev questions, or None if not asked for.

  Args:
    settings: of the run.
    task: that is trained.
    initial: its components.
    corpus: of the training.
    gatherer: of its passages; None without a generative reader.
    mesh: see `make_evaluator`.
    workdir: likewise.
    examples: that are trained on.
  """
  if UNIFIED in initial.components:
    return make_unified_evaluator(
      settings,
      initial.components[UNIFIED],
      initial.descriptions[UNIFIED],
      corpus.tokenizer,
      corpus,
      mesh,
      workdir,
    )
  if "retriever" not in initial.components:
    return make_passage_evaluator(
      settings, initial.descriptions, initial.tokenizer, corpus, examples
    )
  return make_evaluator(
    settings,
    task.reading,
    initial.components,
    corpus,
    gatherer,
    mesh,
    workdir,
  )
