"""Contrastive losses, as pure functions that return one value per example.

Averaging and masking of padded examples belong to the tasks; nothing here
knows of models, batches or devices. Under `jax.jit` the arrays are the
*global* batch: in-batch negatives come from every device, and the gradient is
that of one large device, because XLA differentiates through the gather.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Large and finite: a softmax over a fully masked row stays free of NaN.
MASKED = -1e9


def score_temperature(scale_multiple: float, width: int) -> float:
  """τ = m·sqrt(e) (Sec. 2.1 and Table 5); m = 0 means τ = 1, as in DPR."""
  return scale_multiple * width**0.5 if scale_multiple else 1.0


def relevance_scores(
  questions: Float[Array, "b e"],
  passages: Float[Array, "n e"],
  temperature: float,
) -> Float[Array, "b n"]:
  """Scaled dot products s(q, z) / τ, in f32 or wider.

  "End-to-End Training of Neural Retrievers", Eq. 1-2; the paper's τ is
  m·sqrt(e), see `score_temperature`.

  Args:
    questions: question embeddings.
    passages: passage embeddings.
    temperature: τ, above 0.
  """
  width = jnp.promote_types(questions.dtype, jnp.float32)
  scores = jnp.einsum(
    "be,ne->bn", questions, passages, preferred_element_type=width
  )
  return scores / temperature


def contrastive_mask(
  positive_columns: Int[Array, " b"],
  passage_rows: Int[Array, " n"],
  passage_mask: Bool[Array, " n"],
) -> Bool[Array, "b n"]:
  """Which passages a question may be compared with.

  A passage with the positive's own corpus row is no negative; it is masked
  wherever it stands, except in the positive's own column. Rows below zero
  carry no identity (their text is not a corpus passage) and are never masked
  as duplicates.

  Args:
    positive_columns: the column of each question's positive.
    passage_rows: the corpus row of every passage, or a negative number.
    passage_mask: False for padding.
  """
  columns = jnp.arange(passage_rows.shape[0])
  own = columns[None, :] == positive_columns[:, None]
  positive_rows = passage_rows[positive_columns]
  duplicate = (passage_rows[None, :] == positive_rows[:, None]) & (
    passage_rows[None, :] >= 0
  )
  return own | (~duplicate & passage_mask[None, :])


def contrastive_loss(
  scores: Float[Array, "b n"],
  positive_columns: Int[Array, " b"],
  allowed: Bool[Array, "b n"],
) -> Float[Array, " b"]:
  """−log p(z⁺ | q) over the allowed passages of the global batch (Eq. 2).

  Args:
    scores: scaled relevance scores.
    positive_columns: the column of each question's positive.
    allowed: from `contrastive_mask`.
  """
  scores = jnp.where(allowed, scores, MASKED)
  positive = jnp.take_along_axis(scores, positive_columns[:, None], axis=1)
  return jax.nn.logsumexp(scores, axis=1) - positive[:, 0]


def contrastive_hits(
  scores: Float[Array, "b n"],
  positive_columns: Int[Array, " b"],
  allowed: Bool[Array, "b n"],
) -> Bool[Array, " b"]:
  """Whether the positive has the best score among the allowed passages."""
  scores = jnp.where(allowed, scores, MASKED)
  return jnp.argmax(scores, axis=1) == positive_columns


# --- The reader ---
