"""The kernel of a GPU, run on the CPU: the largest score of every group."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from odqa_jax.retrieval.backends import kernel
from odqa_jax.retrieval.backends.kernel import group_maxima, split, takes


def normal(*shape: int, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).standard_normal(shape, np.float32)


def bytes_of(*shape: int, seed: int = 0) -> np.ndarray:
  values = np.random.default_rng(seed).integers(-127, 128, shape)
  return values.astype(np.int8)


def maxima_of(
  queries: np.ndarray, rows: np.ndarray, group: int, *scales: np.ndarray
) -> np.ndarray:
  arrays = [jnp.asarray(x) for x in (queries, rows, *scales)]
  queries, rows, *scales = arrays
  return np.asarray(group_maxima(queries, rows, group, *scales, interpret=True))


# A part of a tile, a tile, tiles of which the last overlaps; the widths are
# read in steps of 16 and 32 numbers of float32 and bfloat16.
SHAPES = [(1, 64, 16), (5, 192, 48), (16, 256, 32), (17, 832, 96), (3, 704, 80)]


@pytest.mark.parametrize("group", [16, 32])
@pytest.mark.parametrize("b, n, e", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_maxima_equal_those_of_float64(
  dtype: type, b: int, n: int, e: int, group: int
):
  queries, rows = normal(b, e), normal(n, e, seed=1).astype(dtype)
  maxima = maxima_of(queries, rows, group)
  true = queries.astype(np.float64) @ rows.astype(np.float64).T
  assert maxima.shape == (b, n // group) and maxima.dtype == np.float32
  # Of a sum of e products, each up to about 10: float32's own rounding, and
  # 2⁻²² of each. Questions in bfloat16 would be 2⁻⁹ off.
  np.testing.assert_allclose(
    maxima, true.reshape(b, -1, group).max(axis=2), rtol=0, atol=2e-5
  )


@pytest.mark.parametrize("b, n, e", SHAPES)
def test_maxima_of_codes_are_exact(b: int, n: int, e: int):
  queries, codes = bytes_of(b, e), bytes_of(n, e, seed=1)
  scales = np.abs(normal(n))
  maxima = maxima_of(queries, codes, 16, scales)
  products = queries.astype(np.int64) @ codes.astype(np.int64).T
  scores = products.astype(np.float32) * scales
  np.testing.assert_array_equal(maxima, scores.reshape(b, -1, 16).max(axis=2))


def test_equal_rows_score_alike_wherever_they_lie():
  kinds = normal(3, 64)
  rows = kinds[np.random.default_rng(0).integers(0, 3, 832)]
  maxima = maxima_of(normal(4, 64, seed=1), rows, 1)
  assert all(len(np.unique(scores)) == 3 for scores in maxima)


def test_three_parts_hold_all_bits():
  largest = np.finfo(np.float32).max
  numbers = np.concatenate(
    [
      normal(1000) * np.float32(10) ** normal(1000),
      np.float32([0, 1 + 2**-23, largest, -largest, 1 / 3, 2**-100]),
    ]
  )
  parts = jax.jit(split)(jnp.asarray(numbers))
  assert all(part.dtype == jnp.bfloat16 for part in parts)
  total = sum(np.asarray(part, np.float64) for part in parts)
  np.testing.assert_array_equal(total, numbers.astype(np.float64))


def test_which_rows_it_takes(monkeypatch: pytest.MonkeyPatch):
  rows = jnp.zeros((64, 48))
  assert takes(rows) and not takes(rows[:, :40])
  monkeypatch.setattr(kernel, "triton", None)
  assert not takes(rows)


def lowered(dtype: str, platform: str) -> str:
  """The program of a platform, of which none need be here."""
  rows = jax.ShapeDtypeStruct((1024, 64), dtype)
  wanted = "int8" if dtype == "int8" else "float32"
  queries = jax.ShapeDtypeStruct((64, 64), wanted)
  find = jax.jit(lambda q, r: group_maxima(q, r, 16))
  device = jax.sharding.AbstractDevice(
    device_kind="NVIDIA H100", num_cores=132, platform="gpu"
  )
  mesh = AbstractMesh((), (), abstract_device=device)
  with jax.sharding.use_abstract_mesh(mesh):
    traced = find.trace(queries, rows)
    return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_it_is_one_kernel_on_a_gpu(dtype: str):
  text = lowered(dtype, "cuda")
  assert text.count("__gpu$xla.gpu.triton") == 1
  assert "stablehlo.dot_general" not in text
