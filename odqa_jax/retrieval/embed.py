"""Passages → embeddings on this process's devices, in corpus order.

Passages are sorted by length and cut into batches of a few fixed shapes, so
that little is computed on padding and the encoder compiles once per bucket.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import chain, pairwise
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, Shaped

from odqa_jax.retrieval.division import divide
from odqa_jax.runtime.mesh import make_mesh, row_sharding

Encode = Callable[[Array, Array], Array]
Progress = Callable[[int, int], Any]


@runtime_checkable
class Inputs(Protocol):
  """What is encoded."""

  def id(self, row: int) -> str:
    """The passage's own name, for messages."""

  def passage_inputs(
    self, rows: Int[np.ndarray, " n"], length: int
  ) -> tuple[Int[np.ndarray, "n l"], Int[np.ndarray, " n"]]:
    """Token ids padded to `length`, and lengths, int32."""


@runtime_checkable
class Passages(Inputs, Protocol):
  """What is indexed: a `Corpus`, or a view that selects some of its rows."""

  manifest: Any
  fingerprint: str

  def __len__(self) -> int:
    """How many passages."""

  def packed_lengths(self, max_length: int) -> Int[np.ndarray, " n"]:
    """Tokens of every passage as packed and cut at `max_length`, int32."""


def local_mesh(mesh: Mesh) -> Mesh:
  """This process's devices of `mesh`, along one axis `data`."""
  here = jax.process_index()
  mine = [d for d in mesh.devices.flat if d.process_index == here]
  return make_mesh({"data": -1}, devices=mine)


def bulk_tokens(platform: str, devices: int) -> int:
  """Padded tokens per batch that suit devices.

  On a CPU 2,048 stay in its cache. With 65,536 an H100 embeds 1.13 times as
  many passages a second as with 16,384.
  """
  return devices * {"cpu": 2048, "gpu": 65536}.get(platform, 16384)


def program_worth(platform: str, batch_tokens: int) -> int:
  """Padded tokens that one more length of batches must save.

  On a CPU compiling for it takes about as long as a batch. On an accelerator it
  takes seconds, in which an H100 computes over a hundred batches: 30,000 short
  pairs in eight lengths were compiled for longer than they were scored.
  """
  return batch_tokens * (1 if platform == "cpu" else 128)


def embed(
  encode: Encode,
  passages: Inputs,
  first: int,
  lengths: Int[np.ndarray, " n"],
  *,
  sizes: Mapping[int, int],
  mesh: Mesh,
  dtype: np.dtype,
  progress: Callable[[int], Any],
) -> Shaped[np.ndarray, "n e"]:
  """Embeds the passages `first`, `first + 1`, … in their order.

  The host gathers and dispatches the next batch before it fetches the last
  one's result, so the devices do not wait for it.

  Args:
    encode: `(ids [b, l], lengths [b]) -> [b, e]`.
    passages: where the tokens come from.
    first: the first row.
    lengths: packed lengths of the rows, int32.
    sizes: from `division.batch_sizes`.
    mesh: this process's devices; inputs are split over them by rows.
    dtype: of the result.
    progress: called with the number of passages done.

  Raises:
    ValueError: if `encode` returns another shape, or a row that is not finite,
      naming the first one.
  """
  started: Iterator[Any] = (
    (batch[0], _dispatch(encode, passages, *batch, mesh))
    for batch in _batches(first, lengths, sizes)
  )
  out, done = np.empty((len(lengths), 0), dtype), 0
  for (rows, result), _ in pairwise(chain(started, [None])):
    values = np.asarray(result)[: len(rows)].astype(dtype)
    if not done:
      out = np.empty((len(lengths), values.shape[1]), dtype)
    out[rows - first] = values
    done += len(rows)
    progress(done)
  finite = np.isfinite(out).all(axis=1)
  if not finite.all():
    row = first + int(np.argmin(finite))
    raise ValueError(
      f"the embedding of passage {passages.id(row)!r} (row {row}) holds NaN or "
      f"infinity as {dtype.name}; every value must be finite: look at the "
      "passage encoder's weights."
    )
  return out


def _batches(
  first: int, lengths: Int[np.ndarray, " n"], sizes: Mapping[int, int]
) -> Iterator[tuple[np.ndarray, int, int]]:
  """(rows, padded length, batch size) of every batch, short ones first."""
  order = np.argsort(lengths, kind="stable")
  for piece in divide(np.maximum(lengths[order], 1), sizes):
    rows = order[piece.first : piece.stop]
    yield first + rows, piece.length, piece.size


def _dispatch(
  encode: Encode,
  passages: Inputs,
  rows: np.ndarray,
  length: int,
  size: int,
  mesh: Mesh,
) -> Array:
  """Starts one batch, filled up with copies of its last passage."""
  full = np.concatenate([rows, np.repeat(rows[-1:], size - len(rows))])
  inputs = passages.passage_inputs(full, length)
  result = encode(*jax.device_put(inputs, row_sharding(mesh)))
  if result.ndim != 2 or len(result) != size:
    raise ValueError(
      f"encode returned the shape {tuple(result.shape)} for {size} passages; "
      "it must return one embedding per passage, [n, e]."
    )
  return result
