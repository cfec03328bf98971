"""BERT (Devlin et al. 2019): post-LayerNorm encoder with the exact GELU.

RoBERTa (Liu et al. 2019) and the discriminator of ELECTRA (Clark et al. 2020)
are the same layers on other embeddings: see `VARIANTS`. A network of other
layers brings a config that makes them: see `mobilebert.py`. All functions here
serve it as well.

The parameters are plain nested dicts with the published names; the layers are
stacked on a leading axis (`encoder/layer/attention/self/query/kernel` is
`[y, d, d]`) whether they run in a scan or unrolled, so that one checkpoint
serves both. The modules are applied layer by layer as pure functions.

>>> import jax, jax.numpy as jnp
>>> from odqa_jax.models.bert import BertConfig, apply_bert, init_bert
>>> config = BertConfig(vocab_size=9, width=4, layers=2, heads=2, mlp_dim=8)
>>> params = init_bert(config, jax.random.key(0))
>>> ids, lengths = jnp.array([[2, 5, 3]]), jnp.array([3])
>>> apply_bert(config, params, ids, lengths).shape  # [b, l, d]
(1, 3, 4)
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt32

from odqa_jax.models import layers
from odqa_jax.models.attention import IMPLEMENTATIONS, PLATFORMS, attention
from odqa_jax.models.layers import Params, apply_module, check_choice

# Words for the dropout of attention weights and of the two outputs.
_Seeds = UInt32[Array, "3 2"] | tuple[None, None, None]

init_kernel = nn.initializers.truncated_normal(0.02)


class Variant(NamedTuple):
  """What tells a variant of BERT from BERT.

  Attributes:
    first_position: row of the position table that token 0 gets: RoBERTa's
      begins with the rows of its padding, as many as its padding id, and one.
    head: activation between the two layers of a published head that scores the
      first token, "tanh" or "gelu".
    pooled: whether the first of these layers is BERT's pooler, which comes
      with the encoder and before which nothing is dropped.
  """

  first_position: int
  head: str
  pooled: bool


VARIANTS = {
  "bert": Variant(first_position=0, head="tanh", pooled=True),
  "roberta": Variant(first_position=2, head="tanh", pooled=False),
  "electra": Variant(first_position=0, head="gelu", pooled=False),
  "mobilebert": Variant(first_position=0, head="tanh", pooled=True),
}


class Products(NamedTuple):
  """FLOPs of matrix products for one token.

  Attributes:
    embedding: before the layers.
    keys: of a layer, for every token that is attended to.
    others: of a layer, for every token that is computed.
  """

  embedding: float
  keys: float
  others: float


@dataclasses.dataclass(frozen=True)
class BertConfig:
  """Shape and execution of one BERT.

  Attributes:
    vocab_size: rows of the word embedding table.
    width: model width `d`.
    layers: number of layers `y`.
    heads: attention heads; must divide `width`.
    mlp_dim: hidden width of the feed-forward block.
    max_positions: longest input in tokens.
    type_vocab: number of token types.
    dropout: share of activations dropped, when an rng is given.
    attention_dropout: share of attention weights dropped, likewise; cuDNN's
      attention drops none.
    eps: added to the variance in LayerNorm.
    dtype: dtype of the computation; parameters are float32 and LayerNorm and
      softmax compute in float32 regardless.
    remat: what the backward pass computes again instead of keeping: "none",
      "dots" (all but the dense products) or "full" (all but layer inputs).
    scan: run the layers in a `lax.scan` (compiles once per layer shape) or
      unrolled (faster on a CPU). Parameters and results are the same.
    attention: what computes it, of `attention.IMPLEMENTATIONS`; "auto" chooses
      by platform and shape.
    platform: what programs are for: "cpu", "gpu" or "tpu"; "" means JAX's
      default backend, another one is for `odqa plan`.
    variant: of `VARIANTS`.
    embedding_width: width of the embedding tables, which are then projected to
      `width`, as in the small ELECTRA; None means `width`, unprojected.
  """

  vocab_size: int
  width: int
  layers: int
  heads: int
  mlp_dim: int
  max_positions: int = 512
  type_vocab: int = 2
  dropout: float = 0.1
  attention_dropout: float = 0.1
  eps: float = 1e-12
  dtype: str = "float32"
  remat: str = "none"
  scan: bool = True
  attention: str = "auto"
  platform: str = ""
  variant: str = "bert"
  embedding_width: int | None = None

  def __post_init__(self) -> None:
    check_choice("attention", self.attention, IMPLEMENTATIONS)
    check_choice("platform", self.platform, PLATFORMS)
    check_choice("dtype", self.dtype, ("float32", "bfloat16"))
    check_choice("remat", self.remat, ("none", *layers.REMAT_POLICIES))
    check_choice("variant", self.variant, tuple(VARIANTS))
    if self.width % self.heads:
      raise ValueError(
        f"heads={self.heads} does not divide width={self.width}; every head "
        "has width / heads dimensions."
      )
    for name in ("dropout", "attention_dropout"):
      if not 0 <= getattr(self, name) < 1:
        raise ValueError(f"{name}={getattr(self, name)} is not in [0, 1).")

  @property
  def positions(self) -> int:
    """Rows of the position table."""
    return VARIANTS[self.variant].first_position + self.max_positions

  @property
  def head(self) -> str:
    """Activation within a published head that scores the first token."""
    return VARIANTS[self.variant].head

  def embeddings(self) -> nn.Module:
    """What makes the first states of tokens, called as `_Embeddings` is."""
    return _Embeddings(self)

  def layer(self) -> nn.Module:
    """One layer, called as `_Layer` is."""
    return _Layer(self)

  def products(self, length: int) -> Products:
    """What a token of an input of `length` tokens costs."""
    d = self.width
    others = 4 * d**2 + 4 * d * self.mlp_dim + 4 * length * d
    return Products(2 * d * (self.embedding_width or 0), 4 * d**2, others)


def dense(
  config: BertConfig, x: Float[Array, "b l d"], width: int, name: str
) -> Float[Array, "b l f"]:
  """A Dense on all tokens; call it in a module's compact method."""
  product = nn.Dense(
    width, dtype=config.dtype, kernel_init=init_kernel, name=name
  )
  return layers.by_token(product, x)


def embedding_table(rows: int, width: int, name: str) -> nn.Embed:
  """A table of embeddings; call it in a module's compact method."""
  return nn.Embed(rows, width, embedding_init=init_kernel, name=name)


def add_places_and_types(
  words: Float[Array, "b l e"],
  positions: Float[Array | np.ndarray, "p e"],
  types: Float[Array | np.ndarray, "t e"],
  token_type: int,
  first_lengths: Int[Array, " b"] | None,
) -> Float[Array, "b l e"]:
  """Adds to every token the embeddings of its place and of its type.

  Args:
    words: embeddings of the tokens.
    positions: the table of positions, from that of token 0 on.
    types: the table of token types.
    token_type: see `apply_bert`.
    first_lengths: see `apply_bert`.
  """
  shift = positions[: words.shape[1]] + types[token_type][None]
  x = words + shift[None]
  if first_lengths is not None and types.shape[0] > 1:
    second = ~layers.real_tokens(first_lengths, words.shape[1])
    x += jnp.where(second[..., None], (types[1] - types[0])[None, None], 0.0)
  return x


class _Embeddings(nn.Module):
  """Word, position and token type embeddings, normalised."""

  config: BertConfig

  @nn.compact
  def __call__(
    self,
    ids: Int[Array, "b l"],
    lengths: Int[Array, " b"],
    token_type: int,
    seed: UInt32[Array, "2"] | None,
    first_lengths: Int[Array, " b"] | None = None,
  ) -> Float[Array, "b l e"]:
    del lengths  # What stands at a token does not depend on its neighbours.
    config, first = self.config, VARIANTS[self.config.variant].first_position
    width = config.embedding_width or config.width
    words = embedding_table(config.vocab_size, width, "word_embeddings")(ids)
    positions = embedding_table(config.positions, width, "position_embeddings")
    types = embedding_table(config.type_vocab, width, "token_type_embeddings")
    x = add_places_and_types(
      words,
      positions.embedding[first:],
      types.embedding,
      token_type,
      first_lengths,
    )
    x = nn.LayerNorm(config.eps, name="LayerNorm")(layers.tokens(x))
    x = x.astype(config.dtype)
    return layers.dropout(x, config.dropout, seed).reshape(words.shape)


class _Output(nn.Module):
  """Dense, dropout, then LayerNorm of the sum with the residual (post-LN)."""

  config: BertConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "b l f"],
    residual: Float[Array, "b l d"],
    seed: UInt32[Array, "2"] | None,
  ) -> Float[Array, "b l d"]:
    config = self.config
    x = dense(config, x, config.width, "dense")
    x = layers.dropout(layers.tokens(x), config.dropout, seed)
    norm = nn.LayerNorm(config.eps, dtype=config.dtype, name="LayerNorm")
    return norm(layers.tokens(residual) + x).reshape(residual.shape)


class SelfAttention(nn.Module):
  """Multi-head attention of some tokens over all of them, of width `w`."""

  config: BertConfig
  width: int

  @nn.compact
  def __call__(
    self,
    queries: Float[Array, "b q c"],
    keys: Float[Array, "b l c"],
    values: Float[Array, "b l v"],
    lengths: Int[Array, " b"],
    seed: UInt32[Array, "2"] | None,
  ) -> Float[Array, "b q w"]:
    """Queries from some tokens, keys and values from all of them.

    Args:
      queries: states that queries are made from.
      keys: likewise, of all tokens.
      values: likewise; MobileBERT's are wider.
      lengths: real tokens of each row.
      seed: dropout words; None means no dropout.
    """
    config, width = self.config, self.width
    return attention(
      dense(config, queries, width, "query"),
      dense(config, keys, width, "key"),
      dense(config, values, width, "value"),
      heads=config.heads,
      lengths=lengths[:, None],
      scale=(width // config.heads) ** -0.5,
      rate=config.attention_dropout,
      seed=seed,
      implementation=config.attention,
      platform=config.platform,
    )


class _Attention(nn.Module):
  """Self-attention with its output block."""

  config: BertConfig

  @nn.compact
  def __call__(
    self,
    queries: Float[Array, "b q d"],
    x: Float[Array, "b l d"],
    lengths: Int[Array, " b"],
    seeds: _Seeds,
  ) -> Float[Array, "b q d"]:
    attend = SelfAttention(self.config, self.config.width, name="self")
    attended = attend(queries, x, x, lengths, seeds[0])
    return _Output(self.config, name="output")(attended, queries, seeds[1])


class _Intermediate(nn.Module):
  """The widening half of the feed-forward block, with the exact GELU."""

  config: BertConfig

  @nn.compact
  def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l f"]:
    x = dense(self.config, x, self.config.mlp_dim, "dense")
    return layers.gelu(x)


class _Layer(nn.Module):
  """One layer, computed for the first `outputs` tokens (None: for all)."""

  config: BertConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "b l d"],
    lengths: Int[Array, " b"],
    seeds: UInt32[Array, "3 2"] | None = None,
    outputs: int | None = None,
  ) -> Float[Array, "b q d"]:
    words: _Seeds = (None,) * 3 if seeds is None else seeds
    x = _Attention(self.config, name="attention")(
      x[:, :outputs], x, lengths, words
    )
    wide = _Intermediate(self.config, name="intermediate")(x)
    return _Output(self.config, name="output")(wide, x, words[2])


def init_bert(config: BertConfig, rng: PRNGKeyArray) -> Params:
  """Fresh parameters: truncated normal of deviation 0.02, biases 0.

  Args:
    config: shape of the network.
    rng: random key; the parameters are a pure function of it.

  Returns:
    `{"embeddings": ..., "encoder": {"layer": ...}}`, float32, with the layers
    stacked on the leading axis of every leaf under `layer`; and
    `embeddings_project` where the embeddings have a width of their own.
  """
  embeddings_rng, layers_rng = jax.random.split(rng)
  ids = jnp.zeros((1, 1), jnp.int32)
  x = jnp.zeros((1, 1, config.width))
  lengths = jnp.ones(1, jnp.int32)
  embeddings = config.embeddings().init(embeddings_rng, ids, lengths, 0, None)
  one = config.layer()
  layer = jax.vmap(lambda key: one.init(key, x, lengths)["params"])(
    jax.random.split(layers_rng, config.layers)
  )
  params = {"embeddings": embeddings["params"], "encoder": {"layer": layer}}
  if config.embedding_width:
    x = jnp.zeros((1, 1, config.embedding_width))
    projection = _projection(config).init(jax.random.fold_in(rng, 0), x)
    params["embeddings_project"] = projection["params"]
  return params


def _projection(config: BertConfig) -> nn.Dense:
  """From embeddings of a width of their own to states."""
  return nn.Dense(config.width, dtype=config.dtype, kernel_init=init_kernel)


def weights_as_computed(config: BertConfig, params: Params) -> Params:
  """The parameters in the types that `apply_bert` computes with them in.

  What a module would cast whenever it is applied is cast once, so that the
  hidden states have the same bits: kernels and biases of the dense layers.
  The embeddings are added up, and LayerNorm computes, in float32.

  Args:
    config: whose `dtype` is that of the computation.
    params: as `init_bert` returns them, perhaps with others beside.
  """

  def cast(path: Any, leaf: Array) -> Array:
    inside_norm = any(getattr(k, "key", None) == "LayerNorm" for k in path)
    return leaf if inside_norm else leaf.astype(config.dtype)

  dense = {
    k: params[k] for k in ("encoder", "embeddings_project") if k in params
  }
  return {**params, **jax.tree_util.tree_map_with_path(cast, dense)}


def apply_bert(
  config: BertConfig,
  params: Mapping[str, Any],
  ids: Int[Array, "b l"],
  lengths: Int[Array, " b"],
  *,
  token_type: int = 0,
  first_lengths: Int[Array, " b"] | None = None,
  first_only: bool = False,
  rng: PRNGKeyArray | None = None,
) -> Float[Array, "b q d"]:
  """Last hidden states, without the pooler.

  Args:
    config: shape and execution of the network.
    params: as `init_bert` returns them.
    ids: token ids; the padding is a suffix and its value does not matter.
    lengths: real tokens of each row; a row of length 0 gives finite numbers.
    token_type: token type of every token.
    first_lengths: tokens of each row's first segment, for pairs: they have
      type 0, the others type 1. Without types to tell them apart by
      (`type_vocab` 1, as in RoBERTa) all have type 0.
    first_only: compute the last layer for token 0 alone (`q` = 1), which
      leaves out five sixths of that layer; else `q` = `l`.
    rng: dropout key; None means no dropout.

  Returns:
    Hidden states in `config.dtype`.

  Raises:
    ValueError: `l` exceeds `config.max_positions`.
  """
  if ids.shape[1] > config.max_positions:
    raise ValueError(
      f"inputs of {ids.shape[1]} tokens exceed max_positions="
      f"{config.max_positions}; shorten the inputs."
    )
  of_layers, outside = layers.draw_seeds(rng, config.layers, 3)
  embed, one = config.embeddings(), config.layer()
  inputs = (ids, lengths, token_type, outside[0], first_lengths)
  x = apply_module(embed, params["embeddings"], *inputs)
  if config.embedding_width:
    x = apply_module(_projection(config), params["embeddings_project"], x)
  per_layer = params["encoder"]["layer"], of_layers

  def layer(outputs: int | None, x: Array, inputs: Any) -> tuple[Array, None]:
    args = (x, lengths, inputs[1], outputs)
    return apply_module(one, inputs[0], *args), None

  # The last layer stands apart, as it may need token 0 alone.
  count = config.layers
  if config.scan:
    below, top = layers.cut(per_layer, [count - 1, 1])
    last = layers.unstack(top, 1)
  else:
    *below, top = layers.unstack(per_layer, count)
    last = [top]
  for outputs, some in ((None, below), (1 if first_only else None, last)):
    run = functools.partial(layer, outputs)
    x, _ = layers.run_layers(run, x, some, remat=config.remat)
  return x


def flops_per_token(
  config: BertConfig, length: int, *, first_only: bool
) -> float:
  """FLOPs of the matrix products that one token costs, forward only.

  A product of m x k by k x n counts 2mkn. What is not computed is not counted.
  A backward pass costs twice as much again.

  Args:
    config: of the network.
    length: tokens of the input that the token stands in.
    first_only: see `apply_bert`: the last layer makes only keys and values for
      the tokens after the first.
  """
  embedding, keys, others = config.products(length)
  if first_only:
    layers_below = (config.layers - 1) * (keys + others)
    return embedding + layers_below + keys + others / length
  return float(embedding + config.layers * (keys + others))
