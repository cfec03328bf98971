"""How weights lie on the devices between steps, and how a step gets them.

Masters in f32 and both moments lie split over the devices (`config.sharding`):

- "zero": a step gathers all weights at its start, in the dtype that the
  network computes in, and adds up the gradients over the devices at its end,
  each device receiving its part (ZeRO-1).
- "fsdp": stacks of layers stay split; a layer is gathered where it is used, so
  once for each micro-batch and again for its backward pass (`layers.Sharded`).
  It holds least and moves most.
- "replicated": every device has all, and gradients are added up everywhere.

    layout = Layout(mesh, shardings, trained, dtypes)
    weights = layout.gather(shards)  # within jax.shard_map
    gradients = layout.reduce(gradients)
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from odqa_jax.models.layers import Sharded, gather, is_sharded
from odqa_jax.runtime.mesh import path_name

# Layers that run one after the other, stacked on the first axis.
_STACKS = r".*/(layer|block)/.*"
# The minor axis of a TPU's tile.
_LANES = 128


@dataclasses.dataclass(frozen=True)
class Layout:
  """The parameters of a run on its devices.

  Attributes:
    mesh: the devices; all axes work as one.
    shardings: of the parameters between steps.
    trained: a tree of booleans; what is not trained has no gradient.
    dtypes: (path regex, dtype) of what is gathered in another type than f32.
    by_layer: stacks are gathered layer by layer ("fsdp").
  """

  mesh: Mesh
  shardings: Any
  trained: Any
  dtypes: Sequence[tuple[str, str]] = ()
  by_layer: bool = False

  @property
  def over(self) -> tuple[str, ...]:
    """The axes that a step communicates over; none on one device."""
    return self.mesh.axis_names if self.mesh.size > 1 else ()

  @functools.cached_property
  def _axes(self) -> dict[str, int | None]:
    """Path → the axis that a parameter is split on."""
    leaves = jax.tree_util.tree_leaves_with_path(self.shardings)
    return {path_name(path): _split_axis(x) for path, x in leaves}

  def map_over_devices(
    self, function: Callable[..., Any], in_specs: Any, out_specs: Any
  ) -> Callable[..., Any]:
    """`jax.shard_map` over all axes of the mesh."""
    # Unchecked, so that gradients are this device's own: the check would have
    # those of what all devices hold added up at once, in every micro-batch.
    return jax.shard_map(
      function,
      mesh=self.mesh,
      in_specs=in_specs,
      out_specs=out_specs,
      check_vma=False,
    )

  @property
  def specs(self) -> Any:
    """The `PartitionSpec` of every parameter."""
    return jax.tree.map(lambda x: x.spec, self.shardings)

  @property
  def batch_spec(self) -> PartitionSpec:
    """Of arrays of examples."""
    return PartitionSpec(self.mesh.axis_names)

  def gather(self, shards: Any) -> Any:
    """This device's parts → weights as networks take them.

    Args:
      shards: parameters, all or a part of the tree with its full paths.
    """
    return jax.tree_util.tree_map_with_path(
      lambda path, x: self._gather(path_name(path), x, self.by_layer), shards
    )

  def whole(self, params: Any) -> Any:
    """Split parameters → weights that every device has all of.

    For networks that run outside of the step; call it within `jax.jit`.

    Args:
      params: as for `gather`.
    """
    if not any(axis is not None for axis in self._axes.values()):
      return params
    specs = jax.tree_util.tree_map_with_path(
      lambda path, x: _spec(self._axes[path_name(path)], self.over), params
    )
    gathered = self.map_over_devices(
      lambda shards: jax.tree_util.tree_map_with_path(
        lambda path, x: self._gather(path_name(path), x, False), shards
      ),
      (specs,),
      PartitionSpec(),
    )
    return gathered(params)

  def _gather(self, name: str, x: Array, by_layer: bool) -> Any:
    axis, dtype = self._axes[name], self._dtype(name, x)
    if axis is None:
      return x.astype(dtype)
    if by_layer and axis > 0 and re.fullmatch(_STACKS, name):
      return Sharded(x, axis - x.ndim, self.over, dtype)
    return gather(x, axis, self.over, dtype)

  def _dtype(self, name: str, x: Array) -> str:
    for pattern, dtype in self.dtypes:
      if x.dtype == jnp.float32 and re.fullmatch(pattern, name):
        return dtype
    return str(x.dtype)

  def divide(self, weights: Any) -> tuple[Any, Callable[[Any], Any]]:
    """What is trained of gathered weights, and what puts the rest beside it."""
    trained, fixed = (
      jax.tree.map(
        lambda x, is_trained, wanted=wanted: (
          x if is_trained is wanted else None
        ),
        weights,
        self.trained,
        is_leaf=is_sharded,
      )
      for wanted in (True, False)
    )

    def complete(trained: Any) -> Any:
      return jax.tree.map(
        lambda x, other: other if x is None else x,
        trained,
        fixed,
        is_leaf=lambda x: x is None or is_sharded(x),
      )

    return trained, complete

  def reduce(self, gradients: Any, shards: Any) -> Any:
    """Adds gradients up over the devices, each of which gets its part.

    Args:
      gradients: f32, of what `divide` gave.
      shards: all parameters; what is not trained gets zeros.
    """

    def add_up(path: Any, gradient: Any, shard: Array) -> Array:
      if gradient is None:
        return jnp.zeros_like(shard)
      if is_sharded(gradient):
        return gradient.shard
      if not self.over:
        return gradient
      axis = self._axes[path_name(path)]
      if axis is None:
        return jax.lax.psum(gradient, self.over)
      return self._scatter(gradient, axis)

    return jax.tree_util.tree_map_with_path(
      add_up,
      gradients,
      shards,
      is_leaf=lambda x: x is None or is_sharded(x),
    )

  def _scatter(self, gradient: Array, axis: int) -> Array:
    """This device's part of the sum over all."""
    share = gradient.shape[axis] // self.mesh.size
    if axis < gradient.ndim - 1 or share % _LANES == 0:
      return jax.lax.psum_scatter(
        gradient, self.over, scatter_dimension=axis, tiled=True
      )
    # Shares of a few columns each are laid out one after the other: TPUs
    # scatter whole tiles, and would send all of the sum to all devices.
    shares = gradient.reshape(*gradient.shape[:-1], self.mesh.size, share)
    return jax.lax.psum_scatter(jnp.moveaxis(shares, -2, 0), self.over)

  def add_up(self, tree: Any) -> Any:
    """Sums over the devices, on every device."""
    return jax.lax.psum(tree, self.over) if self.over else tree


def _split_axis(sharding: NamedSharding) -> int | None:
  axes = [i for i, names in enumerate(sharding.spec) if names]
  return axes[0] if axes else None


def _spec(axis: int | None, over: tuple[str, ...]) -> PartitionSpec:
  if axis is None:
    return PartitionSpec()
  return PartitionSpec(*[None] * axis, over)
