"""What a search misses, against inner products with all rows."""

import dataclasses

import jax
import numpy as np
import pytest
from small_retriever import small_retriever

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.sets import QuestionSet
from odqa_jax.evaluation import index_loss
from odqa_jax.evaluation.index_loss import BEST, index_facts
from odqa_jax.retrieval.backends.int8 import load_int8
from odqa_jax.retrieval.retriever import encode_questions, write_index
from odqa_jax.runtime.mesh import make_mesh


@pytest.fixture(scope="module")
def parts(toy_data):
  corpus = Corpus(toy_data / "corpus")
  questions = list(QuestionSet(toy_data / "questions" / "toy"))[:40]
  retriever, rng = small_retriever(corpus, 0), np.random.default_rng(0)
  # First weights put all texts in nearly one place.
  params = jax.tree.map(
    lambda x: np.asarray(x) + rng.normal(0, 0.5, x.shape).astype(np.float32),
    retriever.params,
  )
  return dataclasses.replace(retriever, params=params), corpus, questions


def test_exact_search_misses_nothing(parts, tmp_path):
  retriever, corpus, questions = parts
  for dtype in ("float32", "bfloat16"):
    folder = tmp_path / dtype
    write_index(retriever, corpus, folder, mesh=make_mesh(), dtype=dtype)
    facts = index_facts(retriever, folder, "exact", corpus, questions)
    assert (facts["missed"], facts["dtype"]) == (0.0, dtype)
    rounding = "rounding the rows to bfloat16 costs: not measured"
    assert (rounding in facts["loss"]) == (dtype == "bfloat16")


def test_what_codes_of_a_byte_miss(parts, tmp_path, monkeypatch):
  retriever, corpus, questions = parts
  folder = tmp_path / "int8"
  write_index(retriever, corpus, folder, mesh=make_mesh(), dtype="int8")
  index = load_int8(folder, make_mesh())
  asked = encode_questions(retriever, [q.question for q in questions])
  rows = index.rows(np.arange(len(corpus), dtype=np.int32)).astype(np.float64)
  products = asked.astype(np.float64) @ rows.T
  best = -np.sort(-products, axis=1)[:, :BEST]

  class Lossy(type(index)):
    """Finds the best half, and another half that is not."""

    def search(self, queries, k):
      scores, rows = super().search(queries, len(corpus))
      some = [*range(k // 2), *range(len(corpus) - k + k // 2, len(corpus))]
      return scores[:, some], rows[:, some]

  lossy = Lossy(**{n: getattr(index, n) for n in index.__dataclass_fields__})
  monkeypatch.setattr(index_loss, "_BLOCK", 64)
  found, which = index_loss._exact(index, folder, asked, BEST)
  np.testing.assert_allclose(found, best, rtol=1e-5, atol=1e-5)
  there = np.take_along_axis(products, which, axis=1)
  np.testing.assert_allclose(there, best, rtol=1e-5, atol=1e-5)
  facts = index_facts(retriever, folder, "exact", corpus, questions)
  # Twice as many codes as are asked for are looked at: hardly any is missed.
  assert facts["missed"] <= 0.01 and "on 40 questions" in facts["loss"]
  monkeypatch.setattr(index_loss, "open_index", lambda *_, **__: lossy)
  facts = index_facts(retriever, folder, "exact", corpus, questions)
  assert facts["missed"] == pytest.approx(0.5, abs=1e-9)
