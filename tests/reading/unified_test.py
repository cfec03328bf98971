"""A checkpoint that searches and reads: as either, as both, and its scores."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from six_passages import make_corpus
from small_parts import save_extractive_reader, save_unified_reader

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.models.roles import UNIFIED, role_params, roles
from odqa_jax.models.unified_reader import (
  HEADS,
  UnifiedConfig,
  UnifiedReader,
  unified_config,
)
from odqa_jax.reading.extract import (
  holds_span_reader,
  load_span_reader,
  read_spans,
  with_rank_weight,
)
from odqa_jax.reading.passage_spans import best_answers
from odqa_jax.reading.unified import holds_unified, load_unified
from odqa_jax.retrieval.encoding import encode_questions
from odqa_jax.retrieval.retriever import load_retriever
from odqa_jax.runtime.checkpoint import restore_params
from odqa_jax.runtime.mesh import make_mesh, replicated

QUESTIONS = ["where was einstein born", "what flows through ulm"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
  return make_corpus(tmp_path_factory.mktemp("corpus") / "corpus")


@pytest.fixture(scope="module")
def work(corpus, tmp_path_factory):
  return save_unified_reader(corpus, tmp_path_factory.mktemp("work") / "u")


@pytest.fixture(scope="module")
def saved(work):
  params, extra = restore_params(work, replicated(make_mesh()))
  return params[UNIFIED], extra["components"]


def test_vectors_are_the_first_numbers_of_the_first_token(corpus, work, saved):
  params, components = saved
  network = UnifiedReader(unified_config(load_retriever(work).encoder.config))
  assert network.config == UnifiedConfig(network.config.bert, embedding_dim=4)
  retriever = load_retriever(work)
  assert retriever.encoder.config.passage_token_type == 1
  found = encode_questions(retriever, QUESTIONS)
  # With one more number, a reader of the same states would see these.
  wide = dataclasses.replace(network.config, embedding_dim=None)
  tokens = corpus.tokenizer.encode_batch(QUESTIONS)
  for text, vector in zip(tokens, found, strict=True):
    special = corpus.tokenizer
    ids = jnp.array([[special.cls_id, *text, special.sep_id]])
    states = UnifiedReader(wide).retriever.encode_question(
      role_params("retriever", components, {UNIFIED: params}),
      ids,
      jnp.array([ids.shape[1]]),
    )
    assert states.shape == (1, 8)
    np.testing.assert_allclose(states[0, :4], vector, rtol=1e-5, atol=1e-6)


def test_both_roles_are_told_by_one_component(saved):
  params, components = saved
  known = roles(components)
  assert set(known) == {UNIFIED, "retriever", "extractive_reader"}
  assert known["retriever"]["family"] == "dual_encoder"
  assert known["retriever"]["question_length"] == 16
  assert known["extractive_reader"]["config"]["span"] is False
  mine = {UNIFIED: params}
  searching = role_params("retriever", components, mine)["shared"]
  assert set(params) - set(searching) == set(HEADS)
  assert role_params("extractive_reader", components, mine) is params
  # Of its own a checkpoint may have another one.
  own = {"retriever": {"family": "dual_encoder"}, **components}
  assert roles(own)["retriever"] == own["retriever"]


def test_one_checkpoint_is_read_once_for_both(corpus, work, monkeypatch):
  reads = []

  def counted(*args):
    reads.append(args)
    return restore_params(*args)

  monkeypatch.setattr("odqa_jax.reading.unified.restore_params", counted)
  both = load_unified(work, corpus)
  assert len(reads) == 1 and holds_unified(work) and holds_span_reader(work)
  alone, reader = load_retriever(work), load_span_reader(work, corpus)
  assert both.retriever.fingerprint == alone.fingerprint
  assert jax.tree.structure(both.reader.params) == jax.tree.structure(
    reader.params
  )
  jax.tree.map(np.testing.assert_array_equal, both.reader.params, reader.params)
  word = both.reader.params["embeddings"]["word_embeddings"]["embedding"]
  shared = both.retriever.params["shared"]
  assert word is shared["embeddings"]["word_embeddings"]["embedding"]


def weighed(found, k, weight):
  """Row, start and score of the best span, looking at all of them."""
  ranks = found.log_sums["passage"][:k]
  ranks = ranks - np.log(np.sum(np.exp(ranks)))
  best = (-np.inf, -1, -1)
  for i in range(k):
    for j, start in enumerate(found.starts[i].tolist()):
      if start < 0:
        continue
      tokens = sum(found.log_scores[n][i, j] for n in ("start", "end"))
      score = (1 - weight) * tokens + 2 * weight * ranks[i]
      best = max(best, (score, int(found.rows[i]), start))
  return best


def test_answers_by_the_weight_of_ranks_are_the_best_of_all(corpus, work):
  reader = load_unified(work, corpus).reader
  # The sixth is the fifth again.
  rows = np.arange(5)[None].repeat(2, axis=0)
  chosen = set()
  for weight in (0.0, 0.3, 0.8, 1.0):
    spans = read_spans(
      with_rank_weight(reader, weight), QUESTIONS, rows, most=5
    )
    for found in spans:
      for k in (2, 5):
        (answer,) = best_answers(found, corpus, k=k, most=1)
        score, row, start = weighed(found, k, weight)
        np.testing.assert_allclose(answer.log_prob, score, rtol=1e-9)
        if 0 < weight < 1:
          assert (answer.row, answer.start) == (row, start)
        chosen.add((k, answer.row, answer.start))
  assert len(chosen) > 2


def test_without_a_weight_the_passage_ranked_first_answers(corpus, work):
  reader = load_unified(work, corpus).reader
  rows = np.arange(6)[None].repeat(2, axis=0)
  for found in read_spans(reader, QUESTIONS, rows, most=5):
    first = found.rows[np.argmax(found.log_sums["passage"])]
    (answer,) = best_answers(found, corpus, most=1)
    assert answer.row == first


def test_only_readers_of_ranks_have_a_weight(corpus, work, tmp_path):
  reader = load_unified(work, corpus).reader
  with pytest.raises(ValueError, match=r"--rank-weight 1\.5: a share"):
    with_rank_weight(reader, 1.5)
  other = load_span_reader(
    save_extractive_reader(corpus, tmp_path / "other"), corpus
  )
  with pytest.raises(ValueError, match="by the objective 'independent'"):
    with_rank_weight(other, 0.5)
  assert not holds_unified(tmp_path / "other")


def test_two_encoders_cannot_become_one(work):
  config = load_retriever(work).encoder.config
  with pytest.raises(ValueError, match="shared=False"):
    unified_config(dataclasses.replace(config, shared=False))
  with pytest.raises(ValueError, match="'dense'"):
    unified_config(dataclasses.replace(config, projection="dense"))
