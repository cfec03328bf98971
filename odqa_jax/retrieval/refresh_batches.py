"""What a refresh encodes: the rows of an index, in place, batch by batch.

Every device encodes rows of its own part of the index and writes them there:
nothing but the weights travels between devices, and each host reads the tokens
of its own devices' rows only. The devices work in step: every one takes its
rows in the order of their lengths, and a batch has the same places of all of
these orders, see `division`.
"""

import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int, Int32

from odqa_jax.retrieval.division import Piece, batch_sizes, divide
from odqa_jax.retrieval.embed import Passages, bulk_tokens, program_worth
from odqa_jax.retrieval.index import padded_rows
from odqa_jax.retrieval.rows import Rows, encoded_rows
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
    platform = mesh.devices.flat[0].platform
    batch_tokens = batch_tokens or bulk_tokens(platform, 1)
    self._corpus, self._mesh = corpus, mesh
    self.padded = padded_rows(len(corpus), mesh)
    self._local = self.padded // mesh.size
    self._own = _own_shards(mesh)
    self._order, self._held = self._sorted(corpus.packed_lengths(max_length))
    longest = self._held.max(axis=0)
    sizes = batch_sizes(
      longest,
      max_length,
      batch_tokens,
      rows=self._local,
      devices=1,
      worth=program_worth(platform, batch_tokens),
    )
    self._batches = divide(longest, sizes)
    made_of = np.array(self._batches).tobytes() + self._held.tobytes()
    self.division = zlib.crc32(made_of) & (2**31 - 1)
    self._write = row_writer(encode, mesh)

  def __len__(self) -> int:
    return len(self._batches)

  def passages(self) -> Int[np.ndarray, " batches"]:
    """How many passages every batch has, on all devices together."""
    held = np.insert(np.cumsum((self._held > 0).sum(axis=0)), 0, 0)
    first, stop, *_ = np.array(self._batches).T
    return held[stop] - held[first]

  def write(self, rows: Rows, params: Any, batches: range) -> Rows:
    """Encodes batches into the rows; returns before it is done.

    Args:
      rows: split over the mesh as those of an `Index`; donated.
      params: what `encode` takes; best replicated, else they are gathered for
        every batch.
      batches: which ones.

    Raises:
      ValueError: if `encode` returns another shape than the rows need.
    """
    for batch in self._batches[batches.start : batches.stop]:
      at = np.stack([self._positions(d, batch) for d in self._own])
      wanted = at + np.array(self._own)[:, None] * self._local
      # What only fills a batch up is computed with some passage.
      wanted = np.where(at < self._local, wanted, 0).ravel()
      ids, lengths = self._corpus.passage_inputs(wanted, batch.length)
      placed = to_global(self._mesh, (ids, lengths, at.ravel()))
      rows = self._write(rows, params, *placed)
    return rows

  def _positions(self, shard: int, batch: Piece) -> Int[np.ndarray, " c"]:
    """Where in its shard a batch's rows lie; beyond its end, nowhere."""
    places = slice(batch.first, batch.stop)
    real = self._order[shard][places][self._held[shard, places] > 0]
    nowhere = self._local + np.arange(batch.size - len(real), dtype=np.int32)
    return np.concatenate([real, nowhere])

  def _sorted(
    self, lengths: Int[np.ndarray, " n"]
  ) -> tuple[dict[int, Int[np.ndarray, " m"]], Int32[np.ndarray, "d m"]]:
    """Rows of this host's shards by length, and the lengths of all of them.

    Returns:
      Shard → positions in it, int32, short passages first and before those
      the ones without a passage; and [devices, m]: the lengths in that order,
      0 where there is no passage.
    """
    held = np.zeros((self._mesh.size, self._local), np.int32)
    held.reshape(-1)[: len(lengths)] = np.maximum(lengths, 1)
    order = {
      d: np.argsort(held[d], kind="stable").astype(np.int32) for d in self._own
    }
    return order, np.sort(held, axis=1)


def row_writer(encode: EncodeWith, mesh: Mesh) -> Callable[..., Array]:
  """Encodes and writes one batch; compiled once per shape.

  Returns:
    `(rows, params, ids [c, l], lengths [c], at [c]) → rows`: all but the
    parameters split over the mesh, `at` the places in a device's rows.
  """
  axes = mesh.axis_names

  def local(
    rows: Rows,
    params: Any,
    ids: Int[Array, "c l"],
    lengths: Int[Array, " c"],
    at: Int[Array, " c"],
  ) -> Rows:
    embeddings = encode(params, ids, lengths)
    width = jax.tree.leaves(rows)[0].shape[1]
    if embeddings.shape != (len(ids), width):
      raise ValueError(
        f"encode returned the shape {embeddings.shape} for {len(ids)} "
        f"passages; the index needs one embedding of width {width} for each."
      )
    return jax.tree.map(
      lambda old, new: old.at[at].set(new, mode="drop", unique_indices=True),
      rows,
      encoded_rows(embeddings, like=rows),
    )

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
