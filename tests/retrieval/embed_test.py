"""Batches by length, and what an encoder sees of them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_corpus import Encoder, Tokens, build, first_devices

from odqa_jax.retrieval.embed import local_mesh


def test_few_shapes_and_little_padding(tmp_path: Path):
  corpus, encode = Tokens(3000), Encoder()
  build(tmp_path / "index", encode, corpus, shard_rows=3000)
  assert len(set(encode.shapes)) <= 5
  padded = sum(n * length for n, length in encode.shapes)
  assert padded < 1.25 * corpus.packed_lengths(80).sum()


def test_encode_sees_only_the_meshs_devices(tmp_path: Path):
  mesh = first_devices(2)
  seen = set()

  def encode(ids: jax.Array, lengths: jax.Array) -> jax.Array:
    seen.add(ids.sharding)
    return Encoder()(ids, lengths)

  build(tmp_path / "index", encode, Tokens(20), mesh)
  (sharding,) = seen
  assert sharding.mesh == local_mesh(mesh)
  assert sharding.device_set == set(jax.devices()[:2])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_embedding_that_is_not_finite(
  tmp_path: Path, value: float, dtype: str
):
  corpus = Tokens(200)
  for row in (150, 77, 100):
    corpus.tokens[row][0] = 49
  for row in set(range(200)) - {150, 77, 100}:
    corpus.tokens[row][corpus.tokens[row] == 49] = 1

  def encode(ids: jax.Array, lengths: jax.Array) -> jax.Array:
    bad = (ids == 49).any(axis=1)[:, None]
    return jnp.where(bad, value, jnp.ones((len(ids), 4)))

  with pytest.raises(ValueError, match=r"'p77' \(row 77\)"):
    build(tmp_path / "index", encode, corpus, dtype=dtype)
  partial = tmp_path / "index.tmp"
  assert [p.name for p in partial.glob("*.npy")] == ["rows-00000.npy"]


def test_the_next_batch_is_dispatched_before_the_last_is_fetched(
  tmp_path: Path,
):
  corpus, events = Tokens(96), []
  corpus.tokens = [t[:20] for t in corpus.tokens]
  run = Encoder()

  def encode(ids: jax.Array, lengths: jax.Array) -> jax.Array:
    events.append("dispatch")
    return run(ids, lengths)

  build(
    tmp_path / "index",
    encode,
    corpus,
    shard_rows=96,
    progress=lambda done, total: events.append(done),
  )
  assert events == [0, "dispatch", "dispatch", 32, "dispatch", 64, 96]
