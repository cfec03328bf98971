"""The search of a GPU or TPU, run on CPU devices, against that of a CPU."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from random_corpus import first_devices, index_from_rows, int8_index

from odqa_jax.retrieval.backends import exact, int8
from odqa_jax.retrieval.backends.top_k import first_of_best, over_shards
from odqa_jax.runtime.mesh import replicate

PLATFORMS = ["gpu", "tpu"]


def integers(*shape: int, seed: int, high: int = 4) -> np.ndarray:
  """Small integers: every product is exact in float32, and ties abound."""
  rng = np.random.default_rng(seed)
  return rng.integers(1 - high, high, shape).astype(np.float32)


def found(
  rows: np.ndarray, queries: np.ndarray, k: int, platform: str, devices: int
) -> tuple[np.ndarray, np.ndarray]:
  """Scores and rows of float rows, as a platform finds them."""
  mesh = first_devices(devices)
  index = index_from_rows(rows, mesh, {})
  best = exact.best_on(mesh, platform, interpret=True)
  scores, positions = over_shards(mesh, k, 1, best)(
    replicate(mesh, queries), index.embeddings, np.int32(index.count)
  )
  return np.asarray(scores), np.asarray(positions)


# Devices without rows, with fewer than k, and with rows for many tiles.
@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("n", [1, 65, 1000, 9001])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_rows_equal_those_of_float64(
  platform: str, dtype: type, n: int, devices: int
):
  rows, queries = integers(n, 16, seed=n).astype(dtype), integers(5, 16, seed=1)
  true = queries.astype(np.float64) @ rows.astype(np.float64).T
  for k in sorted({1, min(n, 20), min(n, 700)}):
    best = np.argsort(-true, axis=1, kind="stable")[:, :k]
    scores, positions = found(rows, queries, k, platform, devices)
    np.testing.assert_array_equal(positions, best)
    np.testing.assert_array_equal(
      scores, np.take_along_axis(true, best, axis=1)
    )


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_scores_and_rows_of_real_numbers(dtype: type, platform: str):
  rng = np.random.default_rng(0)
  rows = rng.standard_normal((5003, 96), np.float32).astype(dtype)
  queries = rng.standard_normal((6, 96), np.float32)
  scores, positions = found(rows, queries, 50, platform, 8)
  true = queries.astype(np.float64) @ rows.astype(np.float64).T
  np.testing.assert_array_equal(
    positions, np.argsort(-true, axis=1, kind="stable")[:, :50]
  )
  np.testing.assert_allclose(
    scores, -np.sort(-true, axis=1)[:, :50], rtol=0, atol=3e-5
  )


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("count", [70, 1000, 9001])
@pytest.mark.parametrize("questions", [1, 5])
def test_the_same_codes_are_found_everywhere(
  questions: int, count: int, devices: int, platform: str
):
  """Integer products are exact: candidates are equal, and so are scores.

  For one question a CPU multiplies floats, and finds others.
  """
  rng = np.random.default_rng(count)
  kinds = rng.standard_normal((300, 32), np.float32)
  mesh = first_devices(devices)
  index = int8_index(kinds[rng.integers(0, 300, count)], mesh)
  queries = rng.standard_normal((questions, 32), np.float32)
  padded = queries if questions > 1 else np.repeat(queries, 2, axis=0)
  results = []
  for name, asked in ((platform, queries), ("cpu", padded)):
    best = int8.best_on(mesh, name, interpret=True)
    result = over_shards(mesh, 40, 2, best)(
      replicate(mesh, asked), index.codes, index.scales, np.int32(count)
    )
    results.append([np.asarray(x)[:questions] for x in result])
  for a, b in zip(*results, strict=True):
    np.testing.assert_array_equal(a, b)


def test_a_question_that_is_not_finite_spoils_no_other():
  rows, queries = integers(640, 16, seed=0), integers(4, 16, seed=1)
  clean = found(rows, queries, 20, "gpu", 2)
  queries[1], queries[3, 2] = np.nan, np.inf
  scores, positions = found(rows, queries, 20, "gpu", 2)
  assert positions.min() >= 0 and positions.max() < 640
  np.testing.assert_array_equal(positions[::2], clean[1][::2])
  np.testing.assert_array_equal(scores[::2], clean[0][::2])


@pytest.mark.parametrize("k", [1, 3, 100])
@pytest.mark.parametrize("m", [100, 333, 6500, 70_001])
@pytest.mark.parametrize("in_turn", [False, True])
def test_the_first_of_the_best(in_turn: bool, m: int, k: int):
  values = integers(3, m, seed=m, high=20)
  values[0, m // 2 :] = -np.inf
  chosen = jax.jit(lambda x: first_of_best(x, k, in_turn=in_turn))(
    jnp.asarray(values)
  )
  best = np.argsort(-values, axis=1, kind="stable")[:, :k]
  np.testing.assert_array_equal(chosen, np.sort(best, axis=1))


def lowered(module: object, dtype: str, platform: str, target: str) -> str:
  """The search's program of a platform, none of whose devices is here."""
  mesh = first_devices(1)
  best = module.best_on(mesh, platform)
  rows = jax.ShapeDtypeStruct((2**14, 64), dtype)
  scales = jax.ShapeDtypeStruct((2**14,), "float32")
  queries = jax.ShapeDtypeStruct((8, 64), "float32")
  arrays = (rows, scales) if dtype == "int8" else (rows,)
  device = jax.sharding.AbstractDevice(
    device_kind="NVIDIA H100", num_cores=132, platform="gpu"
  )
  away = jax.sharding.AbstractMesh((), (), abstract_device=device)
  with jax.sharding.use_abstract_mesh(away):
    find = jax.jit(lambda *xs: best(*xs, 10))
    traced = find.trace(queries, *arrays, jax.ShapeDtypeStruct((), "int32"))
    return traced.lower(lowering_platforms=(target,)).as_text()


@pytest.mark.parametrize(
  "module, dtype", [(exact, "float32"), (exact, "bfloat16"), (int8, "int8")]
)
def test_which_program_a_platform_runs(module: object, dtype: str):
  gpu = lowered(module, dtype, "gpu", "cuda")
  assert gpu.count("__gpu$xla.gpu.triton") == 1
  # Nothing holds a score for every row, or sorts the maxima of all groups.
  assert "x16384xf32" not in gpu and "16384x8xf32" not in gpu
  assert "1024xf32>) -> tensor<8x11" not in gpu
  tpu = lowered(module, dtype, "tpu", "tpu")
  assert "triton" not in tpu and tpu.count("stablehlo.dot_general") == 1
  groups = "512x32x8" if dtype == "int8" else "1024x16x8"
  assert f"tensor<{groups}x" in tpu
  cpu = lowered(module, dtype, "cpu", "cpu")
  assert "triton" not in cpu and "stablehlo.dot_general" in cpu
