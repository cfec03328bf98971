"""What a refresh encodes: the rows of an index, in place, batch by batch.

Every device encodes rows of its own part of the index and writes them there:
nothing but the weights travels between devices, and each host reads the tokens
of its own devices' rows only. As in `embed`, the rows are taken in the order of
their lengths, in a few fixed shapes of about as many tokens each.
"""

import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from odqa_jax.retrieval.embed import Passages, batch_sizes, bulk_tokens
from odqa_jax.retrieval.index import padded_rows
from odqa_jax.runtime.mesh import to_global

# Parameters, ids [n, l] and lengths [n] → embeddings [n, e].
EncodeWith = Callable[[Any, Array, Array], Array]


class RefreshBatches:
  """The rows of an index in batches; `len` says how many there are.

  A batch has rows of every device. Which ones depends on the lengths of the
  passages, the number of devices and `batch_tokens`, and on nothing else.

  Args:
    encode: `(params, ids [n, l], lengths [n]) -> [n, e]`; traced within
      `jax.shard_map`, so it must not name axes of the mesh.
    corpus: the passages, row for row those of the index.
    mesh: where the index lies.
    max_length: tokens of the longest packed passage; longer ones are cut.
    batch_tokens: padded tokens that a device encodes at once, about; by
      default what suits the device.

  Attributes:
    padded: rows of the index with padding, as `Index` has them.
    division: a checksum of how the rows fall into batches, below 2**31.
  """

  def __init__(
    self,
    encode: EncodeWith,
    corpus: Passages,
    mesh: Mesh,
    *,
    max_length: int,
    batch_tokens: int | None,
  ) -> None:
    if batch_tokens is None:
      batch_tokens = bulk_tokens(mesh.devices.flat[0].platform, 1)
    self._corpus, self._mesh = corpus, mesh
    self.padded = padded_rows(len(corpus), mesh)
    self._local = self.padded // mesh.size
    self._own = _own_shards(mesh)
    self._sizes = list(
      batch_sizes(max_length, batch_tokens, rows=self._local, devices=1).items()
    )
    self._order, self._edges = self._sorted(corpus.packed_lengths(max_length))
    most = np.diff(self._edges, axis=1).max(axis=0)
    # (bucket, first row within the bucket) of every batch, short ones first.
    self._batches = [
      (bucket, first)
      for bucket, (_, size) in enumerate(self._sizes)
      for first in range(0, int(most[bucket]), size)
    ]
    made_of = repr(self._sizes).encode() + self._edges.tobytes()
    self.division = zlib.crc32(made_of) & (2**31 - 1)
    self._write = row_writer(encode, mesh)

  def __len__(self) -> int:
    return len(self._batches)

  def passages(self) -> Int[np.ndarray, " batches"]:
    """How many passages every batch has, on all devices together."""
    buckets, first = np.array(self._batches).T
    sizes = np.array([size for _, size in self._sizes])[buckets]
    held = np.diff(self._edges, axis=1)[:, buckets] - first[None, :]
    return np.clip(held, 0, sizes[None, :]).sum(axis=0)

  def write(
    self,
    rows: Float[Array, "n_padded e"],
    params: Any,
    batches: range | None = None,
  ) -> Float[Array, "n_padded e"]:
    """Encodes batches into the rows; returns before it is done.

    Args:
      rows: split over the mesh as those of an `Index`; donated.
      params: what `encode` takes; gathered on every device.
      batches: which ones; by default all.

    Raises:
      ValueError: if `encode` returns another shape than the rows need.
    """
    for i in range(len(self)) if batches is None else batches:
      bucket, first = self._batches[i]
      length = self._sizes[bucket][0]
      at = np.stack([self._positions(d, bucket, first) for d in self._own])
      wanted = at + np.array(self._own)[:, None] * self._local
      # What only fills a batch up is computed with some passage.
      wanted = np.where(at < self._local, wanted, 0).ravel()
      ids, lengths = self._corpus.passage_inputs(wanted, length)
      placed = to_global(self._mesh, (ids, lengths, at.ravel()))
      rows = self._write(rows, params, *placed)
    return rows

  def _positions(
    self, shard: int, bucket: int, first: int
  ) -> Int[np.ndarray, " c"]:
    """Where in its shard a batch's rows lie; beyond its end, nowhere."""
    size = self._sizes[bucket][1]
    start, stop = self._edges[shard, bucket : bucket + 2]
    real = self._order[shard][start:stop][first : first + size]
    nowhere = self._local + np.arange(size - len(real), dtype=np.int32)
    return np.concatenate([real, nowhere])

  def _sorted(
    self, lengths: Int[np.ndarray, " n"]
  ) -> tuple[dict[int, Int[np.ndarray, " m"]], Int[np.ndarray, "d b"]]:
    """Rows of this host's shards by length, and the buckets' edges in all.

    Returns:
      Shard → positions in it, int32, short passages first and after those
      without a passage; and [devices, 1 + buckets]: bucket i of shard d is
      `order[d][edges[d, i]:edges[d, i + 1]]`.
    """
    held = np.zeros((self._mesh.size, self._local), np.int32)
    held.reshape(-1)[: len(lengths)] = np.maximum(lengths, 1)
    order = {
      d: np.argsort(held[d], kind="stable").astype(np.int32) for d in self._own
    }
    buckets = [0] + [length for length, _ in self._sizes]
    edges = [np.searchsorted(np.sort(x), buckets, side="right") for x in held]
    return order, np.stack(edges)


def row_writer(encode: EncodeWith, mesh: Mesh) -> Callable[..., Array]:
  """Encodes and writes one batch; compiled once per shape.

  Returns:
    `(rows [n_padded, e], params, ids [c, l], lengths [c], at [c]) → rows`: all
    but the parameters split over the mesh, `at` the places in a device's rows.
  """
  axes = mesh.axis_names

  def local(
    rows: Float[Array, "n e"],
    params: Any,
    ids: Int[Array, "c l"],
    lengths: Int[Array, " c"],
    at: Int[Array, " c"],
  ) -> Float[Array, "n e"]:
    embeddings = encode(params, ids, lengths)
    if embeddings.shape != (len(ids), rows.shape[1]):
      raise ValueError(
        f"encode returned the shape {embeddings.shape} for {len(ids)} "
        f"passages; the index needs one embedding of width {rows.shape[1]} "
        "for each."
      )
    embeddings = embeddings.astype(rows.dtype)
    return rows.at[at].set(embeddings, mode="drop", unique_indices=True)

  split, whole = PartitionSpec(axes), PartitionSpec()
  # check_vma would want encoders to mark what varies between devices.
  return jax.jit(
    jax.shard_map(
      local,
      mesh=mesh,
      in_specs=(split, whole, split, split, split),
      out_specs=split,
      check_vma=False,
    ),
    donate_argnums=0,
  )


def _own_shards(mesh: Mesh) -> list[int]:
  """Which parts of an index lie on this process's devices, in order."""
  here = jax.process_index()
  devices = enumerate(mesh.devices.flat)
  return [i for i, d in devices if d.process_index == here]
