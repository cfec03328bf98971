"""A teacher that reads what a student trains on, beside the training loop.

    teacher = load_teacher("work/dpr-reader", settings, corpus, mesh)
    pipeline = TeacherPipeline(batches, teacher)

Its scores are arrays of the batch. So the step knows nothing of it: its
weights are neither in the state of the optimiser nor in a checkpoint, which
holds their hash (`contents`).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.models.extractive_reader import ExtractiveReader
from odqa_jax.models.families import network_from
from odqa_jax.reading.trained_component import load_component
from odqa_jax.runtime.mesh import replicated, to_global
from odqa_jax.runtime.settings import Settings
from odqa_jax.training.input_pipeline import InputPipeline

Batch = Mapping[str, np.ndarray | Array]
# A batch's arrays of `batch.TEACHER`, given the others.
Teacher = Callable[[Batch], dict[str, np.ndarray | Array]]

_ROLE = "extractive_reader"
_INPUTS = ("ids", "lengths", "first_lengths")


class TeachersScores(NamedTuple):
  """What a teacher says of a batch: `batch.TEACHER`, in float32."""

  teacher_start: Array
  teacher_end: Array
  teacher_passage: Array


def load_teacher(
  path: str, settings: Settings, corpus: Corpus, mesh: Mesh
) -> Teacher:
  """An extractive reader that ranks passages, as a teacher.

  Args:
    path: its checkpoint, or a published folder.
    settings: of the student's run.
    corpus: whose tokens the student reads.
    mesh: of the training, over which it divides batches.

  Raises:
    ValueError: if it has other tokens, no head of passages or another
      objective than DPR's, or reads pairs in another order, with titles
      where the student reads none or without, or of fewer tokens.
  """
  described, params, tokenizer = load_component(path, _ROLE)
  network: ExtractiveReader = network_from(described)
  check_teacher(path, described, tokenizer.fingerprint, settings, corpus)
  params = jax.device_put(params, replicated(mesh))
  score = _scores_on(network, mesh)

  def teach(batch: Batch) -> dict[str, np.ndarray | Array]:
    placed = to_global(mesh, {name: batch[name] for name in _INPUTS})
    return score(params, *(placed[name] for name in _INPUTS))._asdict()

  return teach


def check_teacher(
  path: str,
  described: Mapping[str, Any],
  tokenizer: str,
  settings: Settings,
  corpus: Corpus,
) -> None:
  """Refuses a teacher whose scores would not be of the student's tokens.

  Args:
    path: of its checkpoint.
    described: of it.
    tokenizer: the fingerprint of its own.
    settings: of the student's run.
    corpus: whose tokens the student reads.

  Raises:
    ValueError: naming what differs.
  """
  where, data = f"config.unified.teacher={path}", settings.data
  mine = corpus.tokenizer.fingerprint
  if tokenizer != mine:
    raise ValueError(
      f"{where}: has the tokens of {tokenizer[:12]}, and the student those of "
      f"{mine[:12]}, so that their spans cannot be compared; choose a teacher "
      "with the student's tokenizer."
    )
  config = described["config"]
  if not config["passage"]:
    raise ValueError(
      f"{where}: does not rank passages; choose a reader with a head of "
      "passages, as configs/extractive.py:loss=dpr trains."
    )
  if described.get("objective", "dpr") != "dpr":
    raise ValueError(
      f"{where}: normalises its scores over all passages of a question, and "
      "the student over each; choose a reader that configs/extractive.py:"
      "loss=dpr has trained."
    )
  title = described.get("title", data.title)
  if title != data.title:
    raise ValueError(
      f"{where}: reads passages with title={title}; set "
      f"config.data.title={title}."
    )
  order = described.get("passage_first", True)
  if order != data.passage_first:
    raise ValueError(
      f"{where}: reads pairs with passage_first={order}; set "
      f"config.data.passage_first={order}."
    )
  limit = config["bert"]["max_positions"]
  if data.pair_length > limit:
    raise ValueError(
      f"{where}: takes {limit} tokens at most, and config.data.pair_length="
      f"{data.pair_length}; lower that."
    )


def _scores_on(
  network: ExtractiveReader, mesh: Mesh
) -> Callable[..., TeachersScores]:
  """The compiled teacher: every device reads its questions one by one."""

  def of_question(params: Any, question: tuple[Array, ...]) -> TeachersScores:
    found = network.read(params, *question)
    assert found.passage is not None
    return TeachersScores(found.start, found.end, found.passage)

  def on_device(params: Any, *inputs: Array) -> TeachersScores:
    found = jax.lax.map(lambda x: of_question(params, x), inputs)
    return jax.tree.map(lambda x: x.astype(jnp.float32), found)

  rows, everywhere = PartitionSpec(mesh.axis_names), PartitionSpec()
  return jax.jit(
    jax.shard_map(
      on_device,
      mesh=mesh,
      in_specs=(everywhere, rows, rows, rows),
      out_specs=rows,
      check_vma=False,
    )
  )


class TeacherPipeline(InputPipeline):
  """Batches with what a teacher says of them.

  Args:
    batches: endless batches with a position.
    teacher: what is asked; the devices work on it while the host goes on.
  """

  def __init__(self, batches: grain.DatasetIterator, teacher: Teacher) -> None:
    super().__init__(batches)
    self._teacher = teacher

  def take(self) -> Batch:
    """See `InputPipeline.take`."""
    batch = super().take()
    return {**batch, **self._teacher(batch)}
