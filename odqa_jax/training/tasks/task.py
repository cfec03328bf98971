"""What a task is: pure functions around the components that it trains."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import PRNGKeyArray

from odqa_jax.data.examples.batch import RETRIEVED, TEACHER, Fields
from odqa_jax.models.families import Components
from odqa_jax.reading.likelihoods import Batch, Params, ReadingConfig
from odqa_jax.runtime.settings import Settings
from odqa_jax.training.tasks.losses import Loss


@dataclasses.dataclass(frozen=True)
class SecondUpdate:
  """Another update in the same step, at the weights that the first has made.

  Attributes:
    remember: (parameters, batch, rng) → arrays of the batch's examples: what
      the loss must know of the weights before both updates. They get no
      gradient.
    loss: what is minimised, on the batch with these arrays. Its rng is that of
      `remember`, so that dropout makes no difference between the two.
  """

  remember: Callable[[Params, Batch, PRNGKeyArray | None], Batch]
  loss: Loss


@dataclasses.dataclass(frozen=True)
class Task:
  """Pure functions around components.

  Attributes:
    init: rng → parameters, `{component: tree}` and what else is trained.
    loss: what is minimised; of an example alone or of the whole batch.
    flops: batch of arrays or shapes → matmul FLOPs of one training step.
    frozen: path regexes of parameters that the objective does not train.
    reading: how the trained reader predicts (`reading.predict`); None for a
      task without one. It is data, so that a checkpoint can hold it.
    rates: (path regex, learning rate) of parameters that have their own.
    dtypes: (path regex, dtype) of f32 parameters that the networks cast to a
      narrower type wherever they use them: they travel in it.
    second: what a step does after the update by `loss`; None: nothing.
  """

  init: Callable[[PRNGKeyArray], Params]
  loss: Loss
  flops: Callable[[Mapping[str, Any]], float]
  frozen: tuple[str, ...] = ()
  reading: ReadingConfig | None = None
  rates: tuple[tuple[str, float], ...] = ()
  dtypes: tuple[tuple[str, str], ...] = ()
  second: SecondUpdate | None = None

  @property
  def updates(self) -> int:
    """How often a step changes the weights."""
    return 1 if self.second is None else 2


@dataclasses.dataclass(frozen=True)
class Needs:
  """What a task asks of the training loop, before it is made.

  Attributes:
    components: the roles of the networks that it is given.
    fields: what the loader fills of a batch.
    retrieval: whether the loop retrieves the passages of every batch.
    teacher: whether a teacher reads every batch.
  """

  components: tuple[str, ...]
  fields: Fields
  retrieval: bool = False
  teacher: bool = False

  @property
  def batch(self) -> Fields:
    """What the step gets."""
    if self.teacher:
      return {**self.fields, **TEACHER}
    return RETRIEVED if self.retrieval else self.fields


@dataclasses.dataclass(frozen=True)
class TaskRow:
  """A row of `TASKS`: what the task needs, and how it is made."""

  needs: Needs
  make: Callable[[Settings, Components], Task]
