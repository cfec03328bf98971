"""Every implementation of attention against NumPy, and what programs call."""

import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from odqa_jax.models import attention as seam
from odqa_jax.models import attention_pallas, layers
from odqa_jax.models.attention import attention
from odqa_jax.models.bert import BertConfig, apply_bert, init_bert
from odqa_jax.models.dual_encoder import PRESETS as BERTS
from odqa_jax.models.t5 import PRESETS, T5, T5Config

# Of two heads in 128 lanes, two times; queries and keys in tiles of 128.
B, L, M, H, C = 4, 128, 256, 4, 64
SCALE = 0.3
# A row without keys is compared on its own: what it gets means nothing.
LENGTHS = np.array([[1], [77], [128], [256]])


def random(*shape: int, seed: int = 0) -> jax.Array:
  return jax.random.normal(jax.random.key(seed), shape)


def inputs(b=B, l=L, m=M, h=H, c=C, bias=True):
  """Queries, keys, values, and a bias that all rows share."""
  arrays = [random(b, n, h * c, seed=n + i) for i, n in enumerate((l, m, m))]
  return [*arrays, random(1, h, l, m, seed=9)] if bias else arrays


def seed(number: int) -> jax.Array:
  return jax.random.bits(jax.random.key(number), (2,), jnp.uint32)


# ---- The definition, in float64 ----


def by_definition(query, key, value, bias, lengths, weight, factor=1.0):
  """The result, and the gradients of its sum with `weight`."""

  def heads(x):
    b, n, d = x.shape
    return np.asarray(x, np.float64).reshape(b, n, H, d // H).swapaxes(1, 2)

  q, k, v, w = (heads(x) for x in (query, key, value, weight))
  b, _, m, _ = k.shape
  scores = SCALE * q @ k.swapaxes(2, 3) + np.asarray(bias, np.float64)
  segments = np.arange(m).reshape(lengths.shape[1], -1)
  place = segments - segments[:, :1]
  hidden = (place[None] >= lengths[:, :, None]).reshape(b, 1, 1, m)
  scores = np.where(hidden, -np.inf, scores)
  weights = np.exp(scores - scores.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  out = (weights * factor) @ v
  of_weights = (w @ v.swapaxes(2, 3)) * factor
  mean = (of_weights * weights).sum(-1, keepdims=True)
  of_scores = weights * (of_weights - mean)
  gradients = [
    SCALE * of_scores @ k,
    SCALE * of_scores.swapaxes(2, 3) @ q,
    (weights * factor).swapaxes(2, 3) @ w,
  ]

  def merged(x):
    return x.swapaxes(1, 2).reshape(b, x.shape[2], -1)

  of_bias = of_scores
  for axis, n in enumerate(np.shape(bias)):
    if n == 1:
      of_bias = of_bias.sum(axis, keepdims=True)
  return merged(out), [*map(merged, gradients), of_bias]


def assert_as_defined(function, arrays, lengths, *, factor=1.0, atol=1e-5):
  """Values and gradients of `function(query, key, value, bias)`."""
  weight = random(*arrays[0].shape, seed=5)

  def total(*arrays):
    out = function(*arrays)
    return jnp.sum(out.astype(jnp.float32) * weight), out

  with jax.default_matmul_precision("highest"):
    run = jax.jit(jax.grad(total, (0, 1, 2, 3), has_aux=True))
    gradients, out = run(*arrays)
  values, wanted = by_definition(*arrays, lengths, weight, factor)
  for got, want in zip((out, *gradients), (values, *wanted), strict=True):
    got = np.asarray(got, np.float64)
    size = max(np.abs(want).max(), 1.0)
    np.testing.assert_allclose(got / size, want / size, atol=atol)


def kernel(lengths, **settings):
  """The TPU's kernel, interpreted."""

  def run(query, key, value, bias=None):
    return attention_pallas.attention(
      query,
      key,
      value,
      bias,
      jnp.asarray(lengths)[:, 0],
      settings.get("seed"),
      heads=H,
      scale=SCALE,
      rate=settings.get("rate", 0.0),
      interpret=True,
    )

  return run


def by_name(platform, lengths, **settings):
  """The seam; in float32 and on a CPU it comes to XLA."""

  def run(query, key, value, bias=None):
    return attention(
      query,
      key,
      value,
      heads=H,
      bias=bias,
      lengths=jnp.asarray(lengths),
      scale=SCALE,
      platform=platform,
      **settings,
    )

  return run


@pytest.fixture
def cudnn_as_xla(monkeypatch):
  """Lets XLA compute what is asked of cuDNN."""
  asked = jax.nn.dot_product_attention

  def computed(*args, implementation, **kw):
    assert implementation == "cudnn"
    return asked(*args, **kw, implementation="xla")

  monkeypatch.setattr(jax.nn, "dot_product_attention", computed)
  # So that float32 can show that nothing else differs.
  monkeypatch.setattr(seam, "_not_for_cudnn", lambda *_: None)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_xla_is_the_definition_in_value_and_gradient(platform):
  run = by_name(platform, LENGTHS, implementation="xla")
  assert_as_defined(run, inputs(), LENGTHS)


@pytest.mark.parametrize("rows", [4, 10])
def test_the_kernel_is_the_definition_in_value_and_gradient(rows):
  """Four rows are one step of its grid, ten are five, which add up the bias."""
  lengths = np.concatenate([LENGTHS, [[2], [5], [129], [200], [254], [255]]])
  lengths = lengths[:rows]
  assert_as_defined(kernel(lengths), inputs(b=rows), lengths)


def test_what_cudnn_is_asked_is_the_definition(cudnn_as_xla):
  assert_as_defined(by_name("gpu", LENGTHS), inputs(), LENGTHS)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("shape", [(B, 1, 1, M), (1, H, 1, M), (B, H, 1, M)])
def test_segments_and_a_bias_of_keys_are_the_definition(
  platform, shape, cudnn_as_xla
):
  """As Fusion-in-Decoder has it: 4 segments of 64 keys."""
  lengths = np.array([[64, 0, 3, 1], [1, 1, 1, 1], [0, 0, 0, 9], [64] * 4])
  arrays = [*inputs(bias=False), random(*shape, seed=4)]
  assert_as_defined(by_name(platform, lengths), arrays, lengths)


def test_the_kernel_drops_the_weights_that_xla_drops():
  arrays, words, rate = inputs(), seed(3), 0.4
  factor = layers.dropout(jnp.ones((B, H, L, M)), rate, words)
  factor = np.asarray(factor, np.float64)
  run = kernel(LENGTHS, rate=rate, seed=words)
  assert_as_defined(run, arrays, LENGTHS, factor=factor)
  run = by_name("gpu", LENGTHS, implementation="xla", rate=rate, seed=words)
  assert_as_defined(run, arrays, LENGTHS, factor=factor)


def test_the_kernel_in_bfloat16_is_as_near_as_xla():
  """To float64 of the rounded inputs: 8 bits of weights and results."""
  arrays = [x.astype(jnp.bfloat16) for x in inputs()[:3]] + inputs()[3:]
  run = by_name("gpu", LENGTHS, implementation="xla")
  assert_as_defined(run, arrays, LENGTHS, atol=0.01)
  assert_as_defined(kernel(LENGTHS), arrays, LENGTHS, atol=0.01)


def test_the_kernel_on_eight_devices_is_the_kernel_on_one():
  arrays, words = inputs(b=8), seed(1)
  lengths = np.array([[1], [2], [3], [100], [128], [200], [255], [256]])

  def gradients(lengths, *arrays):
    run = kernel(lengths, rate=0.3, seed=words)
    return jax.grad(lambda *a: jnp.sum(run(*a) ** 2), (0, 1, 2, 3))(*arrays)

  mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
  rows, whole = jax.P("data"), jax.P()

  def of_device(lengths, *arrays):
    *rest, bias = gradients(lengths, *arrays)
    return *rest, jax.lax.psum(bias, "data")

  spread = jax.shard_map(
    of_device,
    mesh=mesh,
    in_specs=(*[rows] * 4, whole),
    out_specs=(*[rows] * 3, whole),
    check_vma=False,
  )
  many = jax.jit(spread)(jnp.asarray(lengths), *arrays)
  for one, other in zip(gradients(lengths, *arrays), many, strict=True):
    # Sums over rows in another order.
    np.testing.assert_allclose(one, other, atol=1e-4, rtol=1e-5)


def finite_without_keys(run):
  def total(*arrays):
    return jnp.sum(run(*arrays).astype(jnp.float32))

  value, gradients = jax.value_and_grad(total, (0, 1, 2, 3))(*inputs())
  return np.isfinite(value) and all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_rows_without_keys_are_finite_in_xla(platform):
  none = np.zeros((B, 1), np.int32)
  run = by_name(platform, none, implementation="xla")
  assert finite_without_keys(run)


def test_rows_without_keys_are_finite_in_the_kernel():
  assert finite_without_keys(kernel(np.zeros((B, 1), np.int32)))


def test_cudnn_is_never_asked_for_rows_without_keys(monkeypatch):
  asked = {}

  def record(query, *_, **kw):
    asked.update(kw)
    return query

  monkeypatch.setattr(jax.nn, "dot_product_attention", record)
  arrays = [x.astype(jnp.bfloat16) for x in inputs(bias=False)]
  by_name("gpu", np.array([[0], [2], [0], [5]]))(*arrays)
  np.testing.assert_array_equal(asked["key_value_seq_lengths"], [1, 2, 1, 5])


def test_scores_are_float32_for_bfloat16_inputs():
  # Scores of 100.25 and 100; bfloat16 knows 100 and 100.5 only.
  query = jnp.ones((1, 1, 2), jnp.bfloat16)
  key = jnp.array([[[100, 0.25], [100, 0]]], jnp.bfloat16)
  value = jnp.array([[[1, 1], [0, 0]]], jnp.bfloat16)
  for platform in ("cpu", "gpu"):
    got = attention(query, key, value, heads=1, platform=platform)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(
      got.astype(jnp.float32), 1 / (1 + np.exp(-0.25)), atol=0.004
    )


# ---- The choice ----

BF16, F32 = jnp.bfloat16, jnp.float32


def chosen(implementation, platform, dtype, l=128, m=128, h=4, c=64, **masks):
  """What computes a call; `bias` and `lengths` by shape."""
  query, key = (jnp.zeros((2, n, h * c), dtype) for n in (l, m))
  bias, lengths = masks.get("bias"), masks.get("lengths")
  return seam._choose(
    implementation,
    platform,
    query,
    key,
    h,
    None if bias is None else jnp.zeros(bias),
    None if lengths is None else jnp.ones(lengths, jnp.int32),
  )


@pytest.fixture
def own_rows(monkeypatch):
  monkeypatch.setattr(attention_pallas, "has_own_rows", lambda: True)


@pytest.mark.parametrize(
  ("want", "args", "settings"),
  [
    ("xla", ("auto", "cpu", BF16), {}),
    ("cudnn", ("auto", "gpu", BF16), {}),
    ("cudnn", ("auto", "cuda", BF16), {"bias": (1, 4, 128, 128)}),
    ("cudnn", ("cudnn", "gpu", BF16), {"lengths": (2, 4), "m": 512}),
    ("pallas", ("auto", "tpu", BF16), {"bias": (1, 4, 128, 128)}),
    ("pallas", ("auto", "tpu", F32), {"lengths": (2, 1)}),
    ("pallas", ("pallas", "tpu", BF16), {"c": 128}),
    ("xla", ("xla", "gpu", BF16), {}),
    ("xla", ("auto", "gpu", BF16), {"l": 1}),
    ("xla", ("auto", "gpu", F32), {}),
    ("xla", ("auto", "gpu", BF16), {"l": 31, "bias": (1, 4, 31, 128)}),
    ("cudnn", ("auto", "gpu", BF16), {"l": 31}),
    ("xla", ("auto", "gpu", BF16), {"c": 160}),
    ("xla", ("auto", "gpu", BF16), {"c": 12}),
    ("xla", ("auto", "tpu", BF16), {"l": 100}),
    ("xla", ("auto", "tpu", BF16), {"m": 2048}),
    ("xla", ("auto", "tpu", BF16), {"c": 80}),
    ("xla", ("auto", "tpu", BF16), {"h": 3}),
    ("xla", ("auto", "tpu", BF16), {"bias": (2, 4, 128, 128)}),
    ("xla", ("auto", "tpu", BF16), {"lengths": (2, 2)}),
    ("xla", ("cudnn", "tpu", BF16), {}),
    ("xla", ("cudnn", "cpu", BF16), {}),
    ("xla", ("pallas", "cpu", BF16), {}),
  ],
)
def test_the_choice(want, args, settings, own_rows):
  assert chosen(*args, **settings) == want


def test_the_kernel_is_not_for_programs_that_xla_shares_out():
  assert chosen("auto", "tpu", BF16) == "xla"


def test_a_fallback_is_logged_once_for_each_reason(caplog):
  seam._log_once.cache_clear()
  with caplog.at_level(logging.WARNING):
    for _ in range(2):
      chosen("cudnn", "gpu", F32)
      chosen("cudnn", "cpu", BF16)
  assert [record.getMessage() for record in caplog.records] == [
    "attention: cudnn does not take this (float32 in place of bfloat16); XLA "
    "computes it.",
    "attention: cudnn does not take this (the platform is cpu); XLA computes "
    "it.",
  ]


def test_an_unknown_implementation_is_refused():
  with pytest.raises(ValueError, match=r"attention='flash'.*'pallas'"):
    BertConfig(vocab_size=9, width=4, layers=1, heads=1, mlp_dim=4,
               attention="flash")  # fmt: skip
  with pytest.raises(ValueError, match=r"platform='gpus' is unknown"):
    T5Config(**PRESETS["tiny"], platform="gpus")


# ---- What programs call ----


@pytest.fixture
def cudnn_of_a_hopper(monkeypatch):
  """As `jax.nn` would find it beside a GPU, which is not there."""
  monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91301)
  monkeypatch.setattr(cudnn, "check_compute_capability", lambda _: True)
  monkeypatch.setattr(
    cudnn, "is_cuda_compute_capability_equal", lambda one: one == "9.0"
  )
  yield
  # Traces remember the answers.
  jax.clear_caches()


def bert_gradient(platform):
  """Of a training loss, with dropout; and its arguments."""
  config = BertConfig(
    **BERTS["tiny"] | {"vocab_size": 50}, dtype="bfloat16", platform=platform
  )
  params = jax.eval_shape(lambda: init_bert(config, jax.random.key(0)))

  def loss(params, ids, lengths):
    states = apply_bert(config, params, ids, lengths, rng=jax.random.key(1))
    return jnp.sum(states.astype(jnp.float32) ** 2)

  ids = jax.ShapeDtypeStruct((2, 128), jnp.int32)
  lengths = jax.ShapeDtypeStruct((2,), jnp.int32)
  return jax.grad(loss), (params, ids, lengths)


def t5_gradient(platform):
  """Of a reader's loss with a score per passage, with dropout."""
  config = T5Config(
    **PRESETS["tiny"] | {"vocab_size": 50}, dtype="bfloat16", platform=platform
  )
  reader = T5(config)
  params = jax.eval_shape(lambda: reader.init(jax.random.key(0)))

  def loss(params, ids, lengths, targets, scores):
    rng = jax.random.key(1)
    states = reader.encode(params, ids, lengths, rng=rng)
    into = reader.shift_right(targets)
    logits = reader.decode(params, into, states, lengths, bias=scores, rng=rng)
    return jnp.sum(logits**2)

  def shape(*sizes, dtype=jnp.int32):
    return jax.ShapeDtypeStruct(sizes, dtype)

  args = (params, shape(2, 3, 128), shape(2, 3), shape(2, 8))
  scores = shape(1, 2, 1, 3, dtype=jnp.float32)
  return jax.grad(loss, (0, 4)), (*args, scores)


def lowered(gradient, args, platform):
  traced = jax.jit(gradient).trace(*args)
  return traced.lower(lowering_platforms=(platform,)).as_text()


def calls(text):
  """Names of cuDNN's functions in a program, sorted."""
  return sorted(set(re.findall(r"__cudnn\$fmha(\w+)", text)))


def test_bert_is_trained_with_cudnn_and_lengths(cudnn_of_a_hopper):
  text = lowered(*bert_gradient("gpu"), "cuda")
  assert calls(text) == ["Softmax", "SoftmaxBackward"]
  assert '"mask_type": "PADDING"' in text.replace("\\22", '"')


def test_t5_is_trained_with_cudnn_and_biases(cudnn_of_a_hopper):
  """Self-attention of both stacks, and attention to all passages."""
  text = lowered(*t5_gradient("gpu"), "cuda")
  assert calls(text) == ["ScaleBiasSoftmax", "ScaleBiasSoftmaxBackward"]
  backward = [
    line for line in text.splitlines() if "fmhaScaleBiasSoftmaxBackward" in line
  ]
  # Gradients of relative positions, per head, and of scores for passages.
  shapes = re.findall(r"tensor<([\dx]+)xbf16>", "".join(
    line.rsplit("->", 1)[1] for line in backward))  # fmt: skip
  for bias in ("1x2x128x128", "1x2x8x8", "2x1x8x384"):
    assert bias in shapes


def test_a_cpu_calls_neither(cudnn_of_a_hopper):
  assert not calls(lowered(*bert_gradient("cpu"), "cuda"))


@pytest.mark.parametrize(
  ("make", "stacks"), [(bert_gradient, 2), (t5_gradient, 1)]
)
def test_training_calls_the_kernel_on_tpus(make, stacks):
  gradient, args = make("tpu")
  mesh = jax.make_mesh((1,), ("data",), (jax.sharding.AxisType.Auto,))
  spread = jax.shard_map(
    gradient, mesh=mesh, in_specs=jax.P(), out_specs=jax.P(), check_vma=False
  )
  text = lowered(spread, args, "tpu")
  assert text.count("tpu_custom_call") == 2 * stacks
  for name in ("attention_forward", "attention_backward"):
    assert name in text
  gradient, args = make("cpu")
  assert "tpu_custom_call" not in lowered(gradient, args, "tpu")
