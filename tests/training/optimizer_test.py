"""The optax chain: schedule, decay mask, factors, freezing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from odqa_jax.runtime.mesh import path_name
from odqa_jax.runtime.settings import OptimizerSettings, Settings
from odqa_jax.training.optimizer import learning_rate, make_optimizer

PARAMS = {
  "question": {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}},
  "passage": {"LayerNorm": {"scale": jnp.ones(2)}},
}


def updates_after(gradients, **settings):
  chosen = {"learning_rate": 0.1, "warmup": 0.0, **settings}
  tx = make_optimizer(OptimizerSettings(**chosen), steps=10)
  out, _ = tx.update(gradients, tx.init(PARAMS), PARAMS)
  return {
    path_name(path): np.asarray(u)
    for path, u in jax.tree_util.tree_flatten_with_path(out)[0]
  }


def test_schedule_rises_then_falls_to_zero():
  rate = learning_rate(OptimizerSettings(learning_rate=1.0, warmup=0.2), 10)
  values = [float(rate(i)) for i in range(11)]
  assert values[0] == pytest.approx(1 / 3)
  assert values[2] == 1.0
  assert values[10] == 0.0
  assert all(v > 0 for v in values[:10])
  assert values[2:] == sorted(values[2:], reverse=True)


def test_a_warm_up_may_be_so_many_steps():
  settings = OptimizerSettings(learning_rate=1.0, warmup=0.5, warmup_steps=3)
  for steps in (10, 1000):
    rate = learning_rate(settings, steps)
    values = [float(rate(i)) for i in range(5)]
    assert values[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert values[4] < 1


def test_decay_spares_biases_and_norms():
  zero = jax.tree.map(jnp.zeros_like, PARAMS)
  got = updates_after(zero, weight_decay=0.5)
  np.testing.assert_allclose(got["question/dense/kernel"], -0.05, rtol=1e-6)
  assert not got["question/dense/bias"].any()
  assert not got["passage/LayerNorm/scale"].any()


def test_multipliers_scale_and_zero_freezes():
  ones = jax.tree.map(jnp.ones_like, PARAMS)
  plain = updates_after(ones, weight_decay=0.0)
  got = updates_after(
    ones,
    weight_decay=0.0,
    multipliers=((r"question/.*bias", 0.5), (r"passage/.*", 0.0)),
  )
  np.testing.assert_allclose(
    got["question/dense/bias"], 0.5 * plain["question/dense/bias"], rtol=1e-6
  )
  # Not equal to the bit: what is frozen is left out of the clipped norm.
  np.testing.assert_allclose(
    got["question/dense/kernel"], plain["question/dense/kernel"], rtol=1e-5
  )
  assert not got["passage/LayerNorm/scale"].any()


def test_frozen_gradients_do_not_count_in_the_clipped_norm():
  gradients = jax.tree.map(jnp.ones_like, PARAMS)
  gradients["passage"] = jax.tree.map(lambda x: x * 1e9, gradients["passage"])
  free = {"weight_decay": 0.0, "eps": 1.0}
  frozen = updates_after(gradients, multipliers=((r"passage/.*", 0.0),), **free)
  assert np.abs(frozen["question/dense/kernel"]).min() > 1e-3


JOINT = {
  "bias": {"lambda": jnp.ones(2)},
  "reader": {"dense": {"kernel": jnp.ones((2, 2))}},
}
RATES = (("bias/lambda", 1e-3),)


def moved_in(updates, **settings):
  """How far λ and a kernel come in the first updates of 12,370."""
  chosen = {"warmup": 0.0, "weight_decay": 0.0, **settings}
  tx = make_optimizer(OptimizerSettings(**chosen), steps=12_370, rates=RATES)
  # Adam's steps are as long as the rate where a gradient keeps its sign.
  gradients = jax.tree.map(jnp.ones_like, JOINT)
  params, state = JOINT, tx.init(JOINT)
  for _ in range(updates):
    changes, state = tx.update(gradients, state, params)
    params = optax.apply_updates(params, changes)
  moved = jax.tree.map(lambda a, b: np.asarray(a - b), JOINT, params)
  return moved["bias"]["lambda"], moved["reader"]["dense"]["kernel"]


def test_lambda_moves_by_a_rate_of_its_own():
  lambdas, kernels = moved_in(3)
  np.testing.assert_allclose(lambdas, 3 * 1e-3, rtol=1e-3)
  # f32 holds the difference from 1 to three digits here.
  np.testing.assert_allclose(kernels, 3 * 2e-5, rtol=1e-2)


def test_multipliers_apply_on_top_of_a_rate_and_zero_freezes():
  halved, kernels = moved_in(3, multipliers=(("bias/.*", 0.5),))
  np.testing.assert_allclose(halved, 3 * 0.5e-3, rtol=1e-3)
  np.testing.assert_allclose(kernels, 3 * 2e-5, rtol=1e-2)
  frozen, kernels = moved_in(3, multipliers=(("bias/.*", 0.0),))
  assert not frozen.any()
  np.testing.assert_allclose(kernels, 3 * 2e-5, rtol=1e-2)


def test_lambda_can_leave_its_start_within_the_papers_steps():
  """The sum of rates bounds how far Adam can carry a weight."""
  steps = 12_370
  settings = Settings()
  assert (settings.optimizer.learning_rate, settings.optimizer.warmup) == (
    2e-5,
    0.01,
  )
  rate = learning_rate(settings.optimizer, steps)
  shared = float(np.sum(np.asarray(rate(jnp.arange(steps)), np.float64)))
  assert shared == pytest.approx(0.12, abs=0.005)
  own = settings.objective.bias_learning_rate
  assert own * shared / settings.optimizer.learning_rate >= 6


def test_rule_that_matches_nothing_is_an_error():
  ones = jax.tree.map(jnp.ones_like, PARAMS)
  with pytest.raises(ValueError, match=r"'reader/.*' matches no parameter"):
    updates_after(ones, multipliers=((r"reader/.*", 0.0),))
