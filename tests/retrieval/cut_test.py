"""A cut index holds its parent's rows, bit for bit, and finds the same."""

import numpy as np
import pytest
from random_corpus import IDENTITY, Encoder, Tokens, build

from odqa_jax.data.corpus.kept import new_rows
from odqa_jax.retrieval import storage
from odqa_jax.retrieval.backends.table import open_index
from odqa_jax.retrieval.cut import cut_index
from odqa_jax.retrieval.index import build_index
from odqa_jax.runtime.artifact import read_manifest
from odqa_jax.runtime.mesh import make_mesh

ROWS = np.sort(np.random.default_rng(3).choice(300, 90, replace=False))


def make_index(folder, dtype):
  build_index(
    Encoder(),
    Tokens(300),
    folder,
    mesh=make_mesh(),
    max_length=80,
    identity=IDENTITY,
    dtype=dtype,
    shard_rows=64,
    batch_tokens=1024,
  )


def stored(folder):
  """All that an index holds, as bits, its shards one after the other."""
  manifest = storage.read_manifest(folder)
  sides = [
    [np.asarray(array) for array in storage.shard_arrays(folder, manifest, s)]
    for s in manifest["shards"]
  ]
  return [np.concatenate(arrays) for arrays in zip(*sides, strict=True)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("shard_rows", [90, 32, 1000])
def test_the_rows_are_the_parents(tmp_path, dtype, shard_rows):
  make_index(tmp_path / "whole", dtype)
  cut_index(
    tmp_path / "whole",
    ROWS,
    tmp_path / "cut",
    corpus="c" * 8,
    shard_rows=shard_rows,
  )
  before, after = stored(tmp_path / "whole"), stored(tmp_path / "cut")
  assert len(before) == len(after) == (3 if dtype == "int8" else 1)
  for whole, cut in zip(before, after, strict=True):
    assert cut.dtype == whole.dtype
    assert cut.tobytes() == whole[ROWS].tobytes()


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_it_finds_what_the_whole_finds_without_the_others(tmp_path, dtype):
  make_index(tmp_path / "whole", dtype)
  cut_index(tmp_path / "whole", ROWS, tmp_path / "cut", corpus="c" * 8)
  rng = np.random.default_rng(1)
  queries = rng.normal(size=(5, 12)).astype(np.float32)
  whole, cut = (
    open_index(tmp_path / name, make_mesh()) for name in ("whole", "cut")
  )
  scores, rows = map(np.asarray, whole.search(queries, 300))
  left = new_rows(ROWS, rows)
  found_scores, found = map(np.asarray, cut.search(queries, 20))
  for i in range(5):
    assert found[i].tolist() == left[i][left[i] >= 0][:20].tolist()
    wanted = scores[i][left[i] >= 0][:20]
    # Of another block's shape the same products may be added in another order.
    np.testing.assert_allclose(found_scores[i], wanted, rtol=1e-5, atol=1e-4)


def test_it_says_what_it_is(tmp_path):
  make_index(tmp_path / "whole", "float32")
  cut_index(
    tmp_path / "whole", ROWS, tmp_path / "cut", corpus="new", made_from={"x": 1}
  )
  whole = read_manifest(tmp_path / "whole", "index")
  made_from = read_manifest(tmp_path / "cut", "index")["made_from"]
  assert made_from == {
    "encoder": IDENTITY["encoder"],
    "tokenizer": IDENTITY["tokenizer"],
    "dtype": "float32",
    "max_length": 80,
    "corpus": "new",
    "count": 90,
    "parent": {"name": "whole", "count": 300, "manifest": whole["sha256"]},
    "x": 1,
  }


def test_a_damaged_parent_gives_no_index(tmp_path):
  make_index(tmp_path / "whole", "float32")
  path = tmp_path / "whole" / "rows-00002.npy"
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(data)
  with pytest.raises(ValueError, match=r"rows-00002\.npy"):
    cut_index(tmp_path / "whole", ROWS, tmp_path / "cut", corpus="c")
  assert not list(tmp_path.glob("cut*"))


def test_a_build_of_the_kept_passages_takes_it_for_its_own(tmp_path):
  """The same corpus, cut or prepared: `odqa index` has nothing to do."""
  corpus = Tokens(300)
  build(tmp_path / "whole", Encoder(), corpus)
  kept = Tokens(0)
  kept.tokens = [corpus.tokens[row] for row in ROWS]
  cut_index(tmp_path / "whole", ROWS, tmp_path / "cut", corpus=kept.fingerprint)
  encoder = Encoder()
  index = build(tmp_path / "cut", encoder, kept)
  assert encoder.shapes == []
  np.testing.assert_array_equal(
    np.asarray(index.embeddings)[:90], corpus.embeddings()[ROWS]
  )
