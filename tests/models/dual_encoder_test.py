"""BERT and the dual encoder: invariances, execution choices, sizes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odqa_jax.models import layers
from odqa_jax.models.bert import BertConfig, apply_bert, init_bert
from odqa_jax.models.dual_encoder import (
  PRESETS,
  DualEncoder,
  EncoderConfig,
  bert_of_preset,
)

TINY = BertConfig(
  vocab_size=50, width=16, layers=3, heads=2, mlp_dim=24, max_positions=12
)
IDS = jax.random.randint(jax.random.key(9), (4, 10), 5, 50)
LENGTHS = jnp.array([10, 3, 7, 1])
SIDES = ("question", "passage")


def noise(shapes):
  """Parameters like trained ones: no bias is 0 and no scale is 1.

  With NumPy, because compiling the random initialisation takes seconds.
  """
  rng = np.random.default_rng(0)

  def leaf(path, x):
    centre = float(path[-1].key == "scale")
    return jnp.asarray(rng.normal(centre, 0.2, x.shape), jnp.float32)

  return jax.tree_util.tree_map_with_path(leaf, shapes)


@functools.cache
def noisy_params(config: BertConfig = TINY):
  return noise(jax.eval_shape(lambda: init_bert(config, jax.random.key(0))))


@functools.cache
def encoder_and_params(config: EncoderConfig):
  encoder = DualEncoder(config)
  return encoder, noise(jax.eval_shape(encoder.init, jax.random.key(0)))


def hidden(config: BertConfig, params, ids=IDS, lengths=LENGTHS, **kw):
  return jax.jit(lambda p: apply_bert(config, p, ids, lengths, **kw))(params)


# Word, position and type tables, LayerNorm, then y layers; written out here
# independently of the code. The numbers are those of transformers' BertModel
# without pooler at these sizes.
PARAMETERS = {
  "tiny": 4_369_408,
  "mini": 11_104_768,
  "small": 28_500_992,
  "minilm": 22_565_376,
  "base": 108_891_648,
  "large": 334_092_288,
  "roberta-base": 124_055_040,
  "roberta-large": 354_310_144,
  "electra-small": 13_483_008,
  "electra-base": 108_891_648,
  "electra-large": 334_092_288,
  "mobilebert": 24_581_888,
  "mobilebert-tiny": 1_224_640,
}


def test_every_preset_has_a_parameter_count():
  assert set(PARAMETERS) == set(PRESETS)


@pytest.mark.parametrize("preset", PARAMETERS)
def test_parameter_count(preset):
  config = bert_of_preset(preset)
  d, f, y = config.width, config.mlp_dim, config.layers
  shapes = jax.eval_shape(lambda: init_bert(config, jax.random.key(0)))
  count = sum(x.size for x in jax.tree.leaves(shapes))
  e = config.embedding_width or d
  rows = 50265 + 514 + 1 if config.variant == "roberta" else 30522 + 512 + 2
  embeddings = rows * e + 2 * e + (e * d + d if e != d else 0)
  layer = 4 * (d * d + d) + 2 * d * f + f + d + 4 * d
  if config.variant == "mobilebert":
    e, t, n = config.word_width, config.inner_width, config.feed_forwards
    embeddings = 30522 * e + 514 * d + 3 * e * d + d + 2 * d
    narrow, feed = d * t + t + 2 * t, 2 * t * f + f + t + 2 * t
    attention = 3 * (t * t + t) + (d * t + t) + 2 * t
    layer = 2 * narrow + attention + n * feed + t * d + d + 2 * d
  assert embeddings + y * layer == PARAMETERS[preset]
  assert count == PARAMETERS[preset]


def test_names_are_the_published_ones_with_stacked_layers():
  params = noisy_params()
  layer = params["encoder"]["layer"]
  shapes = {
    "query": layer["attention"]["self"]["query"]["kernel"].shape,
    "out": layer["attention"]["output"]["dense"]["kernel"].shape,
    "norm": layer["attention"]["output"]["LayerNorm"]["scale"].shape,
    "up": layer["intermediate"]["dense"]["kernel"].shape,
    "down": layer["output"]["dense"]["kernel"].shape,
    "words": params["embeddings"]["word_embeddings"]["embedding"].shape,
  }
  assert shapes == {
    "query": (3, 16, 16),
    "out": (3, 16, 16),
    "norm": (3, 16),
    "up": (3, 16, 24),
    "down": (3, 24, 16),
    "words": (50, 16),
  }


def test_init_is_a_truncated_normal_and_a_function_of_the_key():
  config = BertConfig(**PRESETS["tiny"])
  init = jax.jit(functools.partial(init_bert, config))
  params, again, other = (init(jax.random.key(i)) for i in (0, 0, 1))
  kernel = params["encoder"]["layer"]["intermediate"]["dense"]["kernel"]
  assert float(jnp.abs(kernel).max()) <= 0.04
  # A normal cut at two deviations has 0.88 of its deviation.
  assert abs(float(kernel.std()) - 0.88 * 0.02) < 3e-4
  assert (kernel[0] != kernel[1]).any()
  jax.tree.map(np.testing.assert_array_equal, params, again)
  word, other_word = (
    x["embeddings"]["word_embeddings"]["embedding"] for x in (params, other)
  )
  assert (word != other_word).any()


@pytest.mark.parametrize(
  ("depth", "first_only"), [(1, False), (2, True), (3, False)]
)
def test_scan_equals_unrolled_with_dropout(depth, first_only):
  scanned = dataclasses.replace(TINY, layers=depth, scan=True)
  unrolled = dataclasses.replace(scanned, scan=False)
  params = noisy_params(scanned)
  kw = {"first_only": first_only, "rng": jax.random.key(3)}
  np.testing.assert_allclose(
    hidden(scanned, params, **kw), hidden(unrolled, params, **kw), atol=2e-6
  )


@pytest.mark.parametrize("scan", [False, True])
def test_first_only_is_the_first_token_of_the_whole(scan):
  config = dataclasses.replace(TINY, scan=scan)
  params = noisy_params()
  first = hidden(config, params, first_only=True)
  assert first.shape == (4, 1, 16)
  np.testing.assert_allclose(
    first[:, 0], hidden(config, params)[:, 0], atol=2e-6
  )


def test_padding_tokens_and_padded_length_do_not_matter():
  params = noisy_params()
  plain = hidden(TINY, params)
  real = jnp.arange(10)[None] < LENGTHS[:, None]
  other = hidden(TINY, params, ids=jnp.where(real, IDS, 7))
  longer = hidden(TINY, params, ids=jnp.pad(IDS, ((0, 0), (0, 2))))
  for i, n in enumerate(LENGTHS):
    np.testing.assert_allclose(other[i, :n], plain[i, :n], atol=2e-6)
    np.testing.assert_allclose(longer[i, :n], plain[i, :n], atol=2e-6)


def test_tokens_before_the_length_do_matter():
  params = noisy_params()
  changed = hidden(TINY, params, ids=IDS.at[0, 9].set(IDS[0, 9] % 40 + 6))
  assert np.abs(changed[0, 0] - hidden(TINY, params)[0, 0]).max() > 1e-3


def test_rows_of_a_batch_do_not_see_each_other():
  params = noisy_params()
  order = jnp.array([2, 0, 3, 1])
  permuted = hidden(TINY, params, ids=IDS[order], lengths=LENGTHS[order])
  np.testing.assert_allclose(permuted, hidden(TINY, params)[order], atol=2e-6)


def test_bfloat16_is_finite_and_close():
  params = noisy_params()
  low = dataclasses.replace(TINY, dtype="bfloat16")
  got = hidden(low, params)
  assert got.dtype == jnp.bfloat16
  want = np.asarray(hidden(TINY, params))
  error = np.abs(np.asarray(got, np.float32) - want)
  assert np.isfinite(error).all()
  assert error.max() < 0.1 * np.abs(want).max()
  assert error.mean() < 0.02 * np.abs(want).mean()


def test_bfloat16_keeps_float32_parameters_and_gradients():
  low = dataclasses.replace(TINY, dtype="bfloat16")
  params = jax.eval_shape(lambda: init_bert(low, jax.random.key(0)))
  gradients = jax.jit(
    jax.grad(lambda p: jnp.sum(jnp.float32(apply_bert(low, p, IDS, LENGTHS))))
  )(noisy_params())
  for leaf in jax.tree.leaves((params, gradients)):
    assert leaf.dtype == jnp.float32
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradients))


@pytest.mark.parametrize(("remat", "scan"), [("dots", True), ("full", False)])
def test_remat_gives_the_same_gradients(remat, scan):
  params = noisy_params(dataclasses.replace(TINY, layers=2))
  rng = jax.random.key(5)

  def gradients(config: BertConfig):
    def loss(p):
      x = apply_bert(config, p, IDS, LENGTHS, first_only=True, rng=rng)
      return jnp.sum(jnp.sin(x))

    return jax.jit(jax.grad(loss))(params)

  plain = dataclasses.replace(TINY, layers=2, scan=scan)
  want = gradients(plain)
  got = gradients(dataclasses.replace(plain, remat=remat))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want
  )


@pytest.mark.parametrize("scan", [False, True])
def test_remat_keeps_less_for_the_backward_pass(scan):
  def kept(remat: str) -> int:
    config = dataclasses.replace(TINY, remat=remat, scan=scan)

    def backward(params):
      return jax.vjp(lambda p: apply_bert(config, p, IDS, LENGTHS), params)[1]

    residuals = jax.eval_shape(backward, noisy_params())
    return sum(x.size for x in jax.tree.leaves(residuals))

  assert kept("none") > 1.5 * kept("dots") > 1.5 * kept("full")


def test_too_long_an_input_names_the_limit():
  ids = jnp.zeros((1, 13), jnp.int32)
  with pytest.raises(ValueError, match="13 tokens exceed max_positions=12"):
    apply_bert(TINY, noisy_params(), ids, jnp.array([13]))


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("heads", 3, "heads=3 does not divide width=16"),
    ("dtype", "float16", "dtype='float16' is unknown.*bfloat16"),
    ("remat", "half", "remat='half' is unknown.*dots"),
    ("dropout", 1.0, r"dropout=1.0 is not in \[0, 1\)"),
  ],
)
def test_bert_config_is_checked(field, value, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(TINY, **{field: value})


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"pooling": "max"}, "pooling='max' is unknown"),
    ({"projection": "dense"}, "give both"),
    ({"embedding_dim": 8}, "give both"),
    ({"projection": "truncate", "embedding_dim": 17}, "exceeds the width 16"),
    ({"passage_type": 2}, "token type 2, but the BERT has 2"),
  ],
)
def test_encoder_config_is_checked(fields, message):
  with pytest.raises(ValueError, match=message):
    EncoderConfig(TINY, **fields)


def test_separate_encoders_start_equal_in_buffers_of_their_own():
  encoder = DualEncoder(EncoderConfig(TINY))
  params = encoder.init(jax.random.key(0))
  assert set(params) == {"question", "passage"}
  jax.tree.map(
    np.testing.assert_array_equal, params["question"], params["passage"]
  )
  # Donation of one buffer under two names is an error.
  jax.jit(lambda p: jax.tree.map(lambda x: x + 1, p), donate_argnums=0)(params)


def encode(encoder, params, side, lengths=LENGTHS, rng=None):
  function = getattr(encoder, f"encode_{side}")
  return np.asarray(jax.jit(function)(params, IDS, lengths, rng=rng))


def test_separate_encoders_use_token_type_0_and_their_own_weights():
  encoder, params = encoder_and_params(EncoderConfig(TINY))
  for side in ("question", "passage"):
    want = hidden(TINY, params[side], token_type=0)[:, 0]
    np.testing.assert_allclose(encode(encoder, params, side), want, atol=2e-6)
  question, passage = (encode(encoder, params, s) for s in SIDES)
  assert np.abs(question - passage).max() > 1e-2


def test_shared_encoder_marks_passages_by_token_type_1():
  encoder, params = encoder_and_params(EncoderConfig(TINY, shared=True))
  assert set(params) == {"shared"}
  for token_type, side in enumerate(SIDES):
    want = hidden(TINY, params["shared"], token_type=token_type)[:, 0]
    np.testing.assert_allclose(encode(encoder, params, side), want, atol=2e-6)
  question, passage = (encode(encoder, params, s) for s in SIDES)
  assert np.abs(question - passage).max() > 1e-2


def test_shared_encoder_with_passage_type_0_encodes_both_alike():
  config = EncoderConfig(TINY, shared=True, passage_type=0)
  question, passage = (encode(*encoder_and_params(config), s) for s in SIDES)
  np.testing.assert_array_equal(question, passage)


def test_mean_pooling_and_normalisation():
  config = EncoderConfig(TINY, pooling="mean", normalise=True)
  encoder, params = encoder_and_params(config)
  got = encode(encoder, params, "question")
  states = np.asarray(hidden(TINY, params["question"]))
  for i, n in enumerate(LENGTHS):
    mean = states[i, :n].mean(0)
    np.testing.assert_allclose(got[i], mean / np.linalg.norm(mean), atol=2e-6)


def test_projections():
  plain = DualEncoder(EncoderConfig(TINY))
  cut = DualEncoder(EncoderConfig(TINY, projection="truncate", embedding_dim=5))
  dense, params = encoder_and_params(
    EncoderConfig(TINY, projection="dense", embedding_dim=20)
  )
  widths = [x.embedding_dim for x in (plain, cut, dense)]
  assert widths == [16, 5, 20]
  states, short, long = (
    encode(encoder, params, "question") for encoder in (plain, cut, dense)
  )
  np.testing.assert_array_equal(short, states[:, :5])
  projection = params["question"]["encode_proj"]
  np.testing.assert_allclose(
    long, states @ projection["kernel"] + projection["bias"][None], atol=1e-5
  )


@pytest.mark.parametrize(
  ("pooling", "dtype"), [("mean", "float32"), ("cls", "bfloat16")]
)
def test_a_padded_row_is_finite_and_leaves_the_others_alone(pooling, dtype):
  bert = dataclasses.replace(TINY, dtype=dtype)
  encoder, params = encoder_and_params(
    EncoderConfig(bert, pooling=pooling, normalise=True)
  )
  lengths = jnp.array([10, 0, 7, 1])

  def loss(params):
    vectors = encoder.encode_passage(params, IDS, lengths)
    return jnp.sum(vectors @ vectors.T), vectors

  gradients, vectors = jax.jit(jax.grad(loss, has_aux=True))(params)
  assert vectors.dtype == jnp.float32
  for leaf in jax.tree.leaves((gradients, vectors)):
    assert np.isfinite(leaf).all()
  whole = encode(encoder, params, "passage")
  tolerance = 2e-6 if dtype == "float32" else 0.02
  np.testing.assert_allclose(vectors[2:], whole[2:], atol=tolerance)


def test_dropout_is_deterministic_given_a_key_and_off_without():
  encoder, params = encoder_and_params(EncoderConfig(TINY))

  def one(rng):
    return encode(encoder, params, "question", rng=rng)

  np.testing.assert_array_equal(one(None), one(None))
  first = one(jax.random.key(1))
  np.testing.assert_array_equal(first, one(jax.random.key(1)))
  assert (first != one(jax.random.key(2))).any()
  assert (first != one(None)).any()


@pytest.mark.parametrize(
  ("dropout", "attention_dropout"), [(0.5, 0.0), (0.0, 0.5)]
)
def test_both_dropouts_are_wired(dropout, attention_dropout):
  config = dataclasses.replace(
    TINY, dropout=dropout, attention_dropout=attention_dropout
  )
  params = noisy_params()
  with_rng = hidden(config, params, rng=jax.random.key(1))
  assert np.abs(with_rng - hidden(config, params)).max() > 1e-3


def test_every_dropout_has_a_seed_of_its_own(monkeypatch):
  seeds = []

  def record(x, rate, seed):
    seeds.append(tuple(seed.tolist()))
    return x

  # Made before the patch: initialisation applies the network without seeds.
  params = noisy_params()
  monkeypatch.setattr(layers, "dropout", record)
  config = dataclasses.replace(TINY, scan=False)
  apply_bert(config, params, IDS, LENGTHS, rng=jax.random.key(0))
  # Embeddings; attention weights and two outputs in each of three layers.
  assert len(seeds) == 1 + 3 * 3
  assert len(set(seeds)) == len(seeds)


def compiled_flops(config: EncoderConfig, length: int) -> float:
  encoder = DualEncoder(config)
  params = jax.eval_shape(encoder.init, jax.random.key(0))
  ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
  lengths = jax.ShapeDtypeStruct((1,), jnp.int32)
  compiled = jax.jit(encoder.encode_passage).lower(params, ids, lengths)
  return compiled.compile().cost_analysis()["flops"] / length


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_flops_per_token_agree_with_the_compiler(pooling):
  # Wide enough for the products to outweigh what is not counted.
  bert = BertConfig(
    vocab_size=50, width=256, layers=2, heads=4, mlp_dim=1024, scan=False
  )
  config = EncoderConfig(bert, pooling=pooling)
  got = DualEncoder(config).flops_per_token(64)
  want = compiled_flops(config, 64)
  assert 0.9 * want < got <= 1.01 * want
