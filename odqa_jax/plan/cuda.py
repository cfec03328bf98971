"""GPUs that need not exist, for XLA's compiler.

The CUDA plugin of jax compiles for any GPU whose sizes it is told, in the text
form of XLA's `GpuTargetConfigProto`, and needs neither GPU nor driver. Two
private functions of jax must be told as well: `jax.nn.dot_product_attention`
asks the GPU at hand what cuDNN can do there, and there is none.
"""

import contextlib
import dataclasses
import importlib.util
from collections.abc import Iterator
from typing import Any

import jax

# Kernels are not tried out: there is nothing to try them on.
COMPILER_OPTIONS: dict[str, str | bool] = {"xla_gpu_autotune_level": "0"}
# Of one host, as they are sold.
_MOST_DEVICES = 8

_TARGET = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared}
  threads_per_core_limit: {threads}
  core_count: {cores}
  fpus_per_core: {units}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth}
  l2_cache_size: {cache}
  clock_rate_ghz: {clock}
  device_memory_size: {memory}
  shared_memory_per_block_optin: {shared_most}
  cuda_compute_capability {{ major: {capability[0]} minor: {capability[1]} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 12 minor: 8 }}
device_description_str: "{name}"
"""


@dataclasses.dataclass(frozen=True)
class Gpu:
  """The sizes of a GPU that its compiler asks for.

  Attributes:
    name: its `device_kind`.
    capability: of CUDA.
    cores: streaming multiprocessors.
    units: of float32 in each.
    threads: in each at once.
    shared: bytes of fast memory in each.
    shared_most: of those, for one block.
    cache: bytes of the L2 cache.
    clock: GHz.
    bandwidth: bytes per second of the main memory.
    memory: bytes of it.
  """

  name: str
  capability: tuple[int, int]
  cores: int
  units: int
  threads: int
  shared: int
  shared_most: int
  cache: int
  clock: float
  bandwidth: int
  memory: int


_HOPPER = Gpu(
  name="NVIDIA H100 80GB HBM3",
  capability=(9, 0),
  cores=132,
  units=128,
  threads=2048,
  shared=233_472,
  shared_most=232_448,
  cache=52_428_800,
  clock=1.98,
  bandwidth=3_352_320_000_000,
  memory=84_942_979_072,
)
GPUS = {
  "l4": Gpu(
    name="NVIDIA L4",
    capability=(8, 9),
    cores=58,
    units=128,
    threads=1536,
    shared=102_400,
    shared_most=101_376,
    cache=50_331_648,
    clock=2.04,
    bandwidth=300_096_000_000,
    memory=23_652_728_832,
  ),
  "a100": Gpu(
    name="NVIDIA A100-SXM4-80GB",
    capability=(8, 0),
    cores=108,
    units=64,
    threads=2048,
    shared=167_936,
    shared_most=166_912,
    cache=41_943_040,
    clock=1.41,
    bandwidth=2_039_040_000_000,
    memory=85_100_068_864,
  ),
  "h100": _HOPPER,
  "h200": dataclasses.replace(
    _HOPPER,
    name="NVIDIA H200",
    bandwidth=4_800_000_000_000,
    memory=151_397_597_184,
  ),
  "b200": dataclasses.replace(
    _HOPPER,
    name="NVIDIA B200",
    capability=(10, 0),
    cores=148,
    cache=132_644_864,
    clock=1.965,
    bandwidth=7_672_320_000_000,
    memory=191_514_411_008,
  ),
}


def is_gpu(topology: str) -> bool:
  """Whether `--topology` names a GPU: `h100:8`, or a kind alone for one."""
  return topology.partition(":")[0] in GPUS


def gpu_devices(topology: str) -> list[Any]:
  """The devices of a host with GPUs.

  Args:
    topology: `KIND:COUNT`, of `GPUS`.

  Raises:
    ImportError: if jax's CUDA plugin is not installed.
    ValueError: if a host has not so many.
  """
  kind, _, count = topology.partition(":")
  if not count.isdecimal() or not 1 <= int(count) <= _MOST_DEVICES:
    raise ValueError(
      f"--topology {topology!r}: say how many GPUs the host has, 1 to "
      f"{_MOST_DEVICES}, like {kind}:8."
    )
  plugins = ("jax_cuda13_plugin", "jax_cuda12_plugin")
  if not any(importlib.util.find_spec(name) for name in plugins):
    raise ImportError(
      f"odqa plan compiles for {kind} with jax's CUDA plugin, which is not "
      "installed: pip install -e '.[gpu]' (Linux; no GPU is needed)."
    )
  from jax.experimental import topologies

  topology_description = topologies.get_topology_desc(
    platform="cuda",
    topology_name="",
    target_config=_TARGET.format(**dataclasses.asdict(GPUS[kind])),
    topology=f"1x1x{count}",  # Slices, hosts and devices.
  )
  return list(topology_description.devices)


@contextlib.contextmanager
def cudnn_of(device: Any) -> Iterator[None]:
  """Within, `jax.nn.dot_product_attention` believes in a planned GPU.

  It asks in `jax._src`, at no public place, and takes the answers as constants
  of what it traces.

  Args:
    device: any; nothing changes for one that is no GPU.
  """
  gpus = {gpu.name: gpu.capability for gpu in GPUS.values()}
  if device.device_kind not in gpus:
    yield
    return
  from jax._src.cudnn import fused_attention_stablehlo as attention

  has = gpus[device.device_kind]
  answers = {
    "check_compute_capability": lambda least: has >= _numbers(least),
    "is_cuda_compute_capability_equal": lambda one: has == _numbers(one),
  }
  kept = {name: getattr(attention, name) for name in answers}
  try:
    for name, answer in answers.items():
      setattr(attention, name, answer)
    yield
  finally:
    for name, function in kept.items():
      setattr(attention, name, function)
    # Traces of functions remember the answers.
    jax.clear_caches()


def _numbers(capability: str) -> tuple[int, ...]:
  return tuple(int(n) for n in capability.split("."))
