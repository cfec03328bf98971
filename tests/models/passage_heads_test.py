"""Networks with heads on every variant of BERT, apart from torch."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odqa_jax.models import layers, passage_scorer
from odqa_jax.models.bert import (
  BertConfig,
  apply_bert,
  init_bert,
  weights_as_computed,
)
from odqa_jax.models.extractive_reader import ExtractiveReader, SpanConfig
from odqa_jax.models.families import describe, network_from
from odqa_jax.models.mobilebert import MobileBertConfig
from odqa_jax.models.passage_scorer import (
  PassageClassifier,
  Reranker,
  ScorerConfig,
)

SIZES = {"vocab_size": 30, "width": 8, "layers": 1, "heads": 2, "mlp_dim": 12}
VARIANTS = {
  "bert": BertConfig(**SIZES, max_positions=9, scan=False),
  "roberta": BertConfig(
    **SIZES, max_positions=9, scan=False, variant="roberta", type_vocab=1
  ),
  "electra": BertConfig(
    **SIZES, max_positions=9, scan=False, variant="electra", embedding_width=4
  ),
  "mobilebert": MobileBertConfig(
    **SIZES, max_positions=9, scan=False, word_width=4, inner_width=4
  ),
  "mobilebert without pooler": MobileBertConfig(
    **SIZES,
    max_positions=9,
    scan=False,
    word_width=4,
    inner_width=4,
    norm="layer_norm",
    pooler=False,
  ),
}
IDS = jnp.asarray(np.random.default_rng(0).integers(5, 30, (3, 9), np.int32))
LENGTHS = jnp.array([9, 4, 6], jnp.int32)
FIRST = jnp.array([3, 2, 6], jnp.int32)
KINDS = (
  lambda bert: Reranker(ScorerConfig(bert)),
  lambda bert: PassageClassifier(ScorerConfig(bert)),
  lambda bert: ExtractiveReader(SpanConfig(bert, span=False)),
  lambda bert: ExtractiveReader(SpanConfig(bert)),
)


def noise(shapes):
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.5, x.shape), jnp.float32), shapes
  )


def made(kind, name: str):
  network = kind(VARIANTS[name])
  return network, noise(jax.eval_shape(network.init, jax.random.key(0)))


def outputs(network, params, *inputs, **kw):
  call = network.read if hasattr(network, "read") else network.score
  return jax.jit(lambda p: call(p, *inputs, **kw))(params)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("kind", [KINDS[0], KINDS[3]])
def test_padding_does_not_matter(kind, name):
  network, params = made(kind, name)
  real = np.arange(9)[None] < np.asarray(LENGTHS)[:, None]
  plain = outputs(network, params, IDS, LENGTHS, FIRST)
  other = outputs(network, params, jnp.where(real, IDS, 3), LENGTHS, FIRST)
  alone = outputs(
    network, params, IDS[1:2, :4], LENGTHS[1:2], first_lengths=FIRST[1:2]
  )
  for a, b, c in zip(*map(jax.tree.leaves, (plain, other, alone)), strict=True):
    mask = real.reshape(real.shape + (1,) * (a.ndim - 2)) if a.ndim > 1 else 1
    np.testing.assert_allclose(a * mask, b * mask, atol=1e-5)
    cut = a[1:2, :4] if a.ndim > 1 else a[1:2]
    np.testing.assert_allclose(cut, c, atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_description_says_which_network_it_is(kind, name):
  network = kind(VARIANTS[name])
  again = network_from(json.loads(json.dumps(describe(network))))
  assert type(again) is type(network)
  assert again.config == network.config


def test_segments_have_the_types_of_scalars_at_their_ends():
  config = VARIANTS["bert"]
  params = noise(jax.eval_shape(lambda: init_bert(config, jax.random.key(0))))
  ends = {0: jnp.full(3, 9), 1: jnp.zeros(3, jnp.int32)}
  for token_type, first in ends.items():
    want = apply_bert(config, params, IDS, LENGTHS, token_type=token_type)
    got = apply_bert(config, params, IDS, LENGTHS, first_lengths=first)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_without_a_second_type_segments_do_not_matter():
  network, params = made(KINDS[0], "roberta")
  want = outputs(network, params, IDS, LENGTHS)
  np.testing.assert_array_equal(
    outputs(network, params, IDS, LENGTHS, FIRST), want
  )


def test_heads_of_spans_and_passages_by_hand():
  network, params = made(KINDS[3], "electra")
  states = apply_bert(
    network.config.bert, params, IDS, LENGTHS, first_lengths=FIRST
  )
  states = np.asarray(states, np.float64)
  got = outputs(network, params, IDS, LENGTHS, FIRST)
  weights = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  span, passage = weights["qa_span"], weights["qa_classifier"]
  starts = states @ span["kernel"] + span["bias"]
  want = np.einsum("nid,njd->nij", starts, states)
  spans = np.einsum("nid,njd->nij", got.span_start, got.span_end)
  np.testing.assert_allclose(spans, want, rtol=1e-4, atol=1e-4)
  want = (states[:, 0] @ passage["kernel"] + passage["bias"])[:, 0]
  np.testing.assert_allclose(got.passage, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "count"), [("bert", 1), ("electra", 2)])
def test_dropout_of_the_head_is_the_published_one(monkeypatch, name, count):
  network, params = made(KINDS[0], name)
  calm = outputs(network, params, IDS, LENGTHS)
  of_heads = []

  def remembered(x, rate, seed):
    of_heads.append((rate, seed is None))
    return layers.dropout(x, rate, seed)

  mine = SimpleNamespace(dropout=remembered, gelu=layers.gelu)
  monkeypatch.setattr(passage_scorer, "layers", mine)
  rng = jax.random.key(0)
  noisy = outputs(network, params, IDS, LENGTHS, rng=rng)
  assert of_heads == [(0.1, False)] * count
  assert np.abs(noisy - calm).min() > 1e-4


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[3]])
def test_flops_per_token_agree_with_the_compiler(kind):
  bert = BertConfig(
    vocab_size=50,
    width=256,
    layers=1,
    heads=2,
    mlp_dim=256,
    max_positions=64,
    variant="electra",
    embedding_width=64,
    scan=False,
  )
  network = kind(bert)
  call = network.read if hasattr(network, "read") else network.score
  params = jax.eval_shape(network.init, jax.random.key(0))
  ids = jax.ShapeDtypeStruct((4, 64), jnp.int32)
  lengths = jax.ShapeDtypeStruct((4,), jnp.int32)
  compiled = jax.jit(call).lower(params, ids, lengths).compile()
  measured = compiled.cost_analysis()["flops"] / (4 * 64)
  assert network.flops_per_token(64) == pytest.approx(measured, rel=0.08)


def test_weights_as_computed_give_the_same_bits():
  config = dataclasses.replace(VARIANTS["electra"], dtype="bfloat16")
  params = noise(jax.eval_shape(lambda: init_bert(config, jax.random.key(0))))
  narrow = weights_as_computed(config, params)
  assert narrow["embeddings_project"]["kernel"].dtype == jnp.bfloat16
  assert narrow["embeddings"]["LayerNorm"]["scale"].dtype == jnp.float32
  run = jax.jit(lambda p: apply_bert(config, p, IDS, LENGTHS))
  np.testing.assert_array_equal(run(narrow), run(params))


def test_narrow_embeddings_have_a_fresh_projection():
  config = VARIANTS["electra"]
  made = jax.jit(lambda rng: init_bert(config, rng)["embeddings_project"])
  projection = made(jax.random.key(3))
  assert projection["kernel"].shape == (4, 8)
  assert 0 < np.abs(projection["kernel"]).max() < 0.1
  assert not projection["bias"].any()


def test_an_unknown_variant_is_refused():
  with pytest.raises(ValueError, match="variant='albert' is unknown"):
    dataclasses.replace(VARIANTS["bert"], variant="albert")
