"""A dual encoder trained with in-batch and hard negatives.

Serves ICT and supervised training alike; they differ in their examples.
"End-to-End Training of Neural Retrievers", Sec. 2.2.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from odqa_jax.models.dual_encoder import DualEncoder
from odqa_jax.models.families import Components
from odqa_jax.objectives.contrastive import (
  contrastive_hits,
  contrastive_loss,
  contrastive_mask,
  relevance_scores,
  score_temperature,
)
from odqa_jax.reading.likelihoods import Batch, Params, passage_embeddings
from odqa_jax.runtime.settings import ObjectiveSettings, Settings
from odqa_jax.training.tasks.losses import InBatchLoss, Metrics, Shard
from odqa_jax.training.tasks.task import Task

# The dense products of BERT's layers; all else is used in f32.
ENCODER_KERNELS = r"retriever/.*/layer/.*/kernel"


def temperature(objective: ObjectiveSettings, width: int) -> float:
  """τ of the config: given, or m·sqrt(d)."""
  return objective.temperature or score_temperature(
    objective.scale_multiple, width
  )


def contrastive(settings: Settings, components: Components) -> Task:
  """All passages of the global batch are candidates for every question."""
  encoder: DualEncoder = components["retriever"]
  tau = temperature(settings.objective, encoder.embedding_dim)

  def encode(
    params: Params, batch: Batch, rng: PRNGKeyArray | None
  ) -> tuple[Float[Array, "b e"], Float[Array, "b k e"]]:
    weights = params["retriever"]
    question_rng, passage_rng = (
      (None, None) if rng is None else jax.random.split(rng)
    )
    questions = encoder.encode_question(
      weights,
      batch["question_ids"],
      batch["question_lengths"],
      rng=question_rng,
    )
    return questions, passage_embeddings(encoder, weights, batch, passage_rng)

  def sums(
    embeddings: tuple[Float[Array, "b e"], Float[Array, "b k e"]],
    batch: Batch,
    shard: Shard,
  ) -> Metrics:
    questions, passages = embeddings
    b, k, e = passages.shape
    mask = batch["example_mask"]
    candidates, rows, real = shard.everyone(
      (passages, batch["passage_rows"], mask)
    )
    scores = relevance_scores(questions, candidates.reshape(-1, e), tau)
    # Row order is positive, negatives, positive, negatives, …
    columns = (shard.first(b) + jnp.arange(b)) * k
    allowed = contrastive_mask(columns, rows.reshape(-1), jnp.repeat(real, k))
    losses = contrastive_loss(scores, columns, allowed)
    hits = contrastive_hits(scores, columns, allowed)
    weight = mask.astype(jnp.float32)
    total = jnp.sum(weight)
    return {
      "loss": (jnp.sum(losses * weight), total),
      "in_batch_accuracy": (jnp.sum(hits * weight), total),
    }

  def init(rng: PRNGKeyArray) -> Params:
    return {"retriever": encoder.init(rng)}

  def flops(batch: Mapping[str, Any]) -> float:
    b, k, l = batch["passage_ids"].shape
    t = batch["question_ids"].shape[1]
    forward = b * t * encoder.flops_per_token(t)
    forward += b * k * l * encoder.flops_per_token(l)
    # Backward is twice the forward; micro-batches compute the forward again.
    return forward * (4 if settings.parts > 1 else 3)

  return Task(
    init=init,
    loss=InBatchLoss(encode, sums),
    flops=flops,
    dtypes=((ENCODER_KERNELS, settings.model.dtype),),
  )
