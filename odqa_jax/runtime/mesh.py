"""Meshes, shardings and hosts: the only module that makes a mesh.

All axes of a mesh work as one: batches, rows of an index and the state of
training are split over all devices alike.

    mesh = make_mesh({"data": -1})
    shardings = state_shardings(mesh, jax.eval_shape(init, rng), split=True)
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA_AXIS = "data"

# Arrays of fewer elements cost more to gather than they save.
_LEAST_SPLIT = 2**15


def start_distributed(
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  *,
  detect: bool = False,
) -> None:
  """Connects this process to its peers; a no-op for a single process.

  Must run before anything touches a JAX device.

  Args:
    coordinator: `host:port` of process 0, the same for every process.
    num_processes: how many processes take part.
    process_id: this one's number, from 0.
    detect: let JAX read Slurm's or the TPU runtime's own description.

  Raises:
    ValueError: if only some of the three values are given.
  """
  given = [x is not None for x in (coordinator, num_processes, process_id)]
  if any(given) and not all(given):
    raise ValueError(
      "--coordinator, --num-processes and --process-id go together; got "
      f"{coordinator!r}, {num_processes!r}, {process_id!r}."
    )
  if all(given):
    jax.distributed.initialize(coordinator, num_processes, process_id)
  elif detect:
    jax.distributed.initialize()


def is_primary() -> bool:
  """Whether this process writes the files that exist once."""
  return jax.process_index() == 0


def sync(name: str) -> None:
  """Waits until every process has come to the barrier `name`."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def make_mesh(
  axes: Mapping[str, int] | None = None,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """Makes a mesh whose axes are all of type Auto.

  Args:
    axes: axis name → size; one size may be -1, which takes what is left.
    devices: the devices to use; all of them by default.

  Raises:
    ValueError: if the sizes do not multiply to the number of devices.
  """
  axes = dict(axes or {DATA_AXIS: -1})
  devices = list(devices if devices is not None else jax.devices())
  known = int(np.prod([n for n in axes.values() if n != -1]))
  free = [name for name, n in axes.items() if n == -1]
  if len(free) == 1 and len(devices) % known == 0:
    axes[free[0]] = len(devices) // known
  if int(np.prod(list(axes.values()))) != len(devices):
    raise ValueError(
      f"mesh {axes} does not fit {len(devices)} devices; set config.mesh so "
      "that the sizes multiply to that number (one may be -1)."
    )
  return jax.make_mesh(
    tuple(axes.values()),
    tuple(axes),
    axis_types=(AxisType.Auto,) * len(axes),
    devices=devices,
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """Every device holds the whole array."""
  return NamedSharding(mesh, PartitionSpec())


def row_sharding(mesh: Mesh) -> NamedSharding:
  """The first axis is split over all devices of the mesh."""
  return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def path_name(path: tuple[Any, ...]) -> str:
  """`params/question/encoder/layer/…/kernel` for a jax key path."""
  return "/".join(
    str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k))))
    for k in path
  )


def split_axis(shape: tuple[int, ...], parts: int) -> int | None:
  """The axis that an array is split on: its largest that divides evenly.

  None for small arrays, which stay whole, and for one device.
  """
  if parts == 1 or math.prod(shape) < _LEAST_SPLIT:
    return None
  even = [i for i, size in enumerate(shape) if size % parts == 0]
  return max(even, key=lambda i: shape[i], default=None)


def state_shardings(mesh: Mesh, tree: Any, *, split: bool) -> Any:
  """The sharding of every leaf of an abstract tree.

  Optimizer moments lie as their parameters do, for they have their shapes.

  Args:
    mesh: the mesh to place on.
    tree: a tree of arrays or `ShapeDtypeStruct`s.
    split: large arrays are split over all devices, see `split_axis`; else all
      are replicated.
  """

  def sharding(leaf: Any) -> NamedSharding:
    axis = split_axis(leaf.shape, mesh.size) if split else None
    if axis is None:
      return replicated(mesh)
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, mesh.axis_names))

  return jax.tree.map(sharding, tree)


def padded_size(size: int, multiple: int) -> int:
  """The least multiple of `multiple` that holds `size`."""
  return -(-size // multiple) * multiple


def host_slice(size: int) -> slice:
  """The rows of a global batch that this process has.

  Raises:
    ValueError: if `size` is not divisible by the number of processes.
  """
  count = jax.process_count()
  if size % count:
    raise ValueError(
      f"a batch of {size} cannot be split over {count} processes; set the "
      f"batch size to a multiple of {count}."
    )
  step = size // count
  return slice(jax.process_index() * step, (jax.process_index() + 1) * step)


def to_global(mesh: Mesh, batch: Any) -> Any:
  """Host arrays (this process's rows) → global arrays split on axis 0.

  Those that are on the devices already stay as they are.
  """
  sharding = row_sharding(mesh)

  def place(x: Any) -> jax.Array:
    if isinstance(x, jax.Array):
      return x
    return jax.make_array_from_process_local_data(sharding, x)

  # This transfer is meant; with several processes JAX takes it for a silent
  # one, which the training loop forbids.
  with jax.transfer_guard("allow"):
    return jax.tree.map(place, batch)


def replicate(mesh: Mesh, x: np.ndarray) -> jax.Array:
  """An array that every process holds → the same on every device."""
  return jax.make_array_from_callback(
    x.shape, replicated(mesh), lambda where: x[where]
  )


def to_host(tree: Any) -> Any:
  """Arrays → NumPy arrays with all rows, on every process.

  Global arrays that this process does not hold in full are gathered, so every
  process must call this together.
  """

  def fetch(x: Any) -> np.ndarray:
    if not isinstance(x, jax.Array) or x.is_fully_addressable:
      return jax.device_get(x)
    if x.is_fully_replicated:
      return np.asarray(x.addressable_data(0))
    return multihost_utils.process_allgather(x, tiled=True)

  return jax.tree.map(fetch, tree)
