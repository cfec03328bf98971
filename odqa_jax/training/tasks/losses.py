"""Losses of a batch that lies in parts: on many devices, in micro-batches.

A loss is separate for every example (`SeparateLoss`) or compares all of them
(`InBatchLoss`). Called, it gives the mean over a batch on one device. Its
`gradients` run on every device within `jax.shard_map`: sums over that device's
examples, which the caller adds up over the devices, once.

They accumulate in f32 over explicit micro-batches. The gradient of a scan over
micro-batches would add up bf16 weights' gradients in bf16.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from odqa_jax.reading.likelihoods import Batch, Params

# name → (sum, weight); the host divides, so sharding and padding do not count.
Metrics = dict[str, tuple[Float[Array, ""], Float[Array, ""]]]
# (params, batch, rng) → what a step sums up over the examples of a batch.
Sums = Callable[[Params, Batch, PRNGKeyArray | None], Metrics]
# What is trained → all parameters.
Complete = Callable[[Params], Params]


@dataclasses.dataclass(frozen=True)
class Shard:
  """Which part of the global batch a device has.

  Attributes:
    over: the mesh axes that share the batch; none on one device.
  """

  over: tuple[str, ...] = ()

  def first(self, count: int) -> Int[Array, ""]:
    """The global number of this device's first example of `count`."""
    number = jax.lax.axis_index(self.over) if self.over else 0
    return jnp.asarray(number, jnp.int32) * count

  def all(self, x: Bool[Array, " n"]) -> Bool[Array, " n"]:
    """Where it is true on all devices, which then do the same."""
    if not self.over:
      return x
    return jax.lax.pmin(x.astype(jnp.int32), self.over) > 0

  def everyone(self, tree: Any) -> Any:
    """The arrays of all devices, joined on the first axis."""
    if not self.over:
      return tree
    return jax.tree.map(
      lambda x: jax.lax.all_gather(x, self.over, axis=0, tiled=True), tree
    )


@runtime_checkable
class Loss(Protocol):
  """What a task trains by."""

  def __call__(
    self, params: Params, batch: Batch, rng: PRNGKeyArray | None
  ) -> tuple[Float[Array, ""], Metrics]:
    """The mean loss over a batch on one device, and sums for the log.

    Without an rng the networks are deterministic.
    """
    ...

  def gradients(
    self,
    trained: Params,
    complete: Complete,
    batch: Batch,
    rng: PRNGKeyArray | None,
    *,
    parts: int,
    shard: Shard,
  ) -> tuple[Params, Metrics]:
    """Gradient of the sum of the global loss, and sums of metrics.

    Both are this device's share: the sum over the devices is that of the batch.

    Args:
      trained: parameters to differentiate by.
      complete: puts the others beside them.
      batch: this device's examples.
      rng: the same on every device.
      parts: micro-batches; must divide the examples.
      shard: which part of the global batch it is.
    """
    ...


def mean_loss(metrics: Metrics) -> Float[Array, ""]:
  """The loss that sums come to; 0 for a batch of padding."""
  total, weight = metrics["loss"]
  return total / jnp.maximum(weight, 1.0)


class Grouped(NamedTuple):
  """A cheaper way to the same sums that not every batch allows.

  Attributes:
    sums: as `SeparateLoss.sums`.
    fits: whether a part of a batch allows it, on this device.
  """

  sums: Sums
  fits: Callable[[Batch], Bool[Array, ""]]


@dataclasses.dataclass(frozen=True)
class SeparateLoss:
  """A loss that every example has on its own.

  Attributes:
    sums: over the examples of any part of a batch, "loss" among them.
    grouped: what gradients are made of where it fits; None: `sums`.
  """

  sums: Sums
  grouped: Grouped | None = None

  def __call__(
    self, params: Params, batch: Batch, rng: PRNGKeyArray | None
  ) -> tuple[Float[Array, ""], Metrics]:
    """See `Loss`."""
    metrics = self.sums(params, batch, rng)
    return mean_loss(metrics), metrics

  def gradients(
    self,
    trained: Params,
    complete: Complete,
    batch: Batch,
    rng: PRNGKeyArray | None,
    *,
    parts: int,
    shard: Shard,
  ) -> tuple[Params, Metrics]:
    """See `Loss`; every micro-batch is computed forward and backward once."""

    def gradient(sums: Sums) -> Callable[..., tuple[Params, Metrics]]:
      def loss(
        trained: Params, part: Batch, rng: PRNGKeyArray | None
      ) -> tuple[Float[Array, ""], Metrics]:
        metrics = sums(complete(trained), part, rng)
        return metrics["loss"][0], metrics

      return jax.grad(loss, has_aux=True)

    whole = gradient(self.sums)
    if self.grouped is None:
      return _accumulate(
        lambda part, rng: whole(trained, part, rng), batch, rng, parts
      )
    grouped = gradient(self.grouped.sums)
    fits = shard.all(jax.vmap(self.grouped.fits)(_split(batch, parts)))

    # The choice is around the gradient, for one within it would keep what both
    # ways need for their backward passes.
    def either(
      part: tuple[Batch, Bool[Array, " 1"]], rng: PRNGKeyArray | None
    ) -> tuple[Params, Metrics]:
      examples, (fit,) = part
      made, metrics = jax.lax.cond(fit, grouped, whole, trained, examples, rng)
      share = fit.astype(jnp.float32), jnp.ones(())
      return made, metrics | {"in_length_groups": share}

    return _accumulate(either, (batch, fits), rng, parts)


@dataclasses.dataclass(frozen=True)
class InBatchLoss:
  """A loss in which the examples of the global batch are compared.

  In micro-batches every example is encoded twice: first for its embeddings,
  from which come the loss and the embeddings' gradient, then again to carry
  that on to the weights. The literature calls it gradient caching ("Scaling
  Deep Contrastive Learning Batch Size under Memory Limited Setup").

  Attributes:
    encode: `(params, batch, rng)` → embeddings, a tree of [b, …].
    sums: `(embeddings, batch, shard)` → sums over this device's examples.
  """

  encode: Callable[[Params, Batch, PRNGKeyArray | None], Any]
  sums: Callable[[Any, Batch, Shard], Metrics]

  def __call__(
    self, params: Params, batch: Batch, rng: PRNGKeyArray | None
  ) -> tuple[Float[Array, ""], Metrics]:
    """See `Loss`."""
    metrics = self.sums(self.encode(params, batch, rng), batch, Shard())
    return mean_loss(metrics), metrics

  def gradients(
    self,
    trained: Params,
    complete: Complete,
    batch: Batch,
    rng: PRNGKeyArray | None,
    *,
    parts: int,
    shard: Shard,
  ) -> tuple[Params, Metrics]:
    """See `Loss`."""

    def encode(trained: Params, part: Batch, rng: PRNGKeyArray | None) -> Any:
      return self.encode(complete(trained), part, rng)

    # The other devices' losses reach these embeddings, too: joining them has
    # a sum over the devices for its gradient.
    def loss(embeddings: Any) -> tuple[Float[Array, ""], Metrics]:
      metrics = self.sums(embeddings, batch, shard)
      return metrics["loss"][0], metrics

    if parts == 1:
      gradients, metrics = jax.grad(
        lambda trained: loss(encode(trained, batch, rng)), has_aux=True
      )(trained)
      return _widened(gradients), metrics

    embeddings = in_parts(
      lambda part, rng: encode(trained, part, rng), batch, rng, parts
    )
    cotangents, metrics = jax.grad(loss, has_aux=True)(embeddings)

    def carry_on(part: tuple[Batch, Any], rng: PRNGKeyArray | None) -> Params:
      _, pull = jax.vjp(lambda x: encode(x, part[0], rng), trained)
      return pull(part[1])[0]

    return _accumulate(carry_on, (batch, cotangents), rng, parts), metrics


def in_parts(
  compute: Callable[[Batch, PRNGKeyArray | None], Any],
  batch: Batch,
  rng: PRNGKeyArray | None,
  parts: int,
) -> Any:
  """What `compute` makes of each example, part by part.

  A part's rng is the one that `SeparateLoss.gradients` gives it.

  Args:
    compute: (part of the batch, rng) → arrays of its examples.
    batch: this device's examples.
    rng: the same on every device.
    parts: micro-batches; must divide the examples.
  """
  if parts == 1:
    return compute(batch, rng)
  return _join(
    jax.lax.map(
      lambda x: compute(x[1], _fold(rng, x[0])),
      (jnp.arange(parts), _split(batch, parts)),
    )
  )


def _fold(rng: PRNGKeyArray | None, number: Int[Array, ""]) -> Array | None:
  return None if rng is None else jax.random.fold_in(rng, number)


def _split(tree: Any, parts: int) -> Any:
  """Part c takes rows c, c + parts, …, whatever the number of devices."""
  return jax.tree.map(
    lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), tree
  )


def _join(tree: Any) -> Any:
  """Undoes `_split`."""
  return jax.tree.map(
    lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tree
  )


def _widened(tree: Any) -> Any:
  """Arrays in f32 or wider."""
  return jax.tree.map(
    lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree
  )


def _accumulate(
  compute: Callable[[Any, PRNGKeyArray | None], Any],
  batch: Any,
  rng: PRNGKeyArray | None,
  parts: int,
) -> Any:
  """Adds up, in f32 or wider, what `compute` makes of the parts of a batch."""
  if parts == 1:
    return _widened(compute(batch, rng))

  def of_part(number: Int[Array, ""], part: Any) -> Any:
    return _widened(compute(part, _fold(rng, number)))

  inputs = jnp.arange(parts), _split(batch, parts)
  shapes = jax.eval_shape(of_part, *jax.tree.map(lambda x: x[0], inputs))
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

  def add(total: Any, x: tuple[Array, Any]) -> tuple[Any, None]:
    return jax.tree.map(jnp.add, total, of_part(*x)), None

  return jax.lax.scan(add, zeros, inputs)[0]
