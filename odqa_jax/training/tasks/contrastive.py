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
from odqa_jax.runtime.settings import ObjectiveSettings, Settings
from odqa_jax.training.tasks.micro_batches import encode_in_micro_batches
from odqa_jax.training.tasks.task import Batch, Metrics, Params, Task


def temperature(objective: ObjectiveSettings, width: int) -> float:
  """τ of the config: given, or m·sqrt(d)."""
  return objective.temperature or score_temperature(
    objective.scale_multiple, width
  )


def contrastive(settings: Settings, components: Components) -> Task:
  """All passages of the global batch are candidates for every question."""
  encoder: DualEncoder = components["retriever"]
  parts = settings.parts
  tau = temperature(settings.objective, encoder.embedding_dim)

  def loss(
    params: Params, batch: Batch, rng: PRNGKeyArray | None
  ) -> tuple[Float[Array, ""], Metrics]:
    weights = params["retriever"]
    b, k, l = batch["passage_ids"].shape
    question_rng, passage_rng = (
      (None, None) if rng is None else jax.random.split(rng)
    )
    questions = encode_in_micro_batches(
      lambda *x, rng: encoder.encode_question(weights, *x, rng=rng),
      batch["question_ids"],
      batch["question_lengths"],
      question_rng,
      parts,
    )
    passages = encode_in_micro_batches(
      lambda *x, rng: encoder.encode_passage(weights, *x, rng=rng),
      batch["passage_ids"].reshape(b * k, l),
      batch["passage_lengths"].reshape(b * k),
      passage_rng,
      parts,
    )
    scores = relevance_scores(questions, passages, tau)
    # Row order is positive, negatives, positive, negatives, …
    columns = jnp.arange(b) * k
    mask = batch["example_mask"]
    allowed = contrastive_mask(
      columns, batch["passage_rows"].reshape(b * k), jnp.repeat(mask, k)
    )
    losses = contrastive_loss(scores, columns, allowed)
    hits = contrastive_hits(scores, columns, allowed)
    weight = mask.astype(jnp.float32)
    total = jnp.sum(weight)
    loss_sum = jnp.sum(losses * weight)
    metrics = {
      "loss": (loss_sum, total),
      "in_batch_accuracy": (jnp.sum(hits * weight), total),
    }
    return loss_sum / jnp.maximum(total, 1.0), metrics

  def init(rng: PRNGKeyArray) -> Params:
    return {"retriever": encoder.init(rng)}

  def flops(batch: Mapping[str, Any]) -> float:
    b, k, l = batch["passage_ids"].shape
    t = batch["question_ids"].shape[1]
    forward = b * t * encoder.flops_per_token(t)
    forward += b * k * l * encoder.flops_per_token(l)
    # Backward is twice the forward; micro-batches compute the forward again.
    return forward * (4 if parts > 1 else 3)

  return Task(init=init, loss=loss, flops=flops)
