"""Likelihoods of answers, as pure functions that return one value per example.

"End-to-End Training of Neural Retrievers", Sec. 3. Averaging and masking of
padded examples belong to the tasks.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from odqa_jax.objectives.contrastive import MASKED
from odqa_jax.runtime.settings import MARGINALS, nearest


def passage_scores(
  questions: Float[Array, "b e"],
  passages: Float[Array, "b k e"],
  temperature: float,
) -> Float[Array, "b k"]:
  """Scaled dot products of each question with its own k passages (Eq. 1).

  In f32 or wider; `temperature` is τ, above 0.
  """
  width = jnp.promote_types(questions.dtype, jnp.float32)
  scores = jnp.einsum(
    "be,bke->bk", questions, passages, preferred_element_type=width
  )
  return scores / temperature


def token_log_likelihoods(
  logits: Float[Array, "*batch t v"], targets: Int[Array, "*batch t"]
) -> Float[Array, "*batch t"]:
  """Log-likelihoods log p(a_j | a_<j, …) of target tokens, f32 or wider."""
  logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
  chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  return chosen - jax.nn.logsumexp(logits, axis=-1)


def sequence_log_likelihood(
  log_likelihoods: Float[Array, "*batch t"], mask: Bool[Array, "*#batch t"]
) -> Float[Array, "*batch"]:
  """Sums log p(a_j | a_<j, …) over the real tokens of an answer (Eq. 4)."""
  return jnp.sum(jnp.where(mask, log_likelihoods, 0.0), axis=-1)


def individual_log_likelihood(
  log_likelihoods: Float[Array, "b k t"],
  mask: Bool[Array, "b t"],
  passage_log_probs: Float[Array, "b k"],
  marginal: str = "sequence",
) -> Float[Array, " b"]:
  """Averages the reader's likelihood over the passages: log p(a | q).

  "sequence" is Eq. 5 of "End-to-End Training of Neural Retrievers":
  log Σ_z p(z|q) Π_j p(a_j | a_<j, q, z). "token" averages at every position,
  Σ_j log Σ_z p(z|q) p(a_j | a_<j, q, z), as REALM and EMDR² do; the two differ
  as soon as an answer has two tokens.

  Args:
    log_likelihoods: of every answer token given each passage.
    mask: False for padding of the answer.
    passage_log_probs: log p(z | q), normalised over the k passages.
    marginal: "sequence" or "token".

  Raises:
    ValueError: for another marginal.
  """
  if marginal not in MARGINALS:
    raise ValueError(f"marginal={marginal!r}; {nearest(marginal, MARGINALS)}")
  if marginal == "sequence":
    readers = sequence_log_likelihood(log_likelihoods, mask[:, None, :])
    return jax.nn.logsumexp(readers + passage_log_probs, axis=1)
  averaged = jax.nn.logsumexp(
    log_likelihoods + passage_log_probs[:, :, None], axis=1
  )
  return sequence_log_likelihood(averaged, mask)


def attention_bias(
  scores: Float[Array, "b k"], weight: Float[Array, "*scope"], kind: str
) -> Float[Array, "y b h k"]:
  """What Joint Top-k adds to the decoder's cross-attention (Eq. 8).

  λ·p(z|q), the same for every token of passage z, before the softmax. The
  paper writes the probability ("prob"). "logprob" makes λ = 1 a document prior;
  the unnormalised score would be the same function, since λ·log Z is added to
  all tokens of a question alike and cancels in the softmax.

  Args:
    scores: scaled relevance scores of the k passages.
    weight: λ: a scalar, one per layer `[y]`, or per layer and head `[y, h]`.
    kind: "prob" or "logprob".

  Returns:
    `[y, b, h, k]` f32, with y and h of size 1 where λ is shared.

  Raises:
    ValueError: for another kind.
  """
  normalise = {"prob": jax.nn.softmax, "logprob": jax.nn.log_softmax}
  if kind not in normalise:
    raise ValueError(f"bias={kind!r}; {nearest(kind, normalise)}")
  weighed = normalise[kind](scores, axis=1)
  scope = weight.reshape(*weight.shape, *(1,) * (2 - weight.ndim))
  return scope[:, None, :, None] * weighed[None, :, None, :]


def span_loss(
  logits: Float[Array, "b m 2"],
  starts: Int[Array, "b c"],
  ends: Int[Array, "b c"],
) -> tuple[Float[Array, " b"], Bool[Array, " b"]]:
  """−log of the probability that start and end fall on an answer.

  An auxiliary loss on the reader's encoder for small readers (not in the
  paper). Both softmaxes run over all tokens of all passages, and all places
  where the answer occurs count: distant supervision.

  Args:
    logits: start and end scores of every token; masked ones are very small.
    starts: first token of each occurrence among the m tokens, −1 for none.
    ends: last token of each occurrence, −1 for none.

  Returns:
    The loss, 0 where the answer does not occur; and whether it occurs.
  """
  log_probs = jax.nn.log_softmax(logits, axis=1)

  def likelihood(
    log_probs: Float[Array, "b m"], places: Int[Array, "b c"]
  ) -> Float[Array, " b"]:
    at = jnp.take_along_axis(log_probs, jnp.maximum(places, 0), axis=1)
    return jax.nn.logsumexp(jnp.where(places >= 0, at, MASKED), axis=1)

  occurs = jnp.any(starts >= 0, axis=1)
  total = likelihood(log_probs[..., 0], starts) + likelihood(
    log_probs[..., 1], ends
  )
  return jnp.where(occurs, -total, 0.0), occurs
