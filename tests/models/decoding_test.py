"""Greedy and beam search against transformers and teacher forcing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from torch_t5 import model_and_params, noise

from odqa_jax.models import decoding
from odqa_jax.models.decoding import beam_search, greedy
from odqa_jax.models.t5 import T5, T5Config
from odqa_jax.runtime.mesh import make_mesh

PLAIN = T5Config(
  vocab_size=24,
  width=16,
  layers=1,
  decoder_layers=2,
  heads=2,
  head_dim=6,
  mlp_dim=24,
)
CONVOLVED = dataclasses.replace(
  PLAIN, depthwise_convolution=True, start_id=5, pad_id=3
)
B, K, L, T = 16, 3, 7, 8
RNG = np.random.default_rng(4)
LENGTHS = jnp.asarray(RNG.integers(0, L + 1, (B, K)), jnp.int32)
STATES = jnp.asarray(RNG.normal(0, 1, (B, K, L, 16)), jnp.float32)
BIAS = jnp.asarray(RNG.normal(0, 2, (2, B, 2, K)), jnp.float32)


@functools.cache
def reader(config: T5Config):
  """A model that ends some answers early and others not at all."""
  model = T5(config)
  params = noise(jax.eval_shape(model.init, jax.random.key(0)), seed=3)
  table = params["shared"]["embedding"]
  table = table.at[config.eos_id].multiply(2.0)
  return model, params | {"shared": {"embedding": table}}


def compiled(search, model, **settings):
  return jax.jit(
    lambda params, states, lengths, bias: search(
      model, params, states, lengths, bias=bias, **settings
    )
  )


def teacher_forced(model, params, ids, bias=BIAS):
  """Log probabilities of every token after the tokens of `ids` before it."""
  inputs = model.shift_right(jnp.asarray(ids))
  decode = jax.jit(model.decode)
  logits = decode(params, inputs, STATES, LENGTHS, bias=bias)
  return np.asarray(jax.nn.log_softmax(logits))


def counted(config: T5Config, ids) -> np.ndarray:
  """Which tokens belong to the answer: all up to the first end token."""
  ended = np.cumsum(np.asarray(ids) == config.eos_id, axis=1)
  before = np.pad(ended[:, :-1], ((0, 0), (1, 0)))
  return before == 0


def check_form(config: T5Config, ids) -> None:
  """Nothing but padding after the end; ends early, late and never."""
  ids = np.asarray(ids)
  inside = counted(config, ids)
  assert (ids[~inside] == config.pad_id).all()
  lengths = inside.sum(1)
  assert len(set(lengths.tolist())) > 2


@pytest.mark.parametrize(
  "config",
  [PLAIN, CONVOLVED, dataclasses.replace(CONVOLVED, scan=False)],
  ids=["plain", "convolved", "unrolled"],
)
def test_greedy_with_a_cache_is_the_teacher_forced_argmax(config):
  model, params = reader(config)
  ids, sums = compiled(greedy, model, max_tokens=T)(
    params, STATES, LENGTHS, BIAS
  )
  assert ids.shape == (B, T) and ids.dtype == jnp.int32
  check_form(config, ids)
  log_probs = teacher_forced(model, params, ids)
  inside = counted(config, ids)
  np.testing.assert_array_equal(
    np.asarray(ids)[inside], log_probs.argmax(-1)[inside]
  )
  want = np.where(inside, log_probs.max(-1), 0.0).sum(1)
  np.testing.assert_allclose(sums, want, atol=2e-5)


@pytest.mark.parametrize(
  ("config", "beams"),
  [(CONVOLVED, 3), (dataclasses.replace(CONVOLVED, scan=False), 4)],
)
def test_scores_of_beams_are_those_of_teacher_forcing(config, beams):
  """The cache follows its hypothesis, with a bias and with a convolution."""
  model, params = reader(config)
  search = compiled(
    beam_search, model, max_tokens=T, beams=beams, length_penalty=0.7
  )
  ids, scores = search(params, STATES, LENGTHS, BIAS)
  check_form(config, ids)
  log_probs = teacher_forced(model, params, ids)
  chosen = np.take_along_axis(log_probs, np.asarray(ids)[:, :, None], 2)
  inside = counted(config, ids)
  sums = np.where(inside, chosen[:, :, 0], 0.0).sum(1)
  np.testing.assert_allclose(scores, sums / inside.sum(1) ** 0.7, atol=2e-5)
  _, greedy_sums = compiled(greedy, model, max_tokens=T)(
    params, STATES, LENGTHS, BIAS
  )
  assert (sums > np.asarray(greedy_sums) + 1e-3).any()


def test_one_beam_is_greedy():
  model, params = reader(CONVOLVED)
  search = compiled(beam_search, model, max_tokens=T, beams=1)
  ids, scores = search(params, STATES, LENGTHS, BIAS)
  want, sums = compiled(greedy, model, max_tokens=T)(
    params, STATES, LENGTHS, BIAS
  )
  np.testing.assert_array_equal(ids, want)
  lengths = counted(CONVOLVED, want).sum(1)
  np.testing.assert_allclose(scores, sums / lengths, atol=1e-5)


def test_wide_beams_find_the_best_of_all_answers():
  """Two tokens of a vocabulary of six: all that extend the best three."""
  config = dataclasses.replace(PLAIN, vocab_size=6)
  model, params = reader(config)
  length, beams = 2, 3
  search = compiled(
    beam_search, model, max_tokens=length, beams=beams, length_penalty=0.0
  )
  ids, scores = search(params, STATES, LENGTHS, BIAS)
  firsts = np.arange(6)
  first = teacher_forced(model, params, np.zeros((B, 1), np.int32))[:, 0]
  # All answers of two tokens that start with one of the three best tokens.
  best = np.full(B, -np.inf)
  answers = np.zeros((B, length), int)
  for token in firsts:
    given = np.full((B, length), token, np.int32)
    second = teacher_forced(model, params, given)[:, 1]
    rank = (first > first[:, token][:, None]).sum(1)
    for after in firsts:
      total = first[:, token] + second[:, after]
      pair = [token, after]
      if token == config.eos_id:
        total, pair = first[:, token], [token, config.pad_id]
      better = (rank < beams) & (total > best)
      best = np.where(better, total, best)
      answers[better] = pair
  np.testing.assert_allclose(scores, best, atol=1e-5)
  np.testing.assert_array_equal(ids, answers)


# --- Against transformers ---------------------------------------------------


def torch_case(*, gated: bool):
  """A model that ends some answers within eight tokens, by trial."""
  seed, factor = (0, 1.6) if gated else (2, 6.0)
  config, model, params = model_and_params(
    gated=gated, vocab_size=24, seed=seed
  )
  import torch

  with torch.no_grad():
    table = model.lm_head.weight
    table[1] *= factor
  if gated:
    kernel = params["lm_head"]["kernel"].at[:, 1].multiply(factor)
    params["lm_head"]["kernel"] = kernel
  else:
    table = params["shared"]["embedding"].at[1].multiply(factor)
    params["shared"]["embedding"] = table
  rng = np.random.default_rng(seed)
  ids = rng.integers(2, 24, (B, L)).astype(np.int32)
  lengths = rng.integers(1, L + 1, B).astype(np.int32)
  return config, model, params, jnp.asarray(ids), jnp.asarray(lengths)


def generate(model, ids, lengths, **settings):
  """Ids without the start token, padding after the end; and the scores."""
  import torch

  mask = np.arange(L)[None] < np.asarray(lengths)[:, None]
  with torch.no_grad():
    out = model.generate(
      input_ids=torch.tensor(np.asarray(ids)).long(),
      attention_mask=torch.tensor(mask).long(),
      max_new_tokens=T,
      do_sample=False,
      return_dict_in_generate=True,
      output_scores=True,
      **settings,
    )
  found = out.sequences.numpy()[:, 1:]
  found = np.pad(found, ((0, 0), (0, T - found.shape[1])))
  # Transformers pads beams with end tokens where padding is token 0.
  ended = np.cumsum(found == 1, axis=1) - (found == 1)
  return np.where(ended > 0, 0, found), out


@pytest.mark.torch
@pytest.mark.parametrize(
  ("gated", "beams"),
  [(False, ((2, 1.0), (4, 2.0))), (True, ((3, 0.0), (3, -1.0)))],
)
def test_searches_agree_with_transformers(gated, beams):
  config, theirs, params, ids, lengths = torch_case(gated=gated)
  config = dataclasses.replace(config, scan=gated)
  model = T5(config)
  passages = lengths[:, None]
  states = jax.jit(model.encode)(params, ids[:, None], passages)
  inputs = (params, states, passages, None)
  got, _ = compiled(greedy, model, max_tokens=T)(*inputs)
  want, _ = generate(theirs, ids, lengths, num_beams=1)
  np.testing.assert_array_equal(got, want)
  check_form(config, got)
  for width, penalty in beams:
    settings = {"beams": width, "length_penalty": penalty}
    got, scores = compiled(beam_search, model, max_tokens=T, **settings)(
      *inputs
    )
    want, out = generate(
      theirs,
      ids,
      lengths,
      num_beams=width,
      length_penalty=penalty,
      early_stopping=False,
    )
    np.testing.assert_array_equal(got, want)
    np.testing.assert_allclose(
      scores, out.sequences_scores.numpy(), rtol=2e-5, atol=2e-5
    )
    # Otherwise the rules for the end were not tried.
    assert 0.05 < (want == config.eos_id).any(1).mean() < 0.95
    assert len(np.unique(want, axis=0)) > 5


# --- Execution --------------------------------------------------------------


@pytest.mark.parametrize("search", [greedy, beam_search])
def test_the_loop_stops_when_every_question_is_done(search, monkeypatch):
  """A step is a callback here; the first end token comes at once."""
  steps = []
  plain = decoding.decode_token

  def counting(config, prepared, cache, ids, position):
    jax.debug.callback(lambda i: steps.append(int(i)), position)
    return plain(config, prepared, cache, ids, position)

  monkeypatch.setattr(decoding, "decode_token", counting)
  model, params = reader(PLAIN)
  scale = params["decoder"]["final_layer_norm"]["scale"]
  table = jnp.zeros_like(params["shared"]["embedding"])
  table = table.at[PLAIN.eos_id].set(jnp.sign(scale))
  table = table.at[PLAIN.start_id].set(jnp.sign(scale) * 0.5)
  blocks = jax.tree.map(jnp.zeros_like, params["decoder"]["block"])
  params = params | {
    "shared": {"embedding": table},
    "decoder": params["decoder"] | {"block": blocks},
  }
  settings = {} if search is greedy else {"beams": 2, "length_penalty": 0.0}
  run = compiled(search, model, max_tokens=T, **settings)
  ids, _ = jax.block_until_ready(run(params, STATES, LENGTHS, BIAS))
  jax.effects_barrier()
  assert (np.asarray(ids)[:, 0] == PLAIN.eos_id).all()
  assert (np.asarray(ids)[:, 1:] == PLAIN.pad_id).all()
  assert steps == ([0] if search is greedy else [0, 1])


@pytest.mark.parametrize("search", [greedy, beam_search])
def test_passages_and_rows_without_tokens_change_no_other_row(search):
  model, params = reader(CONVOLVED)
  settings = {} if search is greedy else {"beams": 3}
  run = compiled(search, model, max_tokens=T, **settings)
  want, scores = run(params, STATES, LENGTHS, BIAS)
  emptied = LENGTHS.at[::2].set(0)
  got, other = run(params, STATES, emptied, BIAS)
  np.testing.assert_array_equal(got[1::2], want[1::2])
  np.testing.assert_allclose(other[1::2], scores[1::2], atol=1e-5)
  assert np.isfinite(other).all()


@pytest.mark.parametrize("search", [greedy, beam_search])
def test_eight_devices_and_bfloat16(search):
  model, params = reader(CONVOLVED)
  settings = {} if search is greedy else {"beams": 3}
  run = compiled(search, model, max_tokens=T, **settings)
  want, scores = run(params, STATES, LENGTHS, BIAS)
  mesh = make_mesh()

  def place(x, *axes):
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))

  rows = mesh.axis_names[0]
  got, other = run(
    jax.tree.map(place, params),
    place(STATES, rows),
    place(LENGTHS, rows),
    place(BIAS, None, rows),
  )
  np.testing.assert_array_equal(got, want)
  np.testing.assert_allclose(other, scores, atol=1e-5)
  low = T5(dataclasses.replace(CONVOLVED, dtype="bfloat16"))
  ids, halves = compiled(search, low, max_tokens=T, **settings)(
    params, STATES.astype(jnp.bfloat16), LENGTHS, BIAS
  )
  assert halves.dtype == jnp.float32 and np.isfinite(halves).all()
  assert (np.asarray(ids) == np.asarray(want)).all(1).mean() > 0.5


@pytest.mark.parametrize(
  ("search", "settings", "message"),
  [
    (greedy, {"max_tokens": 0}, "max_tokens=0 is below 1"),
    (beam_search, {"max_tokens": 0, "beams": 1}, "max_tokens=0 is below 1"),
    (beam_search, {"max_tokens": 4, "beams": 0}, "beams=0 is below 1"),
    (beam_search, {"max_tokens": 4, "beams": 13}, "the vocabulary has 24"),
  ],
)
def test_settings_are_checked(search, settings, message):
  model, params = reader(PLAIN)
  with pytest.raises(ValueError, match=message):
    search(model, params, STATES, LENGTHS, **settings)
