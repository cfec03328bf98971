"""Meshes, shardings and hosts: the only module that makes a mesh.

Sharding is data: an ordered list of `(path regex, PartitionSpec)`; the first
rule that matches a leaf's path decides. Optimizer moments follow the same
rules, because their tree paths contain the parameter's path.

    mesh = make_mesh({"data": -1})
    shardings = tree_shardings(mesh, rules, jax.eval_shape(init, rng))
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA_AXIS = "data"

Rules = Sequence[tuple[str, Any]]


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


def _fsdp_spec(shape: tuple[int, ...], mesh: Mesh, axis: str) -> PartitionSpec:
  """Splits the largest dimension that divides evenly; small arrays stay whole.

  Arrays under 2**15 elements cost more to gather than they save.
  """
  size = mesh.shape[axis]
  if int(np.prod(shape)) < 2**15:
    return PartitionSpec()
  for dim in sorted(range(len(shape)), key=lambda i: -shape[i]):
    if shape[dim] % size == 0:
      return PartitionSpec(
        *[axis if i == dim else None for i in range(dim + 1)]
      )
  return PartitionSpec()


def tree_shardings(mesh: Mesh, rules: Rules, tree: Any) -> Any:
  """The sharding of every leaf of an abstract tree, by the first rule.

  Args:
    mesh: the mesh to place on.
    rules: `(regex, spec)` pairs; the regex must match the whole path. A spec
      is a tuple of axis names (or None), or the string "fsdp".
    tree: a tree of arrays or `ShapeDtypeStruct`s.

  Raises:
    ValueError: if no rule matches a leaf, naming it, or a rule names an axis
      that the mesh lacks.
  """

  def spec_of(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
    name = path_name(path)
    for pattern, spec in rules:
      if re.fullmatch(pattern, name):
        if spec == "fsdp":
          return NamedSharding(mesh, _fsdp_spec(leaf.shape, mesh, DATA_AXIS))
        unknown = [a for a in spec if a and a not in mesh.axis_names]
        if unknown:
          raise ValueError(
            f"rule {pattern!r} names the axis {unknown[0]!r}, but the mesh "
            f"has {mesh.axis_names}; mend config.sharding."
          )
        return NamedSharding(mesh, PartitionSpec(*spec))
    raise ValueError(
      f"no sharding rule matches {name!r}; end config.sharding with "
      "('.*', ()) to keep the rest replicated."
    )

  return jax.tree_util.tree_map_with_path(spec_of, tree)


def host_slice(size: int) -> slice:
  """The rows of a global batch that this process loads.

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
  """Host arrays (this process's rows) → global arrays split on axis 0."""
  sharding = row_sharding(mesh)
  # This transfer is meant; with several processes JAX takes it for a silent
  # one, which the training loop forbids.
  with jax.transfer_guard("allow"):
    return jax.tree.map(
      lambda x: jax.make_array_from_process_local_data(sharding, x), batch
    )


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
