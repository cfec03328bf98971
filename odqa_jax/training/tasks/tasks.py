"""What can be trained: a model and an objective, as pure functions.

To add one: an objective in `objectives.py`, a function here that returns a
`Task`, a row in `TASKS`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray
from ml_collections import ConfigDict

from odqa_jax.models.components import Batch, Metrics, Models, Params, Task
from odqa_jax.models.dual_encoder import PRESETS, BertConfig, EncoderConfig
from odqa_jax.objectives.contrastive import (
  contrastive_hits,
  contrastive_loss,
  contrastive_mask,
  relevance_scores,
  score_temperature,
)
from odqa_jax.training.tasks.reader import fusion, individual, joint


def encoder_config(model: ConfigDict, vocab_size: int) -> EncoderConfig:
  """The dual encoder that `config.model` describes.

  Raises:
    ValueError: for an unknown preset, listing the known ones.
  """
  if model.preset not in PRESETS:
    raise ValueError(
      f"config.model.preset={model.preset!r}; known: {sorted(PRESETS)}."
    )
  bert = BertConfig(
    **(
      PRESETS[model.preset]
      | {
        "vocab_size": vocab_size,
        "max_positions": model.max_positions,
        "dropout": model.dropout,
        "attention_dropout": model.dropout,
        "dtype": model.dtype,
        "remat": model.remat,
        "scan": model.scan,
      }
    )
  )
  return EncoderConfig(
    bert=bert,
    shared=model.shared,
    pooling=model.pooling,
    normalise=model.normalise,
    embedding_dim=model.embedding_dim or None,
    projection=model.projection,
  )


def encode_in_chunks(
  encode: Callable[..., Float[Array, "n e"]],
  ids: Int[Array, "n l"],
  lengths: Int[Array, " n"],
  rng: PRNGKeyArray | None,
  chunks: int,
) -> Float[Array, "n e"]:
  """Encodes a batch chunk by chunk, with the gradient of the whole batch.

  A checkpointed scan keeps only the embeddings in the forward pass and
  recomputes one chunk at a time in the backward pass: what the literature
  calls gradient caching ("Scaling Deep Contrastive Learning Batch Size under
  Memory Limited Setup"). Memory is that of one chunk.

  Args:
    encode: `(ids, lengths, rng=…)` → embeddings.
    ids: token ids.
    lengths: tokens before the padding.
    rng: for dropout; every chunk folds in its number.
    chunks: must divide n, and n / devices.
  """
  if chunks == 1:
    return encode(ids, lengths, rng=rng)
  n = ids.shape[0]

  # Chunk c takes rows c, c + chunks, … of a reshape whose first axis stays
  # contiguous: so every chunk is spread over all devices like the batch.
  def split(x: Array) -> Array:
    return x.reshape(n // chunks, chunks, *x.shape[1:]).swapaxes(0, 1)

  @jax.checkpoint
  def encode_chunk(c: Array, x: Array, n_tokens: Array) -> Array:
    chunk_rng = None if rng is None else jax.random.fold_in(rng, c)
    return encode(x, n_tokens, rng=chunk_rng)

  _, out = jax.lax.scan(
    lambda _, x: (None, encode_chunk(*x)),
    None,
    (jnp.arange(chunks), split(ids), split(lengths)),
  )
  return out.swapaxes(0, 1).reshape(n, -1)


def contrastive(config: ConfigDict, models: Models) -> Task:
  """A dual encoder trained with in-batch and hard negatives.

  Serves ICT and supervised training alike; they differ in their examples.
  All passages of the global batch are candidates for every question.
  """
  encoder = models.encoder
  temperature = config.objective.temperature or score_temperature(
    config.objective.scale_multiple, encoder.embedding_dim
  )

  def loss(
    params: Params, batch: Batch, rng: PRNGKeyArray | None
  ) -> tuple[Float[Array, ""], Metrics]:
    b, k, l = batch["passage_ids"].shape
    question_rng, passage_rng = (
      (None, None) if rng is None else jax.random.split(rng)
    )
    questions = encode_in_chunks(
      lambda *x, rng: encoder.encode_question(params, *x, rng=rng),
      batch["question_ids"],
      batch["question_lengths"],
      question_rng,
      config.chunks,
    )
    passages = encode_in_chunks(
      lambda *x, rng: encoder.encode_passage(params, *x, rng=rng),
      batch["passage_ids"].reshape(b * k, l),
      batch["passage_lengths"].reshape(b * k),
      passage_rng,
      config.chunks,
    )
    scores = relevance_scores(questions, passages, temperature)
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

  def flops(batch: Batch) -> float:
    b, k, l = batch["passage_ids"].shape
    t = batch["question_ids"].shape[1]
    forward = b * t * encoder.flops_per_token(t)
    forward += b * k * l * encoder.flops_per_token(l)
    # Backward is twice the forward; chunks recompute the forward once.
    return forward * (4 if config.chunks > 1 else 3)

  return Task(init=encoder.init, loss=loss, flops=flops)


TASKS: dict[str, Callable[[ConfigDict, Models], Task]] = {
  "contrastive": contrastive,
  "individual": individual,
  "joint": joint,
  "fid": fusion,
}


def make_task(config: ConfigDict, models: Models) -> Task:
  """The task that `config.task` names.

  Raises:
    ValueError: for an unknown name, listing the known ones.
  """
  if config.task not in TASKS:
    raise ValueError(f"config.task={config.task!r}; known: {sorted(TASKS)}.")
  return TASKS[config.task](config, models)
