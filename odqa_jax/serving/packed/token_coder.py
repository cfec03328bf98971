"""Token ids in few bits: passages coded by what usually follows two tokens.

    model = NGramModel(tables)
    data, ends = model.encode(ids, bounds)       # one stream a passage
    some = model.decode([data[a:b], …], lengths)  # any passages, no others

The probabilities are those of a static n-gram model of the very text, which is
a part of the pack: a token is looked for among what followed its two
predecessors, then its last one, then among all; an escape leads from one to the
next. A range coder (rANS: Duda, "Asymmetric numeral systems", 2013) writes each
passage as a stream of its own. Many streams are decoded in step by NumPy, so
random access needs no library. All arithmetic is of integers: every machine
reads what another has written.
"""

import dataclasses

import numpy as np
from jaxtyping import Int64, Integer, UInt8, UInt16

# Frequencies of a row add up to 2**BITS.
BITS = 20
# States lie in 2**LOW … 2**(LOW + 16).
LOW = 24
# What leads to a shorter context, in place of a token.
ESCAPE = 0xFFFF
_SCALE = np.int64(1) << BITS


@dataclasses.dataclass(frozen=True)
class Tables:
  """An n-gram model as it is stored.

  Row 0 is that of no context, row 1 + v that of the token v, and the others
  those of `contexts`.

  Attributes:
    vocab_size: ids are below it.
    contexts: ascending, u · vocab_size + v of pairs with a row of their own.
    lengths: entries of every row.
    tokens: of all rows; within one ascending, with `ESCAPE` at the end of all
      but row 0.
    levels: weights of the entries on the scale of `weights`.
    weights: what a level stands for.
  """

  vocab_size: int
  contexts: Int64[np.ndarray, " c"]
  lengths: Integer[np.ndarray, " r"]
  tokens: UInt16[np.ndarray, " e"]
  levels: UInt8[np.ndarray, " e"]
  weights: Int64[np.ndarray, " 256"]


def frequencies(
  tables: Tables,
) -> tuple[Int64[np.ndarray, " e"], Int64[np.ndarray, " b"]]:
  """Cumulative frequencies before every entry, row r from r · 2**BITS on.

  Returns:
    What is ascending over all rows, and where each row begins.
  """
  starts = np.zeros(len(tables.lengths) + 1, np.int64)
  np.cumsum(tables.lengths, out=starts[1:])
  weights = tables.weights[tables.levels]
  before = np.zeros(len(weights) + 1, np.int64)
  np.cumsum(weights, out=before[1:])
  first = before[starts[:-1]]
  sums = before[starts[1:]] - first
  row = np.repeat(np.arange(len(sums)), tables.lengths)
  counts = tables.lengths.astype(np.int64)
  # Every entry has one at least; the rest goes by weight, rounded down.
  share = (before[:-1] - first[row]) * (_SCALE - counts[row]) // sums[row]
  place = np.arange(len(weights)) - starts[row]
  return row * _SCALE + share + place, starts


class NGramModel:
  """A model that codes; see the module."""

  def __init__(self, tables: Tables) -> None:
    self.tables = tables
    self._cumulative, self._starts = frequencies(tables)
    self._rows = len(tables.lengths)

  def decode(
    self, streams: list[bytes], lengths: list[int]
  ) -> list[UInt16[np.ndarray, " l"]]:
    """The ids of passages, whose numbers of tokens are known.

    Raises:
      ValueError: for a stream that is none.
    """
    count, tables = len(streams), self.tables
    words = [np.frombuffer(s, "<u2") for s in streams]
    if any(len(w) < 3 for w in words):
      raise ValueError("a passage's stream is cut short.")
    limit = np.cumsum([len(w) for w in words])
    flat = np.concatenate([*words, np.zeros(1, np.uint16)]).astype(np.int64)
    at = limit - [len(w) for w in words]
    state = (flat[at] << 32) | (flat[at + 1] << 16) | flat[at + 2]
    at = at + 3
    wanted = np.array(lengths, np.int64)
    out = np.zeros((count, max([*lengths, 1])), np.uint16)
    done = np.zeros(count, np.int64)
    row = np.zeros(count, np.int64)
    last = np.full(count, -1, np.int64)
    live = np.flatnonzero(wanted > 0)
    size, total = tables.vocab_size, len(self._cumulative)
    while len(live):
      here, x = row[live], state[live]
      slot = here * _SCALE + (x & (_SCALE - 1))
      entry = np.searchsorted(self._cumulative, slot, side="right") - 1
      low = self._cumulative[entry]
      after = np.minimum(entry + 1, total - 1)
      high = np.where(
        entry + 1 < self._starts[here + 1],
        self._cumulative[after],
        (here + 1) * _SCALE,
      )
      x = (high - low) * (x >> BITS) + slot - low
      # A rare token may take two words.
      for _ in range(2):
        need = x < (1 << LOW)
        where = at[live]
        x = np.where(need, (x << 16) | flat[np.minimum(where, limit[-1])], x)
        at[live] = where + need
      state[live] = x
      token = tables.tokens[entry].astype(np.int64)
      escaped = token == ESCAPE
      known = np.flatnonzero(~escaped)
      some = live[known]
      out[some, done[some]] = token[known]
      done[some] += 1
      next_row = self._row(last[some], token[known])
      # From a pair of tokens to the last one, from there to none.
      fallen = live[escaped]
      row[fallen] = np.where(row[fallen] > size, 1 + last[fallen], 0)
      row[some] = next_row
      last[some] = token[known]
      live = live[done[live] < wanted[live]]
    if (at != limit).any() or (state != 1 << LOW).any():
      raise ValueError("a passage's stream does not end where it should.")
    return [out[i, :n] for i, n in enumerate(lengths)]

  def _row(
    self, u: Int64[np.ndarray, " n"], v: Int64[np.ndarray, " n"]
  ) -> Int64[np.ndarray, " n"]:
    """The row of the longest context that there is of tokens u, v."""
    contexts, size = self.tables.contexts, self.tables.vocab_size
    if not len(contexts):
      return 1 + v
    key = u * size + v
    place = np.minimum(np.searchsorted(contexts, key), len(contexts) - 1)
    return np.where(contexts[place] == key, 1 + size + place, 1 + v)

  def encode(
    self, ids: UInt16[np.ndarray, " t"], bounds: Int64[np.ndarray, " m"]
  ) -> tuple[bytes, Int64[np.ndarray, " n"]]:
    """Streams of passages, one after the other.

    Args:
      ids: of all passages.
      bounds: where each begins, and the last one ends.

    Returns:
      The streams, and where each ends.
    """
    owner, low, width = self._symbols(ids, bounds)
    counts = np.bincount(owner, minlength=len(bounds) - 1)
    ends = np.cumsum(counts)
    left = counts.copy()
    state = np.full(len(counts), 1 << LOW, np.int64)
    # A stream is written from its end.
    most = 2 * int(counts.max(initial=0)) + 3
    words = np.zeros((len(counts), most + 3), np.uint16)
    used = np.zeros(len(counts), np.int64)
    live = np.flatnonzero(left)
    while len(live):
      left[live] -= 1
      i = ends[live] - counts[live] + left[live]
      x, f = state[live], width[i]
      for _ in range(2):
        full = x >= f << (LOW + 16 - BITS)
        spill = live[full]
        words[spill, used[spill]] = x[full] & 0xFFFF
        used[spill] += 1
        x = np.where(full, x >> 16, x)
      state[live] = ((x // f) << BITS) + x % f + low[i]
      live = live[left[live] > 0]
    rows = np.arange(len(counts))
    for shift in (0, 16, 32):
      words[rows, used] = (state >> shift) & 0xFFFF
      used += 1
    columns = np.arange(words.shape[1])[::-1]
    mask = columns[None] < used[:, None]
    data = words[:, ::-1][mask].astype("<u2").tobytes()
    return data, np.cumsum(used) * 2

  def _symbols(
    self, ids: UInt16[np.ndarray, " t"], bounds: Int64[np.ndarray, " m"]
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All that is coded, in order: whose it is, its place, its frequency."""
    size = self.tables.vocab_size
    token = ids.astype(np.int64)
    owner = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    previous, before = np.roll(token, 1), np.roll(token, 2)
    lengths = np.diff(bounds)
    first = bounds[:-1][lengths > 0]
    before[first] = before[np.minimum(first + 1, len(token) - 1)] = -1
    row = self._row(before, previous)
    second = bounds[:-1][lengths > 1] + 1
    row[second] = self._row(np.full(len(second), -1), token[second - 1])
    row[first] = 0
    parts = []
    todo = np.arange(len(token))
    for level in range(3):
      found, low, width = self._look_up(row[todo], token[todo])
      parts.append((todo, np.full(len(todo), level), low, width))
      todo = todo[~found]
      fallen = row[todo] > size
      row[todo] = np.where(fallen, 1 + previous[todo], 0)
    if len(todo):
      raise ValueError("a token of the text is not in its model.")
    place, levels, low, width = map(np.concatenate, zip(*parts, strict=True))
    order = np.lexsort((levels, place))
    return owner[place[order]], low[order], width[order]

  def _look_up(
    self, row: Int64[np.ndarray, " n"], token: Int64[np.ndarray, " n"]
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether a row has a token; place and frequency of it, or its escape."""
    keys = self._keys()
    entry = np.searchsorted(keys, row * (ESCAPE + 1) + token)
    entry = np.minimum(entry, len(keys) - 1)
    found = keys[entry] == row * (ESCAPE + 1) + token
    entry = np.where(found, entry, self._starts[row + 1] - 1)
    low = self._cumulative[entry]
    after = np.minimum(entry + 1, len(keys) - 1)
    last = entry + 1 >= self._starts[row + 1]
    high = np.where(last, (row + 1) * _SCALE, self._cumulative[after])
    return found, low - row * _SCALE, high - low

  def _keys(self) -> Int64[np.ndarray, " e"]:
    if not hasattr(self, "_key_array"):
      row = np.repeat(np.arange(self._rows), self.tables.lengths)
      self._key_array = row * (ESCAPE + 1) + self.tables.tokens
    return self._key_array
