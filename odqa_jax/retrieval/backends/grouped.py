"""The exact top k of a device's rows on a TPU, where memory traffic decides.

The product reads every row once, and only the largest score of each group of
rows leaves it: XLA fuses the maximum into the product, so neither scores nor
copies of rows reach the memory. The k best groups hold the k best rows; those
are fetched and scored again, one question after another, in on-chip memory.

Nothing here is approximate: a row outside the chosen groups is beaten by k
others. Both products are of full float32 precision, but they may round
differently; where two scores differ by that rounding alone, either may win.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from odqa_jax.retrieval.backends.top_k import Top, in_parts, merge, tidy

# Rows per group: the tile of bfloat16 on a TPU has 16 rows, and a group that is
# a whole tile needs no copy. It divides `ROW_MULTIPLE`.
GROUP = 16
# Questions per pass over the rows: the maxima of their groups stay in on-chip
# memory (84 MB for 21M rows on 8 chips), and with more the matrix units, not
# the memory, would decide.
_QUESTIONS = 128


def best_by_groups(
  queries: Float[Array, "b e"],
  embeddings: Float[Array, "n e"],
  count: Int[Array, ""],
  k: int,
) -> Top:
  """The top k of one device's rows; called within `jax.shard_map`.

  Args:
    queries: float32.
    embeddings: float32 or bfloat16, n a multiple of `GROUP`.
    count: how many rows may be found; may be negative, or beyond n.
    k: how many, less than n / `GROUP`.

  Returns:
    Scores, best first, equal ones by row, and positions; -inf scores where
    there are less than k rows.
  """
  return in_parts(
    lambda part: _best(part, embeddings, count, k), queries, _QUESTIONS
  )


def _best(
  queries: Float[Array, "b e"],
  embeddings: Float[Array, "n e"],
  count: Int[Array, ""],
  k: int,
) -> Top:
  n, e = embeddings.shape
  grouped = embeddings.reshape(n // GROUP, GROUP, e)
  maxima = _group_maxima(queries, grouped, count)
  # One more than k, because the group that `count` divides may stand too high:
  # its padding has scores as well. In row order, for the sake of ties.
  best = jnp.sort(lax.top_k(maxima, k + 1)[1], axis=1)
  # All questions' groups at once would be a copy of rows in memory.
  scores = lax.map(lambda x: _score(x[0], grouped[x[1]]), (queries, best))
  offsets = jnp.arange(GROUP, dtype=jnp.int32)[None, None]
  rows = best[:, :, None] * GROUP + offsets
  scores = jnp.where(rows < count, tidy(scores), -jnp.inf)
  b = len(queries)
  return merge(scores.reshape(b, -1), rows.reshape(b, -1), k)


def _group_maxima(
  queries: Float[Array, "b e"],
  grouped: Float[Array, "m g e"],
  count: Int[Array, ""],
) -> Float[Array, "b m"]:
  """The best score of every group; -inf for those that begin at `count`."""
  # XLA fuses the maximum only over this order of axes.
  scores = jnp.einsum(
    "be,mge->mgb",
    queries,
    grouped.astype(jnp.float32),
    precision=lax.Precision.HIGHEST,
    preferred_element_type=jnp.float32,
  )
  starts = jnp.arange(len(grouped), dtype=jnp.int32)[:, None] * GROUP
  return jnp.where(starts < count, tidy(scores.max(axis=1)), -jnp.inf).T


def _score(
  query: Float[Array, " e"], rows: Float[Array, "c g e"]
) -> Float[Array, "c g"]:
  """Scores of some groups. As a product XLA would widen the rows in memory."""
  return jnp.sum(query[None, None] * rows.astype(jnp.float32), axis=2)
