"""Indexes one after the other hold the rows of the whole, bit for bit."""

import numpy as np
import pytest
from random_corpus import IDENTITY, Encoder, Tokens

from odqa_jax.retrieval import storage
from odqa_jax.retrieval.index import build_index
from odqa_jax.retrieval.join import join_indexes
from odqa_jax.runtime.mesh import make_mesh

PARTS = (slice(70), slice(70, 100))


def part_of(corpus, rows):
  part = Tokens(0)
  part.tokens = corpus.tokens[rows]
  part.fingerprint = f"{corpus.fingerprint} {rows}"
  return part


def make_index(folder, corpus, **options):
  build_index(
    Encoder(),
    corpus,
    folder,
    mesh=make_mesh(),
    identity=IDENTITY,
    shard_rows=64,
    batch_tokens=1024,
    **({"dtype": "float32", "max_length": 80} | options),
  )


def stored(folder):
  manifest = storage.read_manifest(folder)
  shards = [
    [np.asarray(a) for a in storage.shard_arrays(folder, manifest, shard)]
    for shard in manifest["shards"]
  ]
  return [np.concatenate(side) for side in zip(*shards, strict=True)]


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_joined_index_is_that_of_the_whole(tmp_path, dtype):
  corpus = Tokens(100)
  make_index(tmp_path / "whole", corpus, dtype=dtype)
  for name, rows in zip("ab", PARTS, strict=True):
    make_index(tmp_path / name, part_of(corpus, rows), dtype=dtype)
  folders = [tmp_path / "a", tmp_path / "b"]
  made = join_indexes(folders, tmp_path / "all", corpus=corpus.fingerprint)
  for ours, whole in zip(
    stored(tmp_path / "all"), stored(tmp_path / "whole"), strict=True
  ):
    assert ours.tobytes() == whole.tobytes()
  # It is the index of the whole: nothing would be encoded, nor joined again.
  make_index(tmp_path / "all", corpus, dtype=dtype)
  again = join_indexes(folders, tmp_path / "all", corpus=corpus.fingerprint)
  assert again["sha256"] == made["sha256"]


def test_indexes_made_otherwise_are_refused(tmp_path):
  corpus = Tokens(100)
  for name, length in (("a", 80), ("b", 40)):
    part = part_of(corpus, slice(20))
    make_index(tmp_path / name, part, max_length=length)
  with pytest.raises(ValueError, match=r"its max_length is 40.* is 80"):
    join_indexes([tmp_path / "a", tmp_path / "b"], tmp_path / "all", corpus="c")
  assert not (tmp_path / "all").exists()
  join_indexes([tmp_path / "a"], tmp_path / "all", corpus="c")
  with pytest.raises(ValueError, match="another index"):
    join_indexes([tmp_path / "a"], tmp_path / "all", corpus="d")
