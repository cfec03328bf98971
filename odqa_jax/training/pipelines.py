"""Which input pipeline a run has."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from odqa_jax.data.examples.loader import Examples, train_batches
from odqa_jax.reading.device_gather import DeviceGatherer
from odqa_jax.reading.gather import PassageGatherer
from odqa_jax.runtime.mesh import host_slice, padded_size
from odqa_jax.runtime.settings import Settings
from odqa_jax.training.initial import Initial
from odqa_jax.training.input_pipeline import InputPipeline, RetrievalPipeline
from odqa_jax.training.retrieval import BatchRetrieval
from odqa_jax.training.teacher import Teacher, TeacherPipeline


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
