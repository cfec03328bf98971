"""Fits the n-gram model that a text of token ids is coded by.

tables = fit_tables(ids, bounds, vocab_size=30522)

An entry of the model costs bits, and saves some wherever it is used: it is kept
if it saves more (minimum description length: Rissanen, 1978).
"""

import itertools

import numpy as np
from jaxtyping import Int64, UInt8, UInt16

from odqa_jax.serving.packed.token_coder import ESCAPE, Tables

# N-grams sorted at once, so that their memory is bounded.
_SORTED = 2**25
# Levels to an octave of counts.
_STEPS = 4
# Bits that an entry of one token's followers takes, and of two tokens', and
# what a pair of tokens takes itself.
_ENTRY, _CONTEXT = 13.0, 20.0


def weights_of_levels() -> Int64[np.ndarray, " 256"]:
  """What the 256 levels stand for; level 0 is a count of 1."""
  octaves = np.minimum(np.arange(256) / _STEPS, 36)
  return np.rint(2.0**octaves * 16).astype(np.int64)


def fit_tables(
  ids: UInt16[np.ndarray, " t"],
  bounds: Int64[np.ndarray, " m"],
  vocab_size: int,
) -> Tables:
  """Counts the text, and keeps what is worth its place.

  Args:
    ids: of all passages.
    bounds: where each begins, and the last one ends.
    vocab_size: ids are below it.
  """
  singles = np.bincount(ids, minlength=vocab_size)
  pairs, pair_counts = _grams(ids, bounds, 2, vocab_size, 2)
  v, w = pairs // vocab_size, pairs % vocab_size
  gain = pair_counts * np.log2(
    pair_counts / singles[v] * (len(ids) / singles[w])
  )
  kept = gain > _ENTRY
  triples, counts, base = _worthy_triples(
    ids, bounds, vocab_size, pairs, pair_counts, singles
  )
  rows = [np.zeros(int(np.count_nonzero(singles)), np.int64)]
  tokens = [np.flatnonzero(singles)]
  weights = [singles[tokens[0]]]
  rest = singles - np.bincount(
    v[kept], weights=pair_counts[kept], minlength=vocab_size
  ).astype(np.int64)
  rows += [1 + v[kept], 1 + np.arange(vocab_size)]
  tokens += [w[kept], np.full(vocab_size, ESCAPE)]
  weights += [pair_counts[kept], np.maximum(rest, 1)]
  contexts, inverse = np.unique(triples // vocab_size, return_inverse=True)
  left = base[np.unique(inverse, return_index=True)[1]] if len(base) else base
  left = left - np.bincount(
    inverse, weights=counts, minlength=len(contexts)
  ).astype(np.int64)
  rows += [1 + vocab_size + inverse, 1 + vocab_size + np.arange(len(contexts))]
  tokens += [triples % vocab_size, np.full(len(contexts), ESCAPE)]
  weights += [counts, np.maximum(left, 1)]
  row, token, weight = (
    np.concatenate(x).astype(np.int64) for x in (rows, tokens, weights)
  )
  order = np.argsort(row * (ESCAPE + 1) + token)
  return Tables(
    vocab_size=vocab_size,
    contexts=contexts,
    lengths=np.bincount(row, minlength=1 + vocab_size + len(contexts)),
    tokens=token[order].astype(np.uint16),
    levels=_levels(weight[order]),
    weights=weights_of_levels(),
  )


def _levels(counts: Int64[np.ndarray, " e"]) -> UInt8[np.ndarray, " e"]:
  levels = np.rint(np.log2(np.maximum(counts, 1)) * _STEPS)
  return np.minimum(levels, 255).astype(np.uint8)


def _worthy_triples(
  ids: UInt16[np.ndarray, " t"],
  bounds: Int64[np.ndarray, " m"],
  size: int,
  pairs: Int64[np.ndarray, " p"],
  pair_counts: Int64[np.ndarray, " p"],
  singles: Int64[np.ndarray, " v"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Triples that save bits; their counts, and those of their contexts."""
  triples, counts = _grams(ids, bounds, 3, size, 3)
  base = pair_counts[np.searchsorted(pairs, triples // size)]
  # The last two tokens of a triple that occurs are a pair that does.
  inner = pair_counts[np.searchsorted(pairs, triples % size**2)]
  below = inner / singles[triples // size % size]
  gain = counts * np.log2(counts / base / below) - _ENTRY
  good = gain > 0
  triples, counts, base, gain = (x[good] for x in (triples, counts, base, gain))
  _, inverse = np.unique(triples // size, return_inverse=True)
  saved = np.bincount(inverse, weights=gain)
  good = saved[inverse] > _CONTEXT if len(saved) else np.zeros(0, bool)
  return triples[good], counts[good], base[good]


def _grams(
  ids: UInt16[np.ndarray, " t"],
  bounds: Int64[np.ndarray, " m"],
  order: int,
  size: int,
  least: int,
) -> tuple[Int64[np.ndarray, " g"], Int64[np.ndarray, " g"]]:
  """Ascending n-grams within passages, and how often each occurs.

  Args:
    ids: of all passages.
    bounds: of these.
    order: n.
    size: of the vocabulary.
    least: n-grams that occur less often are left out.
  """
  places = max(len(ids) - order + 1, 0)
  inside = np.ones(places, bool)
  for i in range(1, order):
    # An n-gram that begins i tokens before a border crosses it.
    crossing = bounds[1:-1] - i
    inside[crossing[(crossing >= 0) & (crossing < places)]] = False
  found = []
  for low, high in _ranges(ids, size):
    first = ids[:places]
    at = np.flatnonzero(inside & (first >= low) & (first < high))
    keys = np.zeros(len(at), np.int64)
    for i in range(order):
      keys *= size
      keys += ids[at + i]
    keys.sort()
    new = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])
    counts = np.diff(np.append(new, len(keys)))
    often = counts >= least
    found.append((keys[new[often]], counts[often]))
  keys, counts = map(np.concatenate, zip(*found, strict=True))
  return keys, counts


def _ranges(ids: UInt16[np.ndarray, " t"], size: int) -> list[tuple[int, int]]:
  """Ranges of first tokens whose n-grams are sorted together."""
  ends = np.cumsum(np.bincount(ids, minlength=size))
  cuts = np.searchsorted(ends, np.arange(_SORTED, len(ids), _SORTED)) + 1
  borders = sorted({0, *cuts.tolist(), size})
  return list(itertools.pairwise(borders))
