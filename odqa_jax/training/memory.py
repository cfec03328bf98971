"""What a run needs of a device's memory, and how many micro-batches that asks.

Between steps a device holds its share of the state, of the index, of what
refreshes it and of the passages' tokens (`resident`); in a step it holds the
gradient and what the backward pass of one micro-batch keeps (`step_bytes`).
Both are told from shapes, in seconds, where compiling takes minutes and a
program that cannot fit an hour.

Of steps compiled for a CPU `step_bytes` without its `MARGIN` told 0.95 to 1.08
times the memory with a reader, and 1.4 to 1.8 times with a retriever alone
(`tests/training/memory_test.py` bounds both).
"""

import dataclasses
import math
import os
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, Sharding

from odqa_jax.data.examples.batch import OVERLAP, shapes
from odqa_jax.models.families import Components
from odqa_jax.retrieval.index import padded_rows
from odqa_jax.retrieval.refresh import abstract_state
from odqa_jax.retrieval.rows import abstract_rows
from odqa_jax.runtime.mesh import padded_size, row_sharding
from odqa_jax.runtime.settings import Settings
from odqa_jax.training.liveness import peak_bytes
from odqa_jax.training.program import (
  batch_gradients,
  make_layout,
  remembered,
  training_program,
)
from odqa_jax.training.tasks.table import make_task
from odqa_jax.training.tasks.task import Needs

# By which an estimate of a step is raised: its worst error, and what a compiler
# adds for alignment.
MARGIN = 1.15
# A CPU's memory is shared with the data, the host's copies and other programs.
_CPU_SHARE = 0.5


def abstract_batch(
  settings: Settings, needs: Needs, sharding: Sharding | None
) -> dict[str, jax.ShapeDtypeStruct]:
  """A training batch padded to the longest lengths, as shapes.

  Of salient spans without copies of passages.

  Args:
    settings: of the run.
    needs: of its task.
    sharding: of every array.
  """
  devices = sharding.num_devices if sharding else 1
  data, retrieval = settings.data, settings.retrieval
  k = 1 + (data.hard_negatives if data.source == "pairs" else 0)
  if data.source == "found":
    # What was found, and what was not.
    k = 2
  if needs.retrieval:
    k = retrieval.k + bool(retrieval.null_document or not retrieval.k)
  sizes = {
    "b": padded_size(settings.batch_size, settings.parts * devices),
    "q": data.question_length,
    "r": data.question_length,
    "k": k,
    "l": data.passage_length,
    "i": data.reader_length,
    "t": data.answer_length,
    "m": 1,
    "o": data.occurrences,
  }
  if "first_lengths" in needs.batch and "irrelevant" not in needs.batch:
    sizes |= {"k": data.passages, "l": data.pair_length, "p": sizes["l"]}
  features = OVERLAP if settings.reader.overlap_features else {}
  fields = {**needs.batch, **(features if needs.retrieval else {})}
  return {
    name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
    for name, (shape, dtype) in shapes(fields, sizes).items()
  }


class Held(NamedTuple):
  """Bytes that stay on devices between steps.

  Attributes:
    split: of all devices together, each of which has an equal part.
    whole: of every device.
  """

  split: int
  whole: int

  def on_one(self, devices: int) -> int:
    """Bytes of one of so many devices."""
    return -(-self.split // devices) + self.whole


@dataclasses.dataclass(frozen=True)
class Run:
  """What is trained, and where.

  Attributes:
    settings: of the run.
    needs: of its task.
    components: its networks.
    mesh: of the devices; they need not exist.
    passages: rows of the index.
    tokens: of these passages, where the devices hold them; None: the host does.
  """

  settings: Settings
  needs: Needs
  components: Components
  mesh: Mesh
  passages: int
  tokens: Held | None = dataclasses.field(default=None, kw_only=True)


def held(tree: Any) -> Held:
  """What the devices hold of placed arrays or their shapes."""
  split = whole = 0
  for x in jax.tree.leaves(tree):
    size = math.prod(x.shape) * np.dtype(x.dtype).itemsize
    if x.sharding.is_fully_replicated:
      whole += size
    else:
      split += size
  return Held(split, whole)


def resident(run: Run) -> dict[str, Held]:
  """What stays on the devices between steps, part by part."""
  # How many micro-batches there are changes nothing of what stays.
  settings = dataclasses.replace(run.settings, micro_batches=1)
  task = make_task(settings, run.components)
  program = training_program(settings, task, run.mesh, steps=settings.steps)
  state = program.abstract
  parts = {"training_state": held(state)}
  if not run.needs.retrieval or not settings.retrieval.k:
    return parts
  rows = index_rows(run)
  parts["index"] = held(rows)
  refresh = abstract_state(
    settings.retrieval.refresh,
    settings.retrieval.refresh_every,
    rows,
    passage_weights(run, state.params),
    run.mesh,
  )
  if refresh.building is not None:
    parts["refresh"] = held((refresh.building, refresh.frozen))
  if run.tokens is not None:
    parts["tokens"] = run.tokens
  return parts


def index_rows(run: Run) -> Any:
  """Shapes of the rows that training searches, and may refresh."""
  count = padded_rows(run.passages, run.mesh)
  width = run.components["retriever"].embedding_dim
  return abstract_rows(count, width, run.settings.retrieval.dtype, run.mesh)


def passage_weights(run: Run, params: Any) -> Any:
  """Shapes of what encodes the passages of an index."""
  retriever = run.components["retriever"]
  return jax.eval_shape(retriever.passage_weights, params["retriever"])


def step_bytes(run: Run, examples: int) -> int:
  """Bytes that a device needs for a step beside what stays, about.

  Args:
    run: what is trained.
    examples: of a micro-batch, on one device.
  """
  parts = -(-local_examples(run) // examples)
  settings = dataclasses.replace(
    run.settings,
    micro_batches=parts,
    batch_size=parts * examples * run.mesh.size,
  )
  task = make_task(settings, run.components)
  params = jax.eval_shape(task.init, jax.random.key(0))
  layout = make_layout(settings, task, run.mesh, params)
  batch = abstract_batch(settings, run.needs, row_sharding(run.mesh))
  options: dict[str, Any] = {"layout": layout, "parts": parts}

  def gradient(params: Any, batch: Any) -> Any:
    rng = jax.random.key(0)
    return batch_gradients(params, batch, rng, loss=task.loss, **options)

  def second_gradient(params: Any, batch: Any) -> Any:
    rng, second = jax.random.key(0), task.second
    assert second is not None
    after = remembered(params, batch, rng, second=second, **options)
    return batch_gradients(params, after, rng, loss=second.loss, **options)

  # One after the other.
  passes = [gradient] if task.second is None else [gradient, second_gradient]
  needs = [peak_bytes(each, params, batch) for each in passes]
  return round(MARGIN * max(needs))


def local_examples(run: Run) -> int:
  """Examples of a whole batch that one device has, at most."""
  return -(-run.settings.batch_size // run.mesh.size)


def memory_limit(mesh: Mesh) -> int:
  """Bytes that programs may use on every device of a mesh.

  What the devices themselves say; of a CPU half of the memory that is free now,
  shared by its devices. All processes get the smallest of their numbers.
  """
  limits = [device_limit(device) for device in mesh.local_devices]
  smallest = min(limits) // 2**20
  if jax.process_count() > 1:
    # In MiB, which 32 bits can hold.
    everywhere = multihost_utils.process_allgather(np.int32(smallest))
    smallest = int(everywhere.min())
  return smallest * 2**20


def device_limit(device: jax.Device) -> int:
  """Bytes that programs may use on one device, see `memory_limit`."""
  stats = device.memory_stats()
  if stats and "bytes_limit" in stats:
    return int(stats["bytes_limit"])
  free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  return int(free * _CPU_SHARE / jax.local_device_count())
