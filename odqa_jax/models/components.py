"""What a task is: pure functions around the models that it trains."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float, PRNGKeyArray

from odqa_jax.models.dual_encoder import DualEncoder
from odqa_jax.models.t5 import T5

Params = Any
# name → (sum, weight); the host divides, so sharding and padding do not count.
Metrics = dict[str, tuple[Float[Array, ""], Float[Array, ""]]]
Batch = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Models:
  """The networks of a task.

  Attributes:
    encoder: the retriever.
    reader: None for a task without one.
  """

  encoder: DualEncoder
  reader: T5 | None = None


@dataclasses.dataclass(frozen=True)
class Task:
  """Pure functions around one model.

  Attributes:
    init: rng → parameters.
    loss: (params, batch, rng or None) → (mean loss, metrics). Without an rng
      the model is deterministic.
    flops: batch of arrays or shapes → matmul FLOPs of one training step.
    frozen: path regexes of parameters that the objective does not train.
  """

  init: Callable[[PRNGKeyArray], Params]
  loss: Callable[
    [Params, Batch, PRNGKeyArray | None], tuple[Float[Array, ""], Metrics]
  ]
  flops: Callable[[Batch], float]
  frozen: tuple[str, ...] = ()
