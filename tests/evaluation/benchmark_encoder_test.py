"""MTEB and BEIR find, with the adapter, what `odqa evaluate` measures."""

import warnings
from pathlib import Path

import ir_measures
import jax
import numpy as np
import pytest
from small_retriever import small_retriever

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.sets import QuestionSet
from odqa_jax.evaluation.benchmark_encoder import BenchmarkEncoder
from odqa_jax.retrieval.retriever import Retriever, make_retriever
from odqa_jax.serving.passage_index import build_index

# torch and datasets warn of what is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def retriever(toy_data: Path) -> Retriever:
  """With weights so large that no two scores are nearly equal."""
  small, rng = (
    small_retriever(Corpus(toy_data / "corpus"), 0),
    np.random.default_rng(0),
  )

  def larger(x):
    return rng.normal(0, 0.5, x.shape).astype(np.float32)

  return make_retriever(
    small.encoder.config,
    jax.tree.map(larger, jax.device_get(small.params)),
    small.tokenizer,
    question_length=small.question_length,
    passage_length=small.passage_length,
    title=True,
  )


@pytest.fixture(scope="module")
def task(toy_data: Path):
  """Documents, queries and judgements: BEIR's dicts."""
  corpus = Corpus(toy_data / "corpus")
  documents = {
    corpus.id(row): {"title": corpus.title(row), "text": corpus.text(row)}
    for row in range(len(corpus))
  }
  asked = list(QuestionSet(toy_data / "questions" / "toy"))
  queries = {q.id: q.question for q in asked}
  return documents, queries, {q.id: {q.positive_ids[0]: 1} for q in asked}


@pytest.fixture(scope="module")
def wanted(toy_data: Path, retriever: Retriever):
  """What the search and the measures of this project say."""
  index = build_index(retriever, toy_data)
  figures = index.measure(toy_data / "questions" / "toy", k=100)
  assert 0 < figures["ndcg@10"] < 1
  return figures


def test_sides_and_titles(task, retriever: Retriever):
  documents, queries, _ = task
  encoder = BenchmarkEncoder(retriever, "small")
  some = list(documents.values())[:5]
  batches = [
    {
      "text": [f"{d['title']} {d['text']}" for d in part],
      "body": [d["text"] for d in part],
      "title": [d["title"] for d in part],
    }
    for part in (some[:3], some[3:])
  ]
  texts, titles = ([d[name] for d in some] for name in ("text", "title"))
  as_documents = encoder.encode(batches, prompt_type="document")
  np.testing.assert_array_equal(
    as_documents, retriever.encode(texts, "passage", titles=titles)
  )
  asked = [{"text": list(queries.values())[:4]}]
  np.testing.assert_array_equal(
    encoder.encode(asked, prompt_type="query"),
    retriever.encode(asked[0]["text"]),
  )
  joined = BenchmarkEncoder(retriever, "small", join_titles=True)
  np.testing.assert_array_equal(
    joined.encode_corpus(some), retriever.encode(batches[0]["text"] +
    batches[1]["text"], "passage"),
  )  # fmt: skip


def test_mteb(task, retriever: Retriever, wanted, tmp_path: Path):
  mteb = pytest.importorskip("mteb")
  from datasets import Dataset
  from mteb.abstasks.retrieval import AbsTaskRetrieval
  from mteb.abstasks.task_metadata import TaskMetadata

  documents, queries, judged = task

  class Toy(AbsTaskRetrieval):
    metadata = TaskMetadata(
      name="Toy", description="Toy.", type="Retrieval", main_score="ndcg_at_10",
      dataset={"path": "none", "revision": "none"}, eval_langs=["eng-Latn"],
      eval_splits=["test"],
    )  # fmt: skip

    def load_data(self, **unused):
      rows = [{"id": i, **d} for i, d in documents.items()]
      asked = [{"id": i, "text": text} for i, text in queries.items()]
      split = {
        "corpus": Dataset.from_list(rows),
        "queries": Dataset.from_list(asked),
        "relevant_docs": judged,
        "top_ranked": None,
      }
      self.dataset = {"default": {"test": split}}
      self.data_loaded = True

  encoder = BenchmarkEncoder(retriever, "work/small")
  found = mteb.evaluate(
    encoder, [Toy()], cache=None, co2_tracker=False, show_progress_bar=False
  )
  (scores,) = found[0].scores["test"]
  for name, value in {
    "ndcg_at_10": wanted["ndcg@10"],
    "mrr_at_10": wanted["mrr@10"],
    "recall_at_20": wanted["gold_recall"]["20"],
    "recall_at_100": wanted["gold_recall"]["100"],
  }.items():
    # MTEB rounds to five digits.
    assert scores[name] == pytest.approx(value, abs=5.1e-6), name
  exact = encoder.mteb_model_meta
  assert exact.name == "odqa_jax/work__small" and exact.embed_dim == 16


def test_beir(task, retriever: Retriever, wanted):
  pytest.importorskip("beir")
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from beir.retrieval.evaluation import EvaluateRetrieval
    from beir.retrieval.search.dense import DenseRetrievalExactSearch

  documents, queries, judged = task
  search = DenseRetrievalExactSearch(
    BenchmarkEncoder(retriever, "small"), show_progress_bar=False
  )
  evaluation = EvaluateRetrieval(search, score_function="dot")
  results = evaluation.retrieve(documents, queries)
  ndcg, _, recall, _ = evaluation.evaluate(judged, results, [10, 100])
  assert ndcg["NDCG@10"] == round(wanted["ndcg@10"], 5)
  assert recall["Recall@100"] == round(wanted["gold_recall"]["100"], 5)
  # Before it rounds.
  measure = ir_measures.nDCG @ 10
  exact = ir_measures.calc_aggregate([measure], judged, results)[measure]
  assert exact == pytest.approx(wanted["ndcg@10"], abs=1e-6)
