"""GPUs that are not there: what XLA makes for them is what is counted."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo
from jax.sharding import NamedSharding, PartitionSpec

from odqa_jax.main import main
from odqa_jax.plan.cuda import (
  COMPILER_OPTIONS,
  GPUS,
  cudnn_of,
  gpu_devices,
  is_gpu,
)
from odqa_jax.plan.work import measure
from odqa_jax.runtime.mesh import make_mesh

needs_cuda = pytest.mark.skipif(
  not any(
    importlib.util.find_spec(f"jax_cuda{n}_plugin") for n in ("12", "13")
  ),
  reason="jax's CUDA plugin is not installed: pip install -e '.[gpu]'",
)


class Device:
  def __init__(self, kind):
    self.device_kind = kind


def test_kinds_are_told_from_slices():
  assert is_gpu("h100:8") and is_gpu("l4") and not is_gpu("v5e:2x4")


def test_cudnn_answers_for_the_planned_gpu_and_then_for_itself():
  kept = fused_attention_stablehlo.check_compute_capability
  with cudnn_of(Device("NVIDIA A100-SXM4-80GB")):
    at_least = fused_attention_stablehlo.check_compute_capability
    assert at_least("8.0") and not at_least("9.0")
    equal = fused_attention_stablehlo.is_cuda_compute_capability_equal
    assert equal("8.0") and not equal("8.9")
  assert fused_attention_stablehlo.check_compute_capability is kept
  with cudnn_of(Device("TPU v4")):
    assert fused_attention_stablehlo.check_compute_capability is kept


@pytest.mark.parametrize("topology", ["h100", "h100:0", "h100:9", "h100:two"])
def test_a_host_has_one_to_eight(topology):
  with pytest.raises(ValueError, match="1 to 8, like h100:8"):
    gpu_devices(topology)


def test_without_the_plugin_the_extra_is_named(capsys, monkeypatch):
  real = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    "find_spec",
    lambda name, *a: None if "cuda" in name else real(name, *a),
  )
  argv = ["plan", "--config", "configs/supervised.py:debug"]
  code = main([*argv, "--topology", "h100:8"])
  captured = capsys.readouterr()
  assert code == 2 and not captured.out
  assert "pip install -e '.[gpu]'" in captured.err


@needs_cuda
@pytest.mark.parametrize("kind", GPUS)
def test_every_kind_compiles(kind):
  (device,) = gpu_devices(f"{kind}:1")
  assert device.device_kind == GPUS[kind].name
  work = measure(compiled(device, lambda x: x @ x, jnp.bfloat16))
  assert work.matmul_flops == 2 * 512**3
  assert work.hbm_bytes >= 2 * 512**2 * 2


def compiled(device, run, dtype, shape=(512, 512)):
  x = jax.ShapeDtypeStruct(
    shape, dtype, sharding=jax.sharding.SingleDeviceSharding(device)
  )
  with cudnn_of(device):
    lowered = jax.jit(run).trace(x).lower(lowering_platforms=("cuda",))
  return lowered.compile(compiler_options=COMPILER_OPTIONS).as_text()


@needs_cuda
def test_fused_attention_of_a_compiled_program():
  """Forward and backward, of which the products alone are FLOPs."""
  (device,) = gpu_devices("h100:1")

  def loss(x):
    out = jax.nn.dot_product_attention(x, x, x, implementation="cudnn")
    return jnp.sum(out.astype(jnp.float32) ** 2)

  b, t, h, d = 4, 128, 2, 64
  text = compiled(device, jax.grad(loss), jnp.bfloat16, (b, t, h, d))
  assert text.count('custom_call_target="__cudnn$fmha') == 2
  work = measure(text)
  assert work.matmul_flops == 7 * 2 * b * h * t * t * d
  tensor = b * t * h * d * 2
  # Each reads and writes at least its operands; scores are never written.
  assert 12 * tensor <= work.hbm_bytes < 30 * tensor


@needs_cuda
def test_an_all_reduce_counts_once():
  """Its start and its end are two lines of the program."""
  mesh = make_mesh(None, gpu_devices("h100:8"))
  x = jax.ShapeDtypeStruct(
    (1024, 256),
    jnp.float32,
    sharding=NamedSharding(mesh, PartitionSpec("data")),
  )
  run = jax.jit(lambda x: x.T @ x)
  lowered = run.trace(x).lower(lowering_platforms=("cuda",))
  work = measure(lowered.compile(compiler_options=COMPILER_OPTIONS).as_text())
  size = 256 * 256 * 4
  assert work.collectives == {
    "all-reduce": {
      "count": 1, "bytes": size, "largest": size, "sent": size * 2 * 7 // 8
    }
  }  # fmt: skip
  assert work.matmul_flops == 2 * 128 * 256 * 256
