"""What can be trained: the table `TASKS`.

To add an objective: its function in `objectives/`, one here that returns a
`Task`, and a row.
"""

import dataclasses

from odqa_jax.data.examples import batch
from odqa_jax.data.examples.sources import check_source
from odqa_jax.models import dual_encoder, t5
from odqa_jax.models.families import Components
from odqa_jax.runtime.settings import Settings, nearest
from odqa_jax.training.tasks.contrastive import contrastive
from odqa_jax.training.tasks.passages import (
  extractive,
  passage_filter,
  pruner,
  reranker,
)
from odqa_jax.training.tasks.reader import fusion, individual, joint
from odqa_jax.training.tasks.task import Needs, Task, TaskRow
from odqa_jax.training.tasks.unified import (
  distillation,
  iterative_finetuning,
  joint_finetuning,
)

RETRIEVER = Needs(("retriever",), batch.PAIRS)
UNIFIED = Needs(("unified_reader",), batch.UNIFIED)
READER = Needs(("retriever", "reader"), batch.QUESTIONS, retrieval=True)

TASKS: dict[str, TaskRow] = {
  "contrastive": TaskRow(RETRIEVER, contrastive),
  "individual": TaskRow(READER, individual),
  "joint": TaskRow(READER, joint),
  "fid": TaskRow(READER, fusion),
  "reranker": TaskRow(Needs(("reranker",), batch.RANKED), reranker),
  "extractive": TaskRow(Needs(("extractive_reader",), batch.READ), extractive),
  "distillation": TaskRow(
    dataclasses.replace(UNIFIED, teacher=True), distillation
  ),
  "unified": TaskRow(UNIFIED, joint_finetuning),
  "iterative": TaskRow(UNIFIED, iterative_finetuning),
  "pruner": TaskRow(Needs(("passage_classifier",), batch.JUDGED), pruner),
  "filter": TaskRow(Needs(("passage_filter",), batch.FOUND), passage_filter),
}
# What tasks that read a run have of it.
_OF_A_RUN = (batch.RANKED, batch.READ)
# Sizes by name, and the block of the config that names one.
_BERTS = ("model", dual_encoder.PRESETS)
_PRESETS = {
  "retriever": _BERTS,
  "reader": ("reader", t5.PRESETS),
  "reranker": _BERTS,
  "extractive_reader": _BERTS,
  "passage_classifier": _BERTS,
  "passage_filter": _BERTS,
  "unified_reader": _BERTS,
}


def check_names(settings: Settings) -> Needs:
  """Checks what tables list, before any data is opened.

  Returns:
    What the task needs.

  Raises:
    ValueError: for an unknown name, with the nearest known one.
  """
  if settings.task not in TASKS:
    raise ValueError(
      f"config.task={settings.task!r}; {nearest(settings.task, TASKS)}"
    )
  needs = TASKS[settings.task].needs
  for component in needs.components:
    block, presets = _PRESETS[component]
    preset = getattr(settings, block).preset
    if preset not in presets and preset != "init":
      raise ValueError(
        f"config.{block}.preset={preset!r}; "
        f"{nearest(preset, [*presets, 'init'])}"
      )
  check_source(settings.data.source, needs.fields)
  _check_evaluate(settings, needs)
  _check_leaks(settings)
  return needs


def check_teacher_named(settings: Settings, needs: Needs) -> None:
  """Raises ValueError unless a run has the teacher that its task needs."""
  if needs.teacher == bool(settings.unified.teacher):
    return
  remedy = (
    "give config.unified.teacher, an extractive reader trained by loss=dpr"
  )
  if not needs.teacher:
    remedy = f"config.task={settings.task!r} has none; leave it out"
  raise ValueError(
    f"config.unified.teacher={settings.unified.teacher!r}: {remedy}."
  )


def _check_evaluate(settings: Settings, needs: Needs) -> None:
  """Raises ValueError unless what is measured has a run, where it needs one."""
  evaluate, reads = settings.evaluate, needs.fields in _OF_A_RUN
  if needs.fields is batch.FOUND and evaluate.questions:
    raise ValueError(
      f"config.evaluate.questions={evaluate.questions!r}: config.task="
      f"{settings.task!r} is measured on passages that are kept out of "
      "training; name the set as config.data.pool_questions."
    )
  if reads and evaluate.questions and not evaluate.run:
    raise ValueError(
      f"config.evaluate.questions={evaluate.questions!r}: config.task="
      f"{settings.task!r} is measured on what a retriever has found for them; "
      "give config.evaluate.run, from odqa search."
    )
  if evaluate.run and not (reads and evaluate.questions):
    remedy = "give config.evaluate.questions"
    if not reads:
      remedy = f"config.task={settings.task!r} reads none; leave it out"
    raise ValueError(f"config.evaluate.run={evaluate.run!r}: {remedy}.")


def _check_leaks(settings: Settings) -> None:
  """Raises ValueError unless questions that are measured on are named so."""
  data = settings.data
  for name in ("leaky_questions", "leaky_run"):
    value = getattr(data, name)
    if data.leaky != bool(value):
      raise ValueError(
        f"config.data.leaky={data.leaky} and config.data.{name}={value!r}: "
        "name sets and runs of questions that are measured on with "
        "config.data.leaky=True, or none."
      )
  if data.leaky and settings.task != "filter":
    raise ValueError(
      f"config.data.leaky=True: config.task={settings.task!r} trains no "
      "passage filter; leave it out."
    )


def make_task(settings: Settings, components: Components) -> Task:
  """The task that `config.task` names.

  Args:
    settings: whose names `check_names` has seen.
    components: what the task needs.
  """
  return TASKS[settings.task].make(settings, components)
