"""How passages of many lengths fall into batches of a few fixed shapes.

The rows are sorted by length. From the longest down a batch is the next rows,
as many as a budget of tokens holds at the length that the first of them is
padded to, so that all batches but one are full. The lengths that are padded to,
and so compiled for, are those that cost the least padding.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

# A padded length is a multiple of this, but for the longest of all.
STEP = 16
# So many programs at most. Twelve would leave out a third of the padding that
# is left of Wikipedia's passages, at half as much again to compile.
_PROGRAMS = 8


class Piece(NamedTuple):
  """A batch of rows that are sorted by length.

  Attributes:
    first: its first place in that order.
    stop: the place after its last one.
    size: rows that it has room for.
    length: tokens that each is padded to.
  """

  first: int
  stop: int
  size: int
  length: int


def padded_lengths(
  lengths: Int[np.ndarray, " n"], max_length: int, *, worth: int
) -> list[int]:
  """The lengths that batches are padded to, ascending.

  Those that minimise the tokens computed, counting what a program costs.

  Args:
    lengths: of the rows, none above `max_length`.
    max_length: of the longest batch.
    worth: padded tokens that one more length must save.
  """
  steps = np.array([*range(STEP, max_length, STEP), max_length])
  below = np.searchsorted(np.sort(lengths), steps, side="right")
  steps = steps[: int(np.argmax(below == len(lengths))) + 1]
  below = np.insert(below[: len(steps)], 0, 0)
  # costs[i, j]: of the rows above steps[i - 1] padded to steps[j].
  costs = (below[None, 1:] - below[:-1, None]) * steps + float(worth)
  costs[np.tril_indices(len(steps), -1)] = np.inf
  # least[j]: of the rows up to steps[j - 1], with so many lengths.
  least = np.full(len(steps) + 1, np.inf)
  least[0] = 0
  before, totals = [], []
  for _ in range(_PROGRAMS):
    each = least[:-1, None] + costs
    before.append(each.argmin(axis=0))
    least = np.insert(each.min(axis=0), 0, np.inf)
    totals.append(least[-1])
  chosen, end = [], len(steps)
  for starts in reversed(before[: int(np.argmin(totals)) + 1]):
    chosen.append(int(steps[end - 1]))
    end = int(starts[end - 1])
  return chosen[::-1]


def batch_sizes(
  lengths: Int[np.ndarray, " n"],
  max_length: int,
  batch_tokens: int,
  *,
  rows: int,
  devices: int,
  worth: int | None = None,
) -> dict[int, int]:
  """Padded length → passages per batch, shortest first.

  Args:
    lengths: of all passages; see `padded_lengths`.
    max_length: none is longer.
    batch_tokens: padded tokens per batch, about.
    rows: the most passages embedded at once; no batch needs to be larger.
    devices: every size is a multiple of this.
    worth: see `padded_lengths`; by default what a batch computes.
  """
  worth = batch_tokens if worth is None else worth
  chosen = padded_lengths(lengths, max_length, worth=worth)
  return {
    length: size_for(length, batch_tokens, rows=rows, devices=devices)
    for length in chosen
  }


def size_for(length: int, batch_tokens: int, *, rows: int, devices: int) -> int:
  """Passages of one padded length in a batch; see `batch_sizes`."""
  most = -(-rows // devices)
  return devices * min(max(batch_tokens // (length * devices), 1), most)


def steady_sizes(
  max_length: int, batch_tokens: int, *, rows: int, devices: int
) -> dict[int, int]:
  """`batch_sizes` that suit any lengths: quarters of the longest.

  For small jobs of one after the other, which then share few programs.
  """
  quarters = {-(-max_length * i // (4 * STEP)) * STEP for i in (1, 2, 3)}
  lengths = sorted({n for n in quarters if n < max_length} | {max_length})
  return {
    length: size_for(length, batch_tokens, rows=rows, devices=devices)
    for length in lengths
  }


def divide(
  ordered: Int[np.ndarray, " n"], sizes: Mapping[int, int]
) -> list[Piece]:
  """Rows in the order of their lengths → batches, short ones first.

  All but the first are full.

  Args:
    ordered: their lengths, ascending; those of length 0 are left out.
    sizes: from `batch_sizes`.
  """
  start, stop = int(np.searchsorted(ordered, 0, side="right")), len(ordered)
  pieces = []
  while stop > start:
    length = next(n for n in sizes if ordered[stop - 1] <= n)
    size = sizes[length]
    pieces.append(Piece(max(stop - size, start), stop, size, length))
    stop -= size
  return pieces[::-1]
