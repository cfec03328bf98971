"""Exact search of a host-resident index: its rows stay on the host.

For an index that the devices cannot hold: all rows travel to the devices for
every batch of questions, block by block, so a batch takes as long as the rows
take to travel, however many questions it has. Ask many at once.

Three things go on at a time: block i is searched, block i + 1 travels, and
block i + 2 is read from the row shards into a buffer. The devices hold two
blocks, the host three.
"""

import dataclasses
import math
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from odqa_jax.retrieval import storage
from odqa_jax.retrieval.backends.exact import search_placed
from odqa_jax.retrieval.backends.memory import Free, check_fits, free_bytes
from odqa_jax.retrieval.backends.top_k import ROW_MULTIPLE, Top, merge
from odqa_jax.retrieval.index import Fill
from odqa_jax.retrieval.searchable import (
  Queries,
  Ranked,
  checked_queries,
  no_rows,
)
from odqa_jax.runtime.mesh import replicate, row_sharding

# Of a block on one device. A CPU keeps it in cache; elsewhere it is large
# enough for the launch of a search to vanish.
_CPU_BLOCK_BYTES = 2**25
_BLOCK_BYTES = 2**28
_ON_DEVICES, _ON_HOST = 2, 3
# One thread copies slower than a bus carries. Each takes this much at a time.
_READERS = min(8, os.cpu_count() or 1)
_PIECE_BYTES = 2**24


@dataclasses.dataclass(frozen=True, eq=False)
class HostIndex:
  """An index whose rows stay in the memory-mapped row shards.

  Attributes:
    read: fills [m, e] with the rows that begin at a given one.
    dtype: of the rows, float32 or bfloat16.
    count: passages.
    block_rows: rows of a block, over all devices.
    manifest: what the index was made from.
    mesh: where it is searched. A process reads the rows of its own devices.
    timings: (seconds, seconds spent waiting for rows) of every search.
  """

  read: Fill
  dtype: np.dtype
  count: int
  block_rows: int
  manifest: Mapping[str, Any]
  mesh: Mesh
  timings: list[tuple[float, float]] = dataclasses.field(default_factory=list)

  # The rows travel once for all questions of a batch.
  batch_size = 1024

  @property
  def width(self) -> int:
    """The embedding width e."""
    return self.manifest["width"]

  def search(self, queries: Queries, k: int) -> Ranked:
    """See `Searchable`; finds what an `Index` of the rows does.

    k may exceed a block's rows. All processes must search together.
    """
    host = checked_queries(self, queries, k)
    if not len(host):
      return no_rows(k)
    begun = time.perf_counter()
    waited = 0.0
    placed = replicate(self.mesh, host)
    # The best of no rows: any row beats them.
    best = (
      replicate(self.mesh, np.full((len(host), k), -np.inf, np.float32)),
      replicate(self.mesh, np.zeros((len(host), k), np.int32)),
    )
    for first, block, waiting in _blocks(self):
      waited += waiting
      rows = min(self.count - first, self.block_rows)
      of_block = search_placed(self.mesh, block, rows, placed, min(k, rows))
      best = _merge_block(best, of_block, np.int32(first))
      # The block must be free before the next but one is placed.
      jax.block_until_ready(best)
      del block
    self.timings.append((time.perf_counter() - begun, waited))
    return best

  def metrics(self) -> dict[str, Any]:
    """What the searches so far have cost; nothing before the first one.

    Without the first search, which compiles, where there are others:
    `bytes_per_batch` that this process sends to its devices, and the means
    `seconds_per_batch`, `waiting_per_batch` (the part in which the devices
    waited for rows) and `gb_per_s` (10⁹ bytes).
    """
    if not self.timings:
      return {}
    kept = np.array(self.timings[1:] or self.timings)
    seconds, waiting = kept.mean(axis=0).tolist()
    blocks = -(-self.count // self.block_rows)
    where = row_sharding(self.mesh)
    shape = where.shard_shape((blocks * self.block_rows, self.width))
    devices = len(self.mesh.local_devices)
    sent = math.prod(shape) * self.dtype.itemsize * devices
    measured = {
      "batches": len(self.timings),
      "bytes_per_batch": sent,
      "seconds_per_batch": seconds,
      "waiting_per_batch": waiting,
      "gb_per_s": sent / seconds / 1e9,
    }
    return {"host_resident": measured}


def open_host(
  directory: str | Path,
  mesh: Mesh,
  *,
  block_bytes: int | None = None,
  free: Free = free_bytes,
) -> HostIndex:
  """Opens an index without placing it.

  Args:
    directory: what `build_index` made.
    mesh: where to search it.
    block_bytes: of a block of rows on one device, about, but at least
      `ROW_MULTIPLE` rows; by default what suits the device.
    free: says what a device has free.

  Raises:
    ValueError: if a file is missing, damaged or of another format, naming it;
      if the rows are neither float32 nor bfloat16; or if two blocks do not fit
      on a device.
  """
  directory = Path(directory)
  manifest = storage.read_manifest(directory)
  if manifest["dtype"] not in ("float32", "bfloat16"):
    raise ValueError(
      f"{directory} holds {manifest['dtype']} rows, which --backend host does "
      "not search; use --backend exact, or rebuild it with --dtype bf16."
    )
  dtype = storage.DTYPES[manifest["dtype"]]
  row_bytes = manifest["width"] * dtype.itemsize
  if block_bytes is None:
    cpu = mesh.devices.flat[0].platform == "cpu"
    block_bytes = _CPU_BLOCK_BYTES if cpu else _BLOCK_BYTES
  rows = _block_rows(manifest["count"], block_bytes // row_bytes, mesh.size)
  check_fits(
    f"{directory}: a pair of blocks",
    _ON_DEVICES * rows // mesh.size * row_bytes,
    mesh,
    free=free,
  )
  read = storage.row_reader(directory, manifest)
  return HostIndex(read, dtype, manifest["count"], rows, manifest, mesh)


def _block_rows(count: int, per_device: int, devices: int) -> int:
  """Rows of a block: equal blocks, so that the last one is nearly full."""
  unit = devices * ROW_MULTIPLE
  most = max(per_device // ROW_MULTIPLE, 1) * unit
  blocks = max(-(-count // most), 1)
  return -(-count // (blocks * unit)) * unit


@jax.jit
def _merge_block(
  best: Top,
  of_block: tuple[Float[Array, "b m"], Int[Array, "b m"]],
  first: Int[Array, ""],
) -> Top:
  """The k best of the blocks before and of this one, which has higher rows."""
  scores = jnp.concatenate([best[0], of_block[0]], axis=1)
  rows = jnp.concatenate([best[1], of_block[1] + first], axis=1)
  return merge(scores, rows, best[0].shape[1])


def _blocks(index: HostIndex) -> Iterator[tuple[int, Array, float]]:
  """Every block in turn: first row, rows on the devices, seconds waited.

  When the next block is asked for, the one before must be done with.
  """
  firsts = range(0, index.count, index.block_rows)
  buffers = [_buffers(index) for _ in firsts[:_ON_HOST]]
  with (
    ThreadPoolExecutor(_READERS) as readers,
    ThreadPoolExecutor(1) as filler,
    ThreadPoolExecutor(1) as mover,
  ):

    def fill(i: int) -> Future[None]:
      buffer = buffers[i % _ON_HOST]
      return filler.submit(_fill, index, firsts[i], buffer, readers)

    def move(i: int, filled: Future[None]) -> Array:
      filled.result()
      return _move(index, buffers[i % _ON_HOST])

    filled = [fill(i) for i in range(len(firsts))[: _ON_HOST - 1]]
    moved = mover.submit(move, 0, filled[0])
    for i, first in enumerate(firsts):
      begun = time.perf_counter()
      block = moved.result()
      waited = time.perf_counter() - begun
      if i + 1 < len(firsts):
        moved = mover.submit(move, i + 1, filled[i + 1])
      # On a CPU a block may lie in its buffer: that of block i − 1 is free now.
      if i + 2 < len(firsts):
        filled.append(fill(i + 2))
      yield first, block, waited
      del block


def _buffers(index: HostIndex) -> dict[jax.Device, tuple[int, np.ndarray]]:
  """This process's devices, with their place in a block and memory for it."""
  shape = (index.block_rows, index.width)
  where = row_sharding(index.mesh).addressable_devices_indices_map(shape)
  buffers = {}
  for device, slices in where.items():
    assert slices is not None
    start, stop, _ = slices[0].indices(index.block_rows)
    piece = np.empty((stop - start, index.width), index.dtype)
    buffers[device] = (start, piece)
  return buffers


def _fill(
  index: HostIndex,
  first: int,
  buffers: Mapping[jax.Device, tuple[int, np.ndarray]],
  readers: ThreadPoolExecutor,
) -> None:
  """Reads a block; rows beyond the last one become zeros."""
  step = max(_PIECE_BYTES // (index.width * index.dtype.itemsize), 1)
  pieces = []
  for start, buffer in buffers.values():
    begin = first + start
    real = min(max(index.count - begin, 0), len(buffer))
    buffer[real:] = 0
    for at in range(0, real, step):
      pieces.append((begin + at, buffer[at : min(at + step, real)]))
  list(readers.map(lambda piece: index.read(*piece), pieces))


def _move(
  index: HostIndex, buffers: Mapping[jax.Device, tuple[int, np.ndarray]]
) -> Array:
  """Puts a block on the devices, and waits until it is there."""
  shape = (index.block_rows, index.width)
  pieces = [jax.device_put(piece, d) for d, (_, piece) in buffers.items()]
  block = jax.make_array_from_single_device_arrays(
    shape, row_sharding(index.mesh), pieces
  )
  return block.block_until_ready()
