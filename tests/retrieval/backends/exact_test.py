"""Exact search against a float64 search of everything."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from random_corpus import index_from_rows

from odqa_jax.retrieval.backends import exact, top_k
from odqa_jax.retrieval.index import Index
from odqa_jax.runtime.mesh import make_mesh, replicated, row_sharding


def index_of(rows: np.ndarray, devices: int = 8) -> Index:
  mesh = make_mesh(devices=jax.devices()[:devices])
  return index_from_rows(rows, mesh, {})


def integers(shape: tuple[int, ...], seed: int, high: int = 4) -> np.ndarray:
  """Small integers: every product is exact in float32, and ties abound."""
  rng = np.random.default_rng(seed)
  return rng.integers(1 - high, high, shape).astype(np.float32)


def best(rows: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
  """Rows of the k best float64 scores, equals by row."""
  scores = queries.astype(np.float64) @ rows.astype(np.float64).T
  # NumPy's own product gives copies of a row scores that differ in the end.
  scores = scores.round(10)
  return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def rows_found(index: Index, queries: Any, k: int) -> np.ndarray:
  scores, rows = index.search(queries, k)
  assert scores.dtype == jnp.float32 and rows.dtype == jnp.int32
  assert scores.shape == rows.shape == (len(queries), k)
  return np.asarray(rows)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
  """Makes a few thousand rows need many blocks, the last one overlapping.

  So do nine questions over float32 rows.
  """
  monkeypatch.setattr(exact, "_BLOCK_SCORES", 2**12)
  monkeypatch.setattr(top_k, "_SCORES", 2**13)
  exact._searcher.cache_clear()
  yield
  exact._searcher.cache_clear()


@pytest.mark.parametrize("devices", [1, 3, 8])
@pytest.mark.parametrize("n", [1, 7, 8, 1000, 100_003])
def test_rows_equal_those_of_float64(n: int, devices: int):
  rows, queries = integers((n, 12), seed=n), integers((5, 12), seed=1)
  index = index_of(rows, devices)
  for k in sorted({1, min(n, 20), min(n, 1000)}):
    np.testing.assert_array_equal(
      rows_found(index, queries, k), best(rows, queries, k)
    )


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("k", [1, 10, 300])
@pytest.mark.parametrize("n", [1000, 6001])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_many_blocks(
  small_blocks: None, dtype: type, n: int, k: int, devices: int
):
  rows, queries = integers((n, 12), seed=n), integers((9, 12), seed=1)
  index = index_of(rows.astype(dtype), devices)
  np.testing.assert_array_equal(
    rows_found(index, queries, k), best(rows, queries, k)
  )


def test_blocks_are_small_multiples():
  size = exact._block_rows
  for b, n, e in [(64, 10**6, 768), (1, 10**6, 768)]:
    block = size(b, n, e, cpu=True)
    assert 64 < block <= 2**25 // (4 * e) and not block % 64
  assert size(512, 10**6, 8, cpu=False) * 512 <= 2**24 + 64 * 512


@pytest.mark.parametrize("e", [24, 384])
def test_scores_and_rows_of_real_numbers(e: int):
  rng = np.random.default_rng(0)
  rows = rng.standard_normal((3001, e), np.float32)
  queries = rng.standard_normal((6, e), np.float32)
  scores, found = map(np.asarray, index_of(rows).search(queries, 50))
  true = queries.astype(np.float64) @ rows.astype(np.float64).T
  np.testing.assert_allclose(
    scores, -np.sort(-true, axis=1)[:, :50], rtol=0, atol=1e-4
  )
  np.testing.assert_allclose(
    np.take_along_axis(true, found, axis=1), scores, rtol=0, atol=1e-4
  )
  assert all(len(set(r)) == 50 for r in found.tolist())


@pytest.mark.parametrize("queries_count", [1, 2, 33])
@pytest.mark.parametrize("width", [5, 128, 768])
def test_ties_go_to_the_lowest_row(width: int, queries_count: int):
  """Copies of real-valued rows, far apart and over every kind of edge."""
  rng = np.random.default_rng(width)
  kinds = rng.standard_normal((3, width), np.float32)
  rows = kinds[rng.integers(0, 3, 2777)]
  queries = rng.standard_normal((queries_count, width), np.float32)
  one, eight = (
    [np.asarray(x) for x in index_of(rows, n).search(queries, 1000)]
    for n in (1, 8)
  )
  np.testing.assert_array_equal(one[1], best(rows, queries, 1000))
  np.testing.assert_array_equal(eight[1], one[1])
  np.testing.assert_array_equal(eight[0], one[0])


def test_all_rows_alike():
  rows = np.full((1003, 48), 0.1, np.float32)
  for devices in (1, 8):
    found = rows_found(index_of(rows, devices), rows[:2] * 3, 1003)
    np.testing.assert_array_equal(found, np.tile(np.arange(1003), (2, 1)))


def test_negative_zero_is_zero():
  rows = np.array([[-0.0], [0.0], [-0.0], [1.0]], np.float32)
  queries = np.array([[1.0], [-1.0]], np.float32)
  assert rows_found(index_of(rows), queries, 4).tolist() == [
    [3, 0, 1, 2],
    [0, 1, 2, 3],
  ]


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("n", [1, 65, 130, 1000])
def test_padding_is_never_returned(n: int, devices: int):
  """Padding rows are zeros: the best of all, were they looked at."""
  rows = -np.abs(integers((n, 6), seed=2)) - 1
  queries = np.ones((3, 6), np.float32)
  found = rows_found(index_of(rows, devices), queries, n)
  np.testing.assert_array_equal(found, best(rows, queries, n))


def test_a_score_that_overflows_still_beats_padding():
  rows = np.full((3, 2), 3e38, np.float32)
  found = rows_found(index_of(rows), np.full((1, 2), -10, np.float32), 3)
  assert found.tolist() == [[0, 1, 2]]


def test_bfloat16_rows_with_float32_queries():
  rng = np.random.default_rng(0)
  rows = rng.standard_normal((2000, 64), np.float32).astype(ml_dtypes.bfloat16)
  queries = rng.standard_normal((4, 64), np.float32)
  index = index_of(rows)
  assert index.embeddings.dtype == jnp.bfloat16
  scores, found = map(np.asarray, index.search(queries, 30))
  true = queries.astype(np.float64) @ rows.astype(np.float64).T
  np.testing.assert_allclose(
    scores, -np.sort(-true, axis=1)[:, :30], rtol=0, atol=2e-5
  )
  np.testing.assert_array_equal(found, best(rows, queries, 30))


def test_queries_may_lie_on_devices():
  rows, queries = integers((500, 8), 0), integers((16, 8), 1)
  index = index_of(rows)
  want = best(rows, queries, 5)
  for sharding in (replicated(index.mesh), row_sharding(index.mesh)):
    placed = jax.device_put(queries, sharding)
    np.testing.assert_array_equal(rows_found(index, placed, 5), want)
  half = jnp.asarray(queries, jnp.bfloat16)
  np.testing.assert_array_equal(rows_found(index, half, 5), want)


def test_the_result_is_on_every_device():
  index = index_of(integers((500, 8), 0))
  for x in index.search(np.ones((2, 8), np.float32), 3):
    assert x.is_fully_replicated and len(x.sharding.device_set) == 8


@pytest.mark.parametrize("split", [False, True])
def test_a_search_on_the_devices_alone(split: bool):
  rows, queries = integers((500, 8), 0), integers((16, 8), 1)
  index = index_of(rows)
  where = row_sharding(index.mesh) if split else replicated(index.mesh)
  placed = jax.device_put(queries, where)

  def find(embeddings: jax.Array, asked: jax.Array) -> tuple[Any, Any]:
    return exact.search_placed(index.mesh, embeddings, 500, asked, 7)

  want = index.search(queries, 7)
  compiled = jax.jit(find)
  for run in (find, compiled):
    with jax.transfer_guard("disallow"):
      found = run(index.embeddings, placed)
    for a, b in zip(found, want, strict=True):
      np.testing.assert_array_equal(a, b)
      assert a.is_fully_replicated and len(a.sharding.device_set) == 8


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_query_that_is_not_finite_finds_rows_of_the_index(bad: float):
  """As a training step goes on to look the passages up before it can tell."""
  index = index_of(integers((130, 8), 0))
  queries = integers((3, 8), 1)
  queries[1] = bad
  placed = jax.device_put(queries, replicated(index.mesh))
  _, found = exact.search_placed(
    index.mesh, index.embeddings, index.count, placed, 20
  )
  found = np.asarray(found)
  assert found.min() >= 0 and found.max() < 130
  np.testing.assert_array_equal(found[::2], rows_found(index, queries[::2], 20))


@pytest.mark.parametrize(
  "shape, dtype, k, message",
  [
    ((2, 4), "float32", 6, "k=6 .* 5 rows"),
    ((2, 4), "float32", 0, "k=0 .* 5 rows"),
    ((2, 3), "float32", 2, r"float32 \[2, 3\].* \[questions, 4\]"),
    ((0, 4), "float32", 2, r"float32 \[0, 4\].* 1 question or more"),
    ((2, 4), "bfloat16", 2, r"bfloat16 \[2, 4\]; .*takes float32"),
  ],
)
def test_bad_arguments_on_the_devices(
  shape: tuple[int, int], dtype: str, k: int, message: str
):
  index = index_of(integers((5, 4), 0))
  with pytest.raises(ValueError, match=message):
    exact.search_placed(
      index.mesh, index.embeddings, 5, jnp.ones(shape, dtype), k
    )


def test_no_queries():
  scores, rows = index_of(integers((5, 4), 0)).search(
    np.zeros((0, 4), np.float32), 2
  )
  assert scores.shape == rows.shape == (0, 2)


ONES = np.ones((2, 4), np.float32)


@pytest.mark.parametrize(
  "queries, k, message",
  [
    (ONES, 6, "k=6 .* 5 rows"),
    (ONES, 0, "k=0 .* 5 rows"),
    (ONES[:, :3], 2, r"\(2, 3\).* width 4"),
    (ONES[0], 2, r"\(4,\).* width 4"),
    (ONES.astype(np.int32), 2, "int32"),
    (ONES.astype(np.float64), 2, "float64"),
    (ONES * np.array([[1], [np.nan]], np.float32), 2, "query 1 .*NaN"),
    (ONES * np.array([[-np.inf], [1]], np.float32), 2, "query 0 .*infinity"),
  ],
)
def test_bad_arguments(queries: np.ndarray, k: int, message: str):
  with pytest.raises(ValueError, match=message):
    index_of(integers((5, 4), 0)).search(queries, k)


@pytest.fixture
def compilations() -> Iterator[Callable[[], int]]:
  seen: list[str] = []

  def listen(event: str, seconds: float, **_: Any) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
      seen.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield lambda: len(seen)
  jax.monitoring.unregister_event_duration_listener(listen)


def test_compiled_once(compilations: Callable[[], int]):
  exact._searcher.cache_clear()
  for seed in range(3):
    index = index_of(integers((700 + seed, 20), seed))
    index.search(integers((6, 20), seed), 9)
    if seed == 0:
      first = compilations()
  assert first > 0
  # 700, 701 and 702 rows pad to one shape: a refreshed index is no new program.
  assert compilations() == first


def test_memory_and_traffic_do_not_grow_with_the_corpus():
  """256 questions over 4 M rows: all scores would be 4 GiB, 512 MiB a shard."""
  mesh = make_mesh()
  queries, n, k = 256, 2**22, 100
  compiled = (
    exact._searcher(mesh, k)
    .lower(
      jax.ShapeDtypeStruct((queries, 16), "float32", sharding=replicated(mesh)),
      jax.ShapeDtypeStruct((n, 16), "float32", sharding=row_sharding(mesh)),
      jax.ShapeDtypeStruct((), "int32"),
    )
    .compile()
  )
  assert compiled.memory_analysis().temp_size_in_bytes < 2**28
  gathers = re.findall(r"(\S+) all-gather\(", compiled.as_text())
  shapes = [
    [int(d) for d in re.search(r"\[([\d,]+)\]", g)[1].split(",")]
    for g in gathers
  ]
  assert shapes, "the candidates must travel"
  assert all(np.prod(s) == queries * k * 8 for s in shapes)


@pytest.mark.parametrize("devices", [1, 8])
def test_a_group_with_padding_takes_no_place(devices: int):
  """The zeros after the last row are better than all rows of others."""
  rows = -1 - integers((6401, 6), seed=0, high=9).clip(0)
  rows[-1] = -100
  # The ten best rows lie in ten groups, so that none of them can be spared.
  rows[np.arange(10) * 512] = -0.5
  queries = np.ones((3, 6), np.float32)
  np.testing.assert_array_equal(
    rows_found(index_of(rows, devices), queries, 10), best(rows, queries, 10)
  )
