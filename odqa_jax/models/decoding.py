"""Answers from a T5 reader: greedy and beam search, for use inside `jax.jit`.

Both decode token by token with a cache of keys and values and stop when every
question of the batch is done. The number of tokens is static: one compiled
program serves all batches of one shape.

>>> import jax, jax.numpy as jnp
>>> from odqa_jax.models.decoding import beam_search, greedy
>>> from odqa_jax.models.t5 import PRESETS, T5, T5Config
>>> reader = T5(T5Config(**PRESETS["tiny"] | {"vocab_size": 50}))
>>> params = reader.init(jax.random.key(0))
>>> lengths = jnp.full((2, 3), 8)
>>> states = reader.encode(params, jnp.full((2, 3, 8), 7), lengths)
>>> ids, log_probs = greedy(reader, params, states, lengths, max_tokens=4)
>>> ids.shape, log_probs.shape
((2, 4), (2,))
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from odqa_jax.models.t5 import T5
from odqa_jax.models.t5_decoder import Cache, decode_token, prepare

# Score of a hypothesis that does not exist. Finite, for differences of it.
_NONE = -1e9


class _Greedy(NamedTuple):
  """State of the greedy search before the token at `position`."""

  position: Int[Array, ""]
  last: Int[Array, "b 1"]
  ids: Int[Array, "b t"]
  log_probs: Float[Array, " b"]
  done: Bool[Array, " b"]
  cache: Cache


def greedy(
  model: T5,
  params: Mapping[str, Any],
  encoder_states: Float[Array, "b k l d"],
  lengths: Int[Array, "b k"],
  *,
  bias: Float[Array, "yb b hb k"] | None = None,
  max_tokens: int,
) -> tuple[Int[Array, "b t"], Float[Array, " b"]]:
  """The likeliest next token, again and again.

  Args:
    model: the reader.
    params: its parameters.
    encoder_states: encoder states of the passages of each question.
    lengths: real tokens of each passage.
    bias: score added to every token of a passage, see `T5.decode`.
    max_tokens: longest answer, with its end token; an answer that is not over
      by then has none.

  Returns:
    int32 token ids with the end token, then padding; and the sum of the log
    probabilities of those tokens, end token included and padding not.

  Raises:
    ValueError: `max_tokens` is below 1.
  """
  config = model.config
  _check("max_tokens", max_tokens)
  prepared, cache = prepare(
    config, params, encoder_states, lengths, bias, max_tokens=max_tokens
  )
  b = encoder_states.shape[0]

  def step(state: _Greedy) -> _Greedy:
    logits, cache = decode_token(
      config, prepared, state.cache, state.last, state.position
    )
    log_probs = jax.nn.log_softmax(logits[:, 0])
    best = jnp.argmax(log_probs, axis=-1).astype(jnp.int32)
    gained = jnp.max(log_probs, axis=-1)
    chosen = jnp.where(state.done, config.pad_id, best)
    return _Greedy(
      state.position + 1,
      chosen[:, None],
      _write(state.ids, chosen, state.position),
      state.log_probs + jnp.where(state.done, 0.0, gained),
      state.done | (chosen == config.eos_id),
      cache,
    )

  final = jax.lax.while_loop(
    lambda state: (state.position < max_tokens) & ~jnp.all(state.done),
    step,
    _Greedy(
      position=jnp.int32(0),
      last=jnp.full((b, 1), config.start_id, jnp.int32),
      ids=jnp.full((b, max_tokens), config.pad_id, jnp.int32),
      log_probs=jnp.zeros(b),
      done=jnp.zeros(b, bool),
      cache=cache,
    ),
  )
  return final.ids, final.log_probs


class _Beams(NamedTuple):
  """State of the beam search: `m` open and `m` finished hypotheses each.

  Attributes:
    position: number of tokens that the open hypotheses have.
    open_ids: tokens of the open hypotheses.
    open_sums: sums of their log probabilities, best first.
    ids: tokens of the finished hypotheses.
    scores: their sums divided by length ** penalty, best first.
    settled: no open hypothesis can enter the finished ones any more.
    cache: of the open hypotheses.
  """

  position: Int[Array, ""]
  open_ids: Int[Array, "b m t"]
  open_sums: Float[Array, "b m"]
  ids: Int[Array, "b m t"]
  scores: Float[Array, "b m"]
  settled: Bool[Array, " b"]
  cache: Cache


def beam_search(
  model: T5,
  params: Mapping[str, Any],
  encoder_states: Float[Array, "b k l d"],
  lengths: Int[Array, "b k"],
  *,
  bias: Float[Array, "yb b hb k"] | None = None,
  max_tokens: int,
  beams: int,
  length_penalty: float = 1.0,
) -> tuple[Int[Array, "b t"], Float[Array, " b"]]:
  """The best answer that a beam search finds.

  Each step extends the `beams` open hypotheses of a question by every token and
  keeps the 2 * beams best sums of log probabilities. Those among the first
  `beams` that ended (or are full) enter the finished ones, scored by sum /
  length ** length_penalty with the end token counted; the best `beams` others
  stay open. A question is settled once `beams` have finished and the best open
  hypothesis, scored at its present length, is no better than the worst of them.
  This is the rule of transformers' `generate` with early_stopping=False.

  Args:
    model: the reader.
    params: its parameters.
    encoder_states: encoder states of the passages of each question.
    lengths: real tokens of each passage.
    bias: score added to every token of a passage, see `T5.decode`.
    max_tokens: longest answer, with its end token.
    beams: hypotheses kept open for each question, `m`.
    length_penalty: 0 compares sums, 1 means per token; more favours longer
      answers.

  Returns:
    int32 token ids of the best finished hypothesis with the end token, then
    padding; and its score.

  Raises:
    ValueError: `max_tokens` or `beams` is below 1, or 2 * beams exceeds the
      vocabulary.
  """
  config = model.config
  _check("max_tokens", max_tokens)
  _check("beams", beams)
  if 2 * beams > config.vocab_size:
    raise ValueError(
      f"beams={beams} needs {2 * beams} first tokens, but the vocabulary has "
      f"{config.vocab_size}; use fewer beams."
    )
  inputs = (config, params, encoder_states, lengths, bias)
  prepared, cache = prepare(*inputs, max_tokens=max_tokens, hypotheses=beams)
  b = encoder_states.shape[0]
  nothing = jnp.full((b, beams), _NONE)

  def step(state: _Beams) -> _Beams:
    last = jax.lax.dynamic_index_in_dim(
      state.open_ids, jnp.maximum(state.position - 1, 0), 2, keepdims=False
    )
    last = jnp.where(state.position == 0, config.start_id, last)
    logits, cache = decode_token(
      config, prepared, state.cache, last, state.position
    )
    sums = state.open_sums[:, :, None] + jax.nn.log_softmax(logits)
    sums, origin, tokens = _extensions(sums)
    ids = jnp.take_along_axis(state.open_ids, origin[:, :, None], axis=1)
    ids = _write(ids, tokens, state.position)
    length = state.position + 1
    ended = (tokens == config.eos_id) | (length == max_tokens)
    state = _finish(state, ids, sums, ended, length**length_penalty)
    open_sums, kept = jax.lax.top_k(jnp.where(ended, _NONE, sums), beams)
    origin = jnp.take_along_axis(origin, kept, axis=1)
    best = open_sums[:, 0] / length**length_penalty
    return state._replace(
      position=length,
      open_ids=jnp.take_along_axis(ids, kept[:, :, None], axis=1),
      open_sums=open_sums,
      settled=state.settled | (best <= state.scores[:, -1]),
      cache=_reorder(cache, origin),
    )

  final = jax.lax.while_loop(
    lambda state: (state.position < max_tokens) & ~jnp.all(state.settled),
    step,
    _Beams(
      position=jnp.int32(0),
      open_ids=jnp.full((b, beams, max_tokens), config.pad_id, jnp.int32),
      # All hypotheses are the same at first: only one may be extended.
      open_sums=nothing.at[:, 0].set(0.0),
      ids=jnp.full((b, beams, max_tokens), config.pad_id, jnp.int32),
      scores=nothing,
      settled=jnp.zeros(b, bool),
      cache=cache,
    ),
  )
  return final.ids[:, 0], final.scores[:, 0]


def _check(name: str, value: int) -> None:
  if value < 1:
    raise ValueError(f"{name}={value} is below 1; use at least 1.")


def _write(
  ids: Int[Array, "*n t"], tokens: Int[Array, "*n"], position: Int[Array, ""]
) -> Int[Array, "*n t"]:
  """Puts one token into each row."""
  return jax.lax.dynamic_update_slice_in_dim(
    ids, tokens[..., None], position, axis=-1
  )


def _extensions(
  sums: Float[Array, "b m v"],
) -> tuple[Float[Array, "b w"], Int[Array, "b w"], Int[Array, "b w"]]:
  """The `w = 2 * m` best sums, the hypothesis that each extends, its token.

  At most `m` of them end, so that `m` stay open.
  """
  b, m, _ = sums.shape
  # First within each hypothesis: a sort of `m * v` numbers is slow on a CPU.
  near, tokens = jax.lax.top_k(sums, 2 * m)
  best, places = jax.lax.top_k(near.reshape(b, -1), 2 * m)
  tokens = jnp.take_along_axis(tokens.reshape(b, -1), places, axis=1)
  return best, places // (2 * m), tokens.astype(jnp.int32)


def _finish(
  state: _Beams,
  ids: Int[Array, "b w t"],
  sums: Float[Array, "b w"],
  ended: Bool[Array, "b w"],
  divisor: Float[Array, ""],
) -> _Beams:
  """Merges the ended extensions among the best `m` into the finished ones."""
  m = state.scores.shape[1]
  enters = ended[:, :m] & ~state.settled[:, None]
  entering = jnp.where(enters, sums[:, :m] / divisor, _NONE)
  scores = jnp.concatenate([state.scores, entering], axis=1)
  scores, kept = jax.lax.top_k(scores, m)
  ids = jnp.concatenate([state.ids, ids[:, :m]], axis=1)
  ids = jnp.take_along_axis(ids, kept[:, :, None], axis=1)
  return state._replace(ids=ids, scores=scores)


def _reorder(cache: Cache, origin: Int[Array, "b m"]) -> Cache:
  """Gives every open hypothesis the cache of the one that it extends."""
  b, m = origin.shape
  rows = (jnp.arange(b)[:, None] * m + origin).reshape(-1)
  # The rows are the fourth axis from the end, with a layer axis before or not.
  own = jax.tree.map(lambda x: jnp.take(x, rows, axis=-4), cache.own)
  return Cache(own, cache.recent[rows])
