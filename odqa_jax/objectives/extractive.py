"""Losses of extractive readers, one value for each question.

    losses = extractive_losses(
      scores, contexts, batch["answer_starts"], batch["answer_ends"], longest=30
    )
    total = sum(losses[name] for name in scores.components)  # [q]
    losses["answered"]  # [q] bool: False has no loss

`spans.py` has `SpanScores` and `Contexts`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from odqa_jax.objectives.normalisers import anywhere, log_sum
from odqa_jax.objectives.reranking import listwise_cross_entropy
from odqa_jax.objectives.spans import (
  Contexts,
  SpanScores,
  context_mask,
  log_probabilities,
)


def answers_inside(
  contexts: Contexts,
  starts: Int[Array, "q n o"],
  ends: Int[Array, "q n o"],
  longest: int,
) -> Bool[Array, "q n o"]:
  """Which occurrences are spans: within the passage, and not too long."""
  within = (starts >= contexts.starts[..., None]) & (
    ends < contexts.ends[..., None]
  )
  ordered = (starts >= 0) & (ends >= starts) & (ends - starts < longest)
  return within & ordered & contexts.passage_mask[..., None]


def extractive_losses(
  scores: SpanScores,
  contexts: Contexts,
  answer_starts: Int[Array, "q n o"],
  answer_ends: Int[Array, "q n o"],
  *,
  longest: int,
  axis_name: str | None = None,
) -> dict[str, Array]:
  """Four independent marginal likelihoods, all over all passages.

  R2-D2: −log Σ P(a) over all places a where an answer occurs, for the first
  token, the last token, the span and the passage, each with a softmax of its
  own over all passages of the question.

  Args:
    scores: of all passages.
    contexts: where spans may lie.
    answer_starts: first token of each occurrence in its input, −1 for none.
    answer_ends: last token of each. An occurrence outside of the context or
      above `longest` counts for none of the four.
    longest: tokens of the longest span, at least 1.
    axis_name: of the mesh, if its devices hold n passages each of the same
      questions. The losses are then the same on all of them; what
      differentiates within an unchecked `jax.shard_map` takes of each device
      its share, the loss divided by the number of devices.

  Returns:
    `start`, `end`, `span`, `passage`, as far as there are scores: [q], f32 or
    wider, 0 where no answer occurs; `answered`: [q] whether one does.
  """
  log_probs = log_probabilities(
    scores, contexts, longest=longest, axis_name=axis_name
  )
  inside = answers_inside(contexts, answer_starts, answer_ends, longest)
  answered = anywhere(inside, axes=(1, 2), axis_name=axis_name)
  q, n, l, w = log_probs.spans.shape

  def loss(
    values: Float[Array, "q n m"], places: Int[Array, "q n o"]
  ) -> Float[Array, " q"]:
    at = jnp.take_along_axis(values, jnp.where(inside, places, 0), axis=2)
    once = _each_once(places, inside)
    total = log_sum(at, once, axes=(1, 2), axis_name=axis_name)
    return jnp.where(answered, -total, 0.0)

  losses = {
    "start": loss(log_probs.start, answer_starts),
    "end": loss(log_probs.end, answer_ends),
    "answered": answered,
  }
  if log_probs.span is not None:
    # One number for each span, as in the flattened band.
    spans = answer_starts * w + (answer_ends - answer_starts)
    losses["span"] = loss(log_probs.span.reshape(q, n, l * w), spans)
  if log_probs.passage is not None:
    # A passage counts once, however often the answer occurs in it.
    passages = jnp.cumsum(inside, axis=2) == 1
    values = jnp.broadcast_to(log_probs.passage[..., None], inside.shape)
    total = log_sum(values, inside & passages, axes=(1, 2), axis_name=axis_name)
    losses["passage"] = jnp.where(answered, -total, 0.0)
  return losses


def _each_once(
  places: Int[Array, "*batch o"], inside: Bool[Array, "*batch o"]
) -> Bool[Array, "*batch o"]:
  """Which of the places inside count: each of them only once.

  Two answers may begin with the same token; its probability is one.
  """
  same = (places[..., :, None] == places[..., None, :]) & inside[..., None, :]
  o = places.shape[-1]
  before = jnp.tril(jnp.ones((o, o), bool), k=-1)
  before = before.reshape(*(1,) * (places.ndim - 1), o, o)
  return inside & ~jnp.any(same & before, axis=-1)


def dpr_reader_losses(
  scores: SpanScores,
  contexts: Contexts,
  answer_starts: Int[Array, "q n o"],
  answer_ends: Int[Array, "q n o"],
  *,
  longest: int = 10,
) -> dict[str, Array]:
  """The reader of "Dense Passage Retrieval" (Sec. 6.1), a baseline.

  A ranker, −log P(z⁺) over the passages of which the first is the positive, and
  −log Σ P(start|z⁺)·P(end|z⁺) over the occurrences in that passage, normalised
  over its own tokens. Its answer is the best span of the best passage:
  `best_spans` with the components start and end, where `passage_mask` is left
  to the passage with the best score.

  Args:
    scores: of all passages, with `passage`; the bilinear ones are not used.
    contexts: where spans may lie; here too tokens of the question are none.
    answer_starts: as in `extractive_losses`; its authors take 10 at most.
    answer_ends: likewise.
    longest: tokens of the longest span, at least 1.

  Returns:
    `passage`, `span`: [q], f32 or wider, `span` 0 where the first passage has
    no answer; `answered`: [q] whether it has.

  Raises:
    ValueError: if there are no scores of passages.
  """
  if scores.passage is None:
    raise ValueError("DPR's reader ranks passages: give scores of passages.")
  mask = context_mask(contexts, scores.start.shape[2])[:, 0]
  inside = answers_inside(contexts, answer_starts, answer_ends, longest)[:, 0]
  starts = jnp.where(inside, answer_starts[:, 0], 0)
  ends = jnp.where(inside, answer_ends[:, 0], 0)
  once = _each_once(starts * mask.shape[1] + ends, inside)
  likelihoods = jnp.zeros(starts.shape)
  for values, places in ((scores.start, starts), (scores.end, ends)):
    values = values[:, 0]
    total = log_sum(values, mask, axes=(1,))
    at = jnp.take_along_axis(values, places, axis=1)
    likelihoods = likelihoods + (at - total[:, None])
  answered = jnp.any(inside, axis=1)
  span = -log_sum(likelihoods, once, axes=(1,))
  return {
    "passage": listwise_cross_entropy(scores.passage, contexts.passage_mask),
    "span": jnp.where(answered, span, 0.0),
    "answered": answered,
  }
