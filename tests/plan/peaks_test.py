"""Peaks of devices, and what bounds a program."""

import pytest

from odqa_jax.plan.cuda import GPUS
from odqa_jax.plan.peaks import (
  PEAKS,
  Peak,
  largest,
  mfu_bound,
  peak_of,
  roofline,
)
from odqa_jax.plan.work import Work

PEAK = Peak(flops=100.0, exact_flops=10.0, hbm=20.0, network=5.0, memory=0)


def test_each_limit_is_a_quotient():
  work = Work(
    hbm_bytes=40,
    matmul_flops=500,
    exact_flops=200,
    collectives={
      "all-reduce": {"count": 1, "bytes": 9, "largest": 9, "sent": 15},
      "all-gather": {"count": 1, "bytes": 9, "largest": 9, "sent": 5},
    },
  )
  seconds = roofline(work, PEAK)
  assert seconds == {"matmul": 3 + 20, "memory": 2, "network": 4}
  assert largest(seconds) == "matmul"


@pytest.mark.parametrize("name", ["matmul", "memory", "network"])
def test_the_largest_limit_bounds_the_useful_share(name):
  seconds = {"matmul": 2.0, "memory": 1.0, "network": 0.5, name: 4.0}
  assert largest(seconds) == name
  assert mfu_bound(100.0, seconds, PEAK) == pytest.approx(100 / 4 / 100)


def test_every_gpu_that_can_be_planned_for_has_peaks():
  for gpu in GPUS.values():
    peak = peak_of(gpu.name)
    assert peak.hbm == pytest.approx(gpu.bandwidth, rel=0.05)
    assert peak.memory == gpu.memory * 3 // 4
  assert all(p.exact_flops < p.flops for p in PEAKS.values())


def test_an_unknown_device_is_named():
  with pytest.raises(ValueError, match="'TPU v9' has no peaks here; known"):
    peak_of("TPU v9")
