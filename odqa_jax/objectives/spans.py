"""Scores of spans in all passages of a question, as extractive readers have.

    scores = SpanScores(start, end, passage, span_start, span_end)
    contexts = Contexts(passage_mask, context_starts, context_ends)
    log_probs = log_probabilities(scores, contexts, longest=30)

A span is (passage, first token, last token). Four scores speak of it: that of
its first token, of its last, of both together (bilinear), and of its passage.
The last two may be missing: a reader without these heads has two components.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from odqa_jax.objectives.normalisers import log_sum, wide

COMPONENTS = ("start", "end", "span", "passage")


class SpanScores(NamedTuple):
  """What an extractive reader says of the n passages of q questions.

  Attributes:
    start: [q, n, l] whether an answer begins with a token.
    end: [q, n, l] whether it ends with one.
    passage: [q, n] whether a passage has the answer; None without this head.
    span_start: [q, n, l, d]; the bilinear score of a span is the product of
      its first token's row with its last token's in `span_end`. None without
      this head.
    span_end: [q, n, l, d].
  """

  start: Float[Array, "q n l"]
  end: Float[Array, "q n l"]
  passage: Float[Array, "q n"] | None = None
  span_start: Float[Array, "q n l d"] | None = None
  span_end: Float[Array, "q n l d"] | None = None

  @property
  def components(self) -> tuple[str, ...]:
    """Which of `COMPONENTS` there are."""
    missing = {"span"} if self.span_start is None else set()
    missing |= {"passage"} if self.passage is None else set()
    return tuple(name for name in COMPONENTS if name not in missing)


class Contexts(NamedTuple):
  """Where answers may lie.

  Attributes:
    passage_mask: [q, n] False where there is no passage.
    starts: [q, n] the first token of the passage's text in the input.
    ends: [q, n] the token after its last.
  """

  passage_mask: Bool[Array, "q n"]
  starts: Int[Array, "q n"]
  ends: Int[Array, "q n"]


class LogProbabilities(NamedTuple):
  """Logarithms, each normalised over all passages of the question.

  They mean nothing where a span or token is not allowed.

  Attributes:
    start: [q, n, l].
    end: [q, n, l].
    spans: [q, n, l, w] which spans are allowed: from a token to the w-th after.
    span: [q, n, l, w] of these; None without this head.
    passage: [q, n]; likewise.
  """

  start: Float[Array, "q n l"]
  end: Float[Array, "q n l"]
  spans: Bool[Array, "q n l w"]
  span: Float[Array, "q n l w"] | None
  passage: Float[Array, "q n"] | None


def context_mask(contexts: Contexts, length: int) -> Bool[Array, "q n l"]:
  """Which tokens may be in a span."""
  places = jnp.arange(length)[None, None, :]
  inside = (places >= contexts.starts[..., None]) & (
    places < contexts.ends[..., None]
  )
  return inside & contexts.passage_mask[..., None]


def span_mask(
  contexts: Contexts, length: int, longest: int
) -> Bool[Array, "q n l w"]:
  """Which spans of at most `longest` tokens are allowed.

  Raises:
    ValueError: if `longest` is below 1.
  """
  if longest < 1:
    raise ValueError(
      f"longest={longest}: a span has at least one token; raise it."
    )
  places = jnp.arange(length)[:, None] + jnp.arange(longest)[None, :]
  ends = jnp.minimum(contexts.ends, length)[..., None, None]
  return context_mask(contexts, length)[..., None] & (places[None, None] < ends)


def span_band(
  span_start: Float[Array, "q n l d"],
  span_end: Float[Array, "q n l d"],
  longest: int,
) -> Float[Array, "q n l w"]:
  """Bilinear scores of all spans of at most `longest` tokens.

  All pairs of tokens would be l·l a passage, of which spans need l·w. So the
  starts are cut into blocks, and each is multiplied with the ends of its own
  and the next one: dense products of twice the band.

  Args:
    span_start: of all tokens as the first.
    span_end: of all tokens as the last.
    longest: w, tokens of the longest span, at least 1.

  Returns:
    At (s, j) the score of the span from token s to token s + j, f32 or wider;
    without meaning where there is no such token.
  """
  q, n, l, d = span_start.shape
  block = max(min(longest, l) - 1, 1)
  count = -(-l // block)
  room = count * block - l
  starts = _padded(span_start, room).reshape(q, n, count, block, d)
  ends = _padded(span_end, room + block).reshape(q, n, count + 1, block, d)
  ends = jnp.concatenate([ends[:, :, :-1], ends[:, :, 1:]], axis=3)
  products = jnp.einsum(
    "qncsd,qnced->qncse",
    starts,
    ends,
    preferred_element_type=jnp.promote_types(span_start.dtype, jnp.float32),
  )
  # A row that is one longer than it was shifts the next one by one: now column
  # j of row s is the product with token s + j.
  flat = products.reshape(q, n, count, 2 * block * block)
  flat = jnp.pad(flat, (*((0, 0),) * 3, (0, block)))
  shifted = flat.reshape(q, n, count * block, 2 * block + 1)
  band = shifted[:, :, :l, : min(longest, l)]
  return jnp.pad(band, (*((0, 0),) * 3, (0, longest - band.shape[3])))


def _padded(x: Shaped[Array, "q n l d"], more: int) -> Shaped[Array, "q n m d"]:
  return jnp.pad(x, ((0, 0), (0, 0), (0, more), (0, 0)))


def log_probabilities(
  scores: SpanScores,
  contexts: Contexts,
  *,
  longest: int,
  axis_name: str | None = None,
) -> LogProbabilities:
  """Normalises each of the four over all passages of the question.

  R2-D2's extractive reader, whose normalisers run over all spans of a passage;
  here over those of at most `longest` tokens.

  Args:
    scores: of all passages.
    contexts: where spans may lie.
    longest: tokens of the longest span, at least 1.
    axis_name: of the mesh, if its devices hold n passages each of the same
      questions.
  """
  length = scores.start.shape[2]
  inside = context_mask(contexts, length)
  spans = span_mask(contexts, length, longest)

  def normalised(
    values: Float[Array, "..."], allowed: Bool[Array, "..."]
  ) -> Float[Array, "..."]:
    axes = tuple(range(1, values.ndim))
    total = log_sum(values, allowed, axes=axes, axis_name=axis_name)
    return wide(values) - jnp.expand_dims(total, axes)

  span = passage = None
  if scores.span_start is not None and scores.span_end is not None:
    band = span_band(scores.span_start, scores.span_end, longest)
    span = normalised(band, spans)
  if scores.passage is not None:
    passage = normalised(scores.passage, contexts.passage_mask)
  return LogProbabilities(
    start=normalised(scores.start, inside),
    end=normalised(scores.end, inside),
    spans=spans,
    span=span,
    passage=passage,
  )
