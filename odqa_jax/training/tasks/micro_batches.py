"""A batch computed in parts, with the gradient of the whole.

Both ways are a checkpointed scan: the backward pass holds the activations of
one micro-batch and computes its forward pass again.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from odqa_jax.training.tasks.task import Batch, Metrics, Params

# (params, batch, rng) → what a step sums up over the examples of a batch.
Sums = Callable[[Params, Batch, PRNGKeyArray | None], Metrics]


def _split(x: Array, parts: int) -> Array:
  """Part c takes rows c, c + parts, …: it is spread over devices like x."""
  return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)


def _fold(rng: PRNGKeyArray | None, number: Int[Array, ""]) -> Array | None:
  return None if rng is None else jax.random.fold_in(rng, number)


def encode_in_micro_batches(
  encode: Callable[..., Float[Array, "n e"]],
  ids: Int[Array, "n l"],
  lengths: Int[Array, " n"],
  rng: PRNGKeyArray | None,
  parts: int,
) -> Float[Array, "n e"]:
  """Encodes a batch part by part, for a loss over all of it.

  The forward pass keeps only the embeddings: what the literature calls
  gradient caching ("Scaling Deep Contrastive Learning Batch Size under Memory
  Limited Setup").

  Args:
    encode: `(ids, lengths, rng=…)` → embeddings.
    ids: token ids.
    lengths: tokens before the padding.
    rng: for dropout; every part folds in its number.
    parts: must divide n, and n / devices.
  """
  if parts == 1:
    return encode(ids, lengths, rng=rng)

  @jax.checkpoint
  def encode_part(number: Array, x: Array, n_tokens: Array) -> Array:
    return encode(x, n_tokens, rng=_fold(rng, number))

  _, out = jax.lax.scan(
    lambda _, x: (None, encode_part(*x)),
    None,
    (jnp.arange(parts), _split(ids, parts), _split(lengths, parts)),
  )
  return out.swapaxes(0, 1).reshape(len(ids), -1)


def sum_over_micro_batches(sums: Sums, parts: int) -> Sums:
  """Adds up the sums of parts of a batch, one at a time.

  For losses that are separate for every example: gradient accumulation in one
  step.
  """
  if parts == 1:
    return sums

  def summed(params: Params, batch: Batch, rng: PRNGKeyArray | None) -> Metrics:
    split = jax.tree.map(lambda x: _split(x, parts), batch)

    @jax.checkpoint
    def part_sums(number: Int[Array, ""], part: Batch) -> Metrics:
      return sums(params, part, _fold(rng, number))

    def add(total: Metrics, x: tuple[Array, Batch]) -> tuple[Metrics, None]:
      return jax.tree.map(jnp.add, total, part_sums(*x)), None

    first = jax.tree.map(lambda x: x[0], split)
    shapes = jax.eval_shape(part_sums, jnp.zeros((), jnp.int32), first)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(add, zeros, (jnp.arange(parts), split))[0]

  return summed
