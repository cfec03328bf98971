"""BM25 over a corpus: the `bm25s` library with PyStemmer (extra `bm25`).

bm25 = Bm25.build(corpus)
rows, scores = bm25.search(["who wrote emma"], k=100)
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from odqa_jax.data.corpus.corpus import Corpus


class Bm25:
  """A BM25 index of a corpus, in memory.

  Titles and texts are indexed together, lower-cased, English stop words left
  out and words stemmed; Lucene's scoring with k1 = 0.9, b = 0.4, the values
  that open-domain question answering uses.
  """

  def __init__(self, index: Any, stemmer: Any) -> None:
    self._index = index
    self._stemmer = stemmer

  @classmethod
  def build(cls, corpus: Corpus) -> "Bm25":
    """Indexes every passage.

    Raises:
      ImportError: if the extra `bm25` is not installed.
    """
    try:
      import bm25s
      import Stemmer
    except ImportError as error:
      raise ImportError(
        "BM25 needs the extra `bm25`: pip install 'odqa_jax[bm25]'."
      ) from error
    # It logs every step, at a level that it sets when imported.
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    stemmer = Stemmer.Stemmer("english")
    texts = (f"{corpus.title(i)} {corpus.text(i)}" for i in range(len(corpus)))
    tokens = bm25s.tokenize(
      texts, stopwords="en", stemmer=stemmer, show_progress=False
    )
    index = bm25s.BM25(method="lucene", k1=0.9, b=0.4)
    index.index(tokens, show_progress=False)
    return cls(index, stemmer)

  def search(
    self, questions: Sequence[str], k: int
  ) -> tuple[Int64[np.ndarray, "n k"], Float32[np.ndarray, "n k"]]:
    """The k best rows per question and their scores, best first.

    Equal scores are in the order of the rows; a row with score 0 shares no
    word with the question.

    Raises:
      ValueError: if k is larger than the corpus.
    """
    import bm25s

    size = int(self._index.scores["num_docs"])
    if not 1 <= k <= size:
      raise ValueError(
        f"k={k}: the corpus has {size} passages; ask for 1 to {size} of them."
      )
    queries = bm25s.tokenize(
      list(questions),
      stopwords="en",
      stemmer=self._stemmer,
      return_ids=False,
      show_progress=False,
    )
    rows = np.empty((len(questions), k), np.int64)
    scores = np.empty((len(questions), k), np.float32)
    for i, words in enumerate(queries):
      known = self._index.get_tokens_ids(words)
      all_scores = self._index.get_scores_from_ids(known)
      rows[i] = _best_rows(all_scores, k)
      scores[i] = all_scores[rows[i]]
    return rows, scores


def _best_rows(
  scores: Float32[np.ndarray, " n"], k: int
) -> Int64[np.ndarray, " k"]:
  """The k highest, ties by the lowest row: the library's order varies."""
  # Most rows score 0, and selecting among many equals is slow.
  above_zero = scores[scores > 0]
  enough = len(above_zero) >= k
  threshold = np.partition(above_zero, -k)[-k] if enough else 0.0
  above = np.flatnonzero(scores > threshold)
  equal = np.flatnonzero(scores == threshold)[: k - len(above)]
  rows = np.concatenate([above, equal])
  return rows[np.argsort(-scores[rows], kind="stable")]
