"""MobileBERT against torch and NumPy, and its invariances."""

import dataclasses
import functools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odqa_jax.models import layers, mobilebert
from odqa_jax.models.bert import apply_bert, init_bert, weights_as_computed
from odqa_jax.models.dual_encoder import DualEncoder, EncoderConfig
from odqa_jax.models.families import describe, network_from
from odqa_jax.models.hf.encoder import load_encoder
from odqa_jax.models.mobilebert import MobileBertConfig

TINY = MobileBertConfig(
  vocab_size=40,
  width=16,
  layers=2,
  heads=2,
  mlp_dim=12,
  max_positions=12,
  word_width=6,
  inner_width=8,
  feed_forwards=3,
)
# Every way that a layer may be built, as fields of ours and as keys of a
# published config.json.
BUILDS = {
  "published": ({}, {}),
  "one feed-forward": (
    {"feed_forwards": 1},
    {"num_feedforward_networks": 1},
  ),
  "layer norms, gelu": (
    {"norm": "layer_norm", "activation": "gelu"},
    {"normalization_type": "layer_norm", "hidden_act": "gelu"},
  ),
  "attention in the bottleneck": (
    {"bottleneck_attention": True},
    {"use_bottleneck_attention": True},
  ),
  "bottleneck of the whole width": (
    {"shared_bottleneck": False, "inner_width": 16},
    {"key_query_shared_bottleneck": False, "intra_bottleneck_size": 16},
  ),
  "no bottleneck, no trigrams": (
    {"bottleneck": False, "trigrams": False},
    {"use_bottleneck": False, "trigram_input": False},
  ),
  "words of the whole width": (
    {"trigrams": False, "word_width": 16},
    {"trigram_input": False, "embedding_size": 16},
  ),
}
# Those that differ little from others are the gate's.
RARE = ("one feed-forward", "words of the whole", "bottleneck of the whole")
EVERY = [
  pytest.param(name, marks=[pytest.mark.slow] * name.startswith(RARE))
  for name in BUILDS
]
IDS = jnp.asarray(np.random.default_rng(0).integers(5, 40, (4, 10), np.int32))
LENGTHS = jnp.array([10, 3, 7, 1], jnp.int32)
FIRST = jnp.array([4, 2, 7, 1], jnp.int32)
REAL = np.arange(10)[None] < np.asarray(LENGTHS)[:, None]


def build(name: str, **other) -> MobileBertConfig:
  return dataclasses.replace(TINY, **BUILDS[name][0] | other)


@functools.cache
def noisy_params(config: MobileBertConfig):
  rng = np.random.default_rng(0)

  def leaf(path, x):
    centre = float(path[-1].key == "scale")
    return jnp.asarray(rng.normal(centre, 0.2, x.shape), jnp.float32)

  shapes = jax.eval_shape(lambda: init_bert(config, jax.random.key(0)))
  return jax.tree_util.tree_map_with_path(leaf, shapes)


def hidden(config, params, ids=IDS, lengths=LENGTHS, **kw):
  return jax.jit(lambda p: apply_bert(config, p, ids, lengths, **kw))(params)


# --- Against torch -----------------------------------------------------------


def torch_model(name: str):
  transformers = pytest.importorskip("transformers")
  torch = pytest.importorskip("torch")
  torch.manual_seed(0)
  config = transformers.MobileBertConfig(
    vocab_size=40,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=12,
    **{
      "embedding_size": 6,
      "intra_bottleneck_size": 8,
      "num_feedforward_networks": 3,
      **BUILDS[name][1],
    },
  )
  model = transformers.MobileBertModel(config)
  for parameter in model.parameters():
    parameter.data += 0.2 * torch.randn_like(parameter)
  return model.eval()


def torch_states(model, *, row: int | None = None):
  """Last states; of one row alone without padding."""
  import torch

  some, length = slice(None), 10
  if row is not None:
    some, length = slice(row, row + 1), int(LENGTHS[row])
  mask = REAL[some, :length]
  inputs = {
    "input_ids": np.where(mask, IDS[some, :length], 0),
    "attention_mask": mask,
    "token_type_ids": np.arange(length)[None] >= np.asarray(FIRST)[some, None],
  }
  return model(
    **{k: torch.tensor(v, dtype=torch.long) for k, v in inputs.items()}
  ).last_hidden_state


@pytest.mark.torch
@pytest.mark.parametrize("name", EVERY)
def test_a_torch_model_gives_the_same_states_and_gradients(tmp_path, name):
  model = torch_model(name)
  # In torch the last token sees the padding, whose embedding is zeros only
  # before it is trained.
  model.embeddings.word_embeddings.weight.data[0] = 0
  model.save_pretrained(tmp_path)
  config, params, facts = load_encoder(tmp_path)
  assert config.bert == build(name, attention_dropout=0.1)
  assert not [n for n in facts["ignored"] if "ffn" in n or "output" in n]
  want = torch_states(model.double())
  weights = np.random.default_rng(1).normal(size=(4, 10, 16)) * REAL[..., None]

  def loss(params):
    states = apply_bert(config.bert, params, IDS, LENGTHS, first_lengths=FIRST)
    return jnp.sum(states * weights), states

  gradients, got = jax.jit(jax.grad(loss, has_aux=True))(params["shared"])
  difference = np.abs(got - want.detach().numpy())
  assert difference[REAL].max() <= 1e-5
  import torch

  (want * torch.tensor(weights)).sum().backward()
  # Saved and read like weights, torch's gradients have our names.
  for parameter in model.parameters():
    grad = parameter.grad
    parameter.data = torch.zeros_like(parameter) if grad is None else grad
  model.float().save_pretrained(tmp_path / "gradients")
  wanted = load_encoder(tmp_path / "gradients")[1]["shared"]
  # In float32 here, in float64 there. Those of the keys' biases are 0 but for
  # what is rounded off, which is as large as the others are.
  largest = max(np.abs(x).max() for x in jax.tree.leaves(wanted))

  def compare(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5 * largest)

  jax.tree.map(compare, gradients, wanted)


@pytest.mark.torch
def test_a_padded_text_ends_as_it_does_alone_in_torch(tmp_path):
  """The padding's embedding is not zeros, as in published weights."""
  model = torch_model("published")
  assert model.embeddings.word_embeddings.weight.data[0].abs().min() > 0
  model.save_pretrained(tmp_path)
  config, params, _ = load_encoder(tmp_path)
  got = hidden(config.bert, params["shared"], first_lengths=FIRST)
  for row, length in enumerate(LENGTHS):
    want = torch_states(model, row=row).detach().numpy()[0]
    np.testing.assert_allclose(got[row, :length], want, atol=1e-5)


# --- By hand -----------------------------------------------------------------


def test_trigrams_by_hand():
  x = jnp.arange(1.0, 9).reshape(1, 4, 2)
  got = mobilebert._trigrams(x, jnp.array([3]))[0]
  a, b, c, none = [1, 2], [3, 4], [5, 6], [0, 0]
  wanted = [[*b, *a, *none], [*c, *b, *a], [*none, *c, *b], [*none, *none, *c]]
  np.testing.assert_array_equal(got, wanted)


# --- Invariances -------------------------------------------------------------


@pytest.mark.parametrize(
  "name",
  [
    "published",
    pytest.param("attention in the bottleneck", marks=pytest.mark.slow),
  ],
)
def test_padding_and_execution_do_not_matter(name):
  config = build(name)
  params = noisy_params(config)
  whole = hidden(config, params)
  unrolled = dataclasses.replace(config, scan=False)
  np.testing.assert_allclose(hidden(unrolled, params), whole, atol=1e-5)
  first = hidden(config, params, first_only=True)
  np.testing.assert_allclose(first, whole[:, :1], atol=1e-5)
  other = hidden(config, params, jnp.where(REAL, IDS, 3))
  np.testing.assert_allclose(
    np.where(REAL[..., None], other, 0),
    np.where(REAL[..., None], whole, 0),
    atol=1e-5,
  )
  short = hidden(config, params, IDS[1:3, :7], LENGTHS[1:3])
  np.testing.assert_allclose(short[0, :3], whole[1, :3], atol=1e-5)
  np.testing.assert_allclose(short[1], whole[2, :7], atol=1e-5)


def test_a_row_without_tokens_is_finite():
  got = hidden(TINY, noisy_params(TINY), lengths=jnp.array([10, 0, 7, 0]))
  assert np.isfinite(got).all()


def test_weights_as_computed_give_the_same_bits_in_bfloat16():
  config = dataclasses.replace(TINY, dtype="bfloat16")
  params = noisy_params(TINY)
  narrow = weights_as_computed(config, params)
  ffn = narrow["encoder"]["layer"]["ffn"]["1"]["output"]
  assert ffn["dense"]["kernel"].dtype == jnp.bfloat16
  assert ffn["LayerNorm"]["scale"].dtype == jnp.float32
  got, wide = hidden(config, params), hidden(TINY, params)
  assert got.dtype == jnp.bfloat16
  np.testing.assert_array_equal(hidden(config, narrow), got)
  np.testing.assert_allclose(
    np.asarray(got, np.float32), wide, atol=0.05 * np.abs(wide).max()
  )


# The embeddings, and the outputs of a layer; `attention` drops its weights.
@pytest.mark.parametrize(("bottleneck", "count"), [(True, 2), (False, 3)])
def test_nothing_is_dropped_within_bottlenecks(monkeypatch, bottleneck, count):
  config = dataclasses.replace(TINY, layers=1, scan=False, dropout=0.3)
  config = dataclasses.replace(config, bottleneck=bottleneck)
  rates = []

  def remembered(x, rate, seed):
    if seed is not None:
      rates.append(rate)
    return layers.dropout(x, rate, seed)

  mine = SimpleNamespace(**vars(layers) | {"dropout": remembered})
  monkeypatch.setattr(mobilebert, "layers", mine)
  jax.eval_shape(
    lambda p: apply_bert(config, p, IDS, LENGTHS, rng=jax.random.key(0)),
    noisy_params(config),
  )
  assert rates == [0.3] * count


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_flops_per_token_agree_with_the_compiler(name, pooling):
  # Wide enough for the products to outweigh what is not counted.
  sizes = {"width": 256, "mlp_dim": 128, "layers": 1, "max_positions": 64}
  sizes |= {"inner_width": 256 if "whole" in name else 64, "word_width": 32}
  bert = dataclasses.replace(build(name), **sizes, scan=False)
  encoder = DualEncoder(EncoderConfig(bert, pooling=pooling))
  params = jax.eval_shape(encoder.init, jax.random.key(0))
  ids = jax.ShapeDtypeStruct((2, 64), jnp.int32)
  lengths = jax.ShapeDtypeStruct((2,), jnp.int32)
  lowered = jax.jit(encoder.encode_passage).lower(params, ids, lengths)
  measured = lowered.compile().cost_analysis()["flops"] / (2 * 64)
  assert encoder.flops_per_token(64) == pytest.approx(measured, rel=0.1)


# --- Descriptions and refusals -----------------------------------------------


@pytest.mark.parametrize("name", BUILDS)
def test_a_description_brings_the_same_network(name):
  network = DualEncoder(EncoderConfig(build(name), shared=True))
  again = network_from(json.loads(json.dumps(describe(network))))
  assert again.config == network.config
  assert type(again.config.bert) is MobileBertConfig


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"norm": "rms"}, "norm='rms' is unknown"),
    ({"activation": "silu"}, "activation='silu' is unknown"),
    ({"variant": "bert"}, "variant='bert' is unknown"),
    ({"embedding_width": 6}, "embedding_width=6 is for an ELECTRA"),
    ({"inner_width": 7}, "heads=2 does not divide inner_width=7"),
    ({"feed_forwards": 0}, "feed_forwards=0 is not 1 or more"),
    ({"shared_bottleneck": False}, "both False.*inner_width=16"),
  ],
)
def test_shapes_that_cannot_be_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(TINY, **fields)
