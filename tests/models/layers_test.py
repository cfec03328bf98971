"""Masks, heads, dropout and pooling against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odqa_jax.models import layers


def random(*shape: int, seed: int = 0) -> jax.Array:
  return jax.random.normal(jax.random.key(seed), shape)


def test_length_bias_hides_exactly_the_padding():
  bias = layers.length_bias(jnp.array([[0], [2], [3]]), 3)
  assert bias.shape == (3, 1, 1, 3)
  assert bias.dtype == jnp.float32
  hidden = np.asarray(bias[:, 0, 0] < 0)
  np.testing.assert_array_equal(
    hidden, [[True, True, True], [False, False, True], [False, False, False]]
  )


def test_heads_split_and_merge():
  x = random(2, 3, 8)
  split = layers.split_heads(x, 4)
  assert split.shape == (2, 4, 3, 2)
  np.testing.assert_array_equal(split[1, 2, 0], x[1, 0, 4:6])
  np.testing.assert_array_equal(layers.merge_heads(split), x)


def seed(number: int) -> jax.Array:
  return jax.random.bits(jax.random.key(number), (2,), jnp.uint32)


def test_dropout_rate_scale_and_determinism():
  x = jnp.ones((500, 400))
  out = layers.dropout(x, 0.1, seed(1))
  # Deviation of the share is 0.3 / sqrt(200,000) = 0.0007.
  assert abs(float(jnp.mean(out == 0)) - 0.1) < 0.003
  np.testing.assert_allclose(np.unique(out[out != 0]), [1 / 0.9], rtol=1e-6)
  np.testing.assert_array_equal(out, layers.dropout(x, 0.1, seed(1)))


def test_dropout_masks_are_independent_of_each_other_and_of_position():
  n = 1 << 16
  dropped = np.stack(
    [np.asarray(layers.dropout(jnp.ones(n), 0.25, seed(i))) for i in range(16)]
  )
  dropped = (dropped == 0) - 0.25
  # Each statistic is a mean of products with variance (.25 * .75)^2 / n.
  limit = 4.5 * 0.25 * 0.75 / n**0.5
  between = dropped @ dropped.T / n
  assert np.abs(between - np.diag(np.diag(between))).max() < limit
  for lag in (1, 2, 32, 128, 384, 16384):
    within = (dropped[:, lag:] * dropped[:, :-lag]).mean(1)
    assert np.abs(within).max() < limit * (n / (n - lag)) ** 0.5


@pytest.mark.parametrize("word", [0, 1])
def test_dropout_uses_both_words_of_the_seed(word):
  x = jnp.ones(1000)
  other = seed(1).at[word].add(1)
  assert (
    layers.dropout(x, 0.5, seed(1)) != layers.dropout(x, 0.5, other)
  ).any()


def test_dropout_gives_one_mask_on_any_layout():
  x = jnp.ones((16, 6, 10))
  mesh = jax.make_mesh((8,), ("d",), (jax.sharding.AxisType.Auto,))
  spread = jax.sharding.NamedSharding(mesh, jax.P("d"))
  drop = jax.jit(lambda x: layers.dropout(x, 0.5, seed(3)))
  np.testing.assert_array_equal(drop(x), drop(jax.device_put(x, spread)))


def test_dropout_without_seed_or_rate_changes_nothing():
  x = random(4, 5)
  assert layers.dropout(x, 0.5, None) is x
  assert layers.dropout(x, 0.0, seed(0)) is x


@pytest.mark.parametrize("words", [None, 5])
def test_relu_with_dropout_is_the_two_after_one_another(words):
  """Bit for bit, also the gradient that comes from the result alone."""
  x, g, drawn = random(64, 33), random(64, 33), words and seed(words)

  def after(x):
    return layers.dropout(jax.nn.relu(x), 0.2, drawn)

  for run in (lambda f: f, jax.jit, jax.checkpoint):
    out, back = jax.vjp(run(lambda x: layers.relu_dropout(x, 0.2, drawn)), x)
    expected, theirs = jax.vjp(after, x)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(back(g)[0], theirs(g)[0])
  kept = jax.vjp(lambda x: layers.relu_dropout(x, 0.2, drawn), x)[1]
  assert all(leaf.dtype != bool for leaf in jax.tree.leaves(kept))


def test_dropout_keeps_the_dtype():
  x = jnp.ones((8, 8), jnp.bfloat16)
  assert layers.dropout(x, 0.3, seed(0)).dtype == jnp.bfloat16


def test_masked_mean_ignores_padding():
  x = random(3, 4, 2)
  got = layers.masked_mean(x, jnp.array([0, 1, 3]))
  np.testing.assert_array_equal(got[0], [0, 0])
  np.testing.assert_allclose(got[1], x[1, 0], rtol=1e-6)
  np.testing.assert_allclose(got[2], x[2, :3].mean(0), rtol=1e-5)


def test_l2_normalise_and_its_gradient_at_zero():
  x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
  np.testing.assert_allclose(
    layers.l2_normalise(x), [[0.6, 0.8], [0, 0]], rtol=1e-6
  )
  gradient = jax.grad(lambda x: jnp.sum(layers.l2_normalise(x)))(x)
  assert np.isfinite(gradient).all()
