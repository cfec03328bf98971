"""How much of what is computed is padding, on the lengths of a real corpus.

    python tests/benchmarks/padding.py data/corpus --reader data/reader_corpus

Useful tokens over computed ones, as one JSON line each: of a refresh on some
devices, by fixed buckets and by the lengths chosen for the corpus; and of the
passages of training steps, by ways to pad them. Only lengths are read.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.batch import BUCKETS
from odqa_jax.retrieval.division import STEP, batch_sizes, divide

# The buckets of every corpus before they were chosen for one.
FIXED = (32, 64, 96, 128, 192, 256, 384)
GROUPS = 4


def shards(lengths: np.ndarray, devices: int) -> np.ndarray:
  """[devices, rows], 0 where there is no passage."""
  local = -(-len(lengths) // (devices * 64)) * 64
  held = np.zeros(devices * local, np.int64)
  held[: len(lengths)] = lengths
  return held.reshape(devices, local)


def fixed_buckets(held: np.ndarray, longest: int, tokens: int) -> int:
  """Computed tokens where each bucket has batches of its own."""
  devices, local = held.shape
  computed, before = 0, 0
  for length in [*(b for b in FIXED if b < longest), longest]:
    size = min(max(tokens // length, 1), local)
    most = int(((held > before) & (held <= length)).sum(axis=1).max())
    computed += devices * size * length * -(-most // size)
    before = length
  return computed


def chosen_lengths(held: np.ndarray, longest: int, tokens: int) -> int:
  """Computed tokens of `RefreshBatches`."""
  devices, local = held.shape
  ordered = np.sort(held, axis=1).max(axis=0)
  sizes = batch_sizes(ordered, longest, tokens, rows=local, devices=1)
  pieces = divide(ordered, sizes)
  return devices * sum(piece.size * piece.length for piece in pieces)


def up(length: int, longest: int) -> int:
  return min(-(-length // STEP) * STEP, longest)


def packed(lengths: np.ndarray, longest: int) -> int:
  """Rows of `longest` tokens, each passage in the first with room."""
  rooms: list[int] = []
  for length in sorted(lengths.tolist(), reverse=True):
    at = next((i for i, room in enumerate(rooms) if room >= length), None)
    if at is None:
      rooms.append(longest - length)
    else:
      rooms[at] -= length
  return len(rooms) * longest


def step_padding(
  lengths: np.ndarray, rows: int, longest: int, steps: int
) -> dict[str, float]:
  """Useful over computed tokens of a step's passages, by ways to pad."""
  rng = np.random.default_rng(0)
  useful = 0
  computed = dict.fromkeys(
    ("longest", "bucket", "steps of 16", f"{GROUPS} groups", "packed"), 0
  )
  for _ in range(steps):
    some = np.sort(rng.choice(lengths, rows))
    useful += int(some.sum())
    most = int(some[-1])
    bucket = next((b for b in BUCKETS if most <= b <= longest), longest)
    computed["longest"] += rows * longest
    computed["bucket"] += rows * bucket
    computed["steps of 16"] += rows * up(most, longest)
    for group in np.array_split(some, GROUPS):
      computed[f"{GROUPS} groups"] += len(group) * up(int(group[-1]), longest)
    computed["packed"] += packed(some, longest)
  return {name: round(useful / n, 3) for name, n in computed.items()}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("corpus", type=Path)
  parser.add_argument("--reader", type=Path, help="a second token store")
  parser.add_argument("--passage-length", type=int, default=256)
  parser.add_argument("--reader-length", type=int, default=512)
  parser.add_argument("--questions", type=int, default=64)
  parser.add_argument("--k", type=int, default=32)
  parser.add_argument("--repeat", type=int, default=1, help="a larger corpus")
  parser.add_argument("--steps", type=int, default=5)
  args = parser.parse_args()
  lengths = Corpus(args.corpus).packed_lengths(args.passage_length)
  many = np.random.default_rng(1).permutation(np.tile(lengths, args.repeat))
  for devices, tokens in ((1, 2048), (8, 2048), (1, 16384), (8, 16384)):
    held, useful = shards(many, devices), int(many.sum())
    ways = {"fixed": fixed_buckets, "chosen": chosen_lengths}
    figures = {
      name: round(useful / way(held, args.passage_length, tokens), 3)
      for name, way in ways.items()
    }
    what = {"refresh": len(many), "devices": devices, "tokens": tokens}
    print(json.dumps(what | figures))
  store = Corpus(args.reader or args.corpus)
  # As long as a question of 12 tokens and the words between make it.
  reads = np.minimum(np.diff(store.text_offsets) + 20, args.reader_length)
  rows = args.questions * args.k
  for what, some, longest in (
    ("passages", lengths, args.passage_length),
    ("reader inputs", reads, args.reader_length),
  ):
    figures = step_padding(some, rows, longest, args.steps)
    print(json.dumps({"step": what, "rows": rows} | figures))


if __name__ == "__main__":
  main()
