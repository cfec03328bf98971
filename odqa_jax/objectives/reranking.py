"""How well the gold passage stands out among those of its question.

losses = listwise_cross_entropy(scores, batch["passage_mask"])  # [q]
hits = listwise_hits(scores, batch["passage_mask"])
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from odqa_jax.objectives.contrastive import MASKED
from odqa_jax.objectives.normalisers import anywhere, log_sum, wide


def _gold(
  passage_mask: Bool[Array, "q n"], axis_name: str | None
) -> Bool[Array, "q n"]:
  """Marks the first passage of all, where there is one."""
  n = passage_mask.shape[1]
  first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * n
  return passage_mask & (first + jnp.arange(n) == 0)[None, :]


def listwise_cross_entropy(
  scores: Float[Array, "q n"],
  passage_mask: Bool[Array, "q n"],
  *,
  axis_name: str | None = None,
) -> Float[Array, " q"]:
  """−log p(gold | q) over the passages of each question; the gold is first.

  R2-D2's reranker: a softmax over the question's own passages alone, none of
  another question's.

  Args:
    scores: one for each passage; of any floating type.
    passage_mask: False where there is no passage. A question whose first one is
      missing, as in what fills up a batch, has no loss.
    axis_name: of the mesh, if its devices hold n passages each of the same
      questions; the gold is then the first of the first device.

  Returns:
    f32 or wider; with `axis_name` the same on all of its devices.
  """
  gold = _gold(passage_mask, axis_name)
  everything = log_sum(scores, passage_mask, axes=(1,), axis_name=axis_name)
  own = log_sum(scores, gold, axes=(1,), axis_name=axis_name)
  known = anywhere(gold, axes=(1,), axis_name=axis_name)
  return jnp.where(known, everything - own, 0.0)


def listwise_hits(
  scores: Float[Array, "q n"], passage_mask: Bool[Array, "q n"]
) -> Bool[Array, " q"]:
  """Whether the first passage has the best score of its question."""
  best = jnp.argmax(jnp.where(passage_mask, wide(scores), MASKED), axis=1)
  return passage_mask[:, 0] & (best == 0)
