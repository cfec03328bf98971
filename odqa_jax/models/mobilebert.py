"""MobileBERT (Sun et al. 2020): thin layers between wide states.

Every layer narrows the states that it gets (a bottleneck), attends and runs
several feed-forward blocks in the narrow width, and widens the result again.
Words have narrow embeddings, of which those of the neighbours are part of a
token's (trigrams). Where the paper's phone version has no LayerNorm, a scale
and a bias stand in its place (NoNorm).

What runs these layers is `bert.py`:

>>> import jax, jax.numpy as jnp
>>> from odqa_jax.models.bert import apply_bert, init_bert
>>> from odqa_jax.models.mobilebert import MobileBertConfig
>>> sizes = {"width": 8, "layers": 2, "heads": 2, "mlp_dim": 8}
>>> config = MobileBertConfig(vocab_size=9, **sizes, inner_width=4)
>>> params = init_bert(config, jax.random.key(0))
>>> ids, lengths = jnp.array([[2, 5, 3]]), jnp.array([3])
>>> apply_bert(config, params, ids, lengths).shape  # [b, l, d]
(1, 3, 8)
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from odqa_jax.models import layers
from odqa_jax.models.bert import (
  BertConfig,
  Products,
  SelfAttention,
  add_places_and_types,
  dense,
  embedding_table,
)
from odqa_jax.models.layers import check_choice

NORMS = ("no_norm", "layer_norm")
ACTIVATIONS = ("relu", "gelu")

# The published code leaves eps out where it makes the LayerNorms of the
# embeddings and of the last feed-forward block: they have PyTorch's.
_OTHER_EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class MobileBertConfig(BertConfig):
  """Shape and execution of one MobileBERT.

  Attributes:
    variant: "mobilebert".
    word_width: width of the word embeddings, `e`, which a product brings to
      `width`.
    trigrams: whether a token's embedding is made from those of its neighbours
      too; beyond the first and the last real token they are zeros.
    bottleneck: whether layers compute in `inner_width` rather than in `width`.
    inner_width: width `t` between the bottlenecks.
    bottleneck_attention: whether queries, keys and values are all made from
      the narrowed states that the feed-forward blocks get.
    shared_bottleneck: else, whether queries and keys are made from states
      narrowed by a bottleneck of their own; values are from the wide states.
    feed_forwards: feed-forward blocks of a layer.
    norm: of `NORMS`; "no_norm" scales and shifts without normalising.
    activation: of the feed-forward blocks, of `ACTIVATIONS`.
    pooler: whether a published head for sequences has BERT's pooler.
  """

  dropout: float = 0.0
  variant: str = "mobilebert"
  word_width: int = 128
  trigrams: bool = True
  bottleneck: bool = True
  inner_width: int = 128
  bottleneck_attention: bool = False
  shared_bottleneck: bool = True
  feed_forwards: int = 4
  norm: str = "no_norm"
  activation: str = "relu"
  pooler: bool = True

  def __post_init__(self) -> None:
    super().__post_init__()
    check_choice("norm", self.norm, NORMS)
    check_choice("activation", self.activation, ACTIVATIONS)
    check_choice("variant", self.variant, ("mobilebert",))
    if self.embedding_width:
      raise ValueError(
        f"embedding_width={self.embedding_width} is for an ELECTRA; the words "
        "of a MobileBERT have word_width."
      )
    if self.inner % self.heads:
      raise ValueError(
        f"heads={self.heads} does not divide inner_width={self.inner}; every "
        "head has inner_width / heads dimensions."
      )
    if self.feed_forwards < 1:
      raise ValueError(f"feed_forwards={self.feed_forwards} is not 1 or more.")
    narrow = self.bottleneck_attention or self.shared_bottleneck
    if self.bottleneck and not narrow and self.inner != self.width:
      raise ValueError(
        f"bottleneck_attention and shared_bottleneck are both False: queries "
        f"and keys would be made from states of width {self.width} by products "
        f"of width {self.inner}; set one of them, or inner_width={self.width}."
      )

  @property
  def inner(self) -> int:
    """The width that layers compute in, `t`."""
    return self.inner_width if self.bottleneck else self.width

  @property
  def head(self) -> str:
    """See `BertConfig`; "none" is a head of one product."""
    return super().head if self.pooler else "none"

  def embeddings(self) -> nn.Module:
    """See `BertConfig`."""
    return _Embeddings(self)

  def layer(self) -> nn.Module:
    """See `BertConfig`."""
    return _Layer(self)

  def products(self, length: int) -> Products:
    """See `BertConfig`."""
    d, t = self.width, self.inner
    narrowing = 2 * d * t if self.bottleneck else 0
    wide = self.bottleneck and not self.bottleneck_attention
    keys = 2 * t**2 + 2 * (d if wide else t) * t
    others = 4 * t**2 + 4 * length * t
    others += self.feed_forwards * 4 * t * self.mlp_dim
    # Narrow states are of all tokens where keys are made from them, else of
    # those that are computed; those are widened again.
    others += narrowing if wide else 0
    keys += narrowing if not wide or self.shared_bottleneck else 0
    e = self.word_width * (3 if self.trigrams else 1)
    embedding = 2 * e * d if e != d or self.trigrams else 0
    return Products(embedding, keys, others + narrowing)


class _NoNorm(nn.Module):
  """A scale and a bias per dimension, applied in float32."""

  dtype: str

  @nn.compact
  def __call__(self, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    shape = x.shape[-1:]
    scale = self.param("scale", nn.initializers.ones_init(), shape)
    bias = self.param("bias", nn.initializers.zeros_init(), shape)
    return (x * scale[None] + bias[None]).astype(self.dtype)


def _norm(config: MobileBertConfig, eps: float | None = None) -> nn.Module:
  """The norm; call it in a module's compact method."""
  if config.norm == "no_norm":
    return _NoNorm(config.dtype, name="LayerNorm")
  epsilon = config.eps if eps is None else eps
  return nn.LayerNorm(epsilon, dtype=config.dtype, name="LayerNorm")


def _trigrams(
  words: Float[Array, "b l e"], lengths: Int[Array, " b"]
) -> Float[Array, "b l f"]:
  """The embeddings of the next token, of this one, and of the one before.

  Padding has zeros, as there is nothing behind the end of a text: how far it
  is padded must not change its last token.
  """
  real = layers.real_tokens(lengths, words.shape[1])
  words = jnp.where(real[..., None], words, 0.0)
  after = jnp.pad(words[:, 1:], ((0, 0), (0, 1), (0, 0)))
  before = jnp.pad(words[:, :-1], ((0, 0), (1, 0), (0, 0)))
  return jnp.concatenate([after, words, before], axis=2)


class _Embeddings(nn.Module):
  """Trigrams of words, positions and token types."""

  config: MobileBertConfig

  @nn.compact
  def __call__(
    self,
    ids: Int[Array, "b l"],
    lengths: Int[Array, " b"],
    token_type: int,
    seed: UInt32[Array, "2"] | None,
    first_lengths: Int[Array, " b"] | None = None,
  ) -> Float[Array, "b l d"]:
    config, width = self.config, self.config.width
    words = embedding_table(
      config.vocab_size, config.word_width, "word_embeddings"
    )
    positions = embedding_table(config.positions, width, "position_embeddings")
    types = embedding_table(config.type_vocab, width, "token_type_embeddings")
    x = words(ids)
    if config.trigrams:
      x = _trigrams(x, lengths)
    if config.trigrams or config.word_width != width:
      x = dense(config, x, width, "embedding_transformation")
    x = add_places_and_types(
      x, positions.embedding, types.embedding, token_type, first_lengths
    )
    normed = _norm(config, _OTHER_EPS)(layers.tokens(x))
    return layers.dropout(normed, config.dropout, seed).reshape(x.shape)


class _Narrowed(nn.Module):
  """States in the inner width."""

  config: MobileBertConfig

  @nn.compact
  def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l t"]:
    x = dense(self.config, x, self.config.inner, "dense")
    return _norm(self.config)(layers.tokens(x)).reshape(x.shape)


class _Bottleneck(nn.Module):
  """What attention gets: queries, keys, values, and the residual."""

  config: MobileBertConfig

  @nn.compact
  def __call__(
    self, x: Float[Array, "b l d"], outputs: int | None
  ) -> tuple[Any, Any, Any, Any]:
    config = self.config
    narrow = _Narrowed(config, name="input")
    if config.bottleneck_attention:
      x = narrow(x)
      return x[:, :outputs], x, x, x[:, :outputs]
    keys = x
    if config.shared_bottleneck:
      keys = _Narrowed(config, name="attention")(x)
    return keys[:, :outputs], keys, x, narrow(x[:, :outputs])


class _Joined(nn.Module):
  """A product, dropout, then the norm of the sum with the residual."""

  config: MobileBertConfig
  eps: float | None = None

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "b l f"],
    residual: Float[Array, "b l w"],
    seed: UInt32[Array, "2"] | None = None,
  ) -> Float[Array, "b l w"]:
    x = layers.tokens(dense(self.config, x, residual.shape[-1], "dense"))
    x = layers.dropout(x, self.config.dropout, seed)
    norm = _norm(self.config, self.eps)
    return norm(layers.tokens(residual) + x).reshape(residual.shape)


class _Attention(nn.Module):
  """Self-attention with its output block."""

  config: MobileBertConfig

  @nn.compact
  def __call__(
    self,
    inputs: tuple[Any, Any, Any, Any],
    lengths: Int[Array, " b"],
    seeds: Any,
  ) -> Float[Array, "b q t"]:
    queries, keys, values, residual = inputs
    attend = SelfAttention(self.config, self.config.inner, name="self")
    attended = attend(queries, keys, values, lengths, seeds[0])
    # Within bottlenecks nothing is dropped.
    seed = None if self.config.bottleneck else seeds[1]
    return _Joined(self.config, name="output")(attended, residual, seed)


class _Intermediate(nn.Module):
  """The widening half of a feed-forward block."""

  config: MobileBertConfig

  @nn.compact
  def __call__(self, x: Float[Array, "b l t"]) -> Float[Array, "b l f"]:
    x = dense(self.config, x, self.config.mlp_dim, "dense")
    activation = {"relu": jax.nn.relu, "gelu": layers.gelu}
    return activation[self.config.activation](x)


class _FeedForward(nn.Module):
  """One of the feed-forward blocks before the last."""

  config: MobileBertConfig

  @nn.compact
  def __call__(self, x: Float[Array, "b l t"]) -> Float[Array, "b l t"]:
    wide = _Intermediate(self.config, name="intermediate")(x)
    return _Joined(self.config, name="output")(wide, x)


class _FeedForwards(nn.Module):
  """The feed-forward blocks before the last, one after the other."""

  config: MobileBertConfig

  @nn.compact
  def __call__(self, x: Float[Array, "b l t"]) -> Float[Array, "b l t"]:
    for i in range(self.config.feed_forwards - 1):
      x = _FeedForward(self.config, name=str(i))(x)
    return x


class _Output(nn.Module):
  """The narrowing half of the last feed-forward block, and the way back."""

  config: MobileBertConfig

  @nn.compact
  def __call__(
    self,
    wide: Float[Array, "b l f"],
    x: Float[Array, "b l t"],
    states: Float[Array, "b l d"],
    seed: UInt32[Array, "2"] | None,
  ) -> Float[Array, "b l d"]:
    config = self.config
    inside = None if config.bottleneck else seed
    y = layers.tokens(dense(config, wide, config.inner, "dense"))
    y = layers.dropout(y, config.dropout, inside)
    y = _norm(config, _OTHER_EPS)(layers.tokens(x) + y).reshape(x.shape)
    if not config.bottleneck:
      return y
    return _Joined(config, name="bottleneck")(y, states, seed)


class _Layer(nn.Module):
  """One layer, computed for the first `outputs` tokens (None: for all)."""

  config: MobileBertConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "b l d"],
    lengths: Int[Array, " b"],
    seeds: UInt32[Array, "3 2"] | None = None,
    outputs: int | None = None,
  ) -> Float[Array, "b q d"]:
    config = self.config
    words: Any = (None,) * 3 if seeds is None else seeds
    states = x[:, :outputs]
    inputs = states, x, x, states
    if config.bottleneck:
      inputs = _Bottleneck(config, name="bottleneck")(x, outputs)
    x = _Attention(config, name="attention")(inputs, lengths, words)
    if config.feed_forwards > 1:
      x = _FeedForwards(config, name="ffn")(x)
    wide = _Intermediate(config, name="intermediate")(x)
    return _Output(config, name="output")(wide, x, states, words[2])


def config_class(variant: str) -> type[BertConfig]:
  """The class of the configs of a variant, of `bert.VARIANTS`."""
  return MobileBertConfig if variant == "mobilebert" else BertConfig
