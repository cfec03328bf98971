"""Attention as products and a softmax: for the CPU, and for XLA elsewhere."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from odqa_jax.models import layers


def xla_attention(
  query: Float[Array, "b h l c"],
  key: Float[Array, "b h m c"],
  value: Float[Array, "b h m c"],
  bias: Float[Array, "#b #h #l m"] | None,
  lengths: Int[Array, "b s"] | None,
  scale: float,
  rate: float,
  seed: UInt32[Array, "2"] | None,
) -> Float[Array, "b h l c"]:
  """See `attention.attention`; heads come before tokens here."""
  scores_BHLM = _scores(query, key, bias, lengths, scale)
  weights_BHLM = jax.nn.softmax(scores_BHLM, axis=-1)
  return layers.dropout(weights_BHLM.astype(value.dtype), rate, seed) @ value


def cpu_attention(
  query: Float[Array, "b h l c"],
  key: Float[Array, "b h m c"],
  value: Float[Array, "b h m c"],
  bias: Float[Array, "#b #h #l m"] | None,
  lengths: Int[Array, "b s"] | None,
  scale: float,
  rate: float,
  seed: UInt32[Array, "2"] | None,
) -> Float[Array, "b h l c"]:
  """See `attention.attention`.

  Heads come before tokens because XLA multiplies matrices in the two last axes
  about twice as fast on a CPU as it contracts the layout with tokens first.
  """
  scores_BHLM = _scores(query, key, bias, lengths, scale)
  # Divided by their sum after the product: [b, h, l, c] instead of
  # [b, h, l, m], half of the time on a CPU.
  highest = jax.lax.stop_gradient(scores_BHLM.max(axis=-1, keepdims=True))
  weights_BHLM = jnp.exp(scores_BHLM - highest)
  total = jnp.sum(weights_BHLM, axis=-1, keepdims=True)
  weights_BHLM = layers.dropout(weights_BHLM.astype(value.dtype), rate, seed)
  summed = jnp.matmul(weights_BHLM, value, preferred_element_type=jnp.float32)
  return (summed / total).astype(value.dtype)


def _scores(
  query: Float[Array, "b h l c"],
  key: Float[Array, "b h m c"],
  bias: Float[Array, "#b #h #l m"] | None,
  lengths: Int[Array, "b s"] | None,
  scale: float,
) -> Float[Array, "b h l m"]:
  """What the softmax is of, float32."""
  scores_BHLM = jnp.matmul(
    query * scale, key.swapaxes(-1, -2), preferred_element_type=jnp.float32
  )
  if lengths is not None:
    # A sum, as a choice between the two would keep [b, h, l, m] for gradients.
    padding = layers.length_bias(lengths, key.shape[2])
    bias = padding if bias is None else bias + padding
  if bias is not None:
    scores_BHLM += bias
  return scores_BHLM
