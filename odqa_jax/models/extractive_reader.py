"""A reader that finds the answer as a span of a passage.

Four heads on the states of a pair of question and passage: of starts, of ends,
of spans (a bilinear form of both ends' states), of passages. R2-D2 (Fajcik et
al. 2021) has all four; DPR's reader has no bilinear form; a published model for
question answering has starts and ends alone. How the scores are normalised is
the objective's business.

>>> import jax, jax.numpy as jnp
>>> from odqa_jax.models.bert import BertConfig
>>> from odqa_jax.models.extractive_reader import ExtractiveReader, SpanConfig
>>> bert = BertConfig(vocab_size=9, width=4, layers=2, heads=2, mlp_dim=8)
>>> reader = ExtractiveReader(SpanConfig(bert))
>>> params = reader.init(jax.random.key(0))
>>> ids, lengths = jnp.array([[2, 5, 3, 6, 3]]), jnp.array([5])
>>> reader.read(params, ids, lengths, jnp.array([3])).start.shape  # [n, l]
(1, 5)
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

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
)
from odqa_jax.models.layers import Params, apply_module


@dataclasses.dataclass(frozen=True)
class SpanConfig:
  """An extractive reader.

  Attributes:
    bert: its encoder.
    span: whether it has the bilinear head of spans.
    passage: whether it has the head of passages.
  """

  bert: BertConfig
  span: bool = True
  passage: bool = True


class ExtractiveScores(NamedTuple):
  """What the heads say of `n` passages of `l` tokens, in float32.

  Padding has scores like any token, which mean nothing.

  Attributes:
    start: logit of every token as the first of the answer.
    end: logit of every token as the last.
    passage: logit of the passage; None without this head.
    span_start: with `span_end`, the logit of a span from token i to j is
      `span_start[i] · span_end[j]`; None without this head.
    span_end: see `span_start`.
  """

  start: Float[Array, "n l"]
  end: Float[Array, "n l"]
  passage: Float[Array, " n"] | None = None
  span_start: Float[Array, "n l d"] | None = None
  span_end: Float[Array, "n l d"] | None = None


class ExtractiveReader:
  """An extractive reader as pure functions of its parameters.

  The parameters are those of `init_bert`, and `qa_outputs` (start and end),
  `qa_classifier` (passage) and `qa_span` (the bilinear form) as far as the
  configuration has these heads.
  """

  def __init__(self, config: SpanConfig):
    self.config = config

  def init(self, rng: PRNGKeyArray) -> Params:
    """Fresh parameters, a pure function of `rng`."""
    bert_rng, head_rng = jax.random.split(rng)
    state = jnp.zeros((1, self.config.bert.width))
    heads = self._heads()
    keys = jax.random.split(head_rng, len(heads))
    made = {
      name: head.init(key, state)["params"]
      for (name, head), key in zip(heads.items(), keys, strict=True)
    }
    return {**init_bert(self.config.bert, bert_rng), **made}

  def read(
    self,
    params: Mapping[str, Any],
    ids: Int[Array, "n l"],
    lengths: Int[Array, " n"],
    first_lengths: Int[Array, " n"] | None = None,
    *,
    rng: PRNGKeyArray | None = None,
  ) -> ExtractiveScores:
    """Scores the tokens of inputs.

    Args:
      params: as `init` returns them.
      ids: token ids with special tokens; padding is a suffix.
      lengths: real tokens of each row; 0 marks a padded row.
      first_lengths: tokens of the first segment, of pairs; see `apply_bert`.
      rng: dropout key; None means no dropout.
    """
    states = apply_bert(
      self.config.bert,
      params,
      ids,
      lengths,
      first_lengths=first_lengths,
      rng=rng,
    ).astype(jnp.float32)
    heads = self._heads()

    def head(name: str, x: Array) -> Array:
      out: Array = apply_module(heads[name], params[name], x)
      return out

    ends = layers.by_token(lambda x: head("qa_outputs", x), states)
    scores = ExtractiveScores(start=ends[..., 0], end=ends[..., 1])
    if self.config.passage:
      passage = head("qa_classifier", states[:, 0])[:, 0]
      scores = scores._replace(passage=passage)
    if self.config.span:
      starts = layers.by_token(lambda x: head("qa_span", x), states)
      scores = scores._replace(span_start=starts, span_end=states)
    return scores

  def flops_per_token(self, length: int) -> float:
    """FLOPs that one token costs, without the scores of pairs of tokens."""
    bert = self.config.bert
    bilinear = 2.0 * bert.width**2 if self.config.span else 0.0
    return bilinear + flops_per_token(bert, length, first_only=False)

  def _heads(self) -> dict[str, nn.Dense]:
    widths = {"qa_outputs": 2}
    if self.config.passage:
      widths["qa_classifier"] = 1
    if self.config.span:
      widths["qa_span"] = self.config.bert.width
    return {
      name: nn.Dense(width, kernel_init=init_kernel)
      for name, width in widths.items()
    }
