"""The T5 reader: encodes passages one by one, answers from all of them at once.

The decoder fuses passages ("Leveraging Passage Retrieval with Generative
Models", Izacard and Grave 2020): it attends to the tokens of all passages of a
question, optionally with a score added per passage (Eq. 8 of "End-to-End
Training of Neural Retrievers").

The parameters are plain nested dicts with the published names; the layers are
stacked on a leading axis (`encoder/block/layer_0/SelfAttention/q/kernel` is
`[y, d, h * c]`) whether they run in a scan or unrolled, so that one checkpoint
serves both.

>>> import jax, jax.numpy as jnp
>>> from odqa_jax.models.t5 import PRESETS, T5, T5Config
>>> reader = T5(T5Config(**PRESETS["tiny"] | {"vocab_size": 50}))
>>> params = reader.init(jax.random.key(0))
>>> ids = jnp.full((2, 3, 8), 7)  # [b, k, l]: 2 questions, 3 passages each
>>> lengths = jnp.full((2, 3), 8)
>>> states = reader.encode(params, ids, lengths)
>>> inputs = reader.shift_right(jnp.array([[5, 6, 1], [9, 1, 0]]))
>>> reader.decode(params, inputs, states, lengths).shape  # [b, t, v]
(2, 3, 50)
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from odqa_jax.models import layers, small_reader
from odqa_jax.models.layers import Params, apply_module
from odqa_jax.models.t5_decoder import apply_decoder
from odqa_jax.models.t5_layers import (
  DecoderLayer,
  Embedding,
  EncoderLayer,
  Norm,
  T5Config,
  position_bias,
)

__all__ = ["PRESETS", "T5", "T5Config"]


def _preset(
  width: int, layers: int, heads: int, mlp_dim: int, *, gated: bool = False
) -> dict[str, Any]:
  return {
    "vocab_size": 32128,
    "width": width,
    "layers": layers,
    "decoder_layers": layers,
    "heads": heads,
    "head_dim": 64,
    "mlp_dim": mlp_dim,
    "gated": gated,
    "tied": not gated,
  }


# "tiny" and "mini" are ours, shaped like version 1.0; the others are published.
PRESETS: dict[str, dict[str, Any]] = {
  "tiny": _preset(128, 2, 2, 512),
  "mini": _preset(256, 4, 4, 1024),
  "small": _preset(512, 6, 8, 2048),
  "base": _preset(768, 12, 12, 3072),
  "large": _preset(1024, 24, 16, 4096),
  "small_v11": _preset(512, 8, 6, 1024, gated=True),
  "base_v11": _preset(768, 12, 12, 2048, gated=True),
  "large_v11": _preset(1024, 24, 16, 2816, gated=True),
}


def _unset_parameters(config: T5Config) -> Params:
  """Names and shapes of all parameters, as the modules state them."""
  rng, d = jax.random.key(0), config.width
  x, ids = jnp.zeros((1, 1, d)), jnp.zeros((1, 1), jnp.int32)
  bias, lengths = jnp.zeros((1, config.heads, 1, 1)), jnp.ones(1, jnp.int32)

  def init(module: Any, *inputs: Any) -> Any:
    return module.init(rng, *inputs)["params"]

  def stack(layer: Any, count: int, *inputs: Any) -> Params:
    one = init(layer, *inputs)
    buckets = Embedding(config.relative_buckets, config.heads)
    return {
      "block": jax.tree.map(lambda leaf: jnp.stack([leaf] * count), one),
      "relative_attention_bias": init(buckets, ids),
      "final_layer_norm": init(Norm(config), x),
    }

  decoder = (DecoderLayer(config), config.decoder_layers)
  params = {
    "shared": init(Embedding(config.vocab_size, d), ids),
    "encoder": stack(EncoderLayer(config), config.layers, x, bias, lengths),
    "decoder": stack(*decoder, x, bias, x, None, lengths[:, None]),
  }
  if not config.tied:
    params["lm_head"] = {"kernel": jnp.zeros((d, config.vocab_size))}
  small_reader.extend(config, params)
  return params


class T5:
  """Encoder and decoder as pure functions of their parameters."""

  def __init__(self, config: T5Config):
    self.config = config

  def init(self, rng: PRNGKeyArray) -> Params:
    """Fresh float32 parameters, a pure function of `rng`.

    The deviations are those of the published models (Mesh TensorFlow, and
    transformers after it): 1 for embeddings, (d * c)^-0.5 for queries, so that
    scores need no scale, else the root of the inputs of a kernel. All are drawn
    at once: one draw per leaf would take eight seconds to compile on a CPU.

    Returns:
      A nested dict with the published names; the layers are stacked on the
      leading axis of every leaf under `block`.
    """
    config = self.config
    deviations = {
      "shared": 1.0,
      "lm_head": 1.0,
      "relative_attention_bias": config.width**-0.5,
      "q": (config.width * config.head_dim) ** -0.5,
    } | small_reader.deviations(config)

    def deviation(path: Any, leaf: Any) -> float:
      known = [deviations[k.key] for k in path[-2:] if k.key in deviations]
      return known[0] if known else leaf.shape[-2] ** -0.5

    shapes = jax.eval_shape(lambda: _unset_parameters(config))
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
    sizes = [0 if path[-1].key == "scale" else x.size for path, x in leaves]
    drawn = jax.lax.split(jax.random.normal(rng, (sum(sizes),)), sizes)
    arrays = [
      deviation(path, x) * y.reshape(x.shape) if y.size else jnp.ones(x.shape)
      for (path, x), y in zip(leaves, drawn, strict=True)
    ]
    params: Params = jax.tree.unflatten(structure, arrays)
    small_reader.adjust(config, params)
    return params

  def encode(
    self,
    params: Mapping[str, Any],
    ids: Int[Array, "b k l"],
    lengths: Int[Array, "b k"],
    *,
    overlap_features: Int[Array, "b k l"] | None = None,
    rng: PRNGKeyArray | None = None,
  ) -> Float[Array, "b k l d"]:
    """States of every token of the `k` passages of each question.

    Each input is encoded on its own. Only the span embeddings that a model with
    `span_head` adds depend on the question's other passages.

    Args:
      params: as `init` returns them.
      ids: token ids; the padding is a suffix and its value does not matter.
      lengths: real tokens of each row; a row of length 0 gives finite numbers.
      overlap_features: feature of each token, below the config's number.
      rng: dropout key; None means no dropout. `decode` may have the same one.

    Returns:
      Normed hidden states in `config.dtype`.

    Raises:
      ValueError: features were given to a model without, or the other way
        round.
    """
    return self._encode(params, ids, lengths, overlap_features, rng)[0]

  def encode_with_spans(
    self,
    params: Mapping[str, Any],
    ids: Int[Array, "b k l"],
    lengths: Int[Array, "b k"],
    *,
    overlap_features: Int[Array, "b k l"] | None = None,
    rng: PRNGKeyArray | None = None,
  ) -> tuple[Float[Array, "b k l d"], Float[Array, "b k l 2"]]:
    """As `encode`, with float32 scores of each token as the answer's edges.

    Returns:
      The states, and scores as start and as end; −1e9 for padding.

    Raises:
      ValueError: the model was made without `span_head`.
    """
    if not self.config.span_head:
      raise ValueError(
        "a T5 with span_head=False has no span scores; begin with a reader "
        "that was made with config.reader.span_loss above 0."
      )
    return self._encode(params, ids, lengths, overlap_features, rng)

  def _encode(
    self,
    params: Mapping[str, Any],
    ids: Int[Array, "b k l"],
    lengths: Int[Array, "b k"],
    features: Int[Array, "b k l"] | None,
    rng: PRNGKeyArray | None,
  ) -> tuple[Float[Array, "b k l d"], Any]:
    """States, and span scores or None."""
    small_reader.check_features(self.config, features)
    size = ids.shape[2]
    if features is not None:
      features = features.reshape(-1, size)
    rows = ids.reshape(-1, size), lengths.reshape(-1)
    x = self.encode_rows(params, *rows, features, rng).reshape(*ids.shape, -1)
    if not self.config.span_head:
      return x, None
    head: Any = small_reader.SpanHead()
    return apply_module(head, params["span_head"], x, lengths)

  def encode_rows(
    self,
    params: Mapping[str, Any],
    ids: Int[Array, "n l"],
    lengths: Int[Array, " n"],
    features: Int[Array, "n l"] | None,
    rng: PRNGKeyArray | None,
  ) -> Float[Array, "n l d"]:
    """States of inputs, each on its own; without span embeddings."""
    config, stack, size = self.config, params["encoder"], ids.shape[1]
    words = Embedding(config.vocab_size, config.width)
    x = apply_module(words, params["shared"], ids)
    if features is not None:
      table = Embedding(config.overlap_features, config.width)
      x += apply_module(table, params["flags"], features)
    x = x.astype(config.dtype)
    if config.depthwise_convolution:
      x = small_reader.convolve_input(stack["mixing"], x, lengths)
    seeds, (first, last, *_) = layers.draw_seeds(rng, config.layers, 4)
    x = layers.dropout(x, config.dropout, first)
    table = stack["relative_attention_bias"]["embedding"]
    bias = position_bias(config, table, size, both_ways=True)

    def layer(x: Array, params: Params, seeds: Any) -> tuple[Array, None]:
      args = (x, bias, lengths, seeds)
      return apply_module(EncoderLayer(config), params, *args), None

    inputs = layers.of_layers(config, config.layers, stack["block"], seeds)
    x, _ = layers.run_layers(layer, x, *inputs, remat=config.remat)
    x = apply_module(Norm(config), stack["final_layer_norm"], x)
    return layers.dropout(x, config.dropout, last)

  def decode(
    self,
    params: Mapping[str, Any],
    inputs: Int[Array, "b t"],
    encoder_states: Float[Array, "b k l d"],
    lengths: Int[Array, "b k"],
    *,
    bias: Float[Array, "yb b hb k"] | None = None,
    rng: PRNGKeyArray | None = None,
  ) -> Float[Array, "b t v"]:
    """Scores of every next token, given the tokens before and all passages.

    Eq. 8 of "End-to-End Training of Neural Retrievers" adds the retrieval
    probability times a learned factor to every cross-attention score of a
    passage; `bias` is that product.

    Args:
      params: as `init` returns them.
      inputs: decoder inputs, see `shift_right`; padding is a suffix.
      encoder_states: encoder states of the passages of each question.
      lengths: real tokens of each passage; a question whose lengths are all 0
        gives finite logits that mean nothing.
      bias: score added, before the softmax, to every token of a passage; `yb`
        is 1 or the number of decoder layers, `hb` 1 or the number of heads.
        None gives the same bits as zeros.
      rng: dropout key; None means no dropout.

    Returns:
      float32 logits.

    Raises:
      ValueError: `bias` has another number of layers or heads.
    """
    args = (params, inputs, encoder_states, lengths, bias, rng)
    return apply_decoder(self.config, *args)

  def shift_right(self, targets: Int[Array, "b t"]) -> Int[Array, "b t"]:
    """Decoder inputs for `targets`: the start token, then all but the last."""
    start = jnp.full_like(targets[:, :1], self.config.start_id)
    return jnp.concatenate([start, targets[:, :-1]], axis=1)

  def flops(self, *, b: int, k: int, l: int, t: int) -> float:
    """FLOPs of the matrix products of one encoding and one decoding.

    A product of m x k by k x n counts 2mkn. What only small readers have is not
    counted, and masked scores are, as they are computed. A backward pass costs
    twice as much again.

    Args:
      b: questions.
      k: passages of a question.
      l: tokens of an encoder input with padding.
      t: tokens of an answer with padding.
    """
    config = self.config
    d, inner = config.width, config.inner
    product = 2 * d * inner
    mlp = 2 * (3 if config.gated else 2) * d * config.mlp_dim
    encoded, decoded = b * k * l, b * t
    own = 4 * product + 4 * t * inner
    cross = 2 * product + 4 * k * l * inner
    decoder = decoded * (own + cross + mlp) + encoded * 2 * product
    head = decoded * 2 * d * config.vocab_size
    encoder = self.encoder_flops(b * k, l)
    return encoder + float(config.decoder_layers * decoder + head)

  def encoder_flops(self, rows: int, length: int) -> float:
    """What `flops` counts of the encoder for inputs of one padded length."""
    config = self.config
    d, inner = config.width, config.inner
    mlp = 2 * (3 if config.gated else 2) * d * config.mlp_dim
    of_token = 8 * d * inner + 4 * length * inner + mlp
    return float(config.layers * rows * length * of_token)
