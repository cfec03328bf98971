"""Texts become what an index holds of them, in any company."""

from pathlib import Path

import numpy as np
import pytest
from small_retriever import small_retriever

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.retrieval.retriever import index_corpus
from odqa_jax.runtime.mesh import make_mesh

# Longer than the retriever reads, as long, short and empty.
TEXTS = ["the red castle " * 40, "a painter of the river", "king", "", "tower"]


@pytest.fixture(scope="module")
def corpus(toy_data: Path) -> Corpus:
  return Corpus(toy_data / "corpus")


def test_passages_are_encoded_as_an_index_of_them_is(
  corpus: Corpus, tmp_path: Path
):
  retriever = small_retriever(corpus, 0)
  index = index_corpus(retriever, corpus, tmp_path / "i", mesh=make_mesh())
  rows = [3, 199, 0, 42]
  found = retriever.encode(
    [corpus.text(row) for row in rows],
    "passage",
    titles=[corpus.title(row) for row in rows],
  )
  assert found.dtype == np.float32 and found.shape == (4, 16)
  # Rounding of other shapes.
  embedded = np.asarray(index.embeddings)[rows]
  np.testing.assert_allclose(found, embedded, atol=1e-5)
  untitled = retriever.encode([corpus.text(row) for row in rows], "passage")
  assert np.abs(untitled - found).max() > 1e-4


@pytest.mark.parametrize("kind", ["question", "passage"])
def test_company_order_and_padding_change_nothing(corpus: Corpus, kind):
  retriever = small_retriever(corpus, 0)
  together = retriever.encode(TEXTS, kind)
  for text, row in zip(TEXTS, together, strict=True):
    alone = retriever.encode([text], kind)
    np.testing.assert_allclose(alone[0], row, atol=1e-5)
  # Several batches, also where eight devices share each.
  many = retriever.encode(TEXTS[::-1] * 4, kind, batch_tokens=64)
  wanted = np.tile(together[::-1], (4, 1))
  np.testing.assert_allclose(many, wanted, atol=1e-5)
  assert np.ptp(together, axis=0).min() > 1e-3
  assert retriever.encode([], kind).shape == (0, 16)


def test_the_sides_differ_and_senseless_requests_are_refused(corpus: Corpus):
  retriever = small_retriever(corpus, 0)
  sides = [retriever.encode(["king"], kind) for kind in ("question", "passage")]
  assert np.abs(sides[0] - sides[1]).max() > 1e-3
  with pytest.raises(ValueError, match="'king' is one text; give a list"):
    retriever.encode("king")
  with pytest.raises(ValueError, match="2 titles do not belong to 1 texts"):
    retriever.encode(["king"], "passage", titles=["a", "b"])
  with pytest.raises(ValueError, match="titles belong to passages"):
    retriever.encode(["king"], titles=["a"])
