"""The T5 reader: encodes passages one by one, answers from all of them at once.

config = T5Config(**PRESETS["tiny"] | {"vocab_size": 8192})
reader = T5(config)
params = reader.init(jax.random.key(0))
states = reader.encode(params, ids, lengths)  # [b * k, l, d]
logits = reader.decode(
  params,
  reader.shift_right(targets),
  states.reshape(b, k, l, config.width),
  lengths.reshape(b, k),
)
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from odqa_jax.models.t5_decoder import apply_decoder
from odqa_jax.models.t5_initial import init_t5
from odqa_jax.models.t5_network import Params, T5Config, apply_encoder
from odqa_jax.models.t5_spans import mark_spans

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


class T5:
  """Encoder and decoder as pure functions of their parameters."""

  def __init__(self, config: T5Config):
    self.config = config

  def init(self, rng: PRNGKeyArray) -> Params:
    """Fresh parameters, a pure function of `rng`; see `t5_initial.py`."""
    return init_t5(self.config, rng)

  def encode(
    self,
    params: Mapping[str, Any],
    ids: Int[Array, "n l"],
    lengths: Int[Array, " n"],
    *,
    flags: Int[Array, "n l"] | None = None,
    rng: PRNGKeyArray | None = None,
  ) -> Float[Array, "n l d"]:
    """States of every token, each input on its own.

    Args:
      params: as `init` returns them.
      ids: token ids; the padding is a suffix and its value does not matter.
      lengths: real tokens of each row; a row of length 0 gives finite numbers.
      flags: a mark of each token, below `config.flags`; its embedding is added
        to that of the token.
      rng: dropout key; None means no dropout. `decode` may have the same one.

    Returns:
      Normed hidden states in `config.dtype`.

    Raises:
      ValueError: flags were given to a model without, or the other way round.
    """
    if (flags is not None) != bool(self.config.flags):
      given = "no flags were" if flags is None else "flags were"
      raise ValueError(
        f"{given} given to a T5 with flags={self.config.flags}; a model made "
        "with flags needs them for every input, and no other takes them."
      )
    states = apply_encoder(self.config, params, ids, lengths, flags, rng)
    if not self.config.span_head:
      return states
    return mark_spans(params["span_head"], states, lengths)[0]

  def encode_with_spans(
    self,
    params: Mapping[str, Any],
    ids: Int[Array, "n l"],
    lengths: Int[Array, " n"],
    *,
    flags: Int[Array, "n l"] | None = None,
    rng: PRNGKeyArray | None = None,
  ) -> tuple[Float[Array, "n l d"], Float[Array, "n l 2"]]:
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
    states = apply_encoder(self.config, params, ids, lengths, flags, rng)
    return mark_spans(params["span_head"], states, lengths)

  def decode(
    self,
    params: Mapping[str, Any],
    inputs: Int[Array, "b t"],
    memory: Float[Array, "b k l d"],
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
      memory: encoder states of the passages of each question.
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
    config = self.config
    return apply_decoder(config, params, inputs, memory, lengths, bias, rng)

  def shift_right(self, targets: Int[Array, "b t"]) -> Int[Array, "b t"]:
    """Decoder inputs for `targets`: the start token, then all but the last."""
    start = jnp.full_like(targets[:, :1], self.config.start_id)
    return jnp.concatenate([start, targets[:, :-1]], axis=1)

  def flops(self, *, b: int, k: int, l: int, t: int) -> float:
    """FLOPs of the matrix products of one encoding and one decoding.

    A product of m x k by k x n counts 2mkn. Look-ups, mixing and the span head
    are not counted, and masked scores are, as they are computed. A backward
    pass costs twice as much again.

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
    encoder = encoded * (4 * product + 4 * l * inner + mlp)
    own = 4 * product + 4 * t * inner
    cross = 2 * product + 4 * k * l * inner
    decoder = decoded * (own + cross + mlp) + encoded * 2 * product
    head = decoded * 2 * d * config.vocab_size
    return float(
      config.layers * encoder + config.decoder_layers * decoder + head
    )
