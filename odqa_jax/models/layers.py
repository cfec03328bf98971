"""What the networks share: masks, heads, dropout, norms, stacks of layers.

Everything here is a pure function; parameters belong to the model files.

>>> import jax.numpy as jnp
>>> from odqa_jax.models import layers
>>> layers.split_heads(jnp.ones((2, 3, 8)), 4).shape  # [b, h, l, c]
(2, 4, 3, 2)
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt32

Params = dict[str, Any]

# What the backward pass of a layer keeps beside its input: only the outputs of
# the dense products (attention scores are computed again), or nothing.
REMAT_POLICIES = {
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  "full": jax.checkpoint_policies.nothing_saveable,
}

# Added to the score of a padded key. Finite, so that a row of length 0 (a
# padded example) gets uniform weights instead of 0/0.
MASKED = -1e9


def _all_but_gathered(primitive: Any, *_: Any, **__: Any) -> bool:
  """A remat policy: keeps what is computed, but no gathered weight."""
  return primitive is not jax.lax.all_gather_p


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
  """Raises a ValueError that lists the choices unless `value` is one."""
  if value not in choices:
    raise ValueError(f"{name}={value!r} is unknown; use one of {choices}.")


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["shard"],
  meta_fields=["axis", "over", "dtype"],
)
@dataclasses.dataclass(frozen=True)
class Sharded:
  """A parameter of which every device holds a part; made in `jax.shard_map`.

  `apply_module` gathers it where it is used. Within a layer that is computed
  again for the backward pass it is gathered again, so that no device ever holds
  more than one layer. Its gradient is the device's part of the sum over all.

  Attributes:
    shard: this device's part, of one parameter or of a stack of them.
    axis: where the parts join, counted from the end: below 0.
    over: names of the mesh axes that they are split over.
    dtype: of the gathered parameter.
  """

  shard: Any
  axis: int
  over: tuple[str, ...]
  dtype: str


def gather(shard: Array, axis: int, over: tuple[str, ...], dtype: str) -> Array:
  """All devices' parts of an array, joined and in another dtype."""
  narrow, axis = shard.astype(dtype), axis % shard.ndim
  out: Array = jax.lax.all_gather(narrow, over, axis=axis, tiled=True)
  return out


_gather = jax.custom_vjp(gather, nondiff_argnums=(1, 2, 3))


def _gather_forward(shard: Array, *how: Any) -> tuple[Array, None]:
  return gather(shard, *how), None


def _gather_backward(
  axis: int, over: tuple[str, ...], dtype: str, _: None, gradient: Array
) -> tuple[Array]:
  """Adds up in f32: the gradients of narrow weights are narrow themselves."""
  del dtype
  wide = gradient.astype(jnp.promote_types(gradient.dtype, jnp.float32))
  dimension = axis % gradient.ndim
  return (
    jax.lax.psum_scatter(wide, over, scatter_dimension=dimension, tiled=True),
  )


_gather.defvjp(_gather_forward, _gather_backward)


def is_sharded(x: Any) -> bool:
  """Whether a node of a tree of parameters is `Sharded`."""
  return isinstance(x, Sharded)


def _whole(params: Any) -> Any:
  """The parameters with what is `Sharded` gathered."""
  return jax.tree.map(
    lambda x: _gather(x.shard, x.axis, x.over, x.dtype) if is_sharded(x) else x,
    params,
    is_leaf=is_sharded,
  )


def apply_module(module: nn.Module, params: Any, *args: Any) -> Any:
  """What a module makes of its arguments with these parameters."""
  return module.apply({"params": _whole(params)}, *args)


def tokens(x: Float[Array, "b l d"]) -> Float[Array, "n d"]:
  """All tokens as rows of one matrix.

  What is computed token by token is so written: of three axes, XLA may let the
  first be the innermost in a GPU's memory, where it is for the gradients of
  biases, and then turns every array that a product is to read.
  """
  return x.reshape(-1, x.shape[-1])


def by_token(
  dense: Callable[[Array], Array], x: Float[Array, "b l d"]
) -> Float[Array, "b l f"]:
  """Applies a `Dense` to all tokens, as rows of one matrix.

  One axis for batch and length makes a training step about 4 % faster on a CPU:
  the gradient of the kernel contracts over it.
  """
  b, l, d = x.shape
  return dense(x.reshape(b * l, d)).reshape(b, l, -1)


def real_tokens(
  lengths: Int[Array, "*b"], size: int
) -> Bool[Array, "*b {size}"]:
  """True for the first `lengths` of `size` tokens; the others are padding."""
  places = jax.lax.broadcasted_iota(
    jnp.int32, (*lengths.shape, size), lengths.ndim
  )
  return places < lengths[..., None]


def length_bias(
  lengths: Int[Array, "b s"], size: int
) -> Float[Array, "b 1 1 m"]:
  """Additive attention bias that hides the keys at or beyond each length.

  Args:
    lengths: real tokens of the `s` segments that the keys of a row consist of,
      one after the other and each with padding to the same size.
    size: number of keys, `m`.

  Returns:
    float32: 0 where a key is real, -1e9 where it is padding.
  """
  b, s = lengths.shape
  real = real_tokens(lengths, size // s).reshape(b, 1, 1, size)
  return jnp.where(real, 0.0, MASKED).astype(jnp.float32)


def dropout(
  x: Float[Array, "*shape"], rate: float, seed: UInt32[Array, "2"] | None
) -> Float[Array, "*shape"]:
  """Zeroes a share `rate` of the entries and scales the others to match.

  Entry i is kept or not by a hash of (seed, i) instead of by `jax.random`: on a
  CPU the bits of `jax.random.bernoulli` cost 40 times as much (156 against 4 ms
  for 6.3 million entries), a sixth of a training step, and take ten times as
  long to compile. The hash depends on nothing but the position in the global
  array, so that every layout over devices draws the same mask.

  Args:
    x: any float array.
    rate: share to drop, 0 <= rate < 1.
    seed: two random words; None means no dropout.
  """
  if seed is None or not rate:
    return x
  return _drop(x, rate, seed)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _drop(
  x: Float[Array, "*shape"], rate: float, seed: UInt32[Array, "2"]
) -> Float[Array, "*shape"]:
  """`dropout`, whose backward pass computes the mask again.

  Kept for it, the mask would be written and read: half of what an array of
  bfloat16 takes.
  """
  kept = _hash_positions(x.shape, seed) >= jnp.uint32(rate * 2**32)
  scale = jnp.asarray(1 / (1 - rate), x.dtype)
  return jnp.where(kept, x * scale, jnp.zeros_like(x))


_drop.defvjp(
  lambda x, rate, seed: (_drop(x, rate, seed), seed),
  lambda rate, seed, gradient: (_drop(gradient, rate, seed), None),
)


def relu_dropout(
  x: Float[Array, "*shape"], rate: float, seed: UInt32[Array, "2"] | None
) -> Float[Array, "*shape"]:
  """`dropout` of max(x, 0)."""
  return _relu_drop(x, 0.0 if seed is None else rate, seed)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _relu_drop(
  x: Float[Array, "*shape"], rate: float, seed: UInt32[Array, "2"] | None
) -> Float[Array, "*shape"]:
  """`relu_dropout`, whose backward pass needs its result alone.

  That is kept for the product behind it; where it is 0, so is the gradient. The
  mask is not computed again, which took a GPU longer than to read and write.
  """
  return dropout(jax.nn.relu(x), rate, seed)


def _relu_drop_forward(
  x: Float[Array, "*shape"], rate: float, seed: UInt32[Array, "2"] | None
) -> tuple[Float[Array, "*shape"], Array]:
  out = _relu_drop(x, rate, seed)
  return out, out


def _relu_drop_backward(
  rate: float, out: Float[Array, "*shape"], gradient: Float[Array, "*shape"]
) -> tuple[Float[Array, "*shape"], None]:
  scale = jnp.asarray(1 / (1 - rate), gradient.dtype)
  return jnp.where(out > 0, gradient * scale, jnp.zeros_like(gradient)), None


_relu_drop.defvjp(_relu_drop_forward, _relu_drop_backward)


def _hash_positions(
  shape: tuple[int, ...], seed: UInt32[Array, "2"]
) -> UInt32[Array, "..."]:
  """One random word per position (lowbias32 twice, seeded before each).

  The positions depend on the seed, through a zero that JAX cannot see to be
  one: in a loop over layers it would compute them once, and every layer would
  read them, four bytes each.
  """
  first, zero = first_position(math.prod(shape)), jnp.uint32(0)
  seed, position, zero = jax.lax.optimization_barrier((seed, first, zero))
  stride = 1
  for axis, size in reversed(tuple(enumerate(shape))):
    steps = jnp.arange(size, dtype=jnp.uint32) + zero
    steps *= jnp.uint32(stride % 2**32)
    position += jax.lax.broadcast_in_dim(steps, shape, (axis,))
    stride *= size
  return random_words(position, seed)


def first_position(size: int) -> UInt32[Array, ""]:
  """Where a device's array of `size` entries begins in the global one.

  Above 0 in `jax.shard_map` alone, whose axes split the first axis evenly.
  """
  axes = jax.sharding.get_abstract_mesh().manual_axes
  if not axes:
    return jnp.uint32(0)
  return jax.lax.axis_index(axes).astype(jnp.uint32) * jnp.uint32(size % 2**32)


def random_words(
  position: UInt32[Array, "*n"], seed: UInt32[Array, "2"] | tuple[Any, Any]
) -> UInt32[Array, "*n"]:
  """The random word of each position."""
  return _mix(_mix(position ^ seed[0]) + seed[1])


def _mix(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
  """lowbias32 of Wellons' Hash Prospector: every bit sways every other."""
  x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
  x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
  return x ^ (x >> 16)


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
  """The exact GELU, x·Φ(x), by erf as PyTorch has it.

  `jax.nn.gelu` takes erfc, whose branches cost 2.5 times as much on a CPU. It
  is more exact where x < -4 and the result next to nothing; elsewhere both are
  within one unit in the last place of float32.
  """
  return x * 0.5 * (1.0 + jax.lax.erf(x * np.sqrt(0.5).astype(x.dtype)))


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


def masked_mean(
  x: Float[Array, "b l d"], lengths: Int[Array, " b"]
) -> Float[Array, "b d"]:
  """Mean over the first `lengths` tokens; zeros for a row of length 0."""
  real = real_tokens(lengths, x.shape[1])
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


def cut(tree: Any, sizes: list[int]) -> list[Any]:
  """Cuts the leading axis of every leaf into pieces of these sizes.

  `lax.split` rather than indexing: its gradient is one concatenation instead of
  a padded sum per layer.
  """
  leaves, structure = jax.tree.flatten(tree)
  pieces = [jax.lax.split(leaf, sizes) for leaf in leaves]
  return [
    jax.tree.unflatten(structure, [piece[i] for piece in pieces])
    for i in range(len(sizes))
  ]


def unstack(tree: Any, count: int) -> list[Any]:
  """A tree for each of the `count` layers that are stacked in one."""
  cuts = cut(tree, [1] * count)
  return [jax.tree.map(lambda leaf: leaf[0], layer) for layer in cuts]


def draw_seeds(rng: PRNGKeyArray | None, count: int, each: int) -> Any:
  """Words for `each` dropouts of every layer, and for as many outside of them.

  All at once: each use of `jax.random` adds to the time to compile.

  Returns:
    `[count, each, 2]` or None, and a sequence of `[2]` or None.
  """
  if rng is None:
    return None, (None,) * each
  seeds = jax.random.bits(rng, (count + 1, each, 2), jnp.uint32)
  return seeds[:-1], seeds[-1]


def of_layers(config: Any, count: int, *stacks: Any) -> list[Any]:
  """Inputs for `run_layers`: the stacks for a scan, else cut into layers."""
  if config.scan:
    return list(stacks)
  return [unstack(stack, count) for stack in stacks]


def run_layers(
  layer: Callable[..., tuple[Any, Any]],
  x: Any,
  *per_layer: Any,
  remat: str = "none",
) -> tuple[Any, Any]:
  """Runs `x, out = layer(x, *inputs)` over layers of one shape.

  Args:
    layer: one layer.
    x: what goes through the layers.
    per_layer: inputs of the layers: lists, which run unrolled (faster on a
      CPU), or stacks on a leading axis, which run in a `lax.scan` (compiles one
      layer).
    remat: what the backward pass computes again: "none" or a remat policy;
      what is `Sharded` is always gathered again.

  Returns:
    The last `x`, and the outputs as a list or a stack like `per_layer`.
  """
  unrolled = isinstance(per_layer[0], list)
  policy = REMAT_POLICIES.get(remat)
  if any(map(is_sharded, jax.tree.leaves(per_layer, is_leaf=is_sharded))):
    policy = policy or _all_but_gathered
  if policy:
    layer = jax.checkpoint(layer, policy=policy, prevent_cse=unrolled)
  if not unrolled:
    return jax.lax.scan(lambda x, inputs: layer(x, *inputs), x, per_layer)
  outs = []
  for inputs in zip(*per_layer, strict=True):
    x, out = layer(x, *inputs)
    outs.append(out)
  return x, outs
