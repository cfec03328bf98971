"""Which input pipeline a run has, and what gathers its passages."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.loader import Examples, train_batches
from odqa_jax.reading.device_gather import DeviceGatherer
from odqa_jax.reading.gather import PassageGatherer
from odqa_jax.runtime.mesh import host_slice, padded_size
from odqa_jax.runtime.settings import Settings
from odqa_jax.training.initial import Initial
from odqa_jax.training.input_pipeline import InputPipeline, RetrievalPipeline
from odqa_jax.training.optimizer import freezing_rules, frozen
from odqa_jax.training.retrieval import BatchRetrieval
from odqa_jax.training.tasks.task import Task
from odqa_jax.training.teacher import Teacher, TeacherPipeline


def make_gatherer(
  settings: Settings, initial: Initial, corpus: Corpus
) -> PassageGatherer | None:
  """Gathers passages for tasks with a reader."""
  if initial.inputs is None:
    return None
  return PassageGatherer(
    corpus=corpus,
    inputs=initial.inputs,
    passage_length=settings.data.passage_length,
    title=settings.data.title,
    null_document=settings.retrieval.null_document,
    buckets=settings.data.reader_buckets,
  )


def trains_passages(settings: Settings, task: Task, params: Any) -> bool:
  """Whether any weight of the passage encoder is trained.

  Args:
    settings: whose `optimizer.multipliers` may freeze some.
    task: what the objective leaves as it is.
    params: of all components, arrays or shapes.
  """
  rules = freezing_rules(settings.optimizer, task.frozen)
  sides = frozen(params, rules)["retriever"]
  side = sides.get("shared", sides.get("passage"))
  return not all(jax.tree.leaves(side))


def make_pipeline(
  settings: Settings,
  initial: Initial,
  examples: Examples,
  gatherer: PassageGatherer | None,
  mesh: Mesh,
  workdir: Path,
  *,
  trained: bool,
  whole: Callable[[Any], Any],
  on_devices: DeviceGatherer | None = None,
  teacher: Teacher | None = None,
) -> InputPipeline:
  """Where batches come from.

  Args:
    settings: of the run.
    initial: its components.
    examples: what is loaded.
    gatherer: of the passages that the loop retrieves; None where it does not.
    mesh: the devices of training and index.
    workdir: of the run.
    trained: whether the passage encoder is.
    whole: see `TrainingProgram`.
    on_devices: gathers passages there, in place of `gatherer`.
    teacher: reads every batch; None without one.
  """
  multiple = mesh.size * settings.parts
  batches = train_batches(
    examples,
    settings.batch_size,
    seed=settings.seed,
    rows=host_slice(padded_size(settings.batch_size, multiple)),
    fraction=settings.data.fraction,
  )
  if teacher is not None:
    return TeacherPipeline(batches, teacher)
  if gatherer is None:
    return InputPipeline(batches)
  encoder = initial.components["retriever"]
  retrieval = BatchRetrieval(
    encoder,
    gatherer,
    mesh,
    k=settings.retrieval.k,
    force_gold=settings.retrieval.force_gold,
    on_devices=on_devices,
  )
  return RetrievalPipeline(
    settings.retrieval,
    batches,
    retrieval,
    encoder,
    workdir,
    question_length=settings.data.question_length,
    trained=trained,
    whole=whole,
  )
