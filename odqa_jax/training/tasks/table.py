"""What can be trained: the table `TASKS`.

To add an objective: its function in `objectives/`, one here that returns a
`Task`, and a row.
"""

from odqa_jax.data.examples import batch
from odqa_jax.data.examples.sources import check_source
from odqa_jax.models import dual_encoder, t5
from odqa_jax.models.families import Components
from odqa_jax.runtime.settings import Settings, nearest
from odqa_jax.training.tasks.contrastive import contrastive
from odqa_jax.training.tasks.passages import extractive, pruner, reranker
from odqa_jax.training.tasks.reader import fusion, individual, joint
from odqa_jax.training.tasks.task import Needs, Task, TaskRow

RETRIEVER = Needs(("retriever",), batch.PAIRS)
READER = Needs(("retriever", "reader"), batch.QUESTIONS, retrieval=True)

TASKS: dict[str, TaskRow] = {
  "contrastive": TaskRow(RETRIEVER, contrastive),
  "individual": TaskRow(READER, individual),
  "joint": TaskRow(READER, joint),
  "fid": TaskRow(READER, fusion),
  "reranker": TaskRow(Needs(("reranker",), batch.RANKED), reranker),
  "extractive": TaskRow(Needs(("extractive_reader",), batch.READ), extractive),
  "pruner": TaskRow(Needs(("passage_classifier",), batch.JUDGED), pruner),
}
# Sizes by name, and the block of the config that names one.
_BERTS = ("model", dual_encoder.PRESETS)
_PRESETS = {
  "retriever": _BERTS,
  "reader": ("reader", t5.PRESETS),
  "reranker": _BERTS,
  "extractive_reader": _BERTS,
  "passage_classifier": _BERTS,
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
  if settings.evaluate.questions and "retriever" not in needs.components:
    raise ValueError(
      f"config.evaluate.questions={settings.evaluate.questions!r}: a retriever "
      f"is measured while it trains, and config.task={settings.task!r} has "
      "none; leave it out, and measure the checkpoint afterwards."
    )
  return needs


def make_task(settings: Settings, components: Components) -> Task:
  """The task that `config.task` names.

  Args:
    settings: whose names `check_names` has seen.
    components: what the task needs.
  """
  return TASKS[settings.task].make(settings, components)
