"""Whether a passage is of no use for any question.

losses = binary_cross_entropy(logits, batch["irrelevant"], weight=0.5)  # [b]
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from odqa_jax.objectives.normalisers import wide


def binary_cross_entropy(
  logits: Float[Array, "*batch"],
  labels: Bool[Array, "*batch"],
  *,
  weight: float = 1.0,
) -> Float[Array, "*batch"]:
  """−w·y·log σ(x) − (1−y)·log(1−σ(x)), f32 or wider.

  "Pruning the Index Contents for Memory Efficient Open-Domain QA" trains on two
  irrelevant passages (y = 1) for each gold one, and so weighs them by 1/2.

  Args:
    logits: above 0 for what is irrelevant.
    labels: y, True for irrelevant.
    weight: w, the `pos_weight` of other tools.
  """
  logits = wide(logits)
  irrelevant = -weight * jax.nn.log_sigmoid(logits)
  return jnp.where(labels, irrelevant, -jax.nn.log_sigmoid(-logits))
