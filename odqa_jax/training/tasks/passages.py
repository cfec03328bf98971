"""Tasks of networks that read passages: rerankers, readers, pruners, filters.

All have one network, which reads a passage, alone or with its question; their
parameters are `{component: tree}`. The losses of R2-D2 (Fajcik et al. 2021) and
of "Pruning the Index Contents for Memory Efficient Open-Domain QA" are those of
a question, and a filter's those of two passages, so that passages of one
example are never divided over devices.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from odqa_jax.models.extractive_reader import ExtractiveReader
from odqa_jax.models.families import Components
from odqa_jax.models.passage_scorer import PassageScorer, Reranker
from odqa_jax.objectives.extractive import dpr_reader_losses, extractive_losses
from odqa_jax.objectives.pruning import binary_cross_entropy
from odqa_jax.objectives.reranking import listwise_cross_entropy, listwise_hits
from odqa_jax.objectives.spans import COMPONENTS, Contexts, SpanScores
from odqa_jax.reading.likelihoods import Batch, Params
from odqa_jax.runtime.settings import Settings
from odqa_jax.training.tasks.losses import Metrics, SeparateLoss, Sums
from odqa_jax.training.tasks.task import Task


def reranker(settings: Settings, components: Components) -> Task:
  """The gold passage of a question against others that hold no answer."""
  network: Reranker = components["reranker"]

  def sums(params: Params, batch: Batch, rng: PRNGKeyArray | None) -> Metrics:
    mask = batch["passage_mask"]
    scores = network.score(params["reranker"], *_inputs(batch), rng=rng)
    scores = scores.reshape(mask.shape)
    weight = (batch["example_mask"] & mask[:, 0]).astype(jnp.float32)
    total = jnp.sum(weight)
    losses = listwise_cross_entropy(scores, mask)
    hits = listwise_hits(scores, mask)
    return {
      "loss": (jnp.sum(losses * weight), total),
      "hits@1": (jnp.sum(hits * weight), total),
    }

  return _task(settings, components, "reranker", sums)


def extractive(settings: Settings, components: Components) -> Task:
  """Spans that answer, in all passages of a question.

  Four marginal likelihoods that know nothing of each other, each normalised
  over all passages; or, with `config.objective.extractive="dpr"`, DPR's reader.
  """
  network: ExtractiveReader = components["extractive_reader"]
  dpr = settings.objective.extractive == "dpr"
  longest = settings.data.span_length

  def sums(params: Params, batch: Batch, rng: PRNGKeyArray | None) -> Metrics:
    scores = _span_scores(network, params["extractive_reader"], batch, rng)
    contexts = Contexts(
      batch["passage_mask"], batch["context_starts"], batch["context_ends"]
    )
    places = batch["answer_starts"], batch["answer_ends"]
    objective = dpr_reader_losses if dpr else extractive_losses
    losses = objective(scores, contexts, *places, longest=longest)
    real, answered = batch["example_mask"], losses["answered"]
    weight = (real & answered).astype(jnp.float32)
    total = jnp.sum(weight)
    names = ("passage", "span") if dpr else COMPONENTS
    parts = {name: jnp.sum(losses[name] * weight) for name in names}
    return {
      "loss": (sum(parts.values(), jnp.zeros(())), total),
      **{f"{name}_loss": (value, total) for name, value in parts.items()},
      "answered": (total, jnp.sum(real.astype(jnp.float32))),
    }

  return _task(settings, components, "extractive_reader", sums)


def pruner(settings: Settings, components: Components) -> Task:
  """Whether a passage is irrelevant; as much weight for one as for the other.

  Every gold passage has `config.data.random_negatives` irrelevant ones beside
  it, which therefore weigh as much less.
  """
  weight = 1 / settings.data.random_negatives
  role = "passage_classifier"
  sums = _judging(components[role], role, weight=weight, needed=False)
  return _task(settings, components, role, sums)


def passage_filter(settings: Settings, components: Components) -> Task:
  """Whether a retriever finds a passage for questions.

  "Designing a Minimal Retrieve-and-Read System", A.1: every example is a
  passage that was found and one that was not, of equal weight.
  """
  role = "passage_filter"
  sums = _judging(components[role], role, weight=1.0, needed=True)
  return _task(settings, components, role, sums)


def _judging(
  network: PassageScorer, role: str, *, weight: float, needed: bool
) -> Sums:
  """The binary cross-entropy of scores of passages alone.

  Args:
    network: which scores them.
    role: of its parameters.
    weight: of passages whose score is to be high.
    needed: whether these are the needed ones, or the irrelevant ones.
  """

  def sums(params: Params, batch: Batch, rng: PRNGKeyArray | None) -> Metrics:
    labels = batch["irrelevant"] != needed
    logits = network.score(params[role], *_inputs(batch), rng=rng)
    logits = logits.reshape(labels.shape)
    real = batch["example_mask"][:, None] & batch["passage_mask"]
    weights = real.astype(jnp.float32)
    total = jnp.sum(weights)
    losses = binary_cross_entropy(logits, labels, weight=weight)
    correct = (logits > 0) == labels
    return {
      "loss": (jnp.sum(losses * weights), total),
      "accuracy": (jnp.sum(correct * weights), total),
    }

  return sums


def _inputs(batch: Batch) -> tuple[Array, Array, Array]:
  """Ids, lengths and first lengths, with all passages on one axis."""
  ids = batch["ids"]
  return (
    ids.reshape(-1, ids.shape[2]),
    batch["lengths"].reshape(-1),
    batch["first_lengths"].reshape(-1),
  )


def _span_scores(
  network: ExtractiveReader,
  params: Params,
  batch: Batch,
  rng: PRNGKeyArray | None,
) -> SpanScores:
  """What the reader says, by question and passage."""
  found = network.read(params, *_inputs(batch), rng=rng)
  q, n = batch["passage_mask"].shape
  return SpanScores(
    *jax.tree.map(lambda x: x.reshape(q, n, *x.shape[1:]), found)
  )


def _task(
  settings: Settings, components: Components, role: str, sums: Sums
) -> Task:
  network = components[role]

  def flops(batch: Mapping[str, Any]) -> float:
    q, n, l = batch["ids"].shape
    return 3 * q * n * l * float(network.flops_per_token(l))

  return Task(
    init=lambda rng: {role: network.init(rng)},
    loss=SeparateLoss(sums),
    flops=flops,
    # The dense products of the layers; all else is used in f32.
    dtypes=((rf"{role}/.*/layer/.*/kernel", settings.model.dtype),),
  )
