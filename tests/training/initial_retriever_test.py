"""What a retriever begins with: cut, typed, shared, or refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.models.dual_encoder import DualEncoder, EncoderConfig
from odqa_jax.models.hf.encoder import load_encoder, save_encoder
from odqa_jax.models.mobilebert import MobileBertConfig
from odqa_jax.runtime.mesh import make_mesh
from odqa_jax.runtime.settings import read_settings
from odqa_jax.training.initial_retriever import initial_retriever

IDS = jnp.array([[2, 9, 14, 7, 3], [2, 8, 3, 0, 0]], jnp.int32)
LENGTHS = jnp.array([5, 3], jnp.int32)
SHARED = {"model.shared": True, "model.passage_type": 1}
CUT = {"model.projection": "truncate", "model.embedding_dim": 6}


@pytest.fixture(scope="module")
def corpus(toy_data) -> Corpus:
  return Corpus(toy_data / "corpus")


def bert(corpus: Corpus) -> MobileBertConfig:
  return MobileBertConfig(
    vocab_size=corpus.tokenizer.vocab_size,
    width=16,
    layers=1,
    heads=2,
    mlp_dim=12,
    max_positions=64,
    word_width=6,
    inner_width=8,
    scan=False,
  )


def noise(encoder: DualEncoder):
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(encoder.init, jax.random.key(0))
  return jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.4, x.shape), jnp.float32), shapes
  )


def folder_of(path, corpus: Corpus, **fields):
  """A published folder; of one encoder that knows no token types, if alike."""
  fields = {"shared": True, "passage_type": 0} | fields
  encoder = DualEncoder(EncoderConfig(bert(corpus), **fields))
  params = noise(encoder)
  lengths = {"question_length": 32, "passage_length": 64}
  save_encoder(path, encoder.config, params, corpus.tokenizer, **lengths)
  return encoder, params


def begun(toy_config, corpus: Corpus, path, **settings):
  config = toy_config(
    init_from=str(path),
    **{"model.preset": "init", "model.dropout": 0.0, "model.scan": False},
    **settings,
  )
  return initial_retriever(read_settings(config), corpus, make_mesh())


def encoded(encoder: DualEncoder, params) -> list[np.ndarray]:
  sides = (encoder.encode_question, encoder.encode_passage)
  return [np.asarray(jax.jit(f)(params, IDS, LENGTHS)) for f in sides]


def test_a_language_model_becomes_the_small_shared_retriever(
  toy_config, corpus, tmp_path
):
  whole, params = folder_of(tmp_path / "lm", corpus)
  start = begun(toy_config, corpus, tmp_path / "lm", **SHARED, **CUT)
  config = start.network.config
  assert (config.output_dim, config.projection) == (6, "truncate")
  assert config.shared and config.passage_token_type == 1
  assert isinstance(config.bert, MobileBertConfig)
  jax.tree.map(np.testing.assert_array_equal, start.params, params)
  typed = dataclasses.replace(whole.config, passage_type=1)
  wanted = encoded(DualEncoder(typed), params)
  for got, want in zip(encoded(start.network, params), wanted, strict=True):
    np.testing.assert_array_equal(got, want[:, :6])
  assert np.abs(wanted[0] - wanted[1]).max() > 0.01


def test_weights_decide_what_the_config_leaves_open(
  toy_config, corpus, tmp_path
):
  encoder, _ = folder_of(tmp_path / "lm", corpus)
  shared = {"model.shared": True}
  start = begun(toy_config, corpus, tmp_path / "lm", **shared)
  mine = start.network.config
  assert mine.passage_token_type == 0 and mine.output_dim == 16
  plain = dataclasses.replace(
    encoder.config.bert, attention_dropout=0.0, remat=mine.bert.remat
  )
  assert mine.bert == plain


def test_a_small_retriever_is_exported_and_comes_back(
  toy_config, corpus, tmp_path
):
  fields = {"projection": "truncate", "embedding_dim": 6, "passage_type": 1}
  encoder, params = folder_of(tmp_path / "small", corpus, **fields)
  config, again, _ = load_encoder(tmp_path / "small", scan=False)
  assert config == encoder.config
  jax.tree.map(np.testing.assert_array_equal, again, params)
  # Each folder alone does what other libraries make of it: type 0 everywhere.
  for side, want in zip(
    ("question", "passage"), encoded(encoder, params), strict=True
  ):
    alone, tree, _ = load_encoder(tmp_path / "small" / side, scan=False)
    assert alone.projection == "dense" and alone.output_dim == 6
    got = encoded(DualEncoder(alone), tree)[0]
    np.testing.assert_allclose(got, want, atol=1e-5)
  # A second stage goes on with it, and may keep fewer dimensions still.
  start = begun(toy_config, corpus, tmp_path / "small", **SHARED)
  assert start.network.config.output_dim == 6
  fewer = CUT | {"model.embedding_dim": 4}
  start = begun(toy_config, corpus, tmp_path / "small", **SHARED, **fewer)
  assert start.network.config.output_dim == 4


@pytest.mark.parametrize(
  ("fields", "settings", "message"),
  [
    (
      {},
      CUT | {"model.embedding_dim": 17},
      r"config\.model\.embedding_dim=17.*16 dimensions; keep 1 to 16",
    ),
    (
      {"projection": "truncate", "embedding_dim": 6},
      CUT | {"model.embedding_dim": 7},
      r"embedding_dim=7.*6 dimensions; keep 1 to 6",
    ),
    (
      {},
      {"model.projection": "dense", "model.embedding_dim": 6},
      "has projection=none and 16 dimensions",
    ),
    (
      {"projection": "dense", "embedding_dim": 8},
      CUT,
      "has projection=dense and 8 dimensions",
    ),
    ({"shared": False}, {}, r"config\.model\.shared=True, but .* two encoders"),
    ({}, {"model.passage_type": 2}, "token type 2, but the BERT has 2"),
  ],
)
def test_what_the_weights_do_not_have_is_refused(
  toy_config, corpus, tmp_path, fields, settings, message
):
  folder_of(tmp_path / "other", corpus, **fields)
  with pytest.raises(ValueError, match=message):
    begun(toy_config, corpus, tmp_path / "other", **SHARED | settings)
