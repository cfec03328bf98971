"""The decoder of T5: over whole targets, and token by token with a cache.

Both run the same layer. With a cache, `m` hypotheses of a question share its
passages: they are more queries to the cross-attention, so that keys and values
of the passages are computed once and never copied.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt32

from odqa_jax.models import layers
from odqa_jax.models.t5_network import (
  DECODER_MIXING,
  Params,
  T5Config,
  attend,
  feed_forward,
  heads_of,
  memory_bias,
  mix,
  norm,
  position_bias,
  run_stack,
)


class Heads(NamedTuple):
  """Keys and values of one layer, or of all: stacked or as a list.

  Attributes:
    keys: `[b, h, m, c]` in a layer.
    values: likewise.
  """

  keys: Any
  values: Any


class Cache(NamedTuple):
  """What the decoder keeps of the tokens so far, for `r = b * m` hypotheses.

  Attributes:
    own: keys and values of every layer for `max_tokens` positions.
    recent: embeddings of the last two tokens, for mixing.
  """

  own: Any
  recent: Float[Array, "r w d"]


class Prepared(NamedTuple):
  """What stays the same from token to token.

  Attributes:
    params: all parameters.
    per_layer: parameters and cross bias, then cross heads, of the layers.
    positions: self-attention biases with the causal mask.
  """

  params: Mapping[str, Any]
  per_layer: Any
  positions: Float[Array, "1 h t t"]


def _layer(
  config: T5Config,
  params: Mapping[str, Any],
  x: Float[Array, "r t d"],
  own_bias: Float[Array, "1 h t m"],
  cross: Heads,
  cross_bias: Float[Array, "b hb 1 n"],
  seeds: UInt32[Array, "6 2"] | None,
  cached: tuple[Heads, Int[Array, ""]] | None = None,
) -> tuple[Float[Array, "r t d"], Heads]:
  """One layer; `r` is the batch `b` or a multiple of it.

  Args:
    config: shape of the network.
    params: those of the layer.
    x: hidden states.
    own_bias: biases of the self-attention.
    cross: keys and values of the `n` tokens of all passages.
    cross_bias: see `t5_network.memory_bias`.
    seeds: random words of the six dropouts.
    cached: keys and values so far and the position of the one token in `x`.

  Returns:
    Hidden states, and the keys and values that the self-attention used.
  """
  one, two, three = (None,) * 3 if seeds is None else seeds.reshape(3, 2, 2)
  block = params["layer_0"]["SelfAttention"]
  normed = norm(config, params["layer_0"]["layer_norm"], x)
  query, key, value = (heads_of(config, block[i], normed) for i in "qkv")
  own = Heads(key, value)
  if cached is not None:
    own = jax.tree.map(
      lambda old, new: jax.lax.dynamic_update_slice_in_dim(
        old, new, cached[1], axis=2
      ),
      cached[0],
      own,
    )
  x = x + attend(config, block, query, own.keys, own.values, own_bias, one)
  # The hypotheses of a question are queries to one set of keys.
  grouped = x.reshape(cross.keys.shape[0], -1, x.shape[2])
  block = params["layer_1"]["EncDecAttention"]
  normed = norm(config, params["layer_1"]["layer_norm"], grouped)
  query = heads_of(config, block["q"], normed)
  grouped = grouped + attend(config, block, query, *cross, cross_bias, two)
  x = grouped.reshape(x.shape)
  return feed_forward(config, params["layer_2"], x, three), own


def _cross_heads(
  config: T5Config, params: Mapping[str, Any], memory: Float[Array, "b n d"]
) -> Heads:
  block = params["layer_1"]["EncDecAttention"]
  return Heads(*(heads_of(config, block[i], memory) for i in "kv"))


def _embed(
  config: T5Config,
  params: Mapping[str, Any],
  ids: Int[Array, "r t"],
  recent: Float[Array, "r w d"],
) -> tuple[Float[Array, "r t d"], Float[Array, "r w d"]]:
  """Embeddings with causal mixing, and the last `w` ones without."""
  x = params["shared"]["embedding"][ids].astype(config.dtype)
  if not config.mixing:
    return x, recent
  window = jnp.concatenate([recent, x], axis=1)
  return mix(params["decoder"]["mixing"], x, window), window[:, ids.shape[1] :]


def _no_tokens(config: T5Config, rows: int) -> Float[Array, "r w d"]:
  """What mixing sees before the first token."""
  before = DECODER_MIXING - 1 if config.mixing else 0
  return jnp.zeros((rows, before, config.width), config.dtype)


def _logits(
  config: T5Config, params: Mapping[str, Any], x: Float[Array, "b t d"]
) -> Float[Array, "b t v"]:
  """float32 scores of every token of the vocabulary, from normed states."""
  if config.tied:
    x = x * config.width**-0.5
    kernel = params["shared"]["embedding"].T
  else:
    kernel = params["lm_head"]["kernel"]
  b, t, d = x.shape
  logits = jnp.matmul(
    x.reshape(b * t, d),
    kernel.astype(config.dtype),
    preferred_element_type=jnp.float32,
  )
  return logits.reshape(b, t, -1)


def apply_decoder(
  config: T5Config,
  params: Mapping[str, Any],
  inputs: Int[Array, "b t"],
  memory: Float[Array, "b k l d"],
  lengths: Int[Array, "b k"],
  bias: Float[Array, "yb b hb k"] | None,
  rng: PRNGKeyArray | None,
) -> Float[Array, "b t v"]:
  """Logits; see `t5.T5.decode`."""
  stack = params["decoder"]
  b, k, l, d = memory.shape
  shape = (config.decoder_layers + 1, 6, 2)
  if rng is None:
    seeds = first = last = None
  else:
    # Folded in, so that one key for encoder and decoder drops independently.
    seeds = jax.random.bits(jax.random.fold_in(rng, 1), shape, jnp.uint32)
    first, last = seeds[-1, :2]
  x, _ = _embed(config, params, inputs, _no_tokens(config, b))
  x = layers.dropout(x, config.dropout, first)
  table = stack["relative_attention_bias"]["embedding"]
  own_bias = position_bias(config, table, inputs.shape[1], both_ways=False)
  tokens = memory.reshape(b, k * l, d)

  def layer(
    x: Float[Array, "b t d"], inputs: tuple[Params, Any, Any]
  ) -> tuple[Float[Array, "b t d"], None]:
    params, cross_bias, seeds = inputs
    cross = _cross_heads(config, params, tokens)
    x, _ = _layer(config, params, x, own_bias, cross, cross_bias, seeds)
    return x, None

  cross_bias = _bias_of_layers(config, lengths, l, bias)
  of_layers = None if seeds is None else seeds[:-1]
  x, _ = run_stack(config, layer, x, (stack["block"], cross_bias, of_layers))
  x = norm(config, stack["final_layer_norm"], x)
  return _logits(config, params, layers.dropout(x, config.dropout, last))


def _bias_of_layers(
  config: T5Config,
  lengths: Int[Array, "b k"],
  size: int,
  bias: Float[Array, "yb b hb k"] | None,
) -> Float[Array, "y b hb 1 n"]:
  """`memory_bias` with a row for every layer."""
  scores = memory_bias(config, lengths, size, bias)
  return jnp.broadcast_to(scores, (config.decoder_layers, *scores.shape[1:]))


def prepare(
  config: T5Config,
  params: Mapping[str, Any],
  memory: Float[Array, "b k l d"],
  lengths: Int[Array, "b k"],
  bias: Float[Array, "yb b hb k"] | None,
  *,
  max_tokens: int,
  hypotheses: int = 1,
) -> tuple[Prepared, Cache]:
  """Computes what all tokens share, and an empty cache.

  Args:
    config: shape of the network.
    params: as `T5.init` returns them.
    memory: encoder states of every passage.
    lengths: real tokens of every passage.
    bias: as for `T5.decode`.
    max_tokens: places in the cache.
    hypotheses: answers decoded side by side for each question, `m`.
  """
  stack = params["decoder"]
  b, k, l, d = memory.shape
  tokens = memory.reshape(b, k * l, d)
  rows = b * hypotheses
  shape = (config.decoder_layers, rows, config.heads, max_tokens)
  empty = jnp.zeros((*shape, config.head_dim), config.dtype)
  own: Any = Heads(empty, empty)
  of_layers: Any = (stack["block"], _bias_of_layers(config, lengths, l, bias))
  if not config.scan:
    # Here and not in the loop over tokens, where it would copy every weight.
    own, of_layers = layers.unstack(own), layers.unstack(of_layers)
  _, cross = layers.run_layers(
    lambda x, inputs: (x, _cross_heads(config, inputs[0], tokens)),
    None,
    of_layers,
  )
  table = stack["relative_attention_bias"]["embedding"]
  positions = position_bias(config, table, max_tokens, both_ways=False)
  cache = Cache(own, _no_tokens(config, rows))
  return Prepared(params, _pair(of_layers, cross), positions), cache


def _pair(first: Any, second: Any) -> Any:
  """Inputs of the layers side by side, both lists or both stacks."""
  if isinstance(first, list):
    return list(zip(first, second, strict=True))
  return first, second


def decode_token(
  config: T5Config,
  prepared: Prepared,
  cache: Cache,
  ids: Int[Array, "b m"],
  position: Int[Array, ""],
) -> tuple[Float[Array, "b m v"], Cache]:
  """Logits of the tokens after `ids`, which stand at `position`.

  Args:
    config: shape of the network.
    prepared: from `prepare`.
    cache: from `prepare` or the last call.
    ids: the last token of `m` hypotheses a question.
    position: place of these tokens, 0 for the start token.
  """
  b, m = ids.shape
  x, recent = _embed(
    config, prepared.params, ids.reshape(b * m, 1), cache.recent
  )
  own_bias = jax.lax.dynamic_slice_in_dim(
    prepared.positions, position, 1, axis=2
  )

  def layer(
    x: Float[Array, "r 1 d"], inputs: tuple[Any, Heads]
  ) -> tuple[Float[Array, "r 1 d"], Heads]:
    ((params, cross_bias), cross), own = inputs
    cached = (own, position)
    return _layer(config, params, x, own_bias, cross, cross_bias, None, cached)

  per_layer = _pair(prepared.per_layer, cache.own)
  x, own = layers.run_layers(layer, x, per_layer)
  params = prepared.params
  x = norm(config, params["decoder"]["final_layer_norm"], x.reshape(b, m, -1))
  logits = _logits(config, params, x)
  return logits, Cache(own, recent)
