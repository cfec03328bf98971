"""Tasks with a reader: Individual Top-k, Joint Top-k, Fusion-in-Decoder.

Parameters are `{"retriever": …, "reader": …}` and, for Joint Top-k, `"bias"`:
the λ of Eq. 8. The batch holds the k passages that were retrieved for every
question (`lookup.py`): as inputs of the context encoder, which scores them
anew with the live weights, and as inputs of the reader.

"End-to-End Training of Neural Retrievers", Sec. 3.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray
from ml_collections import ConfigDict

from odqa_jax.models.components import Batch, Metrics, Models, Params, Task
from odqa_jax.models.t5 import T5
from odqa_jax.objectives import reader as objectives
from odqa_jax.reading.likelihoods import (
  answer_mask,
  fused_log_likelihoods,
  read_passages,
  read_with_spans,
  retrieval_scores,
  single_log_likelihoods,
  the_reader,
)

# What a step sums up, over the examples of a batch.
_Sums = Callable[[Params, Batch, PRNGKeyArray | None], Metrics]


def _span_sums(
  logits: Float[Array, "b m 2"], batch: Batch
) -> tuple[Float[Array, ""], Metrics]:
  """The auxiliary span loss, summed over the examples with an answer."""
  losses, found = objectives.span_loss(
    logits, batch["answer_starts"], batch["answer_ends"]
  )
  weight = (batch["example_mask"] & found).astype(jnp.float32)
  total = jnp.sum(losses * weight)
  return total, {"span_loss": (total, jnp.sum(weight))}


def _passage_metrics(
  log_probs: Float[Array, "b k"], weight: Float[Array, " b"]
) -> Metrics:
  """Entropy of p(z | q) in nats, and its largest value."""
  probs = jnp.exp(log_probs)
  entropy = -jnp.sum(probs * log_probs, axis=1)
  total = jnp.sum(weight)
  return {
    "passage_entropy": (jnp.sum(entropy * weight), total),
    "passage_top_prob": (jnp.sum(probs.max(axis=1) * weight), total),
  }


def _accumulate(sums: _Sums, chunks: int) -> _Sums:
  """Adds up the sums of `chunks` parts of a batch, one at a time.

  The losses of reader tasks are separate for every example, so that this is
  gradient accumulation in one step: a checkpointed scan, whose backward pass
  holds one part's activations.
  """
  if chunks == 1:
    return sums

  def accumulated(
    params: Params, batch: Batch, rng: PRNGKeyArray | None
  ) -> Metrics:
    # Part c takes rows c, c + chunks, …, so that it is spread over all devices.
    parts = jax.tree.map(
      lambda x: x.reshape(-1, chunks, *x.shape[1:]).swapaxes(0, 1), batch
    )

    @jax.checkpoint
    def part_sums(number: Int[Array, ""], part: Batch) -> Metrics:
      part_rng = None if rng is None else jax.random.fold_in(rng, number)
      return sums(params, part, part_rng)

    def add(total: Metrics, x: tuple[Array, Batch]) -> tuple[Metrics, None]:
      return jax.tree.map(jnp.add, total, part_sums(*x)), None

    first = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(part_sums, jnp.zeros((), jnp.int32), first)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(add, zeros, (jnp.arange(chunks), parts))[0]

  return accumulated


def _reader_task(
  config: ConfigDict,
  models: Models,
  log_likelihoods: Callable[..., tuple[Float[Array, " b"], Metrics]],
  *,
  extra: Callable[[], Params] = dict,
  frozen: tuple[str, ...],
) -> Task:
  """A task whose loss is −log p(a | q) (Eq. 6), averaged over the examples.

  Args:
    config: the training config.
    models: retriever and reader.
    log_likelihoods: (params, memory, batch, rng) → log p(a | q) and metrics.
    extra: makes parameters beside the two networks'.
    frozen: what the objective does not train.
  """
  reader = the_reader(models)
  span_weight = config.reader.span_loss

  def init(rng: PRNGKeyArray) -> Params:
    retriever_rng, reader_rng = jax.random.split(rng)
    return {
      "retriever": models.encoder.init(retriever_rng),
      "reader": reader.init(reader_rng),
      **extra(),
    }

  def sums(params: Params, batch: Batch, rng: PRNGKeyArray | None) -> Metrics:
    if span_weight:
      memory, span_logits = read_with_spans(reader, params, batch, rng)
    else:
      memory = read_passages(reader, params, batch, rng)
    likelihoods, metrics = log_likelihoods(params, memory, batch, rng)
    weight = batch["example_mask"].astype(jnp.float32)
    total = jnp.sum(weight)
    nll = -jnp.sum(likelihoods * weight)
    in_top_k = jnp.any(batch["answer_starts"] >= 0, axis=1)
    metrics |= {
      "loss": (nll, total),
      "answer_in_top_k": (jnp.sum(in_top_k * weight), total),
    }
    if span_weight:
      span_sum, span_metrics = _span_sums(span_logits, batch)
      metrics |= span_metrics
      metrics["loss"] = (nll + span_weight * span_sum, total)
      metrics["answer_nll"] = (nll, total)
    return metrics

  summed = _accumulate(sums, config.chunks)

  def loss(
    params: Params, batch: Batch, rng: PRNGKeyArray | None
  ) -> tuple[Float[Array, ""], Metrics]:
    metrics = summed(params, batch, rng)
    loss_sum, total = metrics["loss"]
    return loss_sum / jnp.maximum(total, 1.0), metrics

  def flops(batch: Batch) -> float:
    return _flops(config, models, batch)

  return Task(init=init, loss=loss, flops=flops, frozen=frozen)


def _flops(config: ConfigDict, models: Models, batch: Batch) -> float:
  """Matmul FLOPs of a step; a backward pass costs two forward ones."""
  b, k, l = batch["reader_ids"].shape
  t = batch["answer_ids"].shape[1]
  single = config.task == "individual"
  passes = 4 if config.chunks > 1 else 3
  total = passes * the_reader(models).flops(
    b=b * k if single else b, k=1 if single else k, l=l, t=t
  )
  if config.task == "fid":
    return total
  lq, lp = batch["question_ids"].shape[1], batch["passage_ids"].shape[2]
  encoder = models.encoder
  total += passes * b * lq * encoder.flops_per_token(lq)
  trained = config.objective.context_encoder
  passage = b * k * lp * encoder.flops_per_token(lp)
  return total + passage * (passes if trained else passes - 2)


def _frozen_context(config: ConfigDict) -> tuple[str, ...]:
  """What `config.objective.context_encoder=False` keeps as it is.

  Raises:
    ValueError: if the context encoder is the question encoder.
  """
  if config.objective.context_encoder:
    return ()
  if config.model.shared:
    raise ValueError(
      "config.objective.context_encoder=False with config.model.shared=True: "
      "one set of weights encodes questions and passages; set "
      "config.model.shared=False to train the question encoder alone."
    )
  return ("retriever/passage/.*",)


def individual(config: ConfigDict, models: Models) -> Task:
  """Individual Top-k: the likelihood marginalised over the passages (Eq. 5).

  Trains the reader, the question encoder and, unless
  `config.objective.context_encoder` is off, the context encoder.
  """
  reader = the_reader(models)

  def log_likelihoods(
    params: Params,
    memory: Float[Array, "b k l d"],
    batch: Batch,
    rng: PRNGKeyArray | None,
  ) -> tuple[Float[Array, " b"], Metrics]:
    scores = retrieval_scores(config, models, params, batch, rng)
    log_probs = jax.nn.log_softmax(scores, axis=1)
    tokens = single_log_likelihoods(reader, params, memory, batch, rng)
    mask = answer_mask(batch)
    likelihoods = objectives.individual_log_likelihood(
      tokens, mask, log_probs, config.objective.marginal
    )
    weight = batch["example_mask"].astype(jnp.float32)
    metrics = _passage_metrics(log_probs, weight)
    if config.retrieval.null_document:
      # The null document is the last candidate (REALM's retrieval utility).
      alone = objectives.sequence_log_likelihood(tokens[:, -1], mask)
      utility = jnp.sum((likelihoods - alone) * weight)
      metrics["retrieval_utility"] = (utility, jnp.sum(weight))
    return likelihoods, metrics

  return _reader_task(
    config, models, log_likelihoods, frozen=_frozen_context(config)
  )


def bias_weights(config: ConfigDict, reader: T5) -> Float[Array, "*scope"]:
  """The first λ of Eq. 8, in the shape that `config.objective` asks for.

  Raises:
    ValueError: for an unknown scope.
  """
  layers, heads = reader.config.decoder_layers, reader.config.heads
  scopes: dict[str, tuple[int, ...]] = {
    "model": (),
    "layer": (layers,),
    "head": (layers, heads),
  }
  scope = config.objective.bias_scope
  if scope not in scopes:
    raise ValueError(
      f"config.objective.bias_scope={scope!r}; known: {sorted(scopes)}."
    )
  return jnp.full(scopes[scope], config.objective.bias_start, jnp.float32)


def joint(config: ConfigDict, models: Models) -> Task:
  """Joint Top-k: all passages read at once, weighted by p(z | q) (Eq. 7-8).

  The question encoder learns through the bias of the cross-attention alone;
  without a bias nothing reaches it, and this is Fusion-in-Decoder.
  """
  if config.objective.bias == "none":
    return fusion(config, models)
  reader = the_reader(models)

  def log_likelihoods(
    params: Params,
    memory: Float[Array, "b k l d"],
    batch: Batch,
    rng: PRNGKeyArray | None,
  ) -> tuple[Float[Array, " b"], Metrics]:
    scores = retrieval_scores(config, models, params, batch, rng)
    weights = params["bias"]["lambda"]
    bias = objectives.attention_bias(scores, weights, config.objective.bias)
    tokens = fused_log_likelihoods(reader, params, memory, batch, bias, rng)
    weight = batch["example_mask"].astype(jnp.float32)
    metrics = _passage_metrics(jax.nn.log_softmax(scores, axis=1), weight)
    for i, value in enumerate(weights.reshape(-1)):
      metrics[f"lambda/{i}"] = (value, jnp.ones(()))
    return objectives.sequence_log_likelihood(tokens, answer_mask(batch)), (
      metrics
    )

  def extra() -> dict[str, Any]:
    return {"bias": {"lambda": bias_weights(config, reader)}}

  return _reader_task(
    config,
    models,
    log_likelihoods,
    extra=extra,
    frozen=_frozen_context(config),
  )


def fusion(config: ConfigDict, models: Models) -> Task:
  """Fusion-in-Decoder: the reader alone is trained, on fixed retrieval.

  "Leveraging Passage Retrieval with Generative Models"; the baseline of both.
  """
  reader = the_reader(models)

  def log_likelihoods(
    params: Params,
    memory: Float[Array, "b k l d"],
    batch: Batch,
    rng: PRNGKeyArray | None,
  ) -> tuple[Float[Array, " b"], Metrics]:
    tokens = fused_log_likelihoods(reader, params, memory, batch, None, rng)
    return objectives.sequence_log_likelihood(tokens, answer_mask(batch)), {}

  return _reader_task(config, models, log_likelihoods, frozen=("retriever/.*",))
