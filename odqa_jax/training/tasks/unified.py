"""Tasks of the unified retriever-reader: distillation, and finetuning.

"Designing a Minimal Retrieve-and-Read System for Open-Domain Question
Answering" (Yang and Seo 2021), Sec. 2.2.3 and 2.2.4. The one component is the
`unified_reader`; a batch has m passages of each question, of which the first
alone holds the answer, both alone and paired with the question.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from odqa_jax.models.families import Components
from odqa_jax.models.roles import UNIFIED
from odqa_jax.models.unified_reader import UnifiedReader, as_retriever
from odqa_jax.objectives.distillation import (
  TokenScores,
  rank_divergence,
  span_divergence,
)
from odqa_jax.objectives.extractive import dpr_reader_losses
from odqa_jax.objectives.reader import passage_scores
from odqa_jax.objectives.reranking import listwise_cross_entropy, listwise_hits
from odqa_jax.objectives.spans import Contexts, SpanScores
from odqa_jax.reading.likelihoods import (
  Batch,
  Params,
  fold,
  passage_embeddings,
)
from odqa_jax.runtime.settings import Settings
from odqa_jax.training.tasks.contrastive import temperature
from odqa_jax.training.tasks.losses import Metrics, SeparateLoss
from odqa_jax.training.tasks.task import SecondUpdate, Task

# One question's value of every part of a loss.
_Parts = dict[str, Array]


class _Unified(NamedTuple):
  """The network, and what scores are divided by.

  Attributes:
    network: what is trained.
    scale: of retrieval scores, as of any retriever; 1 in the paper.
    tau: of distillation and reconstruction.
    longest: tokens of an answer.
  """

  network: UnifiedReader
  scale: float
  tau: float
  longest: int

  def retrieve(
    self, params: Params, batch: Batch, rng: PRNGKeyArray | None
  ) -> Float[Array, "b k"]:
    """ℓ of Algorithm 1: what every passage is found with."""
    encoder, weights = self.network.retriever, as_retriever(params[UNIFIED])
    questions = encoder.encode_question(
      weights,
      batch["question_ids"],
      batch["question_lengths"],
      rng=fold(rng, 0),
    )
    passages = passage_embeddings(encoder, weights, batch, fold(rng, 1))
    return passage_scores(questions, passages, self.scale)

  def read(
    self, params: Params, batch: Batch, rng: PRNGKeyArray | None
  ) -> SpanScores:
    """What the heads say of every passage with its question."""
    q, n, l = batch["ids"].shape
    found = self.network.reader.read(
      params[UNIFIED],
      batch["ids"].reshape(q * n, l),
      batch["lengths"].reshape(-1),
      batch["first_lengths"].reshape(-1),
      rng=fold(rng, 2),
    )
    assert found.passage is not None
    return SpanScores(
      start=found.start.reshape(q, n, l),
      end=found.end.reshape(q, n, l),
      passage=found.passage.reshape(q, n),
    )

  def read_losses(
    self, params: Params, batch: Batch, rng: PRNGKeyArray | None
  ) -> tuple[_Parts, Float[Array, "b k"]]:
    """DPR's reader, and its ranks.

    Footnote 6 names the likelihood of the spans in the positive passage alone.
    L_read of Algorithm 1 takes all passages, and an answer needs their ranks:
    the ranker of DPR's reader is trained as well.
    """
    scores = self.read(params, batch, rng)
    found = dpr_reader_losses(
      scores,
      contexts(batch),
      batch["answer_starts"],
      batch["answer_ends"],
      longest=self.longest,
    )
    assert scores.passage is not None
    return {
      "span_loss": found["span"],
      "rank_loss": found["passage"],
    }, scores.passage


def contexts(batch: Batch) -> Contexts:
  """Where the answers of a batch may lie."""
  return Contexts(
    batch["passage_mask"], batch["context_starts"], batch["context_ends"]
  )


def _unified(settings: Settings, components: Components) -> _Unified:
  network: UnifiedReader = components[UNIFIED]
  return _Unified(
    network,
    temperature(settings.objective, network.embedding_dim),
    settings.unified.temperature,
    settings.data.span_length,
  )


def distillation(settings: Settings, components: Components) -> Task:
  """L_read + L_ret of Sec. 2.2.3: a teacher's spans and ranks.

  L_read is the divergence of spans and that of ranks; L_ret, by
  `config.unified.retrieval`, that of retrieval scores from the teacher's
  ranks or from the scores of the run, or the likelihood of the passage with the
  answer.
  """
  unified, target = _unified(settings, components), settings.unified.retrieval
  tau = unified.tau

  def sums(params: Params, batch: Batch, rng: PRNGKeyArray | None) -> Metrics:
    mask = batch["passage_mask"]
    read = unified.read(params, batch, rng)
    found = unified.retrieve(params, batch, rng)
    assert read.passage is not None
    wanted = TokenScores(batch["teacher_start"], batch["teacher_end"])
    ranks = batch["teacher_passage"]
    span = span_divergence(
      wanted,
      TokenScores(read.start, read.end),
      contexts(batch),
      temperature=tau,
    )
    if target == "nll":
      retrieval = listwise_cross_entropy(found, mask)
    else:
      teacher = ranks if target == "teacher" else batch["run_scores"]
      retrieval = rank_divergence(teacher, found, mask, temperature=tau)
    parts = {
      "span_loss": span,
      "rank_loss": rank_divergence(ranks, read.passage, mask, temperature=tau),
      "retrieval_loss": retrieval,
    }
    hits = {"rank_hits@1": read.passage, "retrieval_hits@1": found}
    return _summed(batch, parts, hits)

  return _task(settings, unified, SeparateLoss(sums))


def joint_finetuning(settings: Settings, components: Components) -> Task:
  """The losses of reader and retriever in one update: "the most simple method".

  Sec. 2.2.4 and its footnote 6; without a teacher.
  """
  unified = _unified(settings, components)

  def sums(params: Params, batch: Batch, rng: PRNGKeyArray | None) -> Metrics:
    parts, ranks = unified.read_losses(params, batch, rng)
    found = unified.retrieve(params, batch, rng)
    parts["retrieval_loss"] = listwise_cross_entropy(
      found, batch["passage_mask"]
    )
    hits = {"rank_hits@1": ranks, "retrieval_hits@1": found}
    return _summed(batch, parts, hits)

  return _task(settings, unified, SeparateLoss(sums))


def iterative_finetuning(settings: Settings, components: Components) -> Task:
  """Algorithm 1: an update that reads, then one that retrieves.

  The second is made at the weights θ̂ of the first, by −log of the softmax of
  the scores there, and their divergence at τ from those before the first, which
  are a constant: its gradient is that of θ̂ alone.
  """
  unified = _unified(settings, components)
  reconstructs = settings.unified.reconstruction

  def read(params: Params, batch: Batch, rng: PRNGKeyArray | None) -> Metrics:
    parts, ranks = unified.read_losses(params, batch, rng)
    return _summed(batch, parts, {"rank_hits@1": ranks})

  def remember(params: Params, batch: Batch, rng: PRNGKeyArray | None) -> Batch:
    if not reconstructs:
      return {}
    return {"scores_before": unified.retrieve(params, batch, rng)}

  def retrieve(
    params: Params, batch: Batch, rng: PRNGKeyArray | None
  ) -> Metrics:
    mask = batch["passage_mask"]
    found = unified.retrieve(params, batch, rng)
    parts = {"retrieval_loss": listwise_cross_entropy(found, mask)}
    if reconstructs:
      parts["reconstruction_loss"] = rank_divergence(
        batch["scores_before"], found, mask, temperature=unified.tau
      )
    return _summed(batch, parts, {"retrieval_hits@1": found})

  second = SecondUpdate(remember, SeparateLoss(retrieve))
  return _task(settings, unified, SeparateLoss(read), second)


def _summed(
  batch: Batch, parts: _Parts, hits: Mapping[str, Float[Array, "b k"]]
) -> Metrics:
  """Sums over the real examples: "loss", its parts, and the share of hits.

  Args:
    batch: whose examples they are.
    parts: of the loss, of every question.
    hits: name → scores, of which the first passage should have the best.
  """
  weight = batch["example_mask"].astype(jnp.float32)
  total = jnp.sum(weight)
  each = {name: jnp.sum(x * weight) for name, x in parts.items()}
  metrics: Metrics = {name: (x, total) for name, x in each.items()}
  for name, scores in hits.items():
    right = listwise_hits(scores, batch["passage_mask"])
    metrics[name] = (jnp.sum(right * weight), total)
  return metrics | {"loss": (sum(each.values(), jnp.zeros(())), total)}


def _task(
  settings: Settings,
  unified: _Unified,
  loss: SeparateLoss,
  second: SecondUpdate | None = None,
) -> Task:
  network = unified.network
  # ℓ is computed once more, without a backward pass.
  again = 1 if second and settings.unified.reconstruction else 0

  def flops(batch: Mapping[str, Any]) -> float:
    q, n, l = batch["ids"].shape
    read = q * n * l * network.flops_per_token(l)
    t, p = batch["question_ids"].shape[1], batch["passage_ids"].shape[2]
    encoder = network.retriever
    retrieve = q * t * encoder.flops_per_token(t)
    retrieve += encoder.passage_flops(q * n, p)
    return 3 * read + (3 + again) * retrieve

  return Task(
    init=lambda rng: {UNIFIED: network.init(rng)},
    loss=loss,
    flops=flops,
    # The dense products of the layers; all else is used in f32.
    dtypes=((rf"{UNIFIED}/.*/layer/.*/kernel", settings.model.dtype),),
    second=second,
  )
