"""What a run needs of a device's memory, and how many micro-batches that asks.

Between steps a device holds its share of the state, of the index and of what
refreshes it (`resident`); in a step it holds the gradient and what the backward
pass of one micro-batch keeps (`step_bytes`). Both are told from shapes, in
seconds, where compiling takes minutes and a program that cannot fit an hour.

Compared with `memory_analysis()` of compiled steps, `step_bytes` without its
`MARGIN` was off by −14 % to +1 %: see `tests/benchmarks/README.md`.
"""

import dataclasses
import math
import os
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, Sharding

from odqa_jax.data.examples.batch import OVERLAP, shapes
from odqa_jax.models.families import Components
from odqa_jax.retrieval.index import padded_rows
from odqa_jax.retrieval.refresh import abstract_state
from odqa_jax.retrieval.rows import abstract_rows
from odqa_jax.runtime.settings import Settings
from odqa_jax.training.liveness import peak_bytes
from odqa_jax.training.program import training_program
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
  data, retrieval = settings.data, settings.retrieval
  k = 1 + (data.hard_negatives if data.source == "pairs" else 0)
  if needs.retrieval:
    k = retrieval.k + bool(retrieval.null_document or not retrieval.k)
  sizes = {
    "b": settings.batch_size,
    "q": data.question_length,
    "r": data.question_length,
    "k": k,
    "l": data.passage_length,
    "i": data.reader_length,
    "t": data.answer_length,
    "m": 1,
  }
  features = OVERLAP if settings.reader.overlap_features else {}
  fields = {**needs.batch, **(features if needs.retrieval else {})}
  return {
    name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
    for name, (shape, dtype) in shapes(fields, sizes).items()
  }


@dataclasses.dataclass(frozen=True)
class Run:
  """What is trained, and where.

  Attributes:
    settings: of the run.
    needs: of its task.
    components: its networks.
    mesh: of the devices; they need not exist.
    passages: rows of the index.
  """

  settings: Settings
  needs: Needs
  components: Components
  mesh: Mesh
  passages: int


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
  settings = run.settings
  task = make_task(
    dataclasses.replace(settings, micro_batches=1), run.components
  )
  state = training_program(
    settings, task, run.mesh, steps=settings.steps
  ).abstract
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
  settings = run.settings
  alone = dataclasses.replace(settings, micro_batches=1, batch_size=examples)
  task = make_task(alone, run.components)
  params = jax.eval_shape(task.init, jax.random.key(0))
  batch = abstract_batch(alone, run.needs, None)

  def gradient(params: Any, batch: Any) -> Any:
    rng = jax.random.key(0)
    return jax.value_and_grad(task.loss, has_aux=True)(params, batch, rng)

  total = peak_bytes(gradient, params, batch)
  if examples < local_examples(run):
    # The sum over the micro-batches, beside the gradient of one.
    total += sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params))
  return round(MARGIN * total)


def local_examples(run: Run) -> int:
  """Examples of a whole batch that one device has, at most."""
  return -(-run.settings.batch_size // run.mesh.size)


def device_limit(device: jax.Device) -> int:
  """Bytes that programs may use on a device of this process."""
  stats = device.memory_stats()
  if stats and "bytes_limit" in stats:
    return int(stats["bytes_limit"])
  free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  return int(free * _CPU_SHARE / jax.local_device_count())
