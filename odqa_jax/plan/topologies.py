"""Devices that are not at hand: TPU slices and hosts with GPUs."""

import importlib.util
import os
from typing import Any

import jax

from odqa_jax.plan.cuda import GPUS, gpu_devices, is_gpu

# Names of slices as Google Cloud sells them; other sizes by their shape.
SLICES = {
  "v4-8": "v4:2x2x1",
  "v5e-4": "v5e:2x2",
  "v5e-8": "v5e:2x4",
  "v5e-16": "v5e:4x4",
  "v5e-256": "v5e:16x16",
  "v5p-8": "v5p:2x2x1",
  "v5p-16": "v5p:2x2x2",
  "v6e-4": "v6e:2x2",
  "v6e-8": "v6e:2x4",
  "v6e-256": "v6e:16x16",
}
# Without these libtpu asks the network what it runs on, and warns at length, or
# refuses to be loaded twice, as the use of a TPU would demand.
_SETTINGS = {
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-8",
  "TPU_MIN_LOG_LEVEL": "3",
  "TPU_STDERR_LOG_LEVEL": "3",
}


def planned_devices(topology: str) -> list[Any]:
  """The devices of a machine that need not exist.

  Args:
    topology: a key of `SLICES`; a kind of TPU and a shape, like "v5e:2x4"; or
      a kind of GPU and how many a host has, like "h100:8".

  Raises:
    ImportError: if the compiler for it is not installed.
    ValueError: if there is no such machine.
  """
  return gpu_devices(topology) if is_gpu(topology) else _slice(topology)


def _slice(name: str) -> list[Any]:
  if importlib.util.find_spec("libtpu") is None:
    raise ImportError(
      f"odqa plan compiles for {name!r} with libtpu, which is not installed: "
      f"pip install -e '.[tpu]' (Linux on x86). GPUs: {', '.join(GPUS)}, like "
      "h100:8."
    )
  for key, value in _SETTINGS.items():
    os.environ.setdefault(key, value)
  from jax.experimental import topologies

  shape = SLICES.get(name, name)
  # A v4 chip has two cores, which work as one device.
  options = {"chip_config_name": "megacore"} if shape.startswith("v4") else {}
  try:
    topology = topologies.get_topology_desc(
      platform="tpu", topology_name=shape, **options
    )
  except jax.errors.JaxRuntimeError as error:
    reason = str(error).partition("\n")[0]
    if "INVALID_ARGUMENT" not in reason:
      raise ValueError(f"libtpu cannot be used here: {reason}") from error
    raise ValueError(
      f"--topology {name!r} is no TPU slice ({reason}) and no GPU of "
      f"{', '.join(GPUS)}; examples: h100:8, "
      f"{', '.join(f'{k} = {v}' for k, v in SLICES.items())}."
    ) from error
  return list(topology.devices)
