"""Whether a passage is of no use for any question, or of use.

losses = binary_cross_entropy(logits, batch["irrelevant"], weight=0.5)  # [b]
losses = binary_cross_entropy(scores, ~batch["irrelevant"])
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
  irrelevant passages (y = 1) for each gold one, and so weighs them by 1/2. In
  "Designing a Minimal Retrieve-and-Read System", A.1, y = 1 are passages to
  keep, as many as others.

  Args:
    logits: x, above 0 for y = 1.
    labels: y.
    weight: w, the `pos_weight` of other tools.
  """
  logits = wide(logits)
  labelled = -weight * jax.nn.log_sigmoid(logits)
  return jnp.where(labels, labelled, -jax.nn.log_sigmoid(-logits))
