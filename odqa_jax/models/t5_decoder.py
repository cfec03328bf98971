"""The decoder of T5: over whole targets, and token by token with a cache.

Both run the same layer. With a cache, `m` hypotheses of a question share its
passages: they are more queries to the cross-attention, so that keys and values
of the passages are computed once and never copied.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from odqa_jax.models import layers, small_reader
from odqa_jax.models.layers import Params, apply_module
from odqa_jax.models.t5_layers import (
  DecoderLayer,
  Embedding,
  Heads,
  Norm,
  T5Config,
  passage_heads,
  position_bias,
)


class Cache(NamedTuple):
  """What the decoder keeps of the tokens so far, for `r = b * m` hypotheses.

  Attributes:
    own: keys and values of every layer for `max_tokens` positions.
    recent: embeddings of the last tokens, for a depthwise convolution.
  """

  own: Any
  recent: Float[Array, "r w d"]


class Prepared(NamedTuple):
  """What stays the same from token to token.

  Attributes:
    params: all parameters.
    per_layer: parameters, bias of the cross-attention, and keys and values of
      the passages, of the layers.
    positions: self-attention biases with the causal mask.
    lengths: real tokens of every passage.
  """

  params: Mapping[str, Any]
  per_layer: tuple[Any, Any, Any]
  positions: Float[Array, "1 h t t"]
  lengths: Int[Array, "b k"]


def _embed(
  config: T5Config,
  params: Mapping[str, Any],
  ids: Int[Array, "r t"],
  recent: Float[Array, "r w d"],
) -> tuple[Float[Array, "r t d"], Float[Array, "r w d"]]:
  """Embeddings, and what a convolution keeps of them for the next tokens."""
  words = Embedding(config.vocab_size, config.width)
  x = apply_module(words, params["shared"], ids).astype(config.dtype)
  if not config.depthwise_convolution:
    return x, recent
  return small_reader.convolve_answer(params["decoder"]["mixing"], x, recent)


def _logits(
  config: T5Config, params: Mapping[str, Any], x: Float[Array, "b t d"]
) -> Float[Array, "b t v"]:
  """float32 scores of every token of the vocabulary, from the last states."""
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


def _passage_bias(
  config: T5Config, bias: Float[Array, "yb b hb k"] | None, size: int
) -> Float[Array, "y b hb 1 n"] | None:
  """The bias of every layer for the `n = k * size` tokens of all passages.

  Raises:
    ValueError: an axis of `bias` is neither 1 nor what the config says.
  """
  if bias is None:
    return None
  allowed = ((1, config.decoder_layers), (1, config.heads))
  if bias.shape[0] not in allowed[0] or bias.shape[2] not in allowed[1]:
    raise ValueError(
      f"bias of shape {bias.shape} is [layers, b, heads, k] with layers in "
      f"{allowed[0]} and heads in {allowed[1]}."
    )
  _, b, heads, k = bias.shape
  scores = jnp.broadcast_to(
    bias.astype(jnp.float32)[..., None],
    (config.decoder_layers, b, heads, k, size),
  )
  return scores.reshape(-1, b, heads, 1, k * size)


def apply_decoder(
  config: T5Config,
  params: Mapping[str, Any],
  inputs: Int[Array, "b t"],
  encoder_states: Float[Array, "b k l d"],
  lengths: Int[Array, "b k"],
  bias: Float[Array, "yb b hb k"] | None,
  rng: PRNGKeyArray | None,
) -> Float[Array, "b t v"]:
  """Logits; see `t5.T5.decode`."""
  stack = params["decoder"]
  b, k, l, d = encoder_states.shape
  # Folded in, so that one key for encoder and decoder drops independently.
  own_rng = None if rng is None else jax.random.fold_in(rng, 1)
  seeds, outside = layers.draw_seeds(own_rng, config.decoder_layers, 6)
  x, _ = _embed(config, params, inputs, small_reader.no_tokens(config, b))
  x = layers.dropout(x, config.dropout, outside[0])
  table = stack["relative_attention_bias"]["embedding"]
  own_bias = position_bias(config, table, inputs.shape[1], both_ways=False)
  tokens = encoder_states.reshape(b, k * l, d)

  def layer(
    x: Array, params: Params, bias: Any, seeds: Any
  ) -> tuple[Array, None]:
    args = (x, own_bias, tokens, bias, lengths, seeds)
    return apply_module(DecoderLayer(config), params, *args)[0], None

  bias = _passage_bias(config, bias, l)
  count = config.decoder_layers
  per_layer = layers.of_layers(config, count, stack["block"], bias, seeds)
  x, _ = layers.run_layers(layer, x, *per_layer, remat=config.remat)
  x = apply_module(Norm(config), stack["final_layer_norm"], x)
  x = layers.dropout(x, config.dropout, outside[1])
  return _logits(config, params, x)


def prepare(
  config: T5Config,
  params: Mapping[str, Any],
  encoder_states: Float[Array, "b k l d"],
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
    encoder_states: of the tokens of every passage.
    lengths: real tokens of every passage.
    bias: as for `T5.decode`.
    max_tokens: places in the cache.
    hypotheses: answers decoded side by side for each question, `m`.
  """
  stack, count = params["decoder"], config.decoder_layers
  b, k, l, d = encoder_states.shape
  tokens = encoder_states.reshape(b, k * l, d)
  rows = b * hypotheses
  empty = jnp.zeros(
    (count, rows, config.heads, max_tokens, config.head_dim), config.dtype
  )
  # Cut here and not in the loop over tokens, where it would copy all weights.
  stacks = (stack["block"], _passage_bias(config, bias, l), Heads(empty, empty))
  blocks, bias, own = layers.of_layers(config, count, *stacks)
  _, passages = layers.run_layers(
    lambda x, params: (x, passage_heads(config, params, tokens)), None, blocks
  )
  table = stack["relative_attention_bias"]["embedding"]
  positions = position_bias(config, table, max_tokens, both_ways=False)
  prepared = Prepared(params, (blocks, bias, passages), positions, lengths)
  return prepared, Cache(own, small_reader.no_tokens(config, rows))


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
  params = prepared.params
  x, recent = _embed(config, params, ids.reshape(b * m, 1), cache.recent)
  own_bias = jax.lax.dynamic_slice_in_dim(
    prepared.positions, position, 1, axis=2
  )

  def layer(x: Array, params: Params, bias: Any, *heads: Heads) -> Any:
    passages, own = heads
    args = (x, own_bias, passages, bias, prepared.lengths, None)
    module = DecoderLayer(config)
    return apply_module(module, params, *args, (own, position))

  x, own = layers.run_layers(layer, x, *prepared.per_layer, cache.own)
  norm = Norm(config)
  x = x.reshape(b, m, -1)
  x = apply_module(norm, params["decoder"]["final_layer_norm"], x)
  return _logits(config, params, x), Cache(own, recent)
