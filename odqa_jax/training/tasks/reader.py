"""Tasks with a reader: Individual Top-k, Joint Top-k, Fusion-in-Decoder.

They differ in how the passages are read (`ReadingConfig`) and in what is
trained. Parameters are `{"retriever": …, "reader": …}` and, for Joint Top-k,
`"bias"`: the λ of Eq. 8. A batch holds the k passages that were retrieved for
every question: as inputs of the passage encoder, which scores them anew with
the live weights, and as inputs of the reader.

"End-to-End Training of Neural Retrievers", Sec. 3.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from odqa_jax.models.dual_encoder import DualEncoder
from odqa_jax.models.families import Components
from odqa_jax.models.t5 import T5
from odqa_jax.objectives.reader import sequence_log_likelihood, span_loss
from odqa_jax.reading.likelihoods import (
  Batch,
  Params,
  ReadingConfig,
  answer_log_likelihood,
  answer_mask,
  decoder_bias,
  live_scores,
  read_passages,
  read_with_spans,
  token_log_likelihoods,
)
from odqa_jax.runtime.settings import ObjectiveSettings, Settings
from odqa_jax.training.tasks.contrastive import ENCODER_KERNELS, temperature
from odqa_jax.training.tasks.losses import Metrics, SeparateLoss
from odqa_jax.training.tasks.task import Task


def individual(settings: Settings, components: Components) -> Task:
  """Individual Top-k: the likelihood marginalised over the passages (Eq. 5).

  Trains the reader, the question encoder and, unless
  `config.objective.passage_encoder` is off, the passage encoder.

  With `config.reader.span_loss`, an aid for small readers that the paper does
  not have, span embeddings are normalised over all passages of a question, so
  that p(a | q, z) knows of the others; without it every passage is read alone.
  """
  reading = _reading(
    settings,
    components,
    fusion="answers",
    marginal=settings.objective.marginal,
  )
  return _reader_task(settings, components, reading)


def joint(settings: Settings, components: Components) -> Task:
  """Joint Top-k: all passages read at once, weighed by p(z | q) (Eq. 7-8).

  The question encoder learns through the bias of the cross-attention alone;
  without a bias nothing reaches it, and this is Fusion-in-Decoder.
  """
  reading = _reading(
    settings, components, fusion="decoder", bias=settings.objective.bias
  )
  return _reader_task(settings, components, reading)


def fusion(settings: Settings, components: Components) -> Task:
  """Fusion-in-Decoder: the reader alone is trained, on fixed retrieval.

  "Leveraging Passage Retrieval with Generative Models"; the baseline of both.
  """
  reading = _reading(settings, components, fusion="decoder")
  return _reader_task(settings, components, reading)


def _reading(
  settings: Settings, components: Components, **how: Any
) -> ReadingConfig:
  width = components["retriever"].embedding_dim
  return ReadingConfig(
    temperature=temperature(settings.objective, width),
    k=settings.retrieval.k,
    input_length=settings.data.reader_length,
    answer_length=settings.data.answer_length,
    null_document=settings.retrieval.null_document,
    title=settings.data.reader_title,
    overlap_features=settings.reader.overlap_features,
    buckets=settings.data.reader_buckets,
    **how,
  )


def _span_sums(
  logits: Float[Array, "b m 2"], batch: Batch
) -> tuple[Float[Array, ""], Metrics]:
  """The auxiliary span loss, summed over the examples with an answer."""
  losses, present = span_loss(
    logits, batch["answer_starts"], batch["answer_ends"]
  )
  weight = (batch["example_mask"] & present).astype(jnp.float32)
  total = jnp.sum(losses * weight)
  return total, {"span_loss": (total, jnp.sum(weight))}


def _passage_metrics(
  scores: Float[Array, "b k"], weight: Float[Array, " b"]
) -> Metrics:
  """Entropy of p(z | q) in nats, and its largest value."""
  log_probs = jax.nn.log_softmax(scores, axis=1)
  probs = jnp.exp(log_probs)
  entropy = -jnp.sum(probs * log_probs, axis=1)
  total = jnp.sum(weight)
  return {
    "passage_entropy": (jnp.sum(entropy * weight), total),
    "passage_top_prob": (jnp.sum(probs.max(axis=1) * weight), total),
  }


def _utility(
  likelihoods: Float[Array, " b"],
  alone: Float[Array, " b"],
  weight: Float[Array, " b"],
) -> Metrics:
  """REALM's: what is won over the null document, the last candidate."""
  gain = jnp.sum((likelihoods - alone) * weight)
  return {"retrieval_utility": (gain, jnp.sum(weight))}


def _bias_metrics(weights: Float[Array, "*scope"]) -> Metrics:
  """Every λ by its number."""
  numbered = enumerate(weights.reshape(-1))
  return {f"lambda/{i}": (value, jnp.ones(())) for i, value in numbered}


def _reader_task(
  settings: Settings, components: Components, reading: ReadingConfig
) -> Task:
  """A task whose loss is −log p(a | q) (Eq. 6), averaged over the examples.

  Without scores in its likelihood the retriever is frozen.
  """
  retriever: DualEncoder = components["retriever"]
  reader: T5 = components["reader"]
  objective, span_weight = settings.objective, settings.reader.span_loss
  biased = reading.bias != "none"
  scored = _is_scored(reading)
  frozen = _frozen(settings) if scored else ("retriever/.*",)

  def init(rng: PRNGKeyArray) -> Params:
    retriever_rng, reader_rng = jax.random.split(rng)
    params = {
      "retriever": retriever.init(retriever_rng),
      "reader": reader.init(reader_rng),
    }
    if biased:
      params["bias"] = {"lambda": bias_weights(objective, reader)}
    return params

  def sums(params: Params, batch: Batch, rng: PRNGKeyArray | None) -> Metrics:
    scores = bias = None
    if scored:
      scores = live_scores(
        reading,
        retriever,
        params,
        batch,
        rng,
        train_passages=objective.passage_encoder,
      )
      bias = decoder_bias(reading, params, scores)
    if span_weight:
      states, span_logits = read_with_spans(reader, params, batch, rng)
    else:
      states = read_passages(reader, params, batch, rng)
    log_likelihoods = token_log_likelihoods(
      reading, reader, params, states, batch, bias, rng
    )
    mask = answer_mask(batch)
    likelihoods = answer_log_likelihood(reading, log_likelihoods, mask, scores)
    weight = batch["example_mask"].astype(jnp.float32)
    total = jnp.sum(weight)
    nll = -jnp.sum(likelihoods * weight)
    in_top_k = jnp.any(batch["answer_starts"] >= 0, axis=1)
    metrics: Metrics = {
      "loss": (nll, total),
      "answer_in_top_k": (jnp.sum(in_top_k * weight), total),
    }
    if scores is not None:
      metrics |= _passage_metrics(scores, weight)
    if reading.fusion == "answers" and reading.null_document:
      alone = sequence_log_likelihood(log_likelihoods[:, -1], mask)
      metrics |= _utility(likelihoods, alone, weight)
    if biased:
      metrics |= _bias_metrics(params["bias"]["lambda"])
    if span_weight:
      span_sum, span_metrics = _span_sums(span_logits, batch)
      metrics |= span_metrics
      metrics["loss"] = (nll + span_weight * span_sum, total)
      metrics["answer_nll"] = (nll, total)
    return metrics

  return Task(
    init=init,
    loss=SeparateLoss(sums),
    flops=lambda batch: _flops(settings, components, reading, batch),
    frozen=frozen,
    reading=reading,
    rates=(("bias/lambda", objective.bias_learning_rate),) if biased else (),
    dtypes=(
      (ENCODER_KERNELS, settings.model.dtype),
      (r"reader/.*/block/.*/kernel", settings.reader.dtype),
    ),
  )


def _flops(
  settings: Settings,
  components: Components,
  reading: ReadingConfig,
  batch: Mapping[str, Any],
) -> float:
  """Matmul FLOPs of a step; a backward pass costs two forward ones."""
  retriever: DualEncoder = components["retriever"]
  reader: T5 = components["reader"]
  b, k, l = batch["reader_ids"].shape
  t = batch["answer_ids"].shape[1]
  alone = reading.fusion == "answers"
  total = 3 * reader.flops(
    b=b * k if alone else b, k=1 if alone else k, l=l, t=t
  )
  if not _is_scored(reading):
    return total
  lq, lp = batch["question_ids"].shape[1], batch["passage_ids"].shape[2]
  total += 3 * b * lq * retriever.flops_per_token(lq)
  passage = retriever.passage_flops(b * k, lp)
  trained = settings.objective.passage_encoder
  return total + passage * (3 if trained else 1)


def _is_scored(reading: ReadingConfig) -> bool:
  """Whether the likelihood depends on the passages' scores."""
  return reading.bias != "none" or reading.fusion == "answers"


def _frozen(settings: Settings) -> tuple[str, ...]:
  """What `config.objective.passage_encoder=False` keeps as it is.

  Raises:
    ValueError: if the passage encoder is the question encoder.
  """
  if settings.objective.passage_encoder:
    return ()
  if settings.model.shared:
    raise ValueError(
      "config.objective.passage_encoder=False with config.model.shared=True: "
      "one set of weights encodes questions and passages; set "
      "config.model.shared=False to train the question encoder alone."
    )
  return ("retriever/passage/.*",)


def bias_weights(
  objective: ObjectiveSettings, reader: T5
) -> Float[Array, "*scope"]:
  """The first λ of Eq. 8, in the shape that `config.objective` asks for."""
  layers, heads = reader.config.decoder_layers, reader.config.heads
  scopes: dict[str, tuple[int, ...]] = {
    "model": (),
    "layer": (layers,),
    "head": (layers, heads),
  }
  return jnp.full(
    scopes[objective.bias_scope], objective.bias_start, jnp.float32
  )
