"""What can be searched, whatever holds the rows.

    index = open_index("work/index", mesh, backend="exact")
    scores, rows = index.search(queries, k=100)

`backends/table.py` lists the kinds of index and opens them; `Index`, which
training searches, is one of them.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32, Shaped

from odqa_jax.data.examples.batch import bucket_count
from odqa_jax.data.exclusions import Exclusions
from odqa_jax.retrieval.embed import Progress
from odqa_jax.runtime.mesh import to_host

Queries = Shaped[Array | np.ndarray, "..."]
# Scores, best first, and rows.
Ranked = tuple[Float[Array | np.ndarray, "b k"], Int[Array | np.ndarray, "b k"]]

_QUERY_DTYPES = ("float32", "bfloat16", "float16")


@runtime_checkable
class Searchable(Protocol):
  """An index of a corpus, opened."""

  @property
  def manifest(self) -> Mapping[str, Any]:
    """What the index was made from."""

  @property
  def count(self) -> int:
    """How many passages."""

  @property
  def width(self) -> int:
    """The embedding width e."""

  @property
  def batch_size(self) -> int:
    """Questions that are best searched together."""

  def search(self, queries: Queries, k: int) -> Ranked:
    """Finds k rows with the largest inner products for every query.

    Args:
      queries: [b, e], float32 (or a shorter float, which is widened); the same
        on every process. Where it is compiled, once per (b, k): keep b fixed.
      k: how many rows, 1 ≤ k ≤ `count`.

    Returns:
      Scores, float32, best first, and corpus rows, int32, the same on every
      process; equal scores are ordered by row.

    Raises:
      ValueError: if k is out of range, or the queries have another width, shape
        or type than the index takes, or are not finite.
    """

  def metrics(self) -> dict[str, Any]:
    """What is worth knowing of the index and its searches, for JSON."""


def check_k(k: int, count: int) -> None:
  """Raises a ValueError unless an index of `count` rows has k best ones."""
  if not 1 <= k <= count:
    raise ValueError(
      f"k={k} is out of range for an index of {count} rows; "
      f"choose 1 <= k <= {count}."
    )


def checked_queries(
  index: Searchable, queries: Queries, k: int
) -> Float32[np.ndarray, "b e"]:
  """The queries as a host matrix, or a ValueError that says why not."""
  check_k(k, index.count)
  if queries.ndim != 2 or queries.shape[1] != index.width:
    raise ValueError(
      f"queries have the shape {tuple(queries.shape)}, but the index holds "
      f"embeddings of width {index.width}; pass [questions, {index.width}] "
      "made by the encoder that the index was built with."
    )
  if queries.dtype.name not in _QUERY_DTYPES:
    raise ValueError(
      f"queries are {queries.dtype.name}; search takes "
      f"{', '.join(_QUERY_DTYPES)}: convert them with .astype('float32')."
    )
  host = np.asarray(to_host(queries)).astype(np.float32)
  finite = np.isfinite(host).all(axis=1)
  if not finite.all():
    raise ValueError(
      f"query {int(np.argmin(finite))} holds NaN or infinity; every value "
      "must be finite: look at the question encoder's weights."
    )
  return host


def no_rows(k: int) -> Ranked:
  """What is found for no queries."""
  return np.zeros((0, k), np.float32), np.zeros((0, k), np.int32)


def search_embeddings(
  index: Searchable,
  embeddings: Float32[np.ndarray, "n e"],
  k: int,
  *,
  exclusions: Exclusions | None = None,
  progress: Progress | None = None,
) -> tuple[Float32[np.ndarray, "n {k}"], Int32[np.ndarray, "n {k}"]]:
  """The k best rows for any number of questions.

  Args:
    index: where to search; that it belongs to the encoder of the questions and
      to a corpus is the caller's to know.
    embeddings: of the questions.
    k: rows of a question.
    exclusions: of these questions: passages that are no results.
    progress: called with questions done and in all.

  Returns:
    As `Searchable.search`, on the host; a question for which too little is left
    has row -1 and score -inf at the end.

  Raises:
    ValueError: likewise.
  """
  check_k(k, index.count)
  if exclusions is None:
    return _search_batches(index, embeddings, k, progress)

  def search(depth: int) -> tuple[np.ndarray, np.ndarray]:
    return _search_batches(index, embeddings, depth, progress)

  return exclusions.search(search, k, index.count)


def _search_batches(
  index: Searchable,
  embeddings: Float32[np.ndarray, "n e"],
  k: int,
  progress: Progress | None,
) -> tuple[np.ndarray, np.ndarray]:
  n = len(embeddings)
  scores, rows = np.empty((n, k), np.float32), np.empty((n, k), np.int32)
  size = bucket_count(n, index.batch_size)
  for start in range(0, n, index.batch_size):
    part = embeddings[start : start + size]
    # One shape for all batches, and few for all calls: few compiled searches.
    batch = np.pad(part, ((0, size - len(part)), (0, 0)), mode="edge")
    stop = start + len(part)
    ranked = to_host(index.search(batch, k))
    scores[start:stop], rows[start:stop] = (x[: len(part)] for x in ranked)
    if progress:
      progress(stop, n)
  return scores, rows
