"""Aids for small readers that learn from random weights; no public T5 has them.

A reader of T5 can skip this file. The switches are the last four of `T5Config`:

- `depthwise_convolution`: embeddings know their neighbours before any layer.
- `overlap_features`: tokens know whether question and passage share them.
- `span_head`: scores every token as start and end of the answer, and tells the
  decoder. Extractive readers learn in a fifth of the time that generative ones
  take to copy.
- `mimetic`: attention starts as trained networks have it (after "Mimetic
  Initialization of Self-Attention Layers", Trockman and Kolter 2023, which sets
  products of weights by a factorisation; here the weights are tied directly):
  keys like queries, so that equal tokens attend to each other; cross-attention
  that passes values on almost unchanged, so that what is attended to can be
  copied; and a first head that looks at its neighbourhood.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from odqa_jax.models import layers
from odqa_jax.models.layers import Params, apply_module
from odqa_jax.models.t5_layers import (
  Embedding,
  T5Config,
  drawn_later,
  relative_buckets,
)

# Tokens that the convolution sees: two to each side in the encoder, the two
# before in the decoder.
_ENCODER_WINDOW = 5
_DECODER_WINDOW = 3

_NOISE = 0.1  # of the weights that `mimetic` ties, in their own deviations
_COPIED = 0.7  # diagonal of the value and output kernels that pass values on
# What the first head loses per token of distance, and the distance from which
# on it loses no more.
_LOCAL_SLOPE, _LOCAL_REACH = 0.5, 8


# --- Depthwise convolution --------------------------------------------------


class _Convolution(nn.Module):
  """Adds to token i the weighted tokens i, i + 1, … of a window around it."""

  size: int

  @nn.compact
  def __call__(
    self, x: Float[Array, "b l d"], window: Float[Array, "b m d"]
  ) -> Float[Array, "b l d"]:
    """Takes the window as `x` with `size - 1` more tokens around it."""
    shape = (self.size, x.shape[-1])
    kernel = self.param("kernel", drawn_later, shape).astype(x.dtype)
    for i in range(self.size):
      x = x + window[:, i : i + x.shape[1]] * kernel[i][None, None]
    return x


def convolve_input(
  params: Mapping[str, Any],
  x: Float[Array, "n l d"],
  lengths: Int[Array, " n"],
) -> Float[Array, "n l d"]:
  """Adds to every embedding of the encoder what stands around it."""
  real = layers.real_tokens(lengths, x.shape[1])
  side = (_ENCODER_WINDOW - 1) // 2
  window = jnp.pad(x * real[:, :, None], ((0, 0), (side, side), (0, 0)))
  return apply_module(_Convolution(_ENCODER_WINDOW), params, x, window)


def convolve_answer(
  params: Mapping[str, Any],
  x: Float[Array, "r t d"],
  recent: Float[Array, "r w d"],
) -> tuple[Float[Array, "r t d"], Float[Array, "r w d"]]:
  """Adds to every embedding of the decoder what stands before it.

  Args:
    params: of the convolution.
    x: embeddings.
    recent: those of the tokens before them; `no_tokens` at the start.

  Returns:
    The new embeddings, and what is recent after them.
  """
  window = jnp.concatenate([recent, x], axis=1)
  x = apply_module(_Convolution(_DECODER_WINDOW), params, x, window)
  return x, window[:, -recent.shape[1] :]


def no_tokens(config: T5Config, rows: int) -> Float[Array, "r w d"]:
  """What the decoder's convolution sees before the first token."""
  before = _DECODER_WINDOW - 1 if config.depthwise_convolution else 0
  return jnp.zeros((rows, before, config.width), config.dtype)


# --- Overlap features and span head -----------------------------------------


def check_features(config: T5Config, features: Array | None) -> None:
  """Raises a ValueError unless features come to a model that has them."""
  if (features is not None) != bool(config.overlap_features):
    given = "none were" if features is None else "some were"
    raise ValueError(
      f"{given} given to a T5 with overlap_features={config.overlap_features}; "
      "a model made with them needs them for every input, and no other takes "
      "them."
    )


class SpanHead(nn.Module):
  """Scores every token as start and end of the answer, and tells the decoder.

  Three learned vectors, for start, end and what is between, are added to each
  encoder state, times the probability that it is that. The decoder need only
  look for them to find a span that the encoder found.

  The probabilities are those of the span loss: they sum to one over all tokens
  of all passages of a question, so that the decoder sees which passage the head
  believes. A span begins and ends in one passage.
  """

  @nn.compact
  def __call__(
    self, states: Float[Array, "b k l d"], lengths: Int[Array, "b k"]
  ) -> tuple[Float[Array, "b k l d"], Float[Array, "b k l 2"]]:
    """Returns the new states, and the float32 scores, −1e9 for padding."""
    d, dtype = states.shape[-1], states.dtype
    kernel: Array = self.param("kernel", drawn_later, (d, 2))
    embeddings: Array = self.param("marks", drawn_later, (3, d))
    logits = jnp.matmul(
      states, kernel.astype(dtype), preferred_element_type=jnp.float32
    )
    real = layers.real_tokens(lengths, states.shape[2])
    logits = jnp.where(real[..., None], logits, layers.MASKED)
    probs = jax.nn.softmax(logits, axis=(1, 2))
    # Begun and not yet ended; the end itself is inside.
    begun = jnp.cumsum(probs, axis=2)
    inside = begun[..., 0] - begun[..., 1] + probs[..., 1]
    weights = jnp.concatenate([probs, inside[..., None]], axis=-1)
    return states + weights.astype(dtype) @ embeddings.astype(dtype), logits


# --- Initial parameters -----------------------------------------------------


def extend(config: T5Config, params: Params) -> None:
  """Adds the names and shapes of the aids' parameters to those of a T5."""
  rng, d = jax.random.key(0), config.width

  def add(place: Params, name: str, module: nn.Module, *inputs: Array) -> None:
    place[name] = module.init(rng, *inputs)["params"]

  if config.depthwise_convolution:
    x = jnp.zeros((1, 1, d))
    sizes = {"encoder": _ENCODER_WINDOW, "decoder": _DECODER_WINDOW}
    for stack, size in sizes.items():
      window = jnp.zeros((1, size, d))
      add(params[stack], "mixing", _Convolution(size), x, window)
  ids = jnp.zeros((1, 1), jnp.int32)
  if config.overlap_features:
    add(params, "flags", Embedding(config.overlap_features, d), ids)
  if config.span_head:
    add(params, "span_head", SpanHead(), jnp.zeros((1, 1, 1, d)), ids)


def deviations(config: T5Config) -> dict[str, float]:
  """Deviations of initial parameters by name, before those of T5."""
  found = {"flags": 0.2, "marks": 1.0}
  if config.mimetic:
    # T5's product of both, shared equally: what tied weights can have.
    query, key = (config.width * config.head_dim) ** -0.5, config.width**-0.5
    found |= {"q": (query * key) ** 0.5, "k": (query * key) ** 0.5}
  return found


def adjust(config: T5Config, params: Params) -> None:
  """Changes freshly drawn parameters in place."""
  if config.overlap_features:
    # Most tokens have feature 0, and are words like any other.
    table = params["flags"]
    table["embedding"] = table["embedding"].at[0].set(0.0)
  if config.mimetic:
    _tie_keys(params)
    _pass_values_on(config, params)
    _look_around(config, params)


def _tie_keys(params: Params) -> None:
  """Makes every key kernel the query kernel with a little noise."""
  for stack in ("encoder", "decoder"):
    for layer in params[stack]["block"].values():
      for name in ("SelfAttention", "EncDecAttention"):
        if name in layer:
          query, noise = layer[name]["q"]["kernel"], layer[name]["k"]["kernel"]
          layer[name]["k"]["kernel"] = query + _NOISE * noise


def _pass_values_on(config: T5Config, params: Params) -> None:
  """Makes the decoder's values and outputs nearly diagonal.

  Cross-attention then passes on what it attends to, and self-attention takes
  away what is there already: with a tied head the residual of the last token
  is a vote for writing it again. (Trained self-attention has products near
  −I, "Mimetic Initialization of Self-Attention Layers", Sec. 3.)

  Only where the heads together are as wide as the model; elsewhere there is no
  diagonal, and the kernels stay random.
  """
  if config.inner != config.width:
    return
  blocks = params["decoder"]["block"]
  cross = blocks["layer_1"]["EncDecAttention"]
  own = blocks["layer_0"]["SelfAttention"]
  for kernels, name, sign in (
    (cross, "v", 1),
    (cross, "o", 1),
    (own, "v", 1),
    (own, "o", -1),
  ):
    diagonal = sign * _COPIED * jnp.eye(config.width)[None]
    kernels[name]["kernel"] = diagonal + _NOISE * kernels[name]["kernel"]


def _look_around(config: T5Config, params: Params) -> None:
  """Gives head 0 of both stacks a bias that falls with the distance."""
  reach = config.relative_distance
  offsets = np.arange(-reach, reach + 1, dtype=np.int32)
  for stack, both_ways in (("encoder", True), ("decoder", False)):
    buckets = relative_buckets(config, offsets, both_ways=both_ways)
    nearest = np.full(config.relative_buckets, _LOCAL_REACH, np.float32)
    np.minimum.at(nearest, buckets, np.abs(offsets))
    table = params[stack]["relative_attention_bias"]
    table["embedding"] = (
      table["embedding"].at[:, 0].add(-_LOCAL_SLOPE * nearest)
    )
