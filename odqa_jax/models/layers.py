"""Array functions that the networks share: masks, attention, dropout.

Everything here is a pure function; parameters belong to the model files.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

# Added to the score of a padded key. Finite, so that a row of length 0 (a
# padded example) gets uniform weights instead of 0/0.
MASKED = -1e9


def length_bias(
  lengths: Int[Array, " b"], size: int
) -> Float[Array, "b 1 1 l"]:
  """Additive attention bias that hides the keys at or beyond each length.

  Args:
    lengths: number of real tokens of each row; the padding is a suffix.
    size: number of key positions, `l`.

  Returns:
    float32: 0 where a key is real, -1e9 where it is padding.
  """
  real = jnp.arange(size)[None, :] < lengths[:, None]
  return jnp.where(real, 0.0, MASKED)[:, None, None, :].astype(jnp.float32)


def dropout(
  x: Float[Array, "*shape"], rate: float, key: PRNGKeyArray | None
) -> Float[Array, "*shape"]:
  """Zeroes a share `rate` of the entries and scales the others to match.

  The mask is drawn from 16 random bits an entry, half the bits that
  `nn.Dropout` asks for (the draw is a visible part of a step on a CPU), so the
  rate is rounded to a multiple of 2^-16; the scale uses the rounded rate, which
  keeps the expectation exact.

  Args:
    x: any float array.
    rate: share to drop, 0 <= rate < 1.
    key: random key; None means no dropout.
  """
  dropped = round(rate * 2**16)
  if key is None or not dropped:
    return x
  bits = jax.random.bits(key, x.shape, jnp.uint16)
  scale = jnp.asarray(2**16 / (2**16 - dropped), x.dtype)
  return jnp.where(bits >= dropped, x * scale, jnp.zeros_like(x))


def split_heads(
  x: Float[Array, "b l d"], heads: int
) -> Float[Array, "b {heads} l c"]:
  """Splits the width over heads and puts the heads before the tokens."""
  b, l, d = x.shape
  return x.reshape(b, l, heads, d // heads).swapaxes(1, 2)


def merge_heads(x: Float[Array, "b h l c"]) -> Float[Array, "b l d"]:
  """Undoes `split_heads`."""
  b, h, l, c = x.shape
  return x.swapaxes(1, 2).reshape(b, l, h * c)


def attention(
  query: Float[Array, "b h l c"],
  key: Float[Array, "b h m c"],
  value: Float[Array, "b h m c"],
  bias: Float[Array, "#b #h #l m"],
  *,
  scale: float = 1.0,
  rate: float = 0.0,
  rng: PRNGKeyArray | None = None,
) -> Float[Array, "b h l c"]:
  """Softmax attention; the softmax is float32 whatever the inputs are.

  Heads come before tokens because XLA multiplies matrices in the two last axes
  about twice as fast on a CPU as it contracts the layout with tokens first.

  Args:
    query: queries of `l` tokens.
    key: keys of `m` tokens.
    value: values of `m` tokens.
    bias: float32 scores to add, see `length_bias`.
    scale: factor on the query-key products, before the bias.
    rate: share of the attention weights to drop.
    rng: key of that dropout; None means no dropout.

  Returns:
    One weighted sum of values per query, in the dtype of `value`.
  """
  scores_BHLM = jnp.matmul(
    query * scale, key.swapaxes(-1, -2), preferred_element_type=jnp.float32
  )
  weights_BHLM = jax.nn.softmax(scores_BHLM + bias, axis=-1)
  return dropout(weights_BHLM.astype(value.dtype), rate, rng) @ value


def masked_mean(
  x: Float[Array, "b l d"], lengths: Int[Array, " b"]
) -> Float[Array, "b d"]:
  """Mean over the first `lengths` tokens; zeros for a row of length 0."""
  real = jnp.arange(x.shape[1])[None, :] < lengths[:, None]
  total = jnp.sum(x * real[:, :, None], axis=1)
  return total / jnp.maximum(lengths, 1)[:, None]


def l2_normalise(x: Float[Array, "b e"]) -> Float[Array, "b e"]:
  """Scales each row to length 1; a row of zeros stays zeros."""
  squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))
