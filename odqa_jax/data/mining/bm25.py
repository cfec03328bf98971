"""BM25 over a corpus: words by `bm25s` and PyStemmer (extra `bm25`).

build_bm25(corpus, "data/bm25")  # data/mining/bm25_build.py
bm25 = Bm25.open("data/bm25", corpus)
rows, scores = bm25.search(["who wrote emma"], k=100)
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, UInt64

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.store import hash_id
from odqa_jax.runtime.artifact import Artifact, open_artifact

# Lucene's scoring with the values that open-domain question answering uses;
# lower-cased words of two letters or more, without English stop words, stemmed.
PARAMETERS: dict[str, Any] = {
  "method": "lucene",
  "k1": 0.9,
  "b": 0.4,
  "stop_words": "en",
  "stemmer": "english",
}
# What a shard's folder holds: the words' hashes, sorted, the bounds of each
# word's postings, and the postings: rows counted from the shard's first, and
# what the word adds to the score of each.
FILES = ("words", "indptr", "indices", "data")


class Words:
  """Splits texts into the words that are indexed.

  Raises:
    ImportError: if the extra `bm25` is not installed.
  """

  def __init__(self) -> None:
    try:
      import bm25s
      import Stemmer
    except ImportError as error:
      raise ImportError(
        "BM25 needs the extra `bm25`: pip install 'odqa_jax[bm25]'."
      ) from error
    # It logs every step, at a level that it sets when imported.
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    self.bm25s = bm25s
    self._stemmer = Stemmer.Stemmer(PARAMETERS["stemmer"])

  def ids(self, texts: Iterable[str]) -> Any:
    """`ids`: numbers of every text's words; `vocab`: words → numbers."""
    return self.bm25s.tokenize(
      texts,
      stopwords=PARAMETERS["stop_words"],
      stemmer=self._stemmer,
      show_progress=False,
    )

  def hashes(self, texts: Iterable[str]) -> list[UInt64[np.ndarray, " _"]]:
    """The hashes of every text's words, in order and with repeats."""
    words = self.ids(texts)
    hashed = word_hashes(words.vocab)
    return [hashed[np.array(ids, np.int64)] for ids in words.ids]


def word_hashes(vocab: Mapping[str, int]) -> UInt64[np.ndarray, " w"]:
  """The hash of each word, by its number."""
  hashed = np.zeros(len(vocab), np.uint64)
  for word, number in vocab.items():
    hashed[number] = hash_id(word)
  return hashed


class _Shard:
  """The postings of some consecutive rows, memory-mapped."""

  def __init__(self, files: Artifact, number: int, rows: range) -> None:
    name = shard_name(number)
    self.rows = rows
    self._words, self._indptr, self._indices, self._data = (
      files.array(f"{name}/{file}.npy") for file in FILES
    )

  def scores(
    self, index: Any, words: UInt64[np.ndarray, " w"]
  ) -> Float32[np.ndarray, " n"]:
    """The scores of all rows; `index` is what bm25s scores with."""
    known, indptr = np.asarray(self._words), np.asarray(self._indptr)
    place = np.searchsorted(known, words)
    within = place < len(known)
    place, words = place[within], words[within]
    ids = place[known[place] == words]
    if not len(ids):
      return np.zeros(len(self.rows), np.float32)
    bounds = indptr[ids], indptr[ids + 1]
    # Only these blocks are read, and compared with their checksums first.
    index.scores = {
      "data": self._data.within(*bounds),
      "indices": self._indices.within(*bounds),
      "indptr": indptr,
      "num_docs": len(self.rows),
    }
    return index.get_scores_from_ids(ids.astype(np.int32))


def shard_name(number: int) -> str:
  """The folder of a shard."""
  return f"shard-{number:05}"


class Bm25:
  """A BM25 index of a corpus, on disk.

  Titles and texts are indexed together. The index is cut into shards, which
  are searched one after the other; frequencies and lengths are those of the
  whole corpus, so that the scores are those of one index.
  """

  def __init__(self, files: Artifact, corpus_size: int) -> None:
    self._splitter = Words()
    self._index = self._splitter.bm25s.BM25(
      method=PARAMETERS["method"], k1=PARAMETERS["k1"], b=PARAMETERS["b"]
    )
    # What only other methods than Lucene's have.
    self._index.nonoccurrence_array = None
    self._size = corpus_size
    step = files.manifest["shard_rows"]
    self._shards = [
      _Shard(files, i, range(first, min(first + step, corpus_size)))
      for i, first in enumerate(range(0, corpus_size, step))
    ]

  def __len__(self) -> int:
    return self._size

  @classmethod
  def open(cls, directory: str | Path, corpus: Corpus) -> "Bm25":
    """Memory-maps what `build_bm25` wrote.

    Raises:
      ValueError: if the folder holds no such index, or that of another corpus;
        any later use raises it too, for a damaged block.
      ImportError: if the extra `bm25` is not installed.
    """
    files = open_artifact(directory, "bm25", lazy=True)
    if files.manifest["made_from"] != made_from(corpus):
      raise ValueError(
        f"{directory}: the BM25 index of another corpus than "
        f"{corpus.directory}, or made with other parameters; run prepare again."
      )
    return cls(files, len(corpus))

  def search(
    self, questions: Sequence[str], k: int
  ) -> tuple[Int64[np.ndarray, "n k"], Float32[np.ndarray, "n k"]]:
    """The k best rows per question and their scores, best first.

    Equal scores are in the order of the rows. A row that shares no word with
    the question is no result: where fewer than k share one, the rest is row -1
    with score 0.

    Raises:
      ValueError: if k is larger than the corpus.
    """
    if not 1 <= k <= self._size:
      raise ValueError(
        f"k={k}: the corpus has {self._size} passages; ask for 1 to "
        f"{self._size} of them."
      )
    queries = self._splitter.hashes(questions)
    rows = np.full((len(queries), k), -1, np.int64)
    scores = np.zeros((len(queries), k), np.float32)
    for shard in self._shards:
      for i, words in enumerate(queries):
        found = shard.scores(self._index, words)
        best = _best_rows(found, k)
        # The rows of earlier shards come first among equal scores.
        merged = np.concatenate([scores[i], found[best]])
        order = np.argsort(-merged, kind="stable")[:k]
        scores[i] = merged[order]
        rows[i] = np.concatenate([rows[i], best + shard.rows.start])[order]
    return rows, scores


def made_from(corpus: Corpus) -> dict[str, Any]:
  """What an index depends on."""
  return {"corpus": corpus.fingerprint, **PARAMETERS}


def _best_rows(
  scores: Float32[np.ndarray, " n"], k: int
) -> Int64[np.ndarray, " _"]:
  """At most k rows above 0, the highest in order, ties by the lowest row."""
  rows = np.flatnonzero(scores > 0)
  if len(rows) > k:
    above_zero = scores[rows]
    threshold = np.partition(above_zero, -k)[-k]
    above = rows[above_zero > threshold]
    equal = rows[above_zero == threshold][: k - len(above)]
    rows = np.concatenate([above, equal])
  return rows[np.argsort(-scores[rows], kind="stable")]
