"""How far a student's choices are from its teacher's, one value a question.

    losses = span_divergence(teacher, student, contexts, temperature=3.0)  # [q]
    ranks = rank_divergence(teacher_ranks, ranks, mask, temperature=3.0)

"Designing a Minimal Retrieve-and-Read System for Open-Domain Question
Answering" (Yang and Seo 2021), Sec. 2.2.3 and Algorithm 1. Both sides are
divided by τ and softmaxed. The divergence is not multiplied by τ², as Hinton et
al. do beside a loss of another temperature: the paper has no such factor.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from odqa_jax.objectives.normalisers import log_sum, wide
from odqa_jax.objectives.spans import Contexts, context_mask


class TokenScores(NamedTuple):
  """Logits of the n passages of q questions.

  Attributes:
    start: of every token as the first of an answer.
    end: of every token as its last.
  """

  start: Float[Array, "q n l"]
  end: Float[Array, "q n l"]


def divergence(
  teacher: Float[Array, "*batch m"],
  student: Float[Array, "*batch m"],
  allowed: Bool[Array, "*batch m"],
  *,
  temperature: float,
) -> Float[Array, "*batch"]:
  """KL(softmax(teacher / τ) ‖ softmax(student / τ)) over the last axis.

  Args:
    teacher: logits.
    student: likewise.
    allowed: what is chosen from; nothing at all gives 0.
    temperature: τ.

  Returns:
    f32 or wider, not below 0 but for rounding.
  """
  axis = teacher.ndim - 1

  def log_probs(logits: Float[Array, "*batch m"]) -> Float[Array, "*batch m"]:
    sharp = jnp.where(allowed, wide(logits) / temperature, 0.0)
    return sharp - log_sum(sharp, allowed, axes=(axis,))[..., None]

  wanted = log_probs(teacher)
  probs = jnp.where(allowed, jnp.exp(wanted), 0.0)
  return jnp.sum(probs * (wanted - log_probs(student)), axis=axis)


def span_divergence(
  teacher: TokenScores,
  student: TokenScores,
  contexts: Contexts,
  *,
  temperature: float,
) -> Float[Array, " q"]:
  """The divergence of starts plus that of ends, the mean over the passages.

  The teacher is DPR's reader: its starts and ends are softmaxed over the tokens
  of a passage, and so they are in the answer's score (A.3, and the published
  inference), where passages compete by their ranks alone. Tokens of question
  and title are none to choose from.

  Args:
    teacher: its logits.
    student: the trained network's.
    contexts: where spans may lie.
    temperature: τ.
  """
  inside = context_mask(contexts, teacher.start.shape[2])
  each = divergence(
    teacher.start, student.start, inside, temperature=temperature
  ) + divergence(teacher.end, student.end, inside, temperature=temperature)
  count = jnp.sum(contexts.passage_mask, axis=1)
  return jnp.sum(each, axis=1) / jnp.maximum(count, 1)


def rank_divergence(
  teacher: Float[Array, "q n"],
  student: Float[Array, "q n"],
  passage_mask: Bool[Array, "q n"],
  *,
  temperature: float,
) -> Float[Array, " q"]:
  """The divergence of what passages of a question are scored with.

  Of ranks and of retrieval scores; and L_recon of Algorithm 1, whose "teacher"
  are the scores before the reader's update.

  Args:
    teacher: logits.
    student: likewise.
    passage_mask: False where there is no passage.
    temperature: τ.
  """
  return divergence(teacher, student, passage_mask, temperature=temperature)
