"""Questions encoded once, and the indexes that a retriever may search."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from small_retriever import small_retriever

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.models.dual_encoder import BertConfig, DualEncoder, EncoderConfig
from odqa_jax.models.mobilebert import MobileBertConfig
from odqa_jax.retrieval.encoding import encode_question_tokens, encode_questions
from odqa_jax.retrieval.index import Index
from odqa_jax.retrieval.retriever import (
  fit_to_index,
  index_corpus,
  make_retriever,
  passage_fingerprint,
  search_questions,
  truncate,
  with_titles,
  write_index,
)
from odqa_jax.retrieval.searchable import search_embeddings
from odqa_jax.runtime.artifact import read_manifest
from odqa_jax.runtime.mesh import make_mesh

QUESTIONS = [f"what is known of the red castle {i}" for i in range(70)]


@pytest.fixture(scope="module")
def corpus(toy_data: Path) -> Corpus:
  return Corpus(toy_data / "corpus")


@pytest.fixture(scope="module")
def index(corpus: Corpus, tmp_path_factory: Any) -> Index:
  folder = tmp_path_factory.mktemp("retriever") / "index"
  made = index_corpus(
    small_retriever(corpus, 0), corpus, folder, mesh=make_mesh()
  )
  assert isinstance(made, Index)
  return made


def test_texts_or_their_tokens(corpus: Corpus):
  """In batches of any size; a question's embedding is its own."""
  retriever = small_retriever(corpus, 0)
  whole = encode_questions(retriever, QUESTIONS)
  assert whole.dtype == np.float32 and whole.shape == (70, 16)
  tokens = retriever.tokenizer.encode_batch(QUESTIONS)
  np.testing.assert_array_equal(
    encode_question_tokens(retriever, tokens), whole
  )
  few = encode_question_tokens(retriever, tokens[60:])
  np.testing.assert_allclose(few, whole[60:], rtol=0, atol=1e-5)
  # Ten times what rounding may do.
  assert np.ptp(whole, axis=0).min() > 1e-4
  assert encode_questions(retriever, []).shape == (0, 16)


def test_a_live_index_is_searched_by_those_who_know_it(
  corpus: Corpus, index: Index
):
  """Its manifest names no encoder, so that nobody takes it for one on disk."""
  retriever, told = small_retriever(corpus, 0), []
  wanted = search_questions(
    retriever, index, corpus, QUESTIONS, k=5, progress=lambda *n: told.append(n)
  )
  assert told == [(64, 70), (70, 70)]
  made_by = {"encoder": "the weights of training step 3"}
  live = dataclasses.replace(index, manifest={**index.manifest, **made_by})
  with pytest.raises(ValueError, match=r"its encoder is the weights of train"):
    search_questions(retriever, live, corpus, QUESTIONS, k=5)
  embeddings = encode_questions(retriever, QUESTIONS)
  for a, b in zip(wanted, search_embeddings(live, embeddings, 5), strict=True):
    np.testing.assert_array_equal(a, b)


def test_an_index_of_another_retriever_or_corpus_is_refused(
  corpus: Corpus, index: Index
):
  with pytest.raises(ValueError, match="its encoder is"):
    search_questions(small_retriever(corpus, 1), index, corpus, ["x"], k=1)
  other = dataclasses.replace(
    index, manifest={**index.manifest, "corpus": "another"}
  )
  with pytest.raises(ValueError, match="its corpus is another"):
    search_questions(small_retriever(corpus, 0), other, corpus, ["x"], k=1)


def test_an_index_with_titles_is_opened_by_its_untitled_retriever(
  corpus: Corpus, tmp_path: Path
):
  made = dataclasses.replace(small_retriever(corpus, 0), title=False)
  untitled = dataclasses.replace(
    made,
    fingerprint=passage_fingerprint(
      made.encoder.config, made.params, made.passage_length, False
    ),
  )
  titled = with_titles(untitled)
  write_index(titled, corpus, tmp_path / "index", mesh=make_mesh())
  manifest = read_manifest(tmp_path / "index", "index")
  assert fit_to_index(untitled, corpus, manifest).title
  write_index(untitled, corpus, tmp_path / "texts", mesh=make_mesh())
  manifest = read_manifest(tmp_path / "texts", "index")
  assert not fit_to_index(untitled, corpus, manifest).title


def test_questions_take_the_width_of_the_index(corpus: Corpus, tmp_path: Path):
  retriever = small_retriever(corpus, 0)
  narrow = truncate(retriever, 8)
  index = index_corpus(narrow, corpus, tmp_path / "index", mesh=make_mesh())
  assert index.width == 8
  found, wanted = (
    search_questions(x, index, corpus, QUESTIONS[:3], k=5)
    for x in (retriever, narrow)
  )
  np.testing.assert_array_equal(found[0], wanted[0])


def test_a_small_shared_retriever_finds_what_brute_force_does(
  corpus: Corpus, tmp_path: Path
):
  sizes = {"width": 16, "layers": 1, "heads": 2, "mlp_dim": 8}
  sizes |= {"word_width": 6, "inner_width": 8, "max_positions": 64}
  bert = MobileBertConfig(corpus.tokenizer.vocab_size, **sizes)
  shared = {"shared": True, "passage_type": 1}
  cut = {"projection": "truncate", "embedding_dim": 6}
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(
    DualEncoder(EncoderConfig(bert)).init, jax.random.key(0)
  )["question"]
  tree = jax.tree.map(
    lambda x: rng.normal(0, 0.4, x.shape).astype(np.float32), shapes
  )
  lengths = {"question_length": 32, "passage_length": 64, "title": True}
  small = make_retriever(
    EncoderConfig(bert, **shared, **cut),
    {"shared": tree},
    corpus.tokenizer,
    **lengths,
  )
  whole = make_retriever(
    EncoderConfig(bert, **shared), {"shared": tree}, corpus.tokenizer, **lengths
  )
  mesh = make_mesh()
  index, wide = (
    index_corpus(x, corpus, tmp_path / f"{x.encoder.embedding_dim}", mesh=mesh)
    for x in (small, whole)
  )
  assert index.width == 6
  scores, rows = search_questions(small, index, corpus, QUESTIONS[:5], k=7)
  # In float64, from all dimensions of the whole encoder.
  questions = encode_questions(whole, QUESTIONS[:5])[:, :6].astype(np.float64)
  passages = np.asarray(wide.embeddings)[: len(corpus), :6].astype(np.float64)
  every = questions @ passages.T
  wanted = -np.sort(-every, axis=1)[:, :7]
  np.testing.assert_allclose(scores, wanted, rtol=1e-5)
  np.testing.assert_allclose(
    np.take_along_axis(every, rows, axis=1), wanted, rtol=1e-5
  )


def test_fingerprints_of_older_indexes_stay():
  bert = BertConfig(9, 4, 1, 2, 8, max_positions=5)
  config = EncoderConfig(bert, shared=True)
  shapes = jax.eval_shape(DualEncoder(config).init, jax.random.key(0))
  leaves, tree = jax.tree.flatten(shapes)
  filled = [np.full(x.shape, i, np.float32) for i, x in enumerate(leaves)]
  params = tree.unflatten(filled)
  found = passage_fingerprint(config, params, 5, True)
  # As it was before BERT had variants.
  assert found == (
    "911b841c5d6fe2748efb24466821d58841030cb23b2ab09ba50c8ab1d747053b"
  )
  electra = dataclasses.replace(bert, variant="electra")
  config = dataclasses.replace(config, bert=electra)
  assert passage_fingerprint(config, params, 5, True) != found
