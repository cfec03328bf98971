"""T5 (Raffel et al. 2020) as pure functions: encoder and fusing decoder.

Pre-norm residual blocks with RMS norms, no biases in the dense products, no
scale on the query-key products, and one table of relative position biases per
stack that all its layers share. Versions 1.0 (ReLU, tied head) and 1.1 (gated
tanh-GELU, separate head) are both here.

The decoder fuses passages ("Leveraging Passage Retrieval with Generative
Models", Izacard and Grave 2020): it attends to the tokens of all passages of a
question at once, optionally with a score added per passage (Eq. 8 of
"End-to-End Training of Neural Retrievers").

The parameters are plain nested dicts with the published names; the layers are
stacked on a leading axis (`encoder/block/layer_0/SelfAttention/q/kernel` is
`[y, d, h * c]`) whether they run in a scan or unrolled, so that one checkpoint
serves both.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt32

from odqa_jax.models import layers
from odqa_jax.models.bert import check_choice

Params = dict[str, Any]

# Tokens that the optional mixing sees: two to each side in the encoder, the
# two before in the decoder.
ENCODER_MIXING = 5
DECODER_MIXING = 3


@dataclasses.dataclass(frozen=True)
class T5Config:
  """Shape and execution of one T5.

  `mixing`, `mimetic`, `flags` and `span_head` are for small readers that learn
  from random weights; no published T5 has them.

  Attributes:
    vocab_size: rows of the embedding table.
    width: model width `d`.
    layers: number of encoder layers.
    decoder_layers: number of decoder layers.
    heads: attention heads `h`.
    head_dim: width of one head, `c`; `h * c` may differ from `d`.
    mlp_dim: hidden width of the feed-forward block.
    relative_buckets: relative position buckets, half of them exact distances.
    relative_distance: distance in tokens from which on all are in one bucket.
    gated: tanh-GELU with a gate (v1.1) instead of ReLU (v1.0).
    tied: the head is the embedding table, fed with states times d^-0.5 (v1.0);
      else it has weights of its own (v1.1).
    dropout: share of activations and attention weights dropped, given an rng.
    eps: added to the mean square in norms.
    dtype: dtype of the computation; parameters are float32, and norms,
      softmax and logits are computed in float32 regardless.
    remat: what the backward pass computes again instead of keeping: "none",
      "dots" (all but the dense products) or "full" (all but layer inputs).
    scan: run the layers in a `lax.scan` (compiles one layer) or unrolled
      (faster on a CPU). Parameters and results are the same.
    pad_id: token id of padding in targets.
    eos_id: token id that ends an answer.
    start_id: first token id of every decoder input.
    mixing: add to each embedding a learned depthwise average of the tokens
      around it (encoder) or before it (decoder).
    mimetic: initialise attention as trained networks have it, see
      `t5_initial.py`.
    flags: number of different flags that encoder inputs can carry; 0 for none.
    span_head: a linear head on the encoder that scores answer starts and ends,
      and marks in its states where they fall, see `t5_spans.py`.
  """

  vocab_size: int
  width: int
  layers: int
  decoder_layers: int
  heads: int
  head_dim: int
  mlp_dim: int
  relative_buckets: int = 32
  relative_distance: int = 128
  gated: bool = False
  tied: bool = True
  dropout: float = 0.1
  eps: float = 1e-6
  dtype: str = "float32"
  remat: str = "none"
  scan: bool = True
  pad_id: int = 0
  eos_id: int = 1
  start_id: int = 0
  mixing: bool = False
  mimetic: bool = False
  flags: int = 0
  span_head: bool = False

  def __post_init__(self) -> None:
    check_choice("dtype", self.dtype, ("float32", "bfloat16"))
    check_choice("remat", self.remat, ("none", *layers.REMAT_POLICIES))
    if not 0 <= self.dropout < 1:
      raise ValueError(f"dropout={self.dropout} is not in [0, 1).")
    if self.relative_buckets < 4 or self.relative_buckets % 4:
      raise ValueError(
        f"relative_buckets={self.relative_buckets} is not a multiple of 4; the "
        "encoder halves them by direction, and half of each are exact."
      )
    if self.relative_distance <= self.relative_buckets // 2:
      raise ValueError(
        f"relative_distance={self.relative_distance} does not exceed the "
        f"{self.relative_buckets // 2} exact distances of relative_buckets="
        f"{self.relative_buckets}."
      )
    for name in ("pad_id", "eos_id", "start_id"):
      if not 0 <= getattr(self, name) < self.vocab_size:
        raise ValueError(
          f"{name}={getattr(self, name)} is not a row of an embedding table "
          f"of vocab_size={self.vocab_size}."
        )

  @property
  def inner(self) -> int:
    """Width of all heads together, `h * c`."""
    return self.heads * self.head_dim


def relative_buckets(
  config: T5Config, offsets: np.ndarray, *, both_ways: bool
) -> np.ndarray:
  """Buckets of the offsets key position - query position.

  The first half of the buckets of a direction are single distances, the others
  grow by a constant factor up to `relative_distance`. The logarithm is float32
  as in the published code, where it decides the edges of the buckets.

  Args:
    config: names the number of buckets and the largest distance.
    offsets: int32, any shape.
    both_ways: half of the buckets are for keys after the query; else such keys
      are in bucket 0, and the decoder masks them.

  Returns:
    int32 of the shape of `offsets`.
  """
  count = config.relative_buckets
  if both_ways:
    count //= 2
    first, distance = np.where(offsets > 0, count, 0), np.abs(offsets)
  else:
    first, distance = np.zeros_like(offsets), np.maximum(-offsets, 0)
  exact = count // 2
  ratio = np.maximum(distance, 1).astype(np.float32) / np.float32(exact)
  growth = np.float32(math.log(config.relative_distance / exact))
  steps = np.log(ratio) / growth * np.float32(count - exact)
  coarse = np.minimum(exact + steps.astype(np.int32), count - 1)
  return (first + np.where(distance < exact, distance, coarse)).astype(np.int32)


def position_bias(
  config: T5Config,
  table: Float[Array, "buckets h"],
  length: int,
  *,
  both_ways: bool,
) -> Float[Array, "1 h l l"]:
  """Relative position biases of `length` tokens, float32.

  One value per offset is looked up, and a reshape to rows one shorter than the
  period shifts each row by one: the gradient is sums and copies, where a
  look-up per pair of tokens would scatter `l * l` rows.

  Args:
    config: names the buckets.
    table: bias of each bucket and head.
    length: tokens `l`.
    both_ways: as for `relative_buckets`; if False, later keys are masked.
  """
  period = 2 * length
  offsets = np.arange(period, dtype=np.int32)
  offsets = np.where(offsets < length, offsets, offsets - period)
  values = table[relative_buckets(config, offsets, both_ways=both_ways)]
  if not both_ways:
    values = jnp.where((offsets > 0)[:, None], layers.MASKED, values)
  rows = jnp.tile(values.astype(jnp.float32).T, (1, length))
  rows = rows[:, : length * (period - 1)].reshape(-1, length, period - 1)
  return rows[None, :, :, :length]


def memory_bias(
  config: T5Config,
  lengths: Int[Array, "b k"],
  size: int,
  bias: Float[Array, "yb b hb k"] | None,
) -> Float[Array, "yb b hb 1 n"]:
  """What is added to the scores of the `n = k * size` tokens of all passages.

  Args:
    config: names the allowed axes of `bias`.
    lengths: real tokens of each passage.
    size: tokens of a passage with padding, `l`.
    bias: score added to every token of a passage; None means 0.

  Returns:
    float32: the bias of the passage where a token is real, -1e9 elsewhere.

  Raises:
    ValueError: an axis of `bias` is neither 1 nor what the config says.
  """
  if bias is None:
    bias = jnp.zeros((1, lengths.shape[0], 1, lengths.shape[1]))
  allowed = ((1, config.decoder_layers), (1, config.heads))
  if bias.shape[0] not in allowed[0] or bias.shape[2] not in allowed[1]:
    raise ValueError(
      f"bias of shape {bias.shape} is [layers, b, heads, k] with layers in "
      f"{allowed[0]} and heads in {allowed[1]}."
    )
  real = jnp.arange(size)[None, None, :] < lengths[:, :, None]
  scores = jnp.where(
    real[None, :, None],
    bias.astype(jnp.float32)[..., None],
    jnp.float32(layers.MASKED),
  )
  return scores.reshape(*bias.shape[:3], 1, -1)


def dense(
  config: T5Config, params: Mapping[str, Any], x: Float[Array, "b l i"]
) -> Float[Array, "b l o"]:
  """A product with a kernel; batch and length are one axis to it."""
  b, l, i = x.shape
  kernel = params["kernel"].astype(config.dtype)
  return (x.reshape(b * l, i) @ kernel).reshape(b, l, -1)


def heads_of(
  config: T5Config, params: Mapping[str, Any], x: Float[Array, "b l d"]
) -> Float[Array, "b h l c"]:
  """Queries, keys or values."""
  return layers.split_heads(dense(config, params, x), config.heads)


def norm(
  config: T5Config, params: Mapping[str, Any], x: Float[Array, "b l d"]
) -> Float[Array, "b l d"]:
  """The RMS norm before a block."""
  return layers.rms_norm(x, params["scale"], config.eps)


def attend(
  config: T5Config,
  params: Mapping[str, Any],
  query: Float[Array, "b h q c"],
  key: Float[Array, "b h m c"],
  value: Float[Array, "b h m c"],
  bias: Float[Array, "#b #h #q m"],
  seeds: UInt32[Array, "2 2"] | None,
) -> Float[Array, "b q d"]:
  """Attention with its output product and both dropouts."""
  first, second = (None, None) if seeds is None else seeds
  attended = layers.attention(
    query, key, value, bias, rate=config.dropout, seed=first
  )
  out = dense(config, params["o"], layers.merge_heads(attended))
  return layers.dropout(out, config.dropout, second)


def feed_forward(
  config: T5Config,
  params: Mapping[str, Any],
  x: Float[Array, "b l d"],
  seeds: UInt32[Array, "2 2"] | None,
) -> Float[Array, "b l d"]:
  """Adds the feed-forward block to `x`."""
  first, second = (None, None) if seeds is None else seeds
  block, normed = (
    params["DenseReluDense"],
    norm(config, params["layer_norm"], x),
  )
  if config.gated:
    gate = jax.nn.gelu(dense(config, block["wi_0"], normed), approximate=True)
    wide = gate * dense(config, block["wi_1"], normed)
  else:
    wide = jax.nn.relu(dense(config, block["wi"], normed))
  wide = layers.dropout(wide, config.dropout, first)
  out = dense(config, block["wo"], wide)
  return x + layers.dropout(out, config.dropout, second)


def mix(
  params: Mapping[str, Any],
  x: Float[Array, "b l d"],
  window: Float[Array, "b m d"],
) -> Float[Array, "b l d"]:
  """Adds to token i the weighted tokens i, i + 1, … of `window`.

  Args:
    params: `kernel`, `[w, d]`: one weight per place in the window and channel.
    x: embeddings.
    window: the embeddings with `w - 1` more tokens around them.
  """
  kernel = params["kernel"].astype(x.dtype)
  for i in range(kernel.shape[0]):
    x = x + window[:, i : i + x.shape[1]] * kernel[i][None, None]
  return x


def apply_encoder(
  config: T5Config,
  params: Mapping[str, Any],
  ids: Int[Array, "n l"],
  lengths: Int[Array, " n"],
  flags: Int[Array, "n l"] | None,
  rng: PRNGKeyArray | None,
) -> Float[Array, "n l d"]:
  """Encoder states; see `t5.T5.encode`."""
  stack, size = params["encoder"], ids.shape[1]
  # All at once: each use of `jax.random` adds to the time to compile.
  shape = (config.layers + 1, 4, 2)
  seeds = None if rng is None else jax.random.bits(rng, shape, jnp.uint32)
  first, last = (None, None) if seeds is None else seeds[-1, :2]
  x = params["shared"]["embedding"][ids]
  if flags is not None:
    x = x + params["flags"]["embedding"][flags]
  x = x.astype(config.dtype)
  if config.mixing:
    real = jnp.arange(size)[None, :] < lengths[:, None]
    side = (ENCODER_MIXING - 1) // 2
    window = jnp.pad(x * real[:, :, None], ((0, 0), (side, side), (0, 0)))
    x = mix(stack["mixing"], x, window)
  x = layers.dropout(x, config.dropout, first)
  table = stack["relative_attention_bias"]["embedding"]
  positions = position_bias(config, table, size, both_ways=True)
  padding = layers.length_bias(lengths, size)

  def layer(
    x: Float[Array, "n l d"], inputs: tuple[Params, Any]
  ) -> tuple[Float[Array, "n l d"], None]:
    params, seeds = inputs
    one, two = (None, None) if seeds is None else (seeds[:2], seeds[2:])
    block = params["layer_0"]["SelfAttention"]
    normed = norm(config, params["layer_0"]["layer_norm"], x)
    query, key, value = (heads_of(config, block[i], normed) for i in "qkv")
    # Summed here so that it is fused, not kept as [n, h, l, l].
    bias = positions + padding
    x = x + attend(config, block, query, key, value, bias, one)
    return feed_forward(config, params["layer_1"], x, two), None

  of_layers = None if seeds is None else seeds[:-1]
  x, _ = run_stack(config, layer, x, (stack["block"], of_layers))
  x = norm(config, stack["final_layer_norm"], x)
  return layers.dropout(x, config.dropout, last)


def run_stack(
  config: T5Config, layer: Any, x: Float[Array, "b l d"], per_layer: Any
) -> tuple[Float[Array, "b l d"], Any]:
  """`layers.run_layers` as the config asks for it, from stacked inputs."""
  if config.remat != "none":
    layer = jax.checkpoint(
      layer,
      policy=layers.REMAT_POLICIES[config.remat],
      prevent_cse=not config.scan,
    )
  per_layer = per_layer if config.scan else layers.unstack(per_layer)
  return layers.run_layers(layer, x, per_layer)
