"""What devices can do at best, and which limit a program meets first.

    >>> peak = PEAKS["TPU v5 lite"]
    >>> seconds = roofline(Work(matmul_flops=197 * 10**12), peak)
    >>> seconds["matmul"], largest(seconds)
    (1.0, 'matmul')

Sources. TPU: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}: bf16 peak, HBM
bandwidth, and ICI per chip (both ways, of all ports; a port one way is that
over twice the ports: 50 GB/s for v4 and v5e, 100 for v5p and v6e). The memory
that programs may use is what the compiler of libtpu 0.0.42 names when one
exceeds it (of 32, 16, 95 and 32 GB sold), and on a GPU the three quarters that
jax takes, unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise. NVIDIA: the
data sheets of A100, H100 SXM, H200, B200 and L4, dense bf16, NVLink one way
(L4: PCIe 4 × 16), float32 outside the tensor cores.
"""

import dataclasses

from odqa_jax.plan.work import Work

_GIB = 2**30
_TERA, _GIGA = 1e12, 1e9
# A product in full float32 takes the matrix unit of a TPU six bf16 products.
_BF16_PASSES = 6


@dataclasses.dataclass(frozen=True)
class Peak:
  """The best of one device.

  Attributes:
    flops: per second, products of bf16.
    exact_flops: per second, products in full float32.
    hbm: bytes per second of the main memory.
    network: bytes per second that one device sends in a ring of its host or
      slice. On a TPU that takes two ports, one each way round; larger slices
      can use more rings at once.
    memory: bytes that programs may use.
  """

  flops: float
  exact_flops: float
  hbm: float
  network: float
  memory: int


def _tpu(tera: float, hbm: float, port: float, gib: float) -> Peak:
  """Of TFLOP/s, GB/s, GB/s of a port one way, and GiB."""
  return Peak(
    flops=tera * _TERA,
    exact_flops=tera * _TERA / _BF16_PASSES,
    hbm=hbm * _GIGA,
    network=2 * port * _GIGA,
    memory=int(gib * _GIB),
  )


def _gpu(
  tera: float, exact: float, hbm: float, link: float, memory: int
) -> Peak:
  """Of TFLOP/s twice, GB/s, GB/s of all links one way, and bytes."""
  return Peak(
    flops=tera * _TERA,
    exact_flops=exact * _TERA,
    hbm=hbm * _GIGA,
    network=link * _GIGA,
    memory=memory * 3 // 4,
  )


# By `device_kind`.
PEAKS = {
  "TPU v4": _tpu(275.0, 1228.0, 50.0, 30.75),
  "TPU v5 lite": _tpu(197.0, 819.0, 50.0, 15.75),
  "TPU v5": _tpu(459.0, 2765.0, 100.0, 95.74),
  "TPU v6 lite": _tpu(918.0, 1638.0, 100.0, 31.25),
  "NVIDIA L4": _gpu(121.0, 30.3, 300.0, 32.0, 23_652_728_832),
  "NVIDIA A100-SXM4-80GB": _gpu(312.0, 19.5, 2039.0, 300.0, 85_100_068_864),
  "NVIDIA H100 80GB HBM3": _gpu(989.0, 67.0, 3350.0, 450.0, 84_942_979_072),
  "NVIDIA H200": _gpu(989.0, 67.0, 4800.0, 450.0, 151_397_597_184),
  "NVIDIA B200": _gpu(2250.0, 80.0, 8000.0, 900.0, 191_514_411_008),
}


def peak_of(kind: str) -> Peak:
  """The peaks of a `device_kind`.

  Raises:
    ValueError: for a kind that is not in the table.
  """
  if kind not in PEAKS:
    raise ValueError(f"{kind!r} has no peaks here; known: {', '.join(PEAKS)}.")
  return PEAKS[kind]


def roofline(work: Work, peak: Peak) -> dict[str, float]:
  """Seconds that products, memory and network take at least, each alone.

  Collectives count as rings (`work.ring_factor`).
  """
  sent = sum(total["sent"] for total in work.collectives.values())
  quick = work.matmul_flops - work.exact_flops
  return {
    "matmul": quick / peak.flops + work.exact_flops / peak.exact_flops,
    "memory": work.hbm_bytes / peak.hbm,
    "network": sent / peak.network,
  }


def largest(seconds: dict[str, float]) -> str:
  """What bounds the program."""
  return max(seconds, key=lambda name: seconds[name])


def mfu_bound(
  useful_flops: float, seconds: dict[str, float], peak: Peak
) -> float:
  """The highest share of the peak that useful FLOPs can reach.

  Args:
    useful_flops: of one device, without what is only computed again.
    seconds: see `roofline`; the largest of them passes at least.
    peak: of the device.
  """
  return useful_flops / (peak.flops * seconds[largest(seconds)])
