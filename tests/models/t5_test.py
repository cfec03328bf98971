"""T5 against torch and NumPy; fusion, invariances, execution choices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from torch_t5 import model_and_params, noise

from odqa_jax.models import layers
from odqa_jax.models.t5 import PRESETS, T5, T5Config
from odqa_jax.models.t5_layers import position_bias, relative_buckets
from odqa_jax.objectives.reader import span_loss
from odqa_jax.runtime.mesh import make_mesh

TINY = T5Config(
  vocab_size=50,
  width=16,
  layers=2,
  decoder_layers=2,
  heads=2,
  head_dim=6,
  mlp_dim=24,
)
RNG = np.random.default_rng(9)
# Three questions with four passages of up to ten tokens.
B, K, L, T = 3, 4, 10, 6
IDS = jnp.asarray(RNG.integers(2, 50, (B * K, L)), jnp.int32)
IDS_BKL = IDS.reshape(B, K, L)
LENGTHS = jnp.asarray([[10, 3, 7, 1], [5, 10, 0, 2], [9, 9, 4, 6]], jnp.int32)
INPUTS = jnp.asarray(RNG.integers(0, 50, (B, T)), jnp.int32)
FEATURES = jnp.asarray(RNG.integers(0, 3, (B * K, L)), jnp.int32)


@functools.cache
def reader(config: T5Config = TINY):
  model = T5(config)
  return model, noise(jax.eval_shape(model.init, jax.random.key(0)))


def states(config: T5Config, params, ids=IDS, lengths=LENGTHS, rng=None):
  """Encoder states as the decoder takes them."""
  b, k = lengths.shape
  given = FEATURES.reshape(b, k, -1) if config.overlap_features else None
  return T5(config).encode(
    params, ids.reshape(b, k, -1), lengths, overlap_features=given, rng=rng
  )


@functools.cache
def forward(config: T5Config):
  """From tokens to logits, compiled."""

  def run(params, ids, lengths, inputs, bias, rng):
    encoder_states = states(config, params, ids, lengths, rng)
    decode = T5(config).decode
    return decode(params, inputs, encoder_states, lengths, bias=bias, rng=rng)

  return jax.jit(run)


def logits(
  config, params, ids=IDS, lengths=LENGTHS, inputs=INPUTS, bias=None, rng=None
):
  return forward(config)(params, ids, lengths, inputs, bias, rng)


def some_bias(*shape: int):
  return jnp.asarray(np.random.default_rng(1).normal(0, 2, shape), jnp.float32)


# --- Shapes -----------------------------------------------------------------

# Counted by torch on models of these shapes, with separate heads in v1.1.
PARAMETERS = {
  "tiny": 5_031_552,
  "mini": 15_570_688,
  "small": 60_506_624,
  "base": 222_903_552,
  "large": 737_668_096,
  "small_v11": 76_961_152,
  "base_v11": 247_577_856,
  "large_v11": 783_150_080,
}


def test_every_preset_has_the_published_parameter_count():
  counts = {}
  for name, preset in PRESETS.items():
    init = T5(T5Config(**preset)).init
    shapes = jax.eval_shape(init, jax.random.key(0))
    counts[name] = sum(x.size for x in jax.tree.leaves(shapes))
  assert counts == PARAMETERS


def names(config: T5Config) -> set[str]:
  shapes = jax.eval_shape(T5(config).init, jax.random.key(0))
  return {
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, _ in jax.tree_util.tree_leaves_with_path(shapes)
  }


def test_names_are_the_published_ones():
  plain = names(TINY)
  attention = {f"{x}/kernel" for x in "qkvo"}
  own = {f"block/layer_0/SelfAttention/{x}" for x in attention}
  cross = {f"block/layer_1/EncDecAttention/{x}" for x in attention}

  def stack(name: str, blocks: set[str], into: set[str]) -> set[str]:
    last = 1 if name == "encoder" else 2
    norms = {f"block/layer_{i}/layer_norm/scale" for i in range(last + 1)}
    kernels = into | {"wo"}
    wide = {f"block/layer_{last}/DenseReluDense/{x}/kernel" for x in kernels}
    other = {"relative_attention_bias/embedding", "final_layer_norm/scale"}
    return {f"{name}/{x}" for x in blocks | norms | wide | other}

  def both(into: set[str]) -> set[str]:
    decoder = stack("decoder", own | cross, into)
    return stack("encoder", own, into) | decoder | {"shared/embedding"}

  assert plain == both({"wi"})
  gated = names(dataclasses.replace(TINY, gated=True, tied=False))
  assert gated == both({"wi_0", "wi_1"}) | {"lm_head/kernel"}
  options = {
    "depthwise_convolution": True,
    "overlap_features": 3,
    "span_head": True,
  }
  assert names(dataclasses.replace(TINY, **options)) - plain == {
    "encoder/mixing/kernel",
    "decoder/mixing/kernel",
    "flags/embedding",
    "span_head/kernel",
    "span_head/marks",
  }


def test_shift_right_starts_with_the_start_token():
  model = T5(dataclasses.replace(TINY, start_id=7))
  got = model.shift_right(jnp.asarray([[3, 4, 1, 0], [5, 1, 0, 0]]))
  np.testing.assert_array_equal(got, [[7, 3, 4, 1], [7, 5, 1, 0]])


# --- Against torch ----------------------------------------------------------


def torch_inputs(lengths=LENGTHS):
  import torch

  mask = np.arange(L)[None] < np.asarray(lengths).reshape(-1)[:, None]
  return torch.tensor(np.asarray(IDS)).long(), torch.tensor(mask).long()


def torch_answers():
  """Targets with -100 after their end, for torch's loss."""
  targets = np.asarray(INPUTS).copy()
  for i, n in enumerate((6, 2, 4)):
    targets[i, n:] = -100
  return targets


@pytest.mark.torch
@pytest.mark.parametrize("gated", [False, True])
def test_plain_t5_agrees_with_torch(gated):
  """One passage and no bias: an ordinary T5, with padding on both sides."""
  config, model, params = model_and_params(gated=gated)
  import torch

  ids, mask = torch_inputs()
  rows = np.flatnonzero(np.asarray(LENGTHS).reshape(-1))[[0, 1, 3]]
  targets = torch_answers()
  with torch.no_grad():
    want = model(
      input_ids=ids[rows],
      attention_mask=mask[rows],
      labels=torch.tensor(targets).long(),
    )
  lengths = LENGTHS.reshape(-1, 1)[rows]
  real = targets >= 0
  answers = jnp.asarray(np.where(real, targets, 0))
  got = logits(
    config, params, IDS[rows], lengths, T5(config).shift_right(answers)
  )
  assert np.abs(got - want.logits.numpy()).max() <= 1e-4
  chosen = jnp.take_along_axis(
    jax.nn.log_softmax(got), answers[:, :, None], axis=-1
  )
  loss = -np.asarray(chosen)[:, :, 0][real].mean()
  assert abs(loss - float(want.loss)) <= 1e-5


@pytest.mark.torch
@pytest.mark.parametrize("gated", [False, True])
def test_fusion_agrees_with_torch_on_stacked_states(gated):
  config, model, params = model_and_params(gated=gated, seed=1)
  import torch

  ids, mask = torch_inputs()
  with torch.no_grad():
    encoded = model.encoder(input_ids=ids, attention_mask=mask)
    stacked = encoded.last_hidden_state.reshape(B, K * L, 16)
    want = model(
      encoder_outputs=(stacked,),
      attention_mask=mask.reshape(B, K * L),
      decoder_input_ids=torch.tensor(np.asarray(INPUTS)).long(),
    ).logits.numpy()
  got = logits(config, params)
  assert np.abs(got - want).max() <= 1e-4


@pytest.mark.torch
@pytest.mark.parametrize("both_ways", [False, True])
def test_buckets_agree_with_torch(both_ways):
  pytest.importorskip("torch")
  import torch
  from transformers.models.t5.modeling_t5 import T5Attention

  offsets = np.arange(-700, 701, dtype=np.int32)
  for count, distance in ((32, 128), (16, 50), (8, 20), (64, 300)):
    want = T5Attention._relative_position_bucket(
      torch.tensor(offsets), both_ways, count, distance
    )
    config = dataclasses.replace(
      TINY, relative_buckets=count, relative_distance=distance
    )
    got = relative_buckets(config, offsets, both_ways=both_ways)
    np.testing.assert_array_equal(got, want.numpy())


@pytest.mark.torch
def test_init_has_the_deviations_of_torch():
  """Every kernel of a wide model, within four standard errors."""
  pytest.importorskip("torch")
  import torch
  import transformers
  from torch_t5 import to_params

  sizes = {"vocab_size": 90, "layers": 2, "decoder_layers": 2, "heads": 5}
  config = T5Config(
    **sizes, width=64, head_dim=16, mlp_dim=96, gated=True, tied=False
  )
  theirs = transformers.T5Config(
    vocab_size=90,
    d_model=64,
    d_kv=16,
    d_ff=96,
    num_layers=2,
    num_heads=5,
    feed_forward_proj="gated-gelu",
    tie_word_embeddings=False,
  )
  torch.manual_seed(0)
  model = transformers.T5ForConditionalGeneration(theirs)
  tensors = {k: v.detach().numpy() for k, v in model.state_dict().items()}
  want = to_params(config, tensors)
  init = jax.jit(T5(config).init)
  got, again = init(jax.random.key(0)), init(jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, got, again)
  assert jax.tree.structure(got) == jax.tree.structure(want)

  def compare(path, x, y):
    assert x.shape == y.shape and x.dtype == jnp.float32, path
    if path[-1].key == "scale":
      np.testing.assert_array_equal(x, y)
    else:
      assert abs(x.mean()) < 4 * y.std() / x.size**0.5, path
      assert abs(x.std() / y.std() - 1) < 4 / x.size**0.5, path

  jax.tree_util.tree_map_with_path(compare, got, want)


# --- Against NumPy in float64 -----------------------------------------------


def numpy_decoder(
  config: T5Config, params, inputs, encoder_states, lengths, bias
):
  """The decoder of version 1.0 in float64, one question and head at a time."""
  tree = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  block = tree["decoder"]["block"]
  table = tree["decoder"]["relative_attention_bias"]["embedding"]
  heads, width = config.heads, config.head_dim

  def norm(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.eps) * scale

  def attention(kernels, layer, x, encoder_states, added):
    query, key, value = (
      a @ kernels[name]["kernel"][layer]
      for a, name in ((x, "q"), (encoder_states, "k"), (encoder_states, "v"))
    )
    out = []
    for h in range(heads):
      part = slice(h * width, (h + 1) * width)
      scores = query[:, part] @ key[:, part].T + added(h)
      weights = np.exp(scores - scores.max(-1, keepdims=True))
      weights /= weights.sum(-1, keepdims=True)
      out.append(weights @ value[:, part])
    return np.concatenate(out, -1) @ kernels["o"]["kernel"][layer]

  def answer(i):
    x = tree["shared"]["embedding"][inputs[i]]
    # Only the real tokens of each passage, one after the other.
    real = [encoder_states[i, j, :n] for j, n in enumerate(lengths[i])]
    owner = np.repeat(np.arange(len(real)), lengths[i])
    tokens = np.concatenate(real).astype(np.float64)
    t = np.arange(len(inputs[i]))
    later = np.where(t[None] > t[:, None], -np.inf, 0.0)
    for y in range(config.decoder_layers):
      one, two, three = (block[f"layer_{j}"] for j in range(3))
      scales = [b["layer_norm"]["scale"][y] for b in (one, two, three)]
      x = x + attention(
        one["SelfAttention"],
        y,
        norm(x, scales[0]),
        norm(x, scales[0]),
        # The bucket of a distance below 16 is the distance.
        lambda h: table[np.maximum(t[:, None] - t[None], 0), h] + later,
      )
      x = x + attention(
        two["EncDecAttention"],
        y,
        norm(x, scales[1]),
        tokens,
        lambda h, y=y: bias[
          min(y, len(bias) - 1), i, min(h, bias.shape[2] - 1)
        ][owner][None],
      )
      wide = np.maximum(
        norm(x, scales[2]) @ three["DenseReluDense"]["wi"]["kernel"][y], 0
      )
      x = x + wide @ three["DenseReluDense"]["wo"]["kernel"][y]
    x = norm(x, tree["decoder"]["final_layer_norm"]["scale"])
    return x * config.width**-0.5 @ tree["shared"]["embedding"].T

  return np.stack([answer(i) for i in range(len(inputs))])


@pytest.mark.parametrize(
  ("shape", "scan"),
  [((1, 1), True), ((2, 1), False), ((1, 2), False), ((2, 2), True)],
)
def test_bias_agrees_with_numpy(shape, scan):
  config = dataclasses.replace(TINY, scan=scan)
  model, params = reader(config)
  bias = some_bias(shape[0], B, shape[1], K)
  rng = np.random.default_rng(2)
  encoder_states = jnp.asarray(rng.normal(0, 1, (B, K, L, 16)), jnp.float32)
  got = jax.jit(model.decode)(
    params, INPUTS, encoder_states, LENGTHS, bias=bias
  )
  want = numpy_decoder(
    config, params, *map(np.asarray, (INPUTS, encoder_states, LENGTHS, bias))
  )
  np.testing.assert_allclose(got, want, atol=2e-5)


# --- Fusion -----------------------------------------------------------------


@pytest.mark.parametrize(
  ("shape", "scan"), [((1, 1), True), ((2, 2), True), ((2, 2), False)]
)
def test_a_bias_of_zeros_gives_the_same_bits_as_none(shape, scan):
  config = dataclasses.replace(TINY, scan=scan)
  _, params = reader(config)
  zeros = jnp.zeros((shape[0], B, shape[1], K))
  np.testing.assert_array_equal(
    logits(config, params, bias=zeros), logits(config, params)
  )


def test_the_order_of_passages_does_not_matter():
  _, params = reader()
  bias = some_bias(2, B, 2, K)
  order = jnp.asarray([2, 0, 3, 1])
  ids = IDS_BKL[:, order].reshape(-1, L)
  np.testing.assert_allclose(
    logits(TINY, params, ids, LENGTHS[:, order], bias=bias[..., order]),
    logits(TINY, params, bias=bias),
    atol=1e-5,
  )


def test_every_passage_matters_to_its_question_only():
  _, params = reader()
  plain = logits(TINY, params)
  for i in range(B):
    for j in range(K):
      row = i * K + j
      ids = IDS.at[row].set(jnp.roll(IDS[row], 1) % 40 + 5)
      moved = np.abs(logits(TINY, params, ids) - plain).max((1, 2)) > 1e-4
      want = np.arange(B) == i if LENGTHS[i, j] else np.zeros(B, bool)
      np.testing.assert_array_equal(moved, want)


def test_a_bias_gets_gradients_but_not_from_passages_of_length_0():
  model, params = reader()
  rng = np.random.default_rng(2)
  encoder_states = jnp.asarray(rng.normal(0, 1, (B, K, L, 16)), jnp.float32)

  def loss(bias):
    out = model.decode(params, INPUTS, encoder_states, LENGTHS, bias=bias)
    return jnp.sum(jnp.sin(out))

  bias = some_bias(2, B, 2, K)
  gradient = np.asarray(jax.jit(jax.grad(loss))(bias))
  empty = np.asarray(LENGTHS) == 0
  np.testing.assert_array_equal(gradient[:, empty.nonzero()[0], :, 2], 0)
  shown = np.broadcast_to(~empty[None, :, None], gradient.shape)
  assert (gradient[shown] != 0).all()


def test_a_question_without_any_token_is_finite_and_alone():
  config = dataclasses.replace(TINY, depthwise_convolution=True)
  model, params = reader(config)
  lengths = LENGTHS.at[1].set(0)

  def loss(params, bias):
    encoder_states = states(config, params, lengths=lengths)
    out = model.decode(params, INPUTS, encoder_states, lengths, bias=bias)
    return jnp.sum(jnp.sin(out)), out

  bias = some_bias(1, B, 1, K)
  gradients, got = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(
    params, bias
  )
  for leaf in jax.tree.leaves((gradients, got)):
    assert np.isfinite(leaf).all()
  want = logits(config, params, bias=bias)
  np.testing.assert_allclose(got[::2], want[::2], atol=1e-5)


# --- Invariances ------------------------------------------------------------

FULL = dataclasses.replace(
  TINY, depthwise_convolution=True, overlap_features=3, span_head=True
)


@pytest.mark.parametrize("config", [TINY, FULL], ids=["plain", "options"])
def test_padding_tokens_and_padded_length_do_not_matter(config):
  _, params = reader(config)
  want = logits(config, params)
  real = jnp.arange(L)[None] < LENGTHS.reshape(-1)[:, None]
  other = logits(config, params, jnp.where(real, IDS, 7))
  np.testing.assert_allclose(other, want, atol=1e-5)
  if config.overlap_features:
    return  # `states` has features for L tokens only
  longer = logits(config, params, jnp.pad(IDS, ((0, 0), (0, 5))))
  np.testing.assert_allclose(longer, want, atol=1e-5)


@pytest.mark.parametrize("config", [TINY, FULL], ids=["plain", "options"])
def test_the_decoder_is_causal(config):
  _, params = reader(config)
  want = logits(config, params)
  for t in range(1, T):
    changed = INPUTS.at[:, t].set(INPUTS[:, t] % 40 + 7)
    got = logits(config, params, inputs=changed)
    np.testing.assert_allclose(got[:, :t], want[:, :t], atol=1e-6)
    assert np.abs(got[:, t:] - want[:, t:]).max((0, 2)).min() > 1e-4
  short = logits(config, params, inputs=INPUTS[:, :3])
  np.testing.assert_allclose(short, want[:, :3], atol=1e-5)


def test_states_of_a_row_do_not_depend_on_the_other_rows():
  model, params = reader()
  encode = jax.jit(model.encode)
  ids, lengths = IDS[:, None], LENGTHS.reshape(-1, 1)
  order = jnp.asarray(RNG.permutation(B * K))
  np.testing.assert_allclose(
    encode(params, ids[order], lengths[order]),
    encode(params, ids, lengths)[order],
    atol=1e-5,
  )


# --- Execution choices ------------------------------------------------------


@functools.cache
def gradients(config: T5Config):
  """Loss gradients with dropout and a bias for every layer and head."""
  model, _ = reader(config)
  params = reader(dataclasses.replace(config, scan=True, remat="none"))[1]
  rng, bias = jax.random.key(3), some_bias(2, B, 2, K)

  def loss(params, bias):
    encoder_states = states(config, params, rng=rng)
    out = model.decode(
      params, INPUTS, encoder_states, LENGTHS, bias=bias, rng=rng
    )
    return jnp.mean(jnp.sin(out)), out

  return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, bias)


@pytest.mark.parametrize(
  ("scan", "remat"),
  [pytest.param(True, "dots", marks=pytest.mark.slow), (False, "full")],
)
def test_scan_and_remat_change_no_logits_or_gradients(scan, remat):
  config = dataclasses.replace(FULL, scan=scan, remat=remat)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6),
    gradients(config),
    gradients(FULL),
  )


@pytest.mark.parametrize("scan", [False, True])
def test_remat_keeps_less_for_the_backward_pass(scan):
  def kept(remat: str) -> int:
    config = dataclasses.replace(TINY, remat=remat, scan=scan, layers=4)
    model, params = reader(config)

    def backward(params):
      return jax.vjp(
        lambda p: model.decode(p, INPUTS, states(config, p), LENGTHS), params
      )[1]

    residuals = jax.eval_shape(backward, params)
    return sum(x.size for x in jax.tree.leaves(residuals))

  assert kept("none") > 1.3 * kept("dots") > 1.3 * kept("full")


def test_eight_devices_give_what_one_gives():
  _, params = reader()
  ids, lengths, inputs = (
    jnp.concatenate([x] * 3)[:n]
    for x, n in ((IDS, 8 * K), (LENGTHS, 8), (INPUTS, 8))
  )
  bias = some_bias(2, 8, 2, K)
  want = logits(TINY, params, ids, lengths, inputs, bias=bias)
  mesh = make_mesh()

  def place(x, *axes):
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))

  rows = mesh.axis_names[0]
  got = logits(
    TINY,
    jax.tree.map(place, params),
    *(place(x, rows) for x in (ids, lengths, inputs)),
    bias=place(bias, None, rows),
  )
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_bfloat16_is_close_and_keeps_float32_parameters():
  low = dataclasses.replace(FULL, dtype="bfloat16")
  _, params = reader(FULL)
  shapes = jax.eval_shape(T5(low).init, jax.random.key(0))
  assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
  assert states(low, params).dtype == jnp.bfloat16
  got, want = logits(low, params), np.asarray(logits(FULL, params))
  assert got.dtype == jnp.float32
  error = np.abs(got - want)
  assert error.max() < 0.15 * np.abs(want).max()
  assert error.mean() < 0.03 * np.abs(want).mean()


# --- Dropout ----------------------------------------------------------------


def test_dropout_is_deterministic_given_a_key_and_off_without():
  _, params = reader()

  def one(rng):
    return np.asarray(logits(TINY, params, rng=rng))

  np.testing.assert_array_equal(one(None), one(None))
  first = one(jax.random.key(1))
  np.testing.assert_array_equal(first, one(jax.random.key(1)))
  assert np.abs(first - one(jax.random.key(2))).max() > 1e-2
  assert np.abs(first - one(None)).max() > 1e-2


def test_every_dropout_has_a_seed_of_its_own(monkeypatch):
  """Also with one key for the encoder and the decoder."""
  config = dataclasses.replace(TINY, scan=False)
  model, params = reader(config)
  seeds, counts = [], []

  def record(x, rate, seed):
    seeds.append(seed)
    return x

  @jax.jit
  def run(params, key):
    encoder_states = states(config, params, rng=key)
    counts.append(len(seeds))
    model.decode(params, INPUTS, encoder_states, LENGTHS, rng=key)
    return jnp.stack(seeds)

  monkeypatch.setattr(layers, "dropout", record)
  monkeypatch.setattr(layers, "relu_dropout", record)
  words = np.asarray(run(params, jax.random.key(0)))
  # Embeddings and states; weights, output and twice in the feed-forward block;
  # the decoder has both attentions.
  assert counts == [2 + 2 * 4]
  assert words.shape == (2 + 2 * 4 + 2 + 2 * 6, 2)
  assert len(np.unique(words, axis=0)) == len(words)


# --- Options ----------------------------------------------------------------


def test_the_convolution_is_a_depthwise_sum_over_real_neighbours():
  """With blocks that add nothing, the states are the convolved embeddings."""
  config = dataclasses.replace(TINY, depthwise_convolution=True, tied=False)
  model, params = reader(config)
  for stack in ("encoder", "decoder"):
    params = params | {
      stack: params[stack]
      | {"block": jax.tree.map(jnp.zeros_like, params[stack]["block"])}
    }
  table = np.asarray(params["shared"]["embedding"], np.float64)

  def convolved(ids, kernel, before, stack):
    words = table[ids]
    out = words.copy()
    for i in range(len(ids)):
      for j in range(len(kernel)):
        if 0 <= i + j - before < len(ids):
          out[i] += kernel[j] * words[i + j - before]
    out /= np.sqrt((out**2).mean(-1, keepdims=True) + config.eps)
    return out * np.asarray(params[stack]["final_layer_norm"]["scale"])

  kernels = [
    np.asarray(params[x]["mixing"]["kernel"]) for x in ("encoder", "decoder")
  ]
  assert [x.shape for x in kernels] == [(5, 16), (3, 16)]
  lengths = LENGTHS.reshape(-1)
  got = jax.jit(model.encode)(params, IDS[:, None], lengths[:, None])[:, 0]
  for i, n in enumerate(np.asarray(lengths)):
    want = convolved(np.asarray(IDS[i, :n]), kernels[0], 2, "encoder")
    np.testing.assert_allclose(got[i, :n], want, atol=1e-5)
  out = logits(config, params)
  for i in range(B):
    want = convolved(np.asarray(INPUTS[i]), kernels[1], 2, "decoder")
    head = np.asarray(params["lm_head"]["kernel"])
    np.testing.assert_allclose(out[i], want @ head, atol=1e-4)


def test_features_add_their_embedding_to_the_words():
  config = dataclasses.replace(TINY, overlap_features=3)
  params = reader(config)[1]
  got = jax.jit(functools.partial(states, config))(params)
  # One row of the table per token, so that both are one look-up.
  words = params["shared"]["embedding"][IDS].reshape(-1, 16)
  both = words + params["flags"]["embedding"][FEATURES].reshape(-1, 16)
  plain = dict(params, shared={"embedding": both})
  rows = jnp.arange(B * K * L).reshape(B * K, L)
  looked_up = dataclasses.replace(TINY, vocab_size=B * K * L)
  want = jax.jit(functools.partial(states, looked_up))(plain, rows)
  np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(("count", "given"), [(3, None), (0, FEATURES)])
def test_features_and_model_must_fit(count, given):
  model, params = reader(dataclasses.replace(TINY, overlap_features=count))
  given = None if given is None else given.reshape(B, K, L)
  with pytest.raises(ValueError, match=f"T5 with overlap_features={count}"):
    model.encode(params, IDS_BKL, LENGTHS, overlap_features=given)


def spans_in_numpy(plain, head, lengths):
  """Scores, weights and states of one question's passages, in float64.

  States + p(start)·e₀ + p(end)·e₁ + (begun and not ended)·e₂, where p is over
  all real tokens of all passages, and no span crosses from one to the next.
  """
  edges = [x[:n] @ head["kernel"] for x, n in zip(plain, lengths, strict=True)]
  total = sum(np.exp(x).sum(0) for x in edges)
  weights = []
  for x in edges:
    start, end = (np.exp(x) / total).T
    inside = [start[: j + 1].sum() - end[:j].sum() for j in range(len(x))]
    weights.append(np.stack([start, end, np.array(inside)], axis=1))
  states = [
    x[:n] + w @ head["marks"]
    for x, n, w in zip(plain, lengths, weights, strict=True)
  ]
  return edges, weights, states


def test_spans_equal_numpy_and_sum_to_one_over_the_passages():
  config = dataclasses.replace(TINY, span_head=True)
  model, params = reader(config)
  plain = np.asarray(T5(TINY).encode(params, IDS_BKL, LENGTHS), np.float64)
  got, scores = model.encode_with_spans(params, IDS_BKL, LENGTHS)
  np.testing.assert_array_equal(got, model.encode(params, IDS_BKL, LENGTHS))
  head = {k: np.asarray(v, np.float64) for k, v in params["span_head"].items()}
  for i, lengths in enumerate(LENGTHS.tolist()):
    want = spans_in_numpy(plain[i], head, lengths)
    added = 0.0
    for j, (edges, _, states) in enumerate(zip(*want, strict=True)):
      n = lengths[j]
      np.testing.assert_allclose(scores[i, j, :n], edges, atol=1e-4)
      assert (np.asarray(scores[i, j, n:]) < -1e8).all()
      np.testing.assert_allclose(got[i, j, :n], states, atol=1e-4)
      # The weights, from what was added to the states; padding has none.
      sums = np.asarray(got[i, j] - plain[i, j], np.float64).sum(0)
      added = added + np.linalg.lstsq(head["marks"].T, sums)[0]
    np.testing.assert_allclose(added[:2], 1.0, atol=1e-4)
  low = T5(dataclasses.replace(config, dtype="bfloat16"))
  halves = low.encode_with_spans(params, IDS_BKL, LENGTHS)[1]
  assert halves.dtype == jnp.float32 and np.isfinite(halves).all()
  with pytest.raises(ValueError, match="span_head=False has no span scores"):
    T5(TINY).encode_with_spans(params, IDS_BKL, LENGTHS)


def test_span_embeddings_weigh_tokens_as_the_span_loss_does():
  """Embeddings e₀ = 1 and others 0: what is added is the probability."""
  config = dataclasses.replace(TINY, span_head=True)
  model, params = reader(config)
  marks = jnp.zeros((3, 16)).at[0].set(1.0)
  params = params | {"span_head": params["span_head"] | {"marks": marks}}
  got, scores = model.encode_with_spans(params, IDS_BKL, LENGTHS)
  added = got - T5(TINY).encode(params, IDS_BKL, LENGTHS)
  added = np.asarray(added[..., 0]).reshape(B, K * L)
  # A start at any place and an end anywhere: its likelihood is the weight.
  anywhere = jnp.broadcast_to(jnp.arange(K * L), (B, K * L))
  for place in (0, L, 3 * L + 1):
    starts = jnp.full((B, K * L), -1).at[:, 0].set(place)
    losses, _ = span_loss(scores.reshape(B, K * L, 2), starts, anywhere)
    np.testing.assert_allclose(added[:, place], np.exp(-losses), atol=1e-5)


def test_mimetic_init_and_features():
  config = dataclasses.replace(
    TINY, width=32, heads=2, head_dim=16, mimetic=True, overlap_features=3
  )
  params = jax.jit(T5(config).init)(jax.random.key(0))

  def kernels(stack: str, layer: int, name: str) -> dict[str, np.ndarray]:
    block = params[stack]["block"][f"layer_{layer}"][name]
    return {k: np.asarray(v["kernel"]) for k, v in block.items()}

  for where in (
    ("encoder", 0, "SelfAttention"),
    ("decoder", 0, "SelfAttention"),
    ("decoder", 1, "EncDecAttention"),
  ):
    found = kernels(*where)
    apart = (found["k"] - found["q"]).std() / found["q"].std()
    assert 0 < apart < 0.2
    product = found["q"].std() * found["k"].std()
    assert abs(product / (32**-1 * 16**-0.5) - 1) < 0.2
  cross = kernels("decoder", 1, "EncDecAttention")
  for name in "vo":
    assert np.abs(cross[name] - 0.7 * np.eye(32)).max() < 0.15
  for stack, both_ways in (("encoder", True), ("decoder", False)):
    table = params[stack]["relative_attention_bias"]["embedding"]
    bias = position_bias(config, table, 12, both_ways=both_ways)
    near, far = bias[0, 0, 11, 11], bias[0, 0, 11, 3]
    assert near - far > 2.5
    assert np.abs(table[:, 1]).max() < 1
  features = np.asarray(params["flags"]["embedding"])
  assert (features[0] == 0).all()
  assert (features[1:].std(-1) > 0.1).all()


def test_mimetic_init_leaves_values_random_where_shapes_do_not_allow_it():
  config = dataclasses.replace(TINY, mimetic=True)
  params = jax.jit(T5(config).init)(jax.random.key(0))
  cross = params["decoder"]["block"]["layer_1"]["EncDecAttention"]
  value = np.asarray(cross["v"]["kernel"])
  assert value.shape == (2, 16, 12)
  assert abs(value.std() - 16**-0.5) < 0.05


# --- Costs and errors -------------------------------------------------------


@pytest.mark.parametrize("gated", [False, True])
def test_flops_agree_with_the_compiler(gated):
  # Wide enough for the products to outweigh what is not counted.
  config = T5Config(
    vocab_size=2000,
    width=256,
    layers=2,
    decoder_layers=3,
    heads=6,
    head_dim=32,
    mlp_dim=700,
    gated=gated,
    tied=not gated,
    scan=False,
  )
  model = T5(config)

  def forward(params, ids, lengths, inputs):
    encoder_states = model.encode(params, ids, lengths)
    return model.decode(params, inputs, encoder_states, lengths)

  shapes = ((2, 3, 64), (2, 3), (2, 24))
  params = jax.eval_shape(model.init, jax.random.key(0))
  inputs = (jax.ShapeDtypeStruct(x, jnp.int32) for x in shapes)
  compiled = jax.jit(forward).lower(params, *inputs).compile()
  want = compiled.cost_analysis()["flops"]
  assert 0.9 * want < model.flops(b=2, k=3, l=64, t=24) <= 1.01 * want


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("dtype", "float16", "dtype='float16' is unknown.*bfloat16"),
    ("remat", "half", "remat='half' is unknown.*dots"),
    ("dropout", 1.0, r"dropout=1.0 is not in \[0, 1\)"),
    ("relative_buckets", 6, "relative_buckets=6 is not a multiple of 4"),
    ("relative_distance", 16, "does not exceed the 16 exact distances"),
    ("eos_id", 50, "eos_id=50 is not a row .* vocab_size=50"),
    ("start_id", -1, "start_id=-1 is not a row"),
  ],
)
def test_config_is_checked(field, value, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(TINY, **{field: value})


@pytest.mark.parametrize("shape", [(3, 1), (1, 3)])
def test_a_bias_for_other_layers_or_heads_is_refused(shape):
  model, params = reader()
  bias = jnp.zeros((shape[0], B, shape[1], K))
  encoder_states = jnp.zeros((B, K, L, 16))
  with pytest.raises(ValueError, match=r"layers in \(1, 2\) and heads in"):
    model.decode(params, INPUTS, encoder_states, LENGTHS, bias=bias)
