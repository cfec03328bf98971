"""One number for a passage: a reranker's score, a pruner's irrelevance.

Two layers on the state of the first token, shaped as published classifiers of
sequences have them: BERT's pooler and classifier, RoBERTa's and ELECTRA's
`classifier.dense` and `classifier.out_proj`. A passage filter has one vector,
whose product with that state is the score.

>>> import jax, jax.numpy as jnp
>>> from odqa_jax.models.bert import BertConfig
>>> from odqa_jax.models.passage_scorer import Reranker, ScorerConfig
>>> bert = BertConfig(vocab_size=9, width=4, layers=2, heads=2, mlp_dim=8)
>>> reranker = Reranker(ScorerConfig(bert))
>>> params = reranker.init(jax.random.key(0))
>>> ids, lengths = jnp.array([[2, 5, 3, 6, 3]]), jnp.array([5])
>>> reranker.score(params, ids, lengths, jnp.array([3])).shape
(1,)
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt32

from odqa_jax.models import layers
from odqa_jax.models.bert import (
  VARIANTS,
  BertConfig,
  apply_bert,
  flops_per_token,
  init_bert,
  init_kernel,
)
from odqa_jax.models.layers import Params, apply_module


@dataclasses.dataclass(frozen=True)
class ScorerConfig:
  """A network that scores passages.

  Attributes:
    bert: its encoder, whose variant decides the shape of the head.
  """

  bert: BertConfig


class _Classifier(nn.Module):
  """Dense, activation, dense to one number; or the last of them alone."""

  config: BertConfig

  @nn.compact
  def __call__(
    self, x: Float[Array, "n d"], seeds: UInt32[Array, "2 2"] | None = None
  ) -> Float[Array, " n"]:
    config = self.config

    def dense(width: int, name: str) -> nn.Dense:
      return nn.Dense(width, kernel_init=init_kernel, name=name)

    before, between = (None, None) if seeds is None else seeds
    if not VARIANTS[config.variant].pooled:
      x = layers.dropout(x, config.dropout, before)
    if config.head != "none":
      x = dense(config.width, "dense")(x)
      x = jnp.tanh(x) if config.head == "tanh" else layers.gelu(x)
    x = layers.dropout(x, config.dropout, between)
    return dense(1, "out_proj")(x)[:, 0]


class _Linear(nn.Module):
  """The product with one vector."""

  config: BertConfig

  @nn.compact
  def __call__(
    self, x: Float[Array, "n d"], seeds: UInt32[Array, "2 2"] | None = None
  ) -> Float[Array, " n"]:
    x = layers.dropout(
      x, self.config.dropout, None if seeds is None else seeds[0]
    )
    vector = self.param("kernel", init_kernel, (self.config.width, 1))
    return (x @ vector)[:, 0]


class PassageScorer:
  """What scores passages, as pure functions of its parameters.

  The parameters are those of `init_bert`, and those of the head by its name.

  Attributes:
    name: of the head's parameters.
    head: makes it from the encoder's config.
  """

  name: ClassVar[str] = "classifier"
  head: ClassVar[type[nn.Module]] = _Classifier

  def __init__(self, config: ScorerConfig):
    self.config = config

  def init(self, rng: PRNGKeyArray) -> Params:
    """Fresh parameters, a pure function of `rng`."""
    bert_rng, head_rng = jax.random.split(rng)
    config = self.config.bert
    state = jnp.zeros((1, config.width))
    head = self.head(config).init(head_rng, state)["params"]
    return {**init_bert(config, bert_rng), self.name: head}

  def score(
    self,
    params: Mapping[str, Any],
    ids: Int[Array, "n l"],
    lengths: Int[Array, " n"],
    first_lengths: Int[Array, " n"] | None = None,
    *,
    rng: PRNGKeyArray | None = None,
  ) -> Float[Array, " n"]:
    """Scores inputs.

    Args:
      params: as `init` returns them.
      ids: token ids with special tokens; padding is a suffix.
      lengths: real tokens of each row; 0 marks a padded row, whose score is
        finite and means nothing.
      first_lengths: tokens of the first segment, of pairs; see `apply_bert`.
      rng: dropout key; None means no dropout.

    Returns:
      float32 logits.
    """
    config = self.config.bert
    body_rng, head_rng = (None, None) if rng is None else jax.random.split(rng)
    states = apply_bert(
      config,
      params,
      ids,
      lengths,
      first_lengths=first_lengths,
      first_only=True,
      rng=body_rng,
    )
    seeds = (
      None
      if head_rng is None
      else jax.random.bits(head_rng, (2, 2), jnp.uint32)
    )
    first = states[:, 0].astype(jnp.float32)
    scores: Array = apply_module(
      self.head(config), params[self.name], first, seeds
    )
    return scores

  def flops_per_token(self, length: int) -> float:
    """FLOPs that one token costs; see `bert.flops_per_token`."""
    return flops_per_token(self.config.bert, length, first_only=True)


class Reranker(PassageScorer):
  """Scores pairs of question and passage: the higher, the better it answers."""


class PassageClassifier(PassageScorer):
  """Scores passages alone: the logit of a passage that answers nothing."""


class PassageFilter(PassageScorer):
  """Scores passages alone: the higher, the likelier a question needs it.

  Source: "Designing a Minimal Retrieve-and-Read System", Sec. 2.1: s = v·w of
  the first token's last hidden state v and a learned vector w.
  """

  name = "filter"
  head = _Linear


# Roles of those that read a passage without a question.
ALONE = ("passage_classifier", "passage_filter")
