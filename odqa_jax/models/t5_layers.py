"""The layers of T5 (Raffel et al. 2020): its configuration and Linen modules.

Pre-norm residual blocks with RMS norms, no biases in the dense products, no
scale on the query-key products, and one table of relative position biases per
stack that all its layers share. Versions 1.0 (ReLU, tied head) and 1.1 (gated
tanh-GELU, separate head) are both here.

The modules are applied layer by layer as pure functions; `t5.py` and
`t5_decoder.py` make an encoder and a decoder of them.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from odqa_jax.models import layers
from odqa_jax.models.attention import IMPLEMENTATIONS, PLATFORMS, attention
from odqa_jax.models.attention_xla import xla_attention
from odqa_jax.models.layers import Params, apply_module, check_choice

# Random words for two dropouts; None means no dropout.
Seeds = UInt32[Array, "2 2"] | None

# `T5.init` draws all parameters at once; the modules name and shape them.
drawn_later = nn.initializers.zeros


@dataclasses.dataclass(frozen=True)
class T5Config:
  """Shape and execution of one T5.

  The last four are for small readers that learn from random weights, see
  `small_reader.py`; no published T5 has them.

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
    dropout: share of activations and attention weights dropped, given an rng;
      cuDNN's attention drops no weights.
    eps: added to the mean square in norms.
    dtype: dtype of the computation; parameters are float32, and norms,
      softmax and logits are computed in float32 regardless.
    remat: what the backward pass computes again instead of keeping: "none",
      "dots" (all but the dense products) or "full" (all but layer inputs).
    scan: run the layers in a `lax.scan` (compiles one layer) or unrolled
      (faster on a CPU). Parameters and results are the same.
    attention: what computes it, of `attention.IMPLEMENTATIONS`; "auto" chooses
      by platform and shape.
    platform: what programs are for: "cpu", "gpu" or "tpu"; "" means JAX's
      default backend, another one is for `odqa plan`.
    pad_id: token id of padding in targets.
    eos_id: token id that ends an answer.
    start_id: first token id of every decoder input.
    depthwise_convolution: add to each embedding a learned depthwise average of
      the tokens around it (encoder) or before it (decoder).
    mimetic: initialise attention as trained networks have it.
    overlap_features: number of different features that an encoder input's
      tokens can carry; 0 for none.
    span_head: a linear head on the encoder that scores answer starts and ends,
      and tells the decoder where they fall.
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
  attention: str = "auto"
  platform: str = ""
  pad_id: int = 0
  eos_id: int = 1
  start_id: int = 0
  depthwise_convolution: bool = False
  mimetic: bool = False
  overlap_features: int = 0
  span_head: bool = False

  def __post_init__(self) -> None:
    check_choice("attention", self.attention, IMPLEMENTATIONS)
    check_choice("platform", self.platform, PLATFORMS)
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


def _dense(config: T5Config, width: int, name: str | None = None) -> nn.Dense:
  return nn.Dense(
    width,
    use_bias=False,
    dtype=config.dtype,
    kernel_init=drawn_later,
    name=name,
  )


def _heads(
  config: T5Config, dense: Callable[[Array], Array], x: Float[Array, "b l d"]
) -> Float[Array, "b h l c"]:
  """Queries, keys or values."""
  return layers.split_heads(layers.by_token(dense, x), config.heads)


class Embedding(nn.Module):
  """One row of a table per token, float32."""

  rows: int
  width: int

  @nn.compact
  def __call__(self, ids: Int[Array, "*n"]) -> Float[Array, "*n d"]:
    """Looks up the rows."""
    shape = (self.rows, self.width)
    table: Array = self.param("embedding", drawn_later, shape)
    return table[ids]


class Norm(nn.Module):
  """The RMS norm before every block and after the last."""

  config: T5Config

  @nn.compact
  def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
    """Normalises the last axis."""
    scale = self.param("scale", nn.initializers.ones, (self.config.width,))
    return layers.rms_norm(x, scale, self.config.eps)


class Heads(NamedTuple):
  """Keys and values of one layer, or of all: stacked or as a list.

  Attributes:
    keys: `[b, h, m, c]` in a layer.
    values: likewise.
  """

  keys: Any
  values: Any


def _attend(
  config: T5Config,
  query: Float[Array, "b q f"],
  heads: Heads,
  bias: Array | None = None,
  lengths: Array | None = None,
) -> Float[Array, "b q f"]:
  """Attention to keys and values that are kept as `Heads`."""
  split = layers.split_heads(query, config.heads)
  attended = xla_attention(split, *heads, bias, lengths, 1.0, 0.0, None)
  return layers.merge_heads(attended)


class _Attention(nn.Module):
  """Multi-head attention with its output product and both dropouts."""

  config: T5Config

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "b q d"],
    seeds: Seeds,
    *,
    source: Float[Array, "b m d"] | Heads | None = None,
    cached: tuple[Heads, Int[Array, ""]] | None = None,
    **masks: Any,
  ) -> tuple[Float[Array, "b q d"], Heads | None]:
    """Attends to states, or keys and values; `source` None means to `x`.

    `cached` is keys and values so far and the position of the one token in `x`;
    `masks` are bias and lengths of `attention`. The keys and values that are
    cached now are returned, too.
    """
    config = self.config
    first, second = (None, None) if seeds is None else seeds
    used = None

    def project(name: str, x: Float[Array, "b l d"]) -> Float[Array, "b l f"]:
      return layers.by_token(_dense(config, config.inner, name), x)

    if isinstance(source, Heads):
      attended = _attend(config, project("q", x), source, **masks)
    elif cached is not None:
      new = (layers.split_heads(project(i, x), config.heads) for i in "kv")
      put = functools.partial(
        jax.lax.dynamic_update_slice_in_dim, start_index=cached[1], axis=2
      )
      used = jax.tree.map(put, cached[0], Heads(*new))
      attended = _attend(config, project("q", x), used, **masks)
    else:
      states = x if source is None else source
      attended = attention(
        project("q", x),
        project("k", states),
        project("v", states),
        heads=config.heads,
        rate=config.dropout,
        seed=first,
        implementation=config.attention,
        platform=config.platform,
        **masks,
      )
    out = layers.by_token(_dense(config, config.width, "o"), attended)
    return layers.dropout(out, config.dropout, second), used


class _FeedForward(nn.Module):
  """The feed-forward block with both dropouts."""

  config: T5Config

  @nn.compact
  def __call__(
    self, x: Float[Array, "b l d"], seeds: Seeds
  ) -> Float[Array, "b l d"]:
    config = self.config
    first, second = (None, None) if seeds is None else seeds

    def widened(name: str) -> Float[Array, "b l f"]:
      return layers.by_token(_dense(config, config.mlp_dim, name), x)

    if config.gated:
      hidden = jax.nn.gelu(widened("wi_0"), approximate=True) * widened("wi_1")
      hidden = layers.dropout(hidden, config.dropout, first)
    else:
      hidden = layers.relu_dropout(widened("wi"), config.dropout, first)
    out = layers.by_token(_dense(config, config.width, "wo"), hidden)
    return layers.dropout(out, config.dropout, second)


class _Normed(nn.Module):
  """A block behind its norm; the caller adds what it returns to the states."""

  config: T5Config
  block: type[nn.Module]
  published_name: str

  @nn.compact
  def __call__(self, x: Float[Array, "b l d"], *args: Any, **kw: Any) -> Any:
    block = self.block(self.config, name=self.published_name)
    return block(Norm(self.config, name="layer_norm")(x), *args, **kw)


def _per_block(seeds: UInt32[Array, "s 2"] | None, blocks: int) -> Any:
  return (None,) * blocks if seeds is None else seeds.reshape(blocks, 2, 2)


class EncoderLayer(nn.Module):
  """Self-attention and feed-forward block."""

  config: T5Config

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "n l d"],
    bias: Float[Array, "1 h l l"],
    lengths: Int[Array, " n"],
    seeds: UInt32[Array, "4 2"] | None = None,
  ) -> Float[Array, "n l d"]:
    """Runs one layer; `seeds` are of the four dropouts."""
    config = self.config
    attend = _Normed(config, _Attention, "SelfAttention", name="layer_0")
    wide = _Normed(config, _FeedForward, "DenseReluDense", name="layer_1")
    one, two = _per_block(seeds, 2)
    x = x + attend(x, one, bias=bias, lengths=lengths[:, None])[0]
    return x + wide(x, two)


class DecoderLayer(nn.Module):
  """Self-attention, attention to all passages, and feed-forward block."""

  config: T5Config

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "r t d"],
    bias: Float[Array, "1 h t m"],
    source: Float[Array, "b n d"] | Heads,
    source_bias: Float[Array, "b hb 1 n"] | None,
    lengths: Int[Array, "b k"],
    seeds: UInt32[Array, "6 2"] | None = None,
    cached: tuple[Heads, Int[Array, ""]] | None = None,
  ) -> tuple[Float[Array, "r t d"], Heads | None]:
    """Runs one layer; `r` is the batch `b` or a multiple of it.

    Args:
      x: hidden states.
      bias: of the self-attention, with the causal mask.
      source: the `n` tokens of all passages, as for `_Attention`.
      source_bias: of the attention to them.
      lengths: real tokens of each passage.
      seeds: of the six dropouts.
      cached: of the self-attention; its keys and values are returned.
    """
    config, name = self.config, "EncDecAttention"
    attend = _Normed(config, _Attention, "SelfAttention", name="layer_0")
    attend_across = _Normed(config, _Attention, name, name="layer_1")
    wide = _Normed(config, _FeedForward, "DenseReluDense", name="layer_2")
    one, two, three = _per_block(seeds, 3)
    out, own = attend(x, one, bias=bias, cached=cached)
    x = x + out
    # The hypotheses of a question are queries to one set of keys.
    grouped = x.reshape(lengths.shape[0], -1, x.shape[2])
    out, _ = attend_across(
      grouped, two, source=source, bias=source_bias, lengths=lengths
    )
    x = (grouped + out).reshape(x.shape)
    return x + wide(x, three), own


def passage_heads(
  config: T5Config, params: Params, states: Float[Array, "b n d"]
) -> Heads:
  """Keys and values of the passages' tokens in one decoder layer."""
  block, dense = (
    params["layer_1"]["EncDecAttention"],
    _dense(config, config.inner),
  )
  projections = (
    functools.partial(apply_module, dense, block[name]) for name in "kv"
  )
  return Heads(*(_heads(config, i, states) for i in projections))
