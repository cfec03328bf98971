"""Array functions that the networks share: masks, attention, dropout, stacks.

Everything here is a pure function; parameters belong to the model files.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

# What the backward pass of a layer keeps beside its input: only the outputs of
# the dense products (attention scores are computed again), or nothing.
REMAT_POLICIES = {
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  "full": jax.checkpoint_policies.nothing_saveable,
}

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
  x: Float[Array, "*shape"], rate: float, seed: UInt32[Array, "2"] | None
) -> Float[Array, "*shape"]:
  """Zeroes a share `rate` of the entries and scales the others to match.

  Entry i is kept or not by a hash of (seed, i) instead of by `jax.random`: on a
  CPU the bits of `jax.random.bernoulli` cost 40 times as much (156 against 4 ms
  for 6.3 million entries), a sixth of a training step, and take ten times as
  long to compile. The hash depends on nothing but the position, so that every
  layout over devices draws the same mask.

  Args:
    x: any float array.
    rate: share to drop, 0 <= rate < 1.
    seed: two random words; None means no dropout.
  """
  if seed is None or not rate:
    return x
  kept = _hash_positions(x.shape, seed) >= jnp.uint32(rate * 2**32)
  scale = jnp.asarray(1 / (1 - rate), x.dtype)
  return jnp.where(kept, x * scale, jnp.zeros_like(x))


def _hash_positions(
  shape: tuple[int, ...], seed: UInt32[Array, "2"]
) -> UInt32[Array, "..."]:
  """One random word per position (lowbias32 twice, seeded before each)."""
  position, stride = jnp.uint32(0), 1
  for axis in reversed(range(len(shape))):
    steps = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    position += steps * jnp.uint32(stride % 2**32)
    stride *= shape[axis]
  return _mix(_mix(position ^ seed[0]) + seed[1])


def _mix(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
  """lowbias32 of Wellons' Hash Prospector: every bit sways every other."""
  x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
  x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
  return x ^ (x >> 16)


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
  seed: UInt32[Array, "2"] | None = None,
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
    seed: two random words for that dropout; None means no dropout.

  Returns:
    One weighted sum of values per query, in the dtype of `value`.
  """
  scores_BHLM = jnp.matmul(
    query * scale, key.swapaxes(-1, -2), preferred_element_type=jnp.float32
  )
  weights_BHLM = jax.nn.softmax(scores_BHLM + bias, axis=-1)
  return dropout(weights_BHLM.astype(value.dtype), rate, seed) @ value


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


def rms_norm(
  x: Float[Array, "*n d"], scale: Float[Array, " d"], eps: float
) -> Float[Array, "*n d"]:
  """Divides by the root mean square, in float32; returns the dtype of `x`."""
  wide = x.astype(jnp.float32)
  squares = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
  shape = (1,) * (x.ndim - 1) + scale.shape
  normed = wide * jax.lax.rsqrt(squares + eps) * scale.reshape(shape)
  return normed.astype(x.dtype)


def unstack(tree: Any) -> list[Any]:
  """Cuts a tree of arrays stacked on their leading axis into one per layer.

  `lax.split` rather than indexing: its gradient is one concatenation instead of
  a padded sum per layer.
  """
  leaves, structure = jax.tree.flatten(tree)
  count = leaves[0].shape[0]
  cut = [jax.lax.split(leaf, [1] * count) for leaf in leaves]
  return [
    jax.tree.unflatten(structure, [piece[0] for piece in layer])
    for layer in zip(*cut, strict=True)
  ]


def run_layers(
  layer: Callable[[Any, Any], tuple[Any, Any]], x: Any, per_layer: Any
) -> tuple[Any, Any]:
  """Runs `x, out = layer(x, inputs)` over layers of one shape.

  Args:
    layer: one layer.
    x: what goes through the layers.
    per_layer: a list of the inputs of each layer, which runs unrolled (faster
      on a CPU), or their stack on a leading axis, which runs in a `lax.scan`
      (compiles one layer).

  Returns:
    The last `x`, and the outputs as a list or a stack like `per_layer`.
  """
  if not isinstance(per_layer, list):
    return jax.lax.scan(layer, x, per_layer)
  outs = []
  for inputs in per_layer:
    x, out = layer(x, inputs)
    outs.append(out)
  return x, outs
