"""What every index is asked, and any number of questions in batches."""

from typing import Any

import numpy as np
import pytest
from random_corpus import first_devices, index_from_rows

from odqa_jax.retrieval.index import Index
from odqa_jax.retrieval.searchable import search_embeddings


class Remembering:
  """An index that notes what it is asked."""

  def __init__(self, index: Index, batch_size: int) -> None:
    self.index, self.batch_size = index, batch_size
    self.manifest, self.count = index.manifest, index.count
    self.width, self.metrics = index.width, index.metrics
    self.asked: list[np.ndarray] = []

  def search(self, queries: Any, k: int) -> Any:
    self.asked.append(queries)
    return self.index.search(queries, k)


def random(shape: tuple[int, ...], seed: int) -> np.ndarray:
  return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.fixture(scope="module")
def index() -> Index:
  return index_from_rows(random((300, 8), 0), first_devices(2), {})


@pytest.mark.parametrize(
  ("questions", "size"), [(1, 1), (3, 4), (5, 6), (6, 6), (13, 6), (18, 6)]
)
def test_batches_of_few_shapes(index: Index, questions: int, size: int):
  embeddings, told = random((questions, 8), 1), []
  asked = Remembering(index, 6)
  scores, rows = search_embeddings(
    asked, embeddings, 4, progress=lambda *x: told.append(x)
  )
  assert scores.dtype == np.float32 and rows.dtype == np.int32
  for i in range(questions):
    one = index.search(embeddings[i : i + 1], 4)
    np.testing.assert_array_equal(rows[i], one[1][0])
    np.testing.assert_allclose(scores[i], one[0][0], rtol=1e-6)
  assert {len(x) for x in asked.asked} == {size}
  stops = [*range(6, questions, 6), questions]
  assert told == [(stop, questions) for stop in stops]


def test_no_questions(index: Index):
  asked = Remembering(index, 6)
  scores, rows = search_embeddings(asked, random((0, 8), 1), 4)
  assert scores.shape == rows.shape == (0, 4) and not asked.asked


def test_batch_sizes_are_used(index: Index):
  asked = Remembering(index, index.batch_size)
  search_embeddings(asked, random((150, 8), 1), 4)
  assert [len(x) for x in asked.asked] == [64, 64, 64]


@pytest.mark.parametrize("questions", [0, 3])
@pytest.mark.parametrize("k", [-1, 0, 301, 10**15])
def test_k_out_of_range(index: Index, questions: int, k: int):
  with pytest.raises(ValueError, match=f"k={k} is out of range .* 300 rows"):
    search_embeddings(index, random((questions, 8), 1), k)
