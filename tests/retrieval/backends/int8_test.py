"""The int8 index: codes, search with rescoring, files, truncated embeddings."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_corpus import (
  IDENTITY,
  Encoder,
  Tokens,
  build,
  first_devices,
  int8_index,
)

from odqa_jax.retrieval import storage
from odqa_jax.retrieval.backends import int8, top_k
from odqa_jax.retrieval.backends.codes import dequantize, quantize
from odqa_jax.retrieval.backends.table import open_index
from odqa_jax.retrieval.index import build_index, export_npy, load_index
from odqa_jax.runtime.mesh import make_mesh


def embeddings(n: int, e: int, seed: int, outlier: float = 1) -> np.ndarray:
  """Rows of different lengths, one dimension larger than the others."""
  rng = np.random.default_rng(seed)
  rows = rng.standard_normal((n, e), np.float32)
  rows[:, e // 2] *= outlier
  return rows * rng.uniform(0.5, 2, (n, 1)).astype(np.float32)


def index_of(rows: np.ndarray, devices: int = 8) -> int8.Int8Index:
  return int8_index(rows, first_devices(devices))


def recall(found: np.ndarray, rows: np.ndarray, queries: np.ndarray) -> float:
  k = found.shape[1]
  true = queries.astype(np.float64) @ rows.astype(np.float64).T
  best = np.argsort(-true, axis=1, kind="stable")[:, :k]
  hits = [len(set(f) & set(b)) for f, b in zip(found, best, strict=True)]
  return sum(hits) / best.size


def test_codes_are_within_half_a_step():
  rows = embeddings(300, 48, 0)
  rows[7] = 0
  codes, scales, residuals = quantize(rows)
  assert codes.dtype == residuals.dtype == np.int8
  assert codes.max() == 127 and codes.min() == -127
  wrong = np.abs(codes * scales[:, None] - rows)
  assert (wrong <= 0.5001 * scales[:, None] + 1e-7).all()
  again = dequantize(codes, scales, residuals)
  wrong = np.abs(again - rows)
  assert (wrong <= scales[:, None] / 508 * 1.001 + 1e-6).all()
  assert not again[7].any()


@pytest.mark.parametrize("questions", [1, 6])
@pytest.mark.parametrize("outlier", [1, 20])
def test_recall(outlier: float, questions: int):
  rows = embeddings(20_001, 64, 1, outlier)
  queries = embeddings(questions, 64, 2, outlier)
  scores, found = map(np.asarray, index_of(rows).search(queries, 100))
  assert scores.dtype == np.float32 and found.dtype == np.int32
  assert recall(found, rows, queries) >= 0.995
  true = np.einsum("bke,be->bk", rows[found], queries)
  np.testing.assert_allclose(scores, true, atol=2e-3 * np.abs(true).max())
  assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("questions", [1, 3, 40])
@pytest.mark.parametrize("n", [64, 65, 1000, 5003])
def test_one_device_equals_eight(
  monkeypatch: pytest.MonkeyPatch, n: int, questions: int
):
  """In several parts and blocks, with copies of rows among the rows."""
  monkeypatch.setattr(top_k, "_SCORES", 2**14)
  monkeypatch.setattr(int8, "_WIDENED", 192)
  int8._searcher.cache_clear()
  kinds = embeddings(97, 32, n)
  rows = kinds[np.random.default_rng(0).integers(0, 97, n)]
  queries = embeddings(questions, 32, 5)
  k = min(n, 60)
  one, eight = (
    [np.asarray(x) for x in index_of(rows, d).search(queries, k)]
    for d in (1, 8)
  )
  np.testing.assert_array_equal(one[1], eight[1])
  np.testing.assert_array_equal(one[0], eight[0])
  for scores, found in zip(*one, strict=True):
    assert len(set(found.tolist())) == k and found.max() < n
    same = np.diff(scores) == 0
    assert (np.diff(found)[same] > 0).all()
  int8._searcher.cache_clear()


def test_padding_is_never_found():
  rows = -np.abs(embeddings(70, 16, 3))
  _, found = index_of(rows).search(np.ones((4, 16), np.float32), 70)
  np.testing.assert_array_equal(np.sort(found, axis=1)[0], np.arange(70))


@pytest.mark.parametrize("devices", [1, 8])
def test_build_open_and_resume(tmp_path: Path, devices: int):
  """The files hold what encoding gives; a killed build is taken up again."""
  corpus, options = Tokens(200), {"dtype": "int8"}
  whole = build(tmp_path / "f32", Encoder(), corpus)
  rows = np.asarray(whole.embeddings)[:200]

  encoder = Encoder()
  folder = tmp_path / "int8"
  settings = {"max_length": 80, "batch_tokens": 1024, "shard_rows": 64}

  def make(encode: Callable[[jax.Array, jax.Array], jax.Array]) -> None:
    build_index(
      encode,
      corpus,
      folder,
      mesh=make_mesh(),
      identity=IDENTITY,
      **settings,
      **options,
    )

  make(encoder)
  index = open_index(folder, first_devices(devices))
  assert isinstance(index, int8.Int8Index)
  assert index.width == rows.shape[1] and index.count == 200
  codes, scales, residuals = quantize(rows)
  np.testing.assert_array_equal(np.asarray(index.codes)[:200], codes)
  np.testing.assert_array_equal(np.asarray(index.scales)[:200], scales)
  wanted = np.array([199, 0, 64, 63, 128])
  np.testing.assert_array_equal(
    index.rows(wanted), dequantize(codes, scales, residuals)[wanted]
  )
  queries = embeddings(3, rows.shape[1], 0)
  np.testing.assert_array_equal(
    index.search(queries, 20)[1],
    whole.search(queries, 20)[1],
  )
  export_npy(folder, tmp_path / "rows.npy")
  np.testing.assert_array_equal(
    np.load(tmp_path / "rows.npy"), dequantize(codes, scales, residuals)
  )
  # The same build, killed and with a side file of a finished shard damaged.
  before = {p.name: p.read_bytes() for p in folder.iterdir()}
  folder.rename(tmp_path / "done")
  with pytest.raises(InterruptedError):
    make(Encoder(fail_at=len(encoder.shapes) - 1))
  partial = tmp_path / "int8.tmp"
  (partial / "scales-00000.npy").write_bytes(b"damaged")
  make(encoder)
  after = {p.name: p.read_bytes() for p in folder.iterdir()}
  assert before == after and not partial.exists()


def test_damage_is_found_by_name(tmp_path: Path):
  folder = tmp_path / "index"
  build_index(
    Encoder(),
    Tokens(100),
    folder,
    mesh=make_mesh(),
    identity=IDENTITY,
    max_length=80,
    batch_tokens=1024,
    shard_rows=64,
    dtype="int8",
  )
  mesh = make_mesh()
  int8.load_int8(folder, mesh)
  path = folder / "residuals-00001.npy"
  content = bytearray(path.read_bytes())
  content[-1] ^= 1
  path.write_bytes(content)
  with pytest.raises(ValueError, match=r"residuals-00001.npy: bytes 0 to"):
    int8.load_int8(folder, mesh)
  path.write_bytes(content[:-1])
  with pytest.raises(ValueError, match=r"residuals-00001.npy: .* bytes"):
    open_index(folder, mesh)
  path.unlink()
  with pytest.raises(ValueError, match=r"residuals-00001.npy: missing"):
    open_index(folder, mesh)


def test_codes_that_do_not_fit_are_refused(tmp_path: Path):
  folder = tmp_path / "index"
  partial = tmp_path / "partial"
  partial.mkdir()
  codes, scales, residuals = quantize(embeddings(10, 8, 0))
  storage.save_shard(partial, 0, 0, codes, scales=scales, residuals=residuals)
  storage.finish(partial, folder, {"dtype": "int8", "count": 10}, 1)
  with pytest.raises(ValueError, match=r"needs .* bytes"):
    int8.load_int8(folder, make_mesh(), free=lambda device: 3)
  with pytest.raises(ValueError, match="int8"):
    load_index(folder, make_mesh())


@pytest.mark.parametrize("k", [0, 11])
def test_k_out_of_range(k: int):
  index = index_of(embeddings(10, 8, 0))
  with pytest.raises(ValueError, match=f"k={k} is out of range"):
    index.search(np.ones((1, 8), np.float32), k)


def test_bad_queries():
  index = index_of(embeddings(10, 8, 0))
  with pytest.raises(ValueError, match="width 8"):
    index.search(np.ones((1, 7), np.float32), 2)
  with pytest.raises(ValueError, match="NaN"):
    index.search(np.full((1, 8), np.nan, np.float32), 2)
  assert index.search(np.ones((0, 8), np.float32), 2)[1].shape == (0, 2)


def test_candidates_may_be_found_within_a_jitted_function():
  rows = embeddings(500, 16, 0)
  index = index_of(rows)
  queries = jnp.asarray(embeddings(4, 16, 1))
  found = jax.jit(
    lambda q: int8.candidates_placed(
      index.mesh, index.codes, index.scales, index.count, q, 40
    )
  )(queries)
  assert recall(np.asarray(found), rows, np.asarray(queries)) > 0.9


def test_rescored_ties_go_to_the_lowest_row():
  """Of two equals the codes of the question put the second first."""
  rows = np.array([[127, 4, 0], [126, 8, 127]], np.float32)
  queries = np.array([[1, 0.25, 0]] * 2, np.float32)
  scores, found = index_of(rows).search(queries, 2)
  np.testing.assert_array_equal(found, [[0, 1]] * 2)
  np.testing.assert_array_equal(scores, np.full((2, 2), 128))
