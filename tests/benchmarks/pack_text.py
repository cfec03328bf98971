"""Bits per token of passages by coder, on real text and on synthetic text.

python tests/benchmarks/pack_text.py --tokenizer DIR --data shared/data

Real text: the 10,077 vital articles and the Factbook of the extra `demo`, and
SQuAD's paragraphs of --data. Synthetic text is sampled from them: each token is
a real one that follows the same one, two or three tokens somewhere, or any. Its
bits per token are near the real text's at the real text's size (a check that is
printed); at sizes that real text here does not have, they say how the coder
behaves if English of that size is like this text, and no more. Needs
`pip install brotli`.
"""

import argparse
import bz2
import gzip
import json
import lzma
import time
from pathlib import Path

import numpy as np
import zstandard

from odqa_jax.data.embedded.sets import (
  factbook_passages,
  vital_article_passages,
)
from odqa_jax.serving.packed.token_coder import NGramModel, Tables
from odqa_jax.serving.packed.token_model import fit_tables
from odqa_jax.text.tokenizer import Tokenizer, load_tokenizer

# Shares of tokens that follow none, one, two, three real tokens.
WEIGHTS = (0.1, 0.1, 0.3, 0.5)
# Tokens of passages of 100 words, as DPR cuts them.
MEAN, DEVIATION = 133.4, 18.0
_SAMPLE = 20_000


class Source:
  """Samples text that is like a real one."""

  def __init__(self, ids: np.ndarray, size: int) -> None:
    """Sorts all places by the one, two and three tokens that end there."""
    self.ids, count = ids.astype(np.int64), len(ids)
    self._order, self._first, self._count = [], [], []
    key = np.zeros(count, np.int64)
    for i in range(3):
      key += np.roll(self.ids, i) * size**i
      order = np.argsort(key, kind="stable")
      new = np.append(True, np.diff(key[order]) != 0)
      starts = np.flatnonzero(new)
      group = np.cumsum(new) - 1
      first = np.empty(count, np.int64)
      first[order] = starts[group]
      many = np.empty(count, np.int64)
      many[order] = np.diff(np.append(starts, count))[group]
      self._order.append(order)
      self._first.append(first)
      self._count.append(many)

  def sample(
    self, tokens: int, weights: tuple[float, ...], streams: int = 4096
  ) -> np.ndarray:
    """So many tokens, a function of the arguments alone."""
    rng = np.random.default_rng(0)
    borders = np.cumsum(weights) / sum(weights)
    place = rng.integers(0, len(self.ids) - 1, streams)
    out = np.empty((streams, -(-tokens // streams)), np.uint16)
    for t in range(out.shape[1]):
      order = np.searchsorted(borders, rng.random(streams))
      chance = rng.random(streams)
      chosen = (chance * len(self.ids)).astype(np.int64)
      for n in range(3):
        mine = order == n + 1
        at = place[mine]
        nth = (chance[mine] * self._count[n][at]).astype(np.int64)
        chosen[mine] = self._order[n][self._first[n][at] + nth]
      place = (chosen + 1) % len(self.ids)
      out[:, t] = self.ids[place]
    return out.reshape(-1)[:tokens]


def real_texts(data: Path | None) -> dict[str, list[str]]:
  """Texts by corpus."""
  texts = {
    "vital": [p.text for p in vital_article_passages()],
    "factbook": [p.text for p in factbook_passages()],
  }
  if data is not None:
    with gzip.open(data / "squad_dev" / "paragraphs.jsonl.gz") as file:
      texts["squad"] = [json.loads(line)["context"] for line in file]
  return texts


def passage_bounds(count: int) -> np.ndarray:
  """Bounds of passages as long as DPR's."""
  rng = np.random.default_rng(1)
  lengths = np.rint(rng.normal(MEAN, DEVIATION, count))
  return np.append(0, np.cumsum(np.clip(lengths, 40, 250).astype(np.int64)))


def table_bytes(tables: Tables) -> int:
  """Bytes of a model as a pack stores it."""
  columns = (
    np.diff(tables.contexts, prepend=0).astype(np.uint32),
    tables.lengths.astype(np.uint32),
    tables.tokens,
    tables.levels,
  )
  return sum(len(lzma.compress(c.tobytes(), preset=9)) for c in columns)


def ngram_figures(
  ids: np.ndarray, bounds: np.ndarray, size: int
) -> dict[str, float]:
  """The coder of a pack: bits per token, and how fast it reads."""
  start = time.perf_counter()
  tables = fit_tables(ids, bounds, size)
  fitted = time.perf_counter() - start
  model = NGramModel(tables)
  some = bounds[: _SAMPLE + 1]
  data, ends = model.encode(ids[: some[-1]], some)
  rows = np.linspace(0, len(some) - 2, 20).astype(int).tolist()
  streams = [data[int(ends[i - 1]) if i else 0 : int(ends[i])] for i in rows]
  lengths = np.diff(some)[rows].tolist()
  start = time.perf_counter()
  found = model.decode(streams, lengths)
  seconds = time.perf_counter() - start
  for i, row in enumerate(rows):
    assert (found[i] == ids[some[row] : some[row + 1]]).all()
  coded = 8 * len(data) / int(some[-1])
  stored = 8 * table_bytes(tables) / len(ids)
  return {
    "bits": coded + stored,
    "of_the_model": stored,
    "tokens_per_second": sum(lengths) / seconds,
    "fit_seconds": fitted,
  }


def library_figures(ids: np.ndarray) -> dict[str, float]:
  """General coders: of the whole, and of blocks that are read alone."""
  # pack_speed.py takes its text from here, and does without.
  import brotli

  data = ids.astype("<u2").tobytes()
  blocks = [data[i : i + 2**16] for i in range(0, len(data), 2**16)]
  dictionary = zstandard.train_dictionary(2**17, blocks)
  zstd = zstandard.ZstdCompressor(level=19, dict_data=dictionary)
  sizes = {
    "bzip2": len(bz2.compress(data, 9)),
    "xz": len(lzma.compress(data, preset=9)),
    "brotli": len(brotli.compress(data, quality=11, lgwin=24)),
    "xz, blocks of 64 KiB": sum(len(lzma.compress(b)) for b in blocks),
    "zstd with a dictionary, blocks of 64 KiB": 2**17
    + sum(len(zstd.compress(b)) for b in blocks),
  }
  return {name: 8 * size / len(ids) for name, size in sizes.items()}


def main() -> None:
  """Prints one line of JSON for each text."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--data", type=Path)
  parser.add_argument("--tokenizer", type=Path, required=True)
  parser.add_argument("--passages", type=int, default=0)
  parser.add_argument("--weights", type=float, nargs=4, default=WEIGHTS)
  args = parser.parse_args()
  tokenizer: Tokenizer = load_tokenizer(args.tokenizer)
  size = tokenizer.vocab_size
  base = []
  for name, texts in real_texts(args.data).items():
    found = [np.array(x, np.uint16) for x in tokenizer.encode_batch(texts)]
    bounds = np.append(0, np.cumsum([len(x) for x in found]))
    ids = np.concatenate(found)
    figures = {"text": name, "tokens": len(ids)} | library_figures(ids)
    print(json.dumps(figures | {"pack": ngram_figures(ids, bounds, size)}))
    if name != "factbook":
      base.append(ids)
  source = Source(np.concatenate(base), size)
  weights = tuple(args.weights)
  for count in (7600, args.passages):
    if not count:
      continue
    bounds = passage_bounds(count)
    ids = source.sample(int(bounds[-1]), weights)
    figures = {"text": f"synthetic {weights}", "tokens": len(ids)}
    if count == 7600:
      figures |= library_figures(ids)
    print(json.dumps(figures | {"pack": ngram_figures(ids, bounds, size)}))


if __name__ == "__main__":
  main()
