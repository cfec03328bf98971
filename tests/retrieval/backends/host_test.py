"""Search over rows on the host: what exact search finds, block by block."""

import threading
import weakref
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from random_corpus import Encoder, Tokens, build, first_devices, save

from odqa_jax.retrieval.backends import host
from odqa_jax.retrieval.backends.host import HostIndex, open_host
from odqa_jax.retrieval.index import load_index
from odqa_jax.retrieval.searchable import Searchable

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}


def integers(shape: tuple[int, ...], seed: int, high: int = 3) -> np.ndarray:
  """Small integers: every product is exact, and ties abound."""
  rng = np.random.default_rng(seed)
  return rng.integers(1 - high, high, shape).astype(np.float32)


def found(
  index: Searchable, queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
  scores, rows = index.search(queries, k)
  assert scores.dtype == np.float32 and rows.dtype == np.int32
  return np.asarray(scores), np.asarray(rows)


def assert_same(directory: Path, index: HostIndex, queries: Any, k: int):
  wanted = found(load_index(directory, index.mesh), queries, k)
  got = found(index, queries, k)
  np.testing.assert_array_equal(got[1], wanted[1])
  np.testing.assert_allclose(got[0], wanted[0], rtol=1e-6)


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("devices", [1, 3, 8])
@pytest.mark.parametrize("n", [1, 64, 1025, 6001])
def test_finds_what_exact_search_finds(
  tmp_path: Path, n: int, devices: int, dtype: str
):
  """Ties within a block and across blocks; k below and above a block's rows."""
  rows = integers((n, 12), n).astype(DTYPES[dtype])
  directory = save(tmp_path / "index", rows)
  index = open_host(directory, first_devices(devices), block_bytes=1)
  assert index.block_rows == 64 * devices
  for k in sorted({1, min(n, 20), min(n, 1000)}):
    assert_same(directory, index, integers((5, 12), 1), k)


@pytest.mark.parametrize("devices", [1, 8])
def test_real_numbers_and_several_sizes_of_blocks(tmp_path: Path, devices: int):
  rng = np.random.default_rng(0)
  directory = save(tmp_path / "index", rng.standard_normal((3001, 24), "f4"))
  queries = rng.standard_normal((9, 24), "f4")
  for block_bytes in (1, 30_000, None):
    index = open_host(
      directory, first_devices(devices), block_bytes=block_bytes
    )
    assert_same(directory, index, queries, 100)


def test_a_corpus_and_its_encoder(tmp_path: Path):
  corpus = Tokens(300)
  build(tmp_path / "index", Encoder(), corpus)
  index = open_host(tmp_path / "index", first_devices(2), block_bytes=1)
  assert_same(tmp_path / "index", index, corpus.embeddings()[::7], 30)


def test_padding_is_never_returned(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
  """Every row scores below the zeros that fill the last block."""
  rows = -np.ones((262, 4), np.float32)
  index = open_host(
    save(tmp_path / "index", rows), first_devices(1), block_bytes=1
  )
  blocks = []

  def searching(mesh: Any, block: Any, *rest: Any) -> Any:
    blocks.append(np.array(block))
    return search_placed(mesh, block, *rest)

  search_placed = host.search_placed
  monkeypatch.setattr(host, "search_placed", searching)
  scores, rows_found = found(index, np.ones((2, 4), np.float32), 70)
  # The buffer of the last one has held rows of the second one.
  np.testing.assert_array_equal(np.concatenate(blocks)[:262], rows)
  assert len(blocks) == 5 and not blocks[4][6:].any()
  assert (scores == -4).all()
  np.testing.assert_array_equal(rows_found[1], np.arange(70))


def test_the_devices_hold_two_blocks_at_most(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
  """Block i + 1 travels while block i is searched, and no other is there."""
  directory = save(tmp_path / "index", integers((64 * 9, 4), 0))
  index = open_host(directory, first_devices(1), block_bytes=1)
  second = threading.Event()
  move, search_placed = host._move, host.search_placed
  placed: list[weakref.ref[Any]] = []
  searched: list[int] = []

  def moving(*arguments: Any) -> Any:
    assert len(placed) <= len(searched) + 1
    block = move(*arguments)
    placed.append(weakref.ref(block))
    if len(placed) == 2:
      second.set()
    return block

  def searching(*arguments: Any) -> Any:
    # The next block is on its way without waiting for this search.
    assert searched or second.wait(20)
    searched.append(sum(block() is not None for block in list(placed)))
    return search_placed(*arguments)

  monkeypatch.setattr(host, "_move", moving)
  monkeypatch.setattr(host, "search_placed", searching)
  index.search(np.ones((2, 4), np.float32), 3)
  assert len(searched) == len(placed) == 9
  assert max(searched) == 2


def test_a_read_error_is_raised(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
  directory = save(tmp_path / "index", integers((700, 4), 0))
  index = open_host(directory, first_devices(1), block_bytes=1)
  (directory / "rows-00001.npy").unlink()
  with pytest.raises(FileNotFoundError, match="rows-00001"):
    index.search(np.ones((2, 4), np.float32), 3)


def test_metrics(tmp_path: Path):
  directory = save(tmp_path / "index", integers((1000, 4), 0))
  index = open_host(directory, first_devices(4), block_bytes=1)
  assert index.metrics() == {}
  for _ in range(3):
    index.search(np.ones((2, 4), np.float32), 3)
  metrics = index.metrics()["host_resident"]
  assert metrics["batches"] == 3
  # Four blocks of 4 × 64 rows.
  assert metrics["bytes_per_batch"] == 1024 * 4 * 4
  kept = np.array(index.timings[1:])
  assert metrics["seconds_per_batch"] == pytest.approx(kept[:, 0].mean())
  assert metrics["waiting_per_batch"] == pytest.approx(kept[:, 1].mean())
  assert metrics["gb_per_s"] == pytest.approx(
    16384 / 1e9 / metrics["seconds_per_batch"]
  )


ONES = np.ones((2, 4), np.float32)


@pytest.mark.parametrize(
  "queries, k, message",
  [
    (ONES, 6, "k=6 .* 5 rows"),
    (ONES, 0, "k=0 .* 5 rows"),
    (ONES[:, :3], 2, r"\(2, 3\).* width 4"),
    (ONES.astype(np.float64), 2, "float64"),
    (ONES * np.array([[1], [np.nan]], np.float32), 2, "query 1 .*NaN"),
  ],
)
def test_bad_arguments(
  tmp_path: Path, queries: np.ndarray, k: int, message: str
):
  directory = save(tmp_path / "index", integers((5, 4), 0))
  with pytest.raises(ValueError, match=message):
    open_host(directory, first_devices(2)).search(queries, k)


def test_no_queries(tmp_path: Path):
  index = open_host(
    save(tmp_path / "index", integers((5, 4), 0)), first_devices(2)
  )
  scores, rows = index.search(ONES[:0], 2)
  assert scores.shape == rows.shape == (0, 2)


def test_bad_folders(tmp_path: Path):
  mesh = first_devices(1)
  with pytest.raises(ValueError, match=r"holds no index"):
    open_host(tmp_path, mesh)
  directory = save(tmp_path / "index", integers((700, 4), 0))
  path = directory / "rows-00001.npy"
  content = path.read_bytes()
  path.write_bytes(content[:-1] + b"\x01")
  damaged = open_host(directory, mesh)
  with pytest.raises(ValueError, match=r"rows-00001.npy: .*checksum"):
    damaged.search(np.ones((1, 4), np.float32), 3)
  path.write_bytes(content[:-1])
  with pytest.raises(ValueError, match=r"rows-00001.npy: .* bytes"):
    open_host(directory, mesh)
  other = save(tmp_path / "other", integers((5, 4), 0).astype(np.int8))
  with pytest.raises(ValueError, match=r"holds int8 rows.*--backend exact"):
    open_host(other, mesh)


def test_blocks_that_do_not_fit(tmp_path: Path):
  directory = save(tmp_path / "index", integers((700, 4), 0))
  needed = 2 * 64 * 4 * 4
  options: dict[str, Any] = {"mesh": first_devices(2), "block_bytes": 1}
  open_host(directory, **options, free=lambda device: needed)
  with pytest.raises(ValueError, match=r"needs 2,048 bytes .* 2,047 are free"):
    open_host(directory, **options, free=lambda device: needed - 1)
