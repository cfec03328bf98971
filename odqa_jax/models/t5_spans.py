"""The optional span head of a reader: where in a passage the answer stands."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from odqa_jax.models import layers


def mark_spans(
  params: Mapping[str, Any],
  states: Float[Array, "n l d"],
  lengths: Int[Array, " n"],
) -> tuple[Float[Array, "n l d"], Float[Array, "n l 2"]]:
  """Scores every token as start and as end of the answer, and says so.

  Three learned vectors, for start, end and what is between, are added to each
  state, times the probability that it is that. The decoder need only look for
  them to find a span that the encoder found; extractive readers learn in a
  fifth of the time that generative ones take to copy.

  Args:
    params: of the span head.
    states: encoder states.
    lengths: real tokens of each row.

  Returns:
    The marked states, and the float32 scores, −1e9 for padding.
  """
  kernel = params["kernel"].astype(states.dtype)
  logits = jnp.matmul(states, kernel, preferred_element_type=jnp.float32)
  real = jnp.arange(states.shape[1])[None, :] < lengths[:, None]
  logits = jnp.where(real[:, :, None], logits, layers.MASKED)
  probs = jax.nn.softmax(logits, axis=1)
  # Begun and not yet ended; the end itself is inside.
  begun = jnp.cumsum(probs, axis=1)
  inside = begun[..., 0] - begun[..., 1] + probs[..., 1]
  weights = jnp.concatenate([probs, inside[..., None]], axis=-1)
  marks = weights.astype(states.dtype) @ params["marks"].astype(states.dtype)
  return states + marks, logits
