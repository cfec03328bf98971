"""Rows in groups by length give what one group gives."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odqa_jax.models.bert import BertConfig
from odqa_jax.models.dual_encoder import DualEncoder, EncoderConfig
from odqa_jax.models.length_groups import (
  Group,
  GroupedEncoder,
  GroupedT5,
  LengthProfile,
  fits,
)
from odqa_jax.models.t5 import T5, T5Config

# Text lengths as they are: few long ones.
LENGTHS = np.minimum(
  np.random.default_rng(0).lognormal(3.0, 0.5, 5000).astype(int) + 2, 64
)
PROFILE = LengthProfile.of(LENGTHS, groups=3, step=8)


def rows(count, width, seed=0):
  """Ids with other values in the padding, as nobody may look at it."""
  rng = np.random.default_rng(seed)
  lengths = rng.choice(LENGTHS[LENGTHS <= width], count).astype(np.int32)
  ids = rng.integers(3, 40, (count, width)).astype(np.int32)
  return jnp.asarray(ids), jnp.asarray(lengths)


@pytest.mark.parametrize(("count", "longest"), [(64, 64), (300, 60), (7, 64)])
def test_groups_are_the_cheapest_that_hold_all(count, longest):
  """Against all choices of lengths; no group holds less than are expected."""
  for number in (1, 2, 3):
    profile = LengthProfile.of(LENGTHS, groups=number, step=8)
    groups = profile.divide(count, longest)
    assert sum(group.rows for group in groups) == count
    assert groups[-1].length == longest and len(groups) <= number
    steps = range(8, longest, 8)
    above = {0: count, longest: 0}
    for length in steps:
      share = (LENGTHS > length).mean()
      spread = 5 * np.sqrt(count * share * (1 - share))
      above[length] = min(int(np.ceil(count * share + spread)), count)
    costs = []
    for chosen in itertools.combinations(steps, number - 1):
      ends = (0, *chosen, longest)
      costs.append(
        sum((above[a] - above[b]) * b for a, b in itertools.pairwise(ends))
      )
    assert sum(rows * length for rows, length in groups) == min(costs)


def test_nearly_all_batches_fit_and_none_that_is_cut():
  groups = PROFILE.divide(64, 64)
  assert len(groups) == 3
  rng = np.random.default_rng(1)
  drawn = rng.choice(LENGTHS, (500, 64))
  found = np.asarray(jax.vmap(lambda x: fits(x, groups))(drawn))
  assert found.mean() > 0.99
  long = jnp.full(64, 64)
  assert not fits(long, groups)
  # As many as there is room for, and one more.
  room, length = groups[2].rows, groups[1].length
  most = np.full(64, 1)
  most[:room] = 64
  assert fits(jnp.asarray(most), groups)
  most[room] = length + 1
  assert not fits(jnp.asarray(most), groups)


def bert_pair(pooling):
  bert = BertConfig(40, 16, 1, 2, 32, max_positions=64, dropout=0.1)
  config = EncoderConfig(bert, pooling=pooling)
  return DualEncoder(config), GroupedEncoder(config, PROFILE)


def t5_pair(**changes):
  config = T5Config(
    vocab_size=40, width=16, layers=1, decoder_layers=1, heads=2, head_dim=8,
    mlp_dim=32, start_id=1, eos_id=2, **changes,
  )  # fmt: skip
  return T5(config), GroupedT5(config, PROFILE)


def values_and_gradients(function, params):
  def both(params):
    values, pull = jax.vjp(function, params)
    return values, pull(jnp.cos(values))

  return jax.jit(both)(params)


def close(a, b):
  # Sums over tokens in another order, of values about 1.
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-5), a, b
  )


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.slow
def test_passages_are_embedded_as_without_groups(pooling):
  plain, grouped = bert_pair(pooling)
  params = plain.init(jax.random.key(0))
  ids, lengths = rows(48, 64)
  assert fits(lengths, PROFILE.divide(48, 64))

  def embed(model):
    return lambda p: model.encode_passage(p, ids, lengths)

  close(*(values_and_gradients(embed(m), params) for m in (grouped, plain)))


@pytest.mark.slow
@pytest.mark.parametrize(
  "changes",
  [
    {},
    {"span_head": True, "overlap_features": 4, "depthwise_convolution": True},
  ],
)
def test_readers_see_the_same_tokens(changes):
  """Whose padding, which is not the same, no decoder looks at."""
  plain, grouped = t5_pair(**changes)
  params = plain.init(jax.random.key(0))
  ids, lengths = (x.reshape(12, 4, *x.shape[1:]) for x in rows(48, 64))
  features = ids % 4 if changes else None
  real = np.arange(64) < np.asarray(lengths)[..., None]
  inputs = grouped.shift_right(ids[:, 0, :3])

  def states(model):
    return lambda p: model.encode(p, ids, lengths, overlap_features=features)

  def logits(model):
    return lambda p: model.decode(p, inputs, states(model)(p), lengths)

  one, two = (np.asarray(jax.jit(states(m))(params)) for m in (plain, grouped))
  close(two[real], one[real])
  close(*(values_and_gradients(logits(m), params) for m in (grouped, plain)))


@pytest.mark.slow
def test_no_two_groups_drop_the_same():
  """Equal rows: without dropout one result, with it all are different."""
  _, grouped = bert_pair("mean")
  params = grouped.init(jax.random.key(0))
  ids = jnp.full((48, 64), 7, jnp.int32)
  lengths = jnp.full(48, 5, jnp.int32)
  embed = jax.jit(grouped.encode_passage)
  plain = np.asarray(embed(params, ids, lengths))
  np.testing.assert_allclose(plain, plain[:1].repeat(48, 0), atol=1e-5)
  rng = jax.random.key(3)
  dropped = np.asarray(embed(params, ids, lengths, rng=rng))
  distances = np.abs(dropped[:, None] - dropped[None]).max(axis=2)
  assert distances[~np.eye(48, dtype=bool)].min() > 1e-3
  again = embed(params, ids, lengths, rng=rng)
  np.testing.assert_array_equal(again, dropped)


def test_flops_are_those_of_the_groups():
  groups = PROFILE.divide(48, 64)
  plain, grouped = bert_pair("mean")
  expected = sum(plain.passage_flops(*group) for group in groups)
  assert grouped.passage_flops(48, 64) == expected < plain.passage_flops(48, 64)
  plain, grouped = t5_pair()
  whole = plain.flops(b=12, k=4, l=64, t=5)
  saved = plain.encoder_flops(48, 64)
  saved -= sum(plain.encoder_flops(*group) for group in groups)
  assert grouped.flops(b=12, k=4, l=64, t=5) == pytest.approx(whole - saved)
  assert saved > 0.3 * plain.encoder_flops(48, 64)


def test_one_length_is_one_group():
  profile = LengthProfile.of(np.full(9, 30), groups=4, step=8)
  assert profile.divide(16, 32) == (Group(16, 32),)
  # A bucket that is shorter than the longest passages of the corpus.
  assert profile.divide(16, 16) == (Group(16, 16),)
