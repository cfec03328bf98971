"""Sums in logarithms over what a question has, on one device or on several.

    log_sum(scores, allowed, axes=(1,))                      # all on one device
    log_sum(scores, allowed, axes=(1,), axis_name="passage")  # split over them

The second is called within `jax.shard_map`, where every device has some of the
passages, and gives each of them the sum over all.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from odqa_jax.objectives.contrastive import MASKED


def wide(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
  """In f32 at least: sums of exponentials are not taken in bf16."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def log_sum(
  scores: Float[Array, "..."],
  allowed: Bool[Array, "..."],
  *,
  axes: Sequence[int],
  axis_name: str | None = None,
) -> Float[Array, "..."]:
  """Takes log Σ exp over `axes` of what is allowed, and over the devices.

  Without anything allowed it is a very small number, not −∞, and without a
  gradient: what is filled up stays free of NaN.

  Args:
    scores: of any floating type; the result is f32 or wider.
    allowed: False for what is left out; of the same shape.
    axes: over which is summed.
    axis_name: of the mesh, if the devices on it have a part each.
  """
  scores = jnp.where(allowed, wide(scores), MASKED)
  largest = jax.lax.stop_gradient(
    jnp.max(scores, axis=tuple(axes), keepdims=True)
  )
  if axis_name is not None:
    largest = jax.lax.pmax(largest, axis_name)
  total = jnp.sum(jnp.exp(scores - largest), axis=tuple(axes))
  if axis_name is not None:
    total = jax.lax.psum(total, axis_name)
  return jnp.log(total) + largest.reshape(total.shape)


def anywhere(
  found: Bool[Array, "..."],
  *,
  axes: Sequence[int],
  axis_name: str | None = None,
) -> Bool[Array, "..."]:
  """Whether any is True over `axes`, and over the devices."""
  count = jnp.any(found, axis=tuple(axes)).astype(jnp.int32)
  if axis_name is not None:
    count = jax.lax.pmax(count, axis_name)
  return count > 0
