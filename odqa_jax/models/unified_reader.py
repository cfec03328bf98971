"""One encoder that retrieves and reads.

"Designing a Minimal Retrieve-and-Read System for Open-Domain Question
Answering" (Yang and Seo 2021), Sec. 2.2: a question (token type 0) and a
passage (type 1) are the first numbers of the state of their first token, and
two heads read the pair of both: starts and ends of answers, and DPR's rank of
the passage. All weights but those of the heads serve both.

>>> import jax, jax.numpy as jnp
>>> from odqa_jax.models.bert import BertConfig
>>> from odqa_jax.models.unified_reader import (
...   UnifiedConfig, UnifiedReader, as_retriever
... )
>>> bert = BertConfig(vocab_size=9, width=4, layers=2, heads=2, mlp_dim=8)
>>> network = UnifiedReader(UnifiedConfig(bert, embedding_dim=3))
>>> params = network.init(jax.random.key(0))
>>> ids, lengths = jnp.array([[2, 5, 3, 6, 3]]), jnp.array([5])
>>> network.retriever.encode_passage(as_retriever(params), ids, lengths).shape
(1, 3)
>>> network.reader.read(params, ids, lengths, jnp.array([3])).start.shape
(1, 5)
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtyping import PRNGKeyArray

from odqa_jax.models.bert import BertConfig
from odqa_jax.models.dual_encoder import DualEncoder, EncoderConfig
from odqa_jax.models.extractive_reader import ExtractiveReader, SpanConfig
from odqa_jax.models.layers import Params

# What reading adds to the parameters of the encoder.
HEADS = ("qa_outputs", "qa_classifier")


@dataclasses.dataclass(frozen=True)
class UnifiedConfig:
  """A unified retriever-reader.

  Attributes:
    bert: its encoder.
    embedding_dim: first numbers of the state that are the vector; None: all.
    pooling: see `EncoderConfig`; "cls" in the paper.
    normalise: likewise; not in the paper.
    passage_type: token type of passages that are encoded alone.
  """

  bert: BertConfig
  embedding_dim: int | None = None
  pooling: str = "cls"
  normalise: bool = False
  passage_type: int = 1

  @property
  def encoder(self) -> EncoderConfig:
    """The retriever that it is."""
    return EncoderConfig(
      bert=self.bert,
      shared=True,
      pooling=self.pooling,
      normalise=self.normalise,
      embedding_dim=self.embedding_dim,
      projection="none" if self.embedding_dim is None else "truncate",
      passage_type=self.passage_type,
    )

  @property
  def reader(self) -> SpanConfig:
    """The extractive reader that it is: DPR's, without a bilinear head."""
    return SpanConfig(self.bert, span=False, passage=True)


def unified_config(encoder: EncoderConfig) -> UnifiedConfig:
  """What becomes of a retriever when it learns to read.

  Raises:
    ValueError: for two encoders, or a learned projection, which reading has no
      place for.
  """
  if not encoder.shared or encoder.projection == "dense":
    raise ValueError(
      "a unified reader is one encoder without a learned projection, and this "
      f"retriever has shared={encoder.shared}, projection="
      f"{encoder.projection!r}; train one with config.model.shared=True and "
      "projection none or truncate."
    )
  return UnifiedConfig(
    bert=encoder.bert,
    embedding_dim=encoder.embedding_dim,
    pooling=encoder.pooling,
    normalise=encoder.normalise,
    passage_type=encoder.passage_token_type,
  )


def as_retriever(params: Mapping[str, Any]) -> Params:
  """The parameters of `UnifiedReader.retriever`: all but the heads."""
  return {"shared": {k: x for k, x in params.items() if k not in HEADS}}


class UnifiedReader:
  """A unified retriever-reader as pure functions of its parameters.

  The parameters are those of `init_bert`, and `qa_outputs` and `qa_classifier`
  as an `ExtractiveReader` has them.

  Attributes:
    config: what it is.
    retriever: the same as a retriever; see `as_retriever` for its parameters.
    reader: the same as an extractive reader, of the same parameters.
  """

  def __init__(self, config: UnifiedConfig):
    self.config = config
    self.retriever = DualEncoder(config.encoder)
    self.reader = ExtractiveReader(config.reader)

  @property
  def embedding_dim(self) -> int:
    """Width of the vectors."""
    return self.retriever.embedding_dim

  def init(self, rng: PRNGKeyArray) -> Params:
    """Fresh parameters, a pure function of `rng`."""
    return self.reader.init(rng)

  def flops_per_token(self, length: int) -> float:
    """FLOPs that one token of a pair costs; see `bert.flops_per_token`."""
    return self.reader.flops_per_token(length)
