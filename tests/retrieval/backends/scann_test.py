"""ScaNN against a search of everything; building, opening, refusing."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from random_corpus import first_devices, save

from odqa_jax.retrieval import storage
from odqa_jax.retrieval.backends import scann
from odqa_jax.retrieval.backends.codes import quantize
from odqa_jax.retrieval.backends.scann import ScannIndex, open_scann
from odqa_jax.retrieval.backends.scann_build import build_scann
from odqa_jax.retrieval.backends.scann_library import ScannConfig
from odqa_jax.retrieval.backends.table import open_index
from odqa_jax.runtime import artifact
from odqa_jax.runtime.artifact import describe_file, write_manifest

SMALL = ScannConfig(leaves=40, leaves_searched=20, brute_force_below=0)


def clustered(
  n: int, width: int = 32, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
  """Rows around 50 centres, and questions near some of the rows."""
  rng = np.random.default_rng(seed)
  centres = rng.standard_normal((50, width), "f4")
  noise = rng.standard_normal((n, width), "f4")
  rows = centres[rng.integers(0, 50, n)] + np.float32(0.4) * noise
  near = rows[rng.integers(0, n, 64)]
  return rows, near + np.float32(0.2) * rng.standard_normal(near.shape, "f4")


def best(rows: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
  scores = queries.astype(np.float64) @ rows.astype(np.float64).T
  return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def recall(found: np.ndarray, wanted: np.ndarray) -> float:
  return (found[:, :, None] == wanted[:, None, :]).any(axis=2).mean()


def search(
  index: ScannIndex, queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
  scores, rows = index.search(queries, k)
  assert scores.dtype == np.float32 and rows.dtype == np.int32
  assert scores.shape == rows.shape == (len(queries), k)
  assert (np.diff(scores, axis=1) <= 0).all()
  return scores, rows


@pytest.fixture
def library() -> None:
  pytest.importorskip("scann", reason="the extra `scann` is not installed")


needs_scann = pytest.mark.usefixtures("library")


@needs_scann
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("exhaustive", [False, True])
def test_recall_and_scores(tmp_path: Path, dtype: str, exhaustive: bool):
  rows, queries = clustered(3000)
  sides: dict[str, np.ndarray] = {}
  stored = rows
  if dtype == "int8":
    stored, sides["scales"], sides["residuals"] = quantize(rows)
  elif dtype == "bfloat16":
    stored = rows.astype(ml_dtypes.bfloat16)
  directory = save(tmp_path / "index", stored, 5000, sides=sides)
  build_scann(directory, None if exhaustive else SMALL)
  index = open_scann(directory, first_devices(1))
  manifest = index.manifest
  held = storage.float_rows(directory, manifest, manifest["shards"][0])
  for k, least in ((1, 0.95), (20, 0.95), (1000, 0.99)):
    scores, found = search(index, queries, k)
    assert recall(found, best(held, queries, k)) >= (1 if exhaustive else least)
    exact = np.einsum("be,bke->bk", queries, held[found])
    np.testing.assert_allclose(scores, exact, rtol=1e-4, atol=1e-4)
  assert index.count == 3000 and index.width == 32


@needs_scann
@pytest.mark.parametrize("shard_rows", [3000, 700])
def test_opened_again_it_finds_the_same(tmp_path: Path, shard_rows: int):
  rows, queries = clustered(3000)
  directory = save(tmp_path / "index", rows, shard_rows)
  build = build_scann(directory, SMALL)
  assert (directory / "scann").is_dir()
  first = open_scann(directory, first_devices(1))
  assert first.build == build and first.config == SMALL.resolved(3000)
  before = {p: p.stat().st_mtime_ns for p in (directory / "scann").iterdir()}
  again = open_scann(directory, first_devices(8))
  assert before == {p: p.stat().st_mtime_ns for p in before}
  for a, b in zip(
    search(first, queries, 50), search(again, queries, 50), strict=True
  ):
    np.testing.assert_array_equal(a, b)


@needs_scann
def test_built_when_absent(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
  directory = save(tmp_path / "index", clustered(500)[0])
  index = open_scann(directory, first_devices(1))
  told = capfd.readouterr().err
  assert "scann: building over 500 rows; every row is scored" in told
  assert "recall@100 1.0000" in told
  assert index.build["recall"] == {"1": 1.0, "10": 1.0, "100": 1.0}
  made_from = index.build["made_from"]
  assert made_from["index"] == index.manifest["sha256"]
  assert made_from["scann"] and made_from["config"]["rescored"] == 500
  open_scann(directory, first_devices(1))
  assert "scann: building" not in capfd.readouterr().err


@needs_scann
def test_more_leaves_are_searched_where_rows_are_missing(tmp_path: Path):
  """One leaf holds far fewer than 300 rows; ScaNN would fill up with row 0."""
  rows, queries = clustered(600)
  directory = save(tmp_path / "index", rows)
  config = ScannConfig(leaves=40, leaves_searched=1, brute_force_below=0)
  build_scann(directory, config)
  index = open_scann(directory, first_devices(1))
  for k in (300, 600):
    scores, found = search(index, queries, k)
    assert np.isfinite(scores).all()
    assert all(len(set(row)) == k for row in found.tolist())


class Sparse:
  """Has 5 rows for a query only in as many leaves as its first number."""

  def __init__(self) -> None:
    self.calls: list[tuple[int, int]] = []

  def search_batched_parallel(
    self, queries: np.ndarray, *, leaves_to_search: int, **_: Any
  ) -> tuple[np.ndarray, np.ndarray]:
    self.calls.append((len(queries), leaves_to_search))
    scores = np.arange(5, 0, -1, np.float32) * np.ones_like(queries[:, :1])
    # What ScaNN fills up with.
    scores[queries[:, 0] > leaves_to_search, 3:] = np.nan
    return np.ones((len(queries), 5), np.uint32), scores


def sparse(count: int) -> tuple[ScannIndex, Sparse]:
  config = ScannConfig(leaves=40, leaves_searched=3).resolved(count)
  searcher = Sparse()
  manifest = {"width": 2, "count": count}
  return ScannIndex(searcher, count, config, manifest, {}), searcher


def test_queries_without_enough_rows_look_at_more_leaves():
  index, searcher = sparse(30_000)
  scores, _ = index.search(np.float32([[1, 0], [11, 0], [5, 0]]), 5)
  assert searcher.calls == [(3, 3), (2, 6), (1, 12)]
  assert np.isfinite(scores).all()


def test_fewer_rows_than_k_are_an_error():
  index, searcher = sparse(30_000)
  with pytest.raises(ValueError, match=r"fewer than k=5 of 30000 rows for 1 q"):
    index.search(np.float32([[1, 0], [41, 0]]), 5)
  assert [leaves for _, leaves in searcher.calls] == [3, 6, 12, 24, 40]


def test_a_small_share_of_the_rows_is_searched_at_least():
  index, searcher = sparse(1000)
  index.search(np.float32([[1, 0]]), 5)
  # 25 rows a leaf: two leaves hold 10·k, the three of the config hold more.
  assert searcher.calls.pop() == (1, 3)
  index, searcher = sparse(200)
  index.search(np.float32([[1, 0]]), 5)
  assert searcher.calls.pop() == (1, 10)


@needs_scann
def test_equal_scores_are_in_row_order(tmp_path: Path):
  rows = np.repeat(np.eye(4, dtype=np.float32), 50, axis=0)
  index = open_scann(save(tmp_path / "index", rows), first_devices(1))
  _, found = search(index, np.float32([[1, 2, 3, 4]]), 200)
  wanted = [*range(150, 200), *range(100, 150), *range(50, 100), *range(50)]
  assert found[0].tolist() == wanted


@needs_scann
def test_a_build_of_another_index_is_refused(tmp_path: Path):
  one = save(tmp_path / "one", clustered(500)[0])
  other = save(tmp_path / "other", clustered(500, seed=1)[0])
  build_scann(one)
  (one / "scann").rename(other / "scann")
  with pytest.raises(ValueError, match=r"built from the index .* delete .*sc"):
    open_scann(other, first_devices(1))


def damage(name: str, change: Callable[[bytes], bytes]) -> Callable[..., None]:
  def apply(folder: Path) -> None:
    path = folder / name
    path.write_bytes(change(path.read_bytes()))

  return apply


@needs_scann
@pytest.mark.parametrize(
  "harm, message",
  [
    (
      damage("ah_codebook.pb", lambda b: b[:-1] + b"?"),
      "not match their",
    ),
    (damage("hashed_dataset.npy", lambda b: b[:-1]), r"npy: \d+ bytes"),
    (damage("scann_assets.pbtxt", lambda b: b + b" "), r"pbtxt: \d+ bytes"),
    (
      damage("manifest.json", lambda b: b.replace(b"10", b"11")),
      "does not match its",
    ),
    (damage("manifest.json", lambda b: b"[]"), "not a JSON object"),
    (lambda folder: (folder / "manifest.json").unlink(), "holds no scann"),
    (lambda folder: (folder / "dataset.npy").unlink(), "npy: missing"),
  ],
)
def test_a_damaged_build_is_refused(
  tmp_path: Path, harm: Callable[[Path], None], message: str
):
  directory = save(tmp_path / "index", clustered(600)[0])
  build_scann(directory, SMALL)
  harm(directory / "scann")
  with pytest.raises(ValueError, match=message):
    open_scann(directory, first_devices(1))


@needs_scann
def test_nothing_is_read_from_elsewhere_or_unpickled(tmp_path: Path):
  directory = save(tmp_path / "index", clustered(600)[0])
  build_scann(directory, SMALL)
  folder = directory / "scann"
  # ScaNN's own loader would run this.
  (folder / "scann_docids.pkl").write_bytes(b"not even a pickle")
  open_scann(directory, first_devices(1))
  path = folder / "scann_assets.pbtxt"
  path.write_text(path.read_text().replace('"data', '"../data'))
  build = json.loads((folder / "manifest.json").read_text())
  build["files"][path.name] = describe_file(path)
  write_manifest(folder, build)
  with pytest.raises(ValueError, match=r"lie elsewhere: \['../data"):
    open_scann(directory, first_devices(1))


@needs_scann
@pytest.mark.parametrize("earlier", [False, True])
def test_an_interrupted_build_leaves_what_was_there(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: bool
):
  directory = save(tmp_path / "index", clustered(600)[0])
  before = build_scann(directory) if earlier else None

  def stop(path: Path) -> dict[str, Any]:
    raise InterruptedError

  with monkeypatch.context() as patch:
    patch.setattr(artifact, "describe_file", stop)
    with pytest.raises(InterruptedError):
      build_scann(directory, SMALL)
  names = {p.name for p in directory.iterdir() if p.is_dir()}
  assert names == ({"scann"} if earlier else set())
  if earlier:
    assert open_scann(directory, first_devices(1)).build == before
  # What a killed build leaves.
  (directory / "scann.tmp").mkdir()
  (directory / "scann.tmp" / "half.npy").write_bytes(b"half")
  assert build_scann(directory, SMALL)["config"]["leaves"] == 40
  assert not (directory / "scann" / "half.npy").exists()


@needs_scann
def test_other_bad_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  directory = save(tmp_path / "index", clustered(500)[0])
  for settings in ({"leaves": 501}, {"leaves": 5, "leaves_searched": 6}):
    with pytest.raises(ValueError, match="does not suit 500 rows"):
      build_scann(directory, ScannConfig(**settings))
  index = open_scann(directory, first_devices(1))
  queries = np.ones((2, 32), np.float32)
  with pytest.raises(ValueError, match=r"k=501 .* 500 rows"):
    index.search(queries, 501)
  with pytest.raises(ValueError, match=r"\(2, 4\).* width 32"):
    index.search(queries[:, :4], 3)
  scores, rows = index.search(queries[:0], 3)
  assert scores.shape == rows.shape == (0, 3)
  monkeypatch.setattr(scann.memory, "host_bytes", lambda: 1000)
  with pytest.raises(
    ValueError, match=r"scann needs .* but only 1,000 are free"
  ):
    open_scann(directory, first_devices(1))
  with pytest.raises(ValueError, match=r"build needs 144,000 bytes .* 1,000"):
    build_scann(directory)


def test_defaults_follow_from_the_number_of_rows():
  config = ScannConfig().resolved(1_000_000)
  assert (config.leaves, config.leaves_searched) == (1000, 100)
  config = ScannConfig().resolved(21_015_324)
  assert (config.leaves, config.leaves_searched) == (4584, 458)
  config = ScannConfig().resolved(100)
  assert (config.leaves, config.leaves_searched) == (10, 10)
  assert ScannConfig().exhaustive(19_999)
  assert not ScannConfig().exhaustive(20_000)


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  directory = save(tmp_path / "index", clustered(50)[0])
  monkeypatch.setitem(sys.modules, "scann.scann_ops.py", None)
  with pytest.raises(ImportError, match=r"the extra `scann`: pip install"):
    open_scann(directory, first_devices(1))
  assert not (directory / "scann").exists()


@needs_scann
def test_settings_are_part_of_the_backend(
  tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
  directory = save(tmp_path / "index", clustered(600)[0])
  mesh = first_devices(1)
  settings = "scann:leaves=30,leaves_searched=7,brute_force_below=0"
  for backend, builds in ((settings, 1), ("scann", 0), (settings, 0)):
    config = open_index(directory, mesh, backend=backend).config
    assert (config.leaves, config.leaves_searched) == (30, 7)
    assert capfd.readouterr().err.count("built in") == builds
  config = open_index(directory, mesh, backend="scann:leaves=20").config
  assert config.leaves == 20 and config.brute_force_below == 20_000
