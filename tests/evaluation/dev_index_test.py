"""What is never a result of a dev question is none while a model trains."""

from pathlib import Path

import numpy as np
import pytest
from small_retriever import small_retriever

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.sets import Question
from odqa_jax.evaluation.dev_index import DevIndex
from odqa_jax.runtime.mesh import make_mesh


@pytest.mark.parametrize(
  "passages", [pytest.param(40, marks=pytest.mark.slow), 1000]
)
def test_what_a_dev_question_excludes_is_not_found(
  toy_data: Path, tmp_path: Path, passages: int
) -> None:
  corpus = Corpus(toy_data / "corpus")
  retriever = small_retriever(corpus, seed=0)

  def search(k: int, *barred: str) -> tuple[np.ndarray, np.ndarray]:
    index = DevIndex(
      "sample",
      corpus,
      [Question("q", "what is known", (), "string", ("p3",), (), barred)],
      passages=passages,
      seed=0,
      mesh=make_mesh(),
      dtype="float32",
      folder=tmp_path / "dev",
    )
    scores, rows = index.search(retriever, None, k)
    return scores[0], rows[0]

  scores, rows = search(20)
  barred = [0, 2, 9]
  left = [i for i in range(20) if i not in barred][:10]
  again = search(10, *(corpus.id(int(rows[i])) for i in barred))
  assert again[1].tolist() == rows[left].tolist()
  np.testing.assert_allclose(again[0], scores[left], rtol=1e-6)
