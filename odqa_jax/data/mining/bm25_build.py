"""Builds the BM25 index of a corpus, shard by shard.

First the words of every shard are counted, by as many processes as there are
cores or by Beam; then, once the frequencies in the whole corpus are known,
each shard's counts become scores. In memory there is one shard a process, and
for every word of the corpus its hash and frequency.
"""

import contextlib
import functools
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt64

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.mining.bm25 import (
  PARAMETERS,
  Bm25,
  Words,
  made_from,
  shard_name,
  word_hashes,
)
from odqa_jax.data.parts.files import SCRATCH, Arrays, Part, read_part
from odqa_jax.data.parts.run import Runner, count_cores, make_parts
from odqa_jax.runtime.artifact import open_artifact, publish, refuse_foreign
from odqa_jax.runtime.files import content_hash
from odqa_jax.runtime.progress import progress_bar

# Passages counted at once: memory holds these, beside mapped files and the
# words of the whole corpus. 383 bytes of disk and 41 µs a passage of 90 words
# (`tests/benchmarks/stages.py`): 8 GB and a quarter of an hour for 21 million.
SHARD_ROWS = 50_000
# Words whose frequencies wait to be added up.
_PENDING = 1 << 20

Progress = Callable[[int, int], None]


def build_bm25(
  corpus: Corpus,
  out: str | Path,
  *,
  shard_rows: int = SHARD_ROWS,
  runner: Runner | None = None,
  progress: Progress | None = None,
) -> dict[str, Any]:
  """Indexes every passage, or does nothing if that is done already.

  An index of another corpus or of other parameters is replaced. An
  interrupted build goes on after the shards that are counted.

  Args:
    corpus: the evidence.
    out: the folder to write; it appears whole or not at all.
    shard_rows: passages in a shard; the scores do not depend on it.
    runner: who counts; None: a process for every core.
    progress: called as `progress(passages done, passages)`.

  Returns:
    The manifest.

  Raises:
    ValueError: if no passage has a word that is indexed, or `out` holds
      something else.
    ImportError: if the extra `bm25` is not installed.
  """
  source = made_from(corpus)
  refuse_foreign(Path(out), "bm25")
  # Damage comes to light where it is used: to read it all takes minutes.
  with contextlib.suppress(ValueError):
    manifest = open_artifact(out, "bm25", lazy=True).manifest
    if manifest["made_from"] == source:
      return manifest
  bm25s = Words().bm25s
  with publish(
    out,
    "bm25",
    source,
    identity=source | {"shard_rows": shard_rows},
    scratch=SCRATCH,
  ) as draft:
    runner = runner or Runner(count_cores())
    parts = make_parts(
      CountWords(corpus.directory),
      _parts(corpus, source, shard_rows),
      draft.folder,
      runner,
      progress,
      len(corpus),
    )
    whole = _add_up(parts, corpus)
    for number, path in enumerate(parts):
      _write_shard(path, whole, draft.folder / shard_name(number))
    draft.counts |= {
      "count": len(corpus),
      "shard_rows": shard_rows,
      "words": len(whole.words),
      "mean_length": float(whole.mean_length),
      "software": f"bm25s {bm25s.__version__}",
    }
  return draft.manifest


@contextlib.contextmanager
def bm25_of(
  corpus: Corpus, *, progress: Progress | None = None
) -> Iterator[Bm25]:
  """The index beside the corpus; one in a temporary folder where none fits.

  Raises:
    ValueError, ImportError: see `build_bm25`.
  """
  stored = None
  # None there, that of another corpus, or a damaged one.
  with contextlib.suppress(ValueError):
    stored = Bm25.open(corpus.directory.with_name("bm25"), corpus)
  if stored:
    yield stored
    return
  with tempfile.TemporaryDirectory(prefix="bm25-") as folder:
    build_bm25(corpus, Path(folder) / "bm25", progress=progress)
    yield Bm25.open(Path(folder) / "bm25", corpus)


def index_dataset(dataset: Path, runner: Runner | None = None) -> Bm25:
  """The index that is kept in DATASET/bm25; made when absent."""
  corpus = Corpus(dataset / "corpus")
  with progress_bar("index for BM25", len(corpus), "passages") as update:
    build_bm25(corpus, dataset / "bm25", runner=runner, progress=update)
  return Bm25.open(dataset / "bm25", corpus)


def bm25_search(
  dataset: Path, runner: Runner | None = None
) -> Callable[[Sequence[str], int], Int64[np.ndarray, "n k"]]:
  """Searches a dataset folder for mining: texts and depth → rows.

  The index is opened, and made when absent, by the first call.
  """
  index = functools.cache(lambda: index_dataset(dataset, runner))
  return lambda texts, depth: index().search(texts, depth)[0]


def _parts(
  corpus: Corpus, source: dict[str, Any], shard_rows: int
) -> Iterator[Part]:
  """The rows of every shard; what they hold, their key names."""
  content = content_hash(source)
  for first in range(0, len(corpus), shard_rows):
    end = min(first + shard_rows, len(corpus))
    key = f"{content} {first} {end}"
    yield Part(key, end - first, {"rows": np.array([first, end])})


@dataclass(frozen=True)
class CountWords:
  """The stage: rows of a corpus → how often each word stands in each row."""

  directory: Path

  def __call__(self, arrays: Arrays) -> Arrays:
    """Takes `rows`, the first and the one after the last.

    Returns:
      `words`, the hashes of all words, sorted; `indptr`, where the rows of
      each begin in `indices`, counted from the first row, with `counts`; and
      `lengths`, the words of every row.
    """
    rows = range(*arrays["rows"].tolist())
    corpus, words = _opened(self.directory)
    tokens = words.ids(f"{corpus.title(i)} {corpus.text(i)}" for i in rows)
    lengths = np.fromiter(map(len, tokens.ids), np.int32, len(rows))
    numbers = np.fromiter(
      chain.from_iterable(tokens.ids), np.int64, int(lengths.sum())
    )
    hashed = word_hashes(tokens.vocab)
    # The library numbers words in the order of a set: differently every time.
    order = np.argsort(hashed)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    places = np.repeat(np.arange(len(rows)), lengths)
    keys, counts = np.unique(
      rank[numbers] * len(rows) + places, return_counts=True
    )
    frequencies = np.bincount(keys // len(rows), minlength=len(order))
    return {
      "words": hashed[order],
      "indptr": np.cumsum(np.append(0, frequencies), dtype=np.int64),
      "indices": (keys % len(rows)).astype(np.int32),
      "counts": counts.astype(np.int32),
      "lengths": lengths,
    }


@functools.cache
def _opened(directory: Path) -> tuple[Corpus, Words]:
  return Corpus(directory), Words()


@dataclass(frozen=True)
class _Whole:
  """What scores need to know of the whole corpus.

  Attributes:
    words: hashes of its words, sorted.
    idf: of each.
    mean_length: words in a passage.
  """

  words: UInt64[np.ndarray, " w"]
  idf: Float32[np.ndarray, " w"]
  mean_length: np.float64


def _add_up(parts: list[Path], corpus: Corpus) -> _Whole:
  """Adds up the frequencies in all parts.

  Raises:
    ValueError: if there is no word.
  """
  words, counts = np.zeros(0, np.uint64), np.zeros(0, np.int64)
  pending = [(words, counts)]
  total = 0
  for path in parts:
    part = read_part(path)
    pending.append((part["words"], np.diff(part["indptr"])))
    total += int(part["lengths"].sum())
    # Not one by one: each time all words are sorted.
    waiting = sum(len(more) for more, _ in pending)
    if path is parts[-1] or waiting > max(len(words), _PENDING):
      words, place = np.unique(
        np.concatenate([words, *(more for more, _ in pending)]),
        return_inverse=True,
      )
      added = np.concatenate([counts, *(more for _, more in pending)])
      counts = np.bincount(place, added, len(words)).astype(np.int64)
      pending = []
  if not total:
    raise ValueError(
      f"{corpus.directory}: no passage of {len(corpus)} has a word of two "
      "letters that is no English stop word, and BM25 indexes nothing else; "
      "search with a dense retriever, or check the corpus."
    )
  return _Whole(
    words, _idf(counts, len(corpus)), np.float64(total) / len(corpus)
  )


def _idf(
  counts: Int64[np.ndarray, " w"], size: int
) -> Float32[np.ndarray, " w"]:
  """The library's formula and rounding, once for each frequency there is."""
  distinct, place = np.unique(counts, return_inverse=True)
  values = [math.log(1 + (size - n + 0.5) / (n + 0.5)) for n in distinct]
  return np.array(values, np.float32)[place]


def _write_shard(path: Path, whole: _Whole, folder: Path) -> None:
  """Turns the counts of a part into scores."""
  folder.mkdir(exist_ok=True)
  k1, b = PARAMETERS["k1"], PARAMETERS["b"]
  part = read_part(path)
  words, indptr, indices = part["words"], part["indptr"], part["indices"]
  counts, lengths = part["counts"], part["lengths"]
  idf = whole.idf[np.searchsorted(whole.words, words)]
  # In the library's precision and order, so that the scores are the same.
  norm: Float64[np.ndarray, " n"] = k1 * (
    (1 - b) + b * lengths / whole.mean_length
  )
  data = counts / (norm[indices] + counts)
  data *= np.repeat(idf, np.diff(indptr))
  np.save(folder / "words.npy", words)
  np.save(folder / "indptr.npy", indptr)
  np.save(folder / "indices.npy", indices)
  np.save(folder / "data.npy", data.astype(np.float32))
