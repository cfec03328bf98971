"""The dual encoder that retrieval trains, on two BERTs or one.

>>> import jax, jax.numpy as jnp
>>> from odqa_jax.models.bert import BertConfig
>>> from odqa_jax.models.dual_encoder import DualEncoder, EncoderConfig, PRESETS
>>> bert = BertConfig(**PRESETS["tiny"] | {"vocab_size": 9})
>>> encoder = DualEncoder(EncoderConfig(bert))
>>> params = encoder.init(jax.random.key(0))
>>> ids, lengths = jnp.array([[2, 5, 3]]), jnp.array([3])
>>> encoder.encode_question(params, ids, lengths).shape
(1, 128)
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from odqa_jax.models import layers
from odqa_jax.models.bert import (
  BertConfig,
  apply_bert,
  flops_per_token,
  init_bert,
  init_kernel,
  weights_as_computed,
)
from odqa_jax.models.layers import Params, apply_module, check_choice
from odqa_jax.models.mobilebert import config_class


def _preset(
  width: int, layers: int, heads: int, **other: Any
) -> dict[str, Any]:
  return {
    "vocab_size": 30522,
    "width": width,
    "layers": layers,
    "heads": heads,
    "mlp_dim": 4 * width,
    **other,
  }


_ROBERTA = {
  "variant": "roberta",
  "vocab_size": 50265,
  "type_vocab": 1,
  "eps": 1e-5,
}
_ELECTRA = {"variant": "electra"}
_MOBILEBERT = {"variant": "mobilebert", "mlp_dim": 512}

PRESETS: dict[str, dict[str, Any]] = {
  "tiny": _preset(width=128, layers=2, heads=2),
  "mini": _preset(width=256, layers=4, heads=4),
  "small": _preset(width=512, layers=4, heads=8),
  "minilm": _preset(width=384, layers=6, heads=12),
  "base": _preset(width=768, layers=12, heads=12),
  "large": _preset(width=1024, layers=24, heads=16),
  "roberta-base": _preset(width=768, layers=12, heads=12, **_ROBERTA),
  "roberta-large": _preset(width=1024, layers=24, heads=16, **_ROBERTA),
  "electra-small": _preset(
    width=256, layers=12, heads=4, embedding_width=128, **_ELECTRA
  ),
  "electra-base": _preset(width=768, layers=12, heads=12, **_ELECTRA),
  "electra-large": _preset(width=1024, layers=24, heads=16, **_ELECTRA),
  "mobilebert": _preset(width=512, layers=24, heads=4, **_MOBILEBERT),
  "mobilebert-tiny": _preset(
    width=256,
    layers=2,
    heads=2,
    **_MOBILEBERT
    | {"mlp_dim": 64, "word_width": 32, "inner_width": 32, "feed_forwards": 2},
  ),
}


def bert_of_preset(name: str, **other: Any) -> BertConfig:
  """The encoder of a preset.

  Args:
    name: of `PRESETS`.
    other: fields in which it differs.
  """
  fields = PRESETS[name] | other
  return config_class(fields.get("variant", "bert"))(**fields)


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
  """A dual encoder: which BERT, and how its output becomes one vector.

  Attributes:
    bert: the BERT of both encoders.
    shared: one set of weights for questions and passages.
    pooling: "cls" (last hidden state of token 0, no tanh pooler) or "mean"
      (over the real tokens).
    normalise: scale embeddings to length 1.
    embedding_dim: width of the embedding; None means the BERT's width.
    projection: "none", "dense" (a learned linear map to `embedding_dim`) or
      "truncate" (the first `embedding_dim` dimensions).
    passage_type: token type of passages (questions are type 0); None means 1
      for a shared encoder, which tells them apart by it, and 0 for separate
      ones. Public single-encoder models need 0.
  """

  bert: BertConfig
  shared: bool = False
  pooling: str = "cls"
  normalise: bool = False
  embedding_dim: int | None = None
  projection: str = "none"
  passage_type: int | None = None

  def __post_init__(self) -> None:
    check_choice("pooling", self.pooling, ("cls", "mean"))
    check_choice("projection", self.projection, ("none", "dense", "truncate"))
    if (self.projection == "none") != (self.embedding_dim is None):
      raise ValueError(
        f"projection={self.projection!r} with embedding_dim="
        f"{self.embedding_dim}; give both, or leave both out."
      )
    if self.projection == "truncate" and self.output_dim > self.bert.width:
      raise ValueError(
        f"embedding_dim={self.embedding_dim} exceeds the width "
        f"{self.bert.width} that projection='truncate' cuts from."
      )
    if not 0 <= self.passage_token_type < self.bert.type_vocab:
      raise ValueError(
        f"passages use token type {self.passage_token_type}, but the BERT has "
        f"{self.bert.type_vocab}; set passage_type or type_vocab."
      )

  @property
  def output_dim(self) -> int:
    """Width of the embeddings."""
    return self.embedding_dim or self.bert.width

  @property
  def passage_token_type(self) -> int:
    """Token type of every passage token."""
    return int(self.shared) if self.passage_type is None else self.passage_type


class DualEncoder:
  """Question and passage encoders as pure functions of their parameters.

  The parameters are `{"question": ..., "passage": ...}` or, for a shared
  encoder, `{"shared": ...}`.
  """

  def __init__(self, config: EncoderConfig):
    self.config = config

  @property
  def embedding_dim(self) -> int:
    """Width of the embeddings."""
    return self.config.output_dim

  def init(self, rng: PRNGKeyArray) -> Params:
    """Fresh parameters, a pure function of `rng`.

    Separate encoders start from the same weights, as the paper's do (both from
    one BERT); the leaves are separate buffers all the same.
    """
    bert_rng, projection_rng = jax.random.split(rng)
    params = init_bert(self.config.bert, bert_rng)
    if self.config.projection == "dense":
      vectors = jnp.zeros((1, self.config.bert.width))
      projection = self._projection().init(projection_rng, vectors)
      params["encode_proj"] = projection["params"]
    if self.config.shared:
      return {"shared": params}
    return {"question": params, "passage": jax.tree.map(jnp.copy, params)}

  def encode_question(
    self,
    params: Mapping[str, Any],
    ids: Int[Array, "b l"],
    lengths: Int[Array, " b"],
    *,
    rng: PRNGKeyArray | None = None,
  ) -> Float[Array, "b e"]:
    """Embeds questions.

    Args:
      params: as `init` returns them.
      ids: token ids with [CLS] and [SEP]; padding is a suffix.
      lengths: real tokens of each row; 0 marks a padded row, whose embedding is
        finite and means nothing.
      rng: dropout key; None means no dropout.

    Returns:
      float32 embeddings.
    """
    tree = params["shared" if self.config.shared else "question"]
    return self._encode(tree, ids, lengths, 0, rng)

  def encode_passage(
    self,
    params: Mapping[str, Any],
    ids: Int[Array, "n l"],
    lengths: Int[Array, " n"],
    *,
    rng: PRNGKeyArray | None = None,
  ) -> Float[Array, "n e"]:
    """Embeds passages; see `encode_question`."""
    tree = params["shared" if self.config.shared else "passage"]
    kind = self.config.passage_token_type
    return self._encode(tree, ids, lengths, kind, rng)

  def passage_weights(self, params: Mapping[str, Any]) -> Params:
    """What `encode_passage` reads of the parameters, as it computes with it.

    The copy of weights that a refresh of an index keeps: without the other
    encoder, and in bfloat16 where the layers compute in it. Embeddings made
    with it have the same bits.

    Args:
      params: as `init` returns them.
    """
    side = "shared" if self.config.shared else "passage"
    return {side: weights_as_computed(self.config.bert, params[side])}

  def flops_per_token(self, length: int) -> float:
    """FLOPs that one token costs; see `bert.flops_per_token`.

    Args:
      length: tokens of the input that the token stands in.
    """
    first_only = self.config.pooling == "cls"
    return flops_per_token(self.config.bert, length, first_only=first_only)

  def passage_flops(self, rows: int, length: int) -> float:
    """FLOPs of `encode_passage`; see `flops_per_token`."""
    return rows * length * self.flops_per_token(length)

  def _projection(self) -> nn.Dense:
    return nn.Dense(self.config.output_dim, kernel_init=init_kernel)

  def _encode(
    self,
    params: Mapping[str, Any],
    ids: Int[Array, "b l"],
    lengths: Int[Array, " b"],
    token_type: int,
    rng: PRNGKeyArray | None,
  ) -> Float[Array, "b e"]:
    config = self.config
    hidden = apply_bert(
      config.bert,
      params,
      ids,
      lengths,
      token_type=token_type,
      first_only=config.pooling == "cls",
      rng=rng,
    ).astype(jnp.float32)
    if config.pooling == "mean":
      vectors = layers.masked_mean(hidden, lengths)
    else:
      vectors = hidden[:, 0]
    if config.projection == "dense":
      vectors = apply_module(self._projection(), params["encode_proj"], vectors)
    vectors = vectors[:, : config.output_dim]
    return layers.l2_normalise(vectors) if config.normalise else vectors
