"""A corpus of random tokens, an encoder for it, and builds of the two."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from odqa_jax.retrieval import storage
from odqa_jax.retrieval.backends.codes import quantize
from odqa_jax.retrieval.backends.int8 import Int8Index, load_int8
from odqa_jax.retrieval.index import Index, build_index, load_index, place
from odqa_jax.runtime.mesh import make_mesh

IDENTITY = {"encoder": "e" * 8, "tokenizer": "t" * 8}
TABLE = np.random.default_rng(0).integers(-9, 10, (50, 12)).astype(np.float32)


class Tokens:
  """A corpus of random tokens: 0 pads, lengths from 3 to 99."""

  def __init__(self, count: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    self.manifest = {"tokenizer": IDENTITY["tokenizer"]}
    self.fingerprint = f"corpus {count} {seed}"
    self.tokens = [rng.integers(1, 50, n) for n in rng.integers(3, 100, count)]

  def __len__(self) -> int:
    return len(self.tokens)

  def id(self, row: int) -> str:
    return f"p{row}"

  def packed_lengths(self, max_length: int) -> np.ndarray:
    return np.array([min(len(t), max_length) for t in self.tokens], np.int32)

  def passage_inputs(
    self, rows: np.ndarray, length: int
  ) -> tuple[np.ndarray, np.ndarray]:
    ids = np.zeros((len(rows), length), np.int32)
    for i, row in enumerate(rows):
      cut = self.tokens[row][:length]
      ids[i, : len(cut)] = cut
    return ids, (ids > 0).sum(axis=1, dtype=np.int32)

  def embeddings(self, max_length: int = 80) -> np.ndarray:
    """What `Encoder` must give: exact, because all are small integers."""
    return np.stack([TABLE[t[:max_length]].sum(0) for t in self.tokens])


@jax.jit
def add_up(ids: jax.Array) -> jax.Array:
  vectors = jnp.asarray(TABLE)[ids]
  return jnp.einsum("nle,nl->ne", vectors, jnp.float32(ids > 0))


class Encoder:
  """Adds up token vectors; remembers its calls; can fail at one of them."""

  def __init__(self, fail_at: int | None = None):
    self.shapes: list[tuple[int, ...]] = []
    self.fail_at = fail_at

  def __call__(self, ids: jax.Array, lengths: jax.Array) -> jax.Array:
    if self.fail_at == len(self.shapes):
      raise InterruptedError
    assert ids.dtype == lengths.dtype == jnp.int32
    assert len(ids.sharding.device_set) == len(lengths.sharding.device_set)
    self.shapes.append(ids.shape)
    return add_up(ids)


def build(
  directory: Path,
  encode: Callable[[jax.Array, jax.Array], jax.Array],
  corpus: Tokens,
  mesh: Mesh | None = None,
  **options: Any,
) -> Index:
  settings: dict[str, Any] = {
    "max_length": 80,
    "batch_tokens": 1024,
    "shard_rows": 64,
    "identity": IDENTITY,
  }
  mesh = mesh or make_mesh()
  build_index(encode, corpus, directory, mesh=mesh, **settings | options)
  return load_index(directory, mesh)


def first_devices(n: int) -> Mesh:
  return make_mesh(devices=jax.devices()[:n])


def index_from_rows(
  rows: np.ndarray, mesh: Mesh, manifest: dict[str, Any]
) -> Index:
  """An index of rows in memory, in their own type."""

  def fill(start: int, out: np.ndarray) -> None:
    np.copyto(out, rows[start : start + len(out)])

  placed = place(fill, rows.shape, rows.dtype, mesh)
  return Index(placed, len(rows), manifest, mesh)


def int8_index(rows: np.ndarray, mesh: Mesh) -> Int8Index:
  """Of rows in memory; what it maps stays while it is open."""
  codes, scales, residuals = quantize(rows)
  sides = {"scales": scales, "residuals": residuals}
  with tempfile.TemporaryDirectory() as folder:
    saved = save(Path(folder) / "index", codes, sides=sides)
    return load_int8(saved, mesh)


def save(
  directory: Path,
  rows: np.ndarray,
  shard_rows: int = 500,
  *,
  sides: dict[str, np.ndarray] | None = None,
) -> Path:
  """An index folder of given rows, and of what belongs to them."""
  partial = directory.with_name(directory.name + ".partial")
  partial.mkdir(parents=True)
  starts = range(0, len(rows), shard_rows)
  for i, start in enumerate(starts):
    part = slice(start, start + shard_rows)
    held = {name: x[part] for name, x in (sides or {}).items()}
    storage.save_shard(partial, i, start, rows[part], **held)
  settings = {"count": len(rows), "dtype": rows.dtype.name}
  storage.finish(partial, directory, settings, len(starts))
  return directory
