"""The best answers of an extractive reader, out of all passages of a question.

best = best_spans(scores, contexts, most=10, longest=30)
best.passages, best.starts, best.ends      # [q, 10] int32, −1: none
best.log_scores["span"], best.total        # [q, 10]
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from odqa_jax.objectives.spans import (
  COMPONENTS,
  Contexts,
  LogProbabilities,
  SpanScores,
  log_probabilities,
)
from odqa_jax.runtime.settings import nearest


class BestSpans(NamedTuple):
  """Spans of a question, the best first.

  Attributes:
    passages: [q, m] number of the passage among the n; −1: no span.
    starts: [q, m] its first token in the input; −1 likewise.
    ends: [q, m] its last token.
    log_scores: component → [q, m] log-probability, also of components that
      were not chosen; −∞ for no span.
    total: [q, m] sum over the chosen components.
  """

  passages: Int[Array, "q m"]
  starts: Int[Array, "q m"]
  ends: Int[Array, "q m"]
  log_scores: dict[str, Float[Array, "q m"]]
  total: Float[Array, "q m"]


def best_spans(
  scores: SpanScores,
  contexts: Contexts,
  *,
  most: int,
  longest: int,
  components: Sequence[str] | None = None,
) -> BestSpans:
  """The `most` spans with the highest sum of log-probabilities.

  It is exact: all allowed spans are compared. Of equal ones the first passage,
  then the first token, then the shorter span comes first.

  Args:
    scores: of all passages.
    contexts: where spans may lie.
    most: how many, at least 1.
    longest: tokens of the longest span, at least 1.
    components: which are summed, of `COMPONENTS`; None: all that there are.

  Raises:
    ValueError: for no component, an unknown one, or one that the reader has no
      head for; or `most` below 1.
  """
  chosen = _chosen(scores, components, most)
  log_probs = log_probabilities(scores, contexts, longest=longest)
  q, n, l, w = log_probs.spans.shape
  parts = _flat_parts(log_probs)
  total = sum((parts[name] for name in chosen), jnp.zeros(()))
  allowed = log_probs.spans.reshape(q, n, l * w)
  total = jnp.where(allowed, total, -jnp.inf)
  # First within every passage, so that no row is as long as all of them.
  within = min(most, l * w)
  values, numbers = jax.lax.top_k(total, within)
  found = min(most, n * within)
  values, order = jax.lax.top_k(values.reshape(q, n * within), found)
  numbers = jnp.take_along_axis(numbers.reshape(q, n * within), order, axis=1)
  flat = (order // within) * (l * w) + numbers
  log_scores = {
    name: jnp.take_along_axis(part.reshape(q, -1), flat, axis=1)
    for name, part in parts.items()
  }
  real = values > -jnp.inf

  def filled(x: Array, none: int | float) -> Array:
    x = jnp.where(real, x, none)
    room = ((0, 0), (0, most - found))
    return jnp.pad(x, room, constant_values=none)

  starts = numbers // w
  return BestSpans(
    passages=filled(order // within, -1).astype(jnp.int32),
    starts=filled(starts, -1).astype(jnp.int32),
    ends=filled(starts + numbers % w, -1).astype(jnp.int32),
    log_scores={name: filled(x, -jnp.inf) for name, x in log_scores.items()},
    total=filled(values, -jnp.inf),
  )


def _chosen(
  scores: SpanScores, components: Sequence[str] | None, most: int
) -> Sequence[str]:
  """The components to be summed; see `best_spans`."""
  if components is None:
    components = scores.components
  for name in components:
    if name not in COMPONENTS:
      raise ValueError(f"component {name!r}; {nearest(name, COMPONENTS)}")
    if name not in scores.components:
      raise ValueError(
        f"component {name!r}: the extractive reader has no head for it; it has "
        f"{', '.join(scores.components)}; choose of these, or train another."
      )
  if not components or most < 1:
    raise ValueError(
      f"components={tuple(components)}, most={most}: give one component at "
      "least, and ask for one span at least."
    )
  return components


def _flat_parts(
  log_probs: LogProbabilities,
) -> dict[str, Float[Array, "q n s"]]:
  """Component → its log-probability of every span, start by start."""
  q, n, l, w = log_probs.spans.shape
  # The end of the span (s, j) is token s + j: the same shift for all passages.
  last = jnp.minimum(
    jnp.arange(l)[:, None] + jnp.arange(w)[None, :], l - 1
  ).reshape(1, 1, l * w)
  parts = {
    "start": jnp.repeat(log_probs.start, w, axis=2),
    "end": jnp.take_along_axis(
      log_probs.end, jnp.broadcast_to(last, (q, n, l * w)), axis=2
    ),
  }
  if log_probs.span is not None:
    parts["span"] = log_probs.span.reshape(q, n, l * w)
  if log_probs.passage is not None:
    passage = log_probs.passage[..., None]
    parts["passage"] = jnp.broadcast_to(passage, (q, n, l * w))
  return parts
