"""A task whose networks encode a step's passages in groups by length.

The lengths of a corpus say how many groups there are of which size, once for a
run; `models.length_groups` computes in them. Micro-batches that do not fit are
computed as one group: the metric `in_length_groups` is the share that does fit.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from odqa_jax.data.examples.loader import Examples
from odqa_jax.models.families import Components
from odqa_jax.models.length_groups import (
  GroupedEncoder,
  GroupedT5,
  LengthProfile,
  fits,
)
from odqa_jax.reading.gather import PassageGatherer
from odqa_jax.reading.likelihoods import Batch
from odqa_jax.training.memory import Run
from odqa_jax.training.tasks.losses import Grouped, SeparateLoss
from odqa_jax.training.tasks.table import make_task
from odqa_jax.training.tasks.task import Task

# Lengths of groups; TPUs' attention takes tiles of 128 tokens.
_STEP, _STEP_OF_TPU = 32, 128
# Questions, and inputs of a question with a passage, that are looked at.
_QUESTIONS, _INPUTS = 512, 65536
# Component → the lengths of what it encodes, in a batch.
_LENGTHS = {"retriever": "passage_lengths", "reader": "reader_lengths"}


def grouped_task(
  task: Task, run: Run, gatherer: PassageGatherer, examples: Examples
) -> Task:
  """The task with `config.data.length_groups`.

  Args:
    task: of the run.
    run: with the number of its micro-batches.
    gatherer: of its passages.
    examples: of its questions.
  """
  platform = run.mesh.devices.flat[0].platform
  step = _STEP_OF_TPU if platform == "tpu" else _STEP
  lengths = {
    "retriever": gatherer.lengths,
    "reader": _reader_lengths(gatherer, examples),
  }
  profiles = {
    name: LengthProfile.of(
      of_one, groups=run.settings.data.length_groups, step=step
    )
    for name, of_one in lengths.items()
  }
  return with_profiles(task, run, profiles)


def _reader_lengths(
  gatherer: PassageGatherer, examples: Examples
) -> Int[np.ndarray, " n"]:
  """Of reader inputs: evenly spaced questions, each with random passages."""
  count = min(len(examples), _QUESTIONS)
  numbers = np.linspace(0, len(examples) - 1, count).astype(np.int64)
  rng = np.random.default_rng(0)
  batch = examples.batch(numbers, rng, slice(0, count))
  rows = rng.integers(len(gatherer.corpus), size=(count, _INPUTS // count))
  lengths = gatherer.inputs.lengths(batch["reader_question_lengths"], rows)
  return lengths.reshape(-1)


def with_profiles(
  task: Task, run: Run, profiles: Mapping[str, LengthProfile]
) -> Task:
  """The task with networks that divide what they encode by these profiles.

  Args:
    task: with a `SeparateLoss`.
    run: with the number of its micro-batches.
    profiles: of retriever and reader.
  """
  loss = task.loss
  assert isinstance(loss, SeparateLoss), "examples of a batch are compared"
  components: Components = dict(run.components) | {
    "retriever": GroupedEncoder(
      run.components["retriever"].config, profiles["retriever"]
    ),
    "reader": GroupedT5(run.components["reader"].config, profiles["reader"]),
  }
  made = make_task(run.settings, components)
  assert isinstance(made.loss, SeparateLoss)
  shares = run.mesh.size * run.settings.parts

  def fit(batch: Batch) -> Bool[Array, ""]:
    of_all = [
      fits(batch[name].reshape(-1), _groups(batch, name, profiles[role]))
      for role, name in _LENGTHS.items()
    ]
    return jnp.all(jnp.stack(of_all))

  def flops(batch: Mapping[str, Any]) -> float:
    share = {
      name: jax.ShapeDtypeStruct((len(x) // shares, *x.shape[1:]), x.dtype)
      for name, x in batch.items()
    }
    return shares * made.flops(share)

  grouped = SeparateLoss(loss.sums, Grouped(made.loss.sums, fit))
  return dataclasses.replace(task, loss=grouped, flops=flops)


def _groups(batch: Batch, name: str, profile: LengthProfile) -> Any:
  """As the network of these lengths divides its inputs."""
  ids = batch[name.replace("lengths", "ids")]
  return profile.divide(batch[name].size, ids.shape[-1])
