"""The reader's objectives against NumPy in float64 and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from odqa_jax.objectives import reader as objectives
from odqa_jax.runtime.settings import MARGINALS


@pytest.fixture(autouse=True)
def double_precision():
  jax.config.update("jax_enable_x64", True)
  yield
  jax.config.update("jax_enable_x64", False)


def check_gradients(f, *args):
  """Against finite differences, which JAX takes on NumPy arrays."""
  check_grads(
    lambda *x: f(*map(jnp.asarray, x)),
    args,
    order=1,
    modes=["rev"],
    atol=1e-7,
    rtol=1e-7,
  )


def rng():
  return np.random.default_rng(0)


def log_softmax(x, axis=-1):
  x = x - x.max(axis=axis, keepdims=True)
  return x - np.log(np.exp(x).sum(axis=axis, keepdims=True))


@pytest.fixture
def example():
  """b=3 questions, k=4 passages, t=5 tokens, v=7 words."""
  r = rng()
  return {
    "logits": r.normal(size=(3, 4, 5, 7)) * 2,
    "targets": r.integers(0, 7, (3, 5)),
    "mask": np.arange(5)[None, :] < np.array([5, 3, 1])[:, None],
    "scores": r.normal(size=(3, 4)) * 3,
  }


def token_log_probs(example):
  logp = log_softmax(example["logits"])
  out = np.zeros((3, 4, 5))
  for b in range(3):
    for k in range(4):
      for t in range(5):
        out[b, k, t] = logp[b, k, t, example["targets"][b, t]]
  return out


def brute_force_marginal(example, kind):
  """Eq. 5 and its token-level form, in probabilities, one by one."""
  probs = np.exp(token_log_probs(example))
  prior = np.exp(log_softmax(example["scores"]))
  out = []
  for b in range(3):
    n = example["mask"][b].sum()
    if kind == "sequence":
      total = sum(prior[b, k] * np.prod(probs[b, k, :n]) for k in range(4))
    else:
      total = np.prod(
        [sum(prior[b, k] * probs[b, k, j] for k in range(4)) for j in range(n)]
      )
    out.append(np.log(total))
  return np.array(out)


def marginal(logits, scores, example, kind):
  tokens = objectives.token_log_likelihoods(
    logits, jnp.broadcast_to(example["targets"][:, None], (3, 4, 5))
  )
  return objectives.individual_log_likelihood(
    tokens,
    jnp.asarray(example["mask"]),
    jax.nn.log_softmax(scores, axis=1),
    kind,
  )


@pytest.mark.parametrize("kind", MARGINALS)
def test_marginal_equals_numpy(example, kind):
  ours = marginal(
    jnp.asarray(example["logits"]),
    jnp.asarray(example["scores"]),
    example,
    kind,
  )
  np.testing.assert_allclose(
    ours, brute_force_marginal(example, kind), rtol=0, atol=1e-12
  )


@pytest.mark.parametrize("kind", MARGINALS)
def test_marginal_gradient_reaches_reader_and_scores(example, kind):
  check_gradients(
    lambda logits, scores: marginal(logits, scores, example, kind),
    example["logits"],
    example["scores"],
  )


def test_marginals_agree_for_one_token_and_differ_for_two(example):
  one = brute_force_marginal(example, "sequence")
  two = brute_force_marginal(example, "token")
  assert example["mask"][2].sum() == 1 and np.isclose(one[2], two[2])
  logits, scores = (
    jnp.asarray(example["logits"]),
    jnp.asarray(example["scores"]),
  )
  sequence = marginal(logits, scores, example, "sequence")
  token = marginal(logits, scores, example, "token")
  np.testing.assert_allclose(sequence[2], token[2], atol=1e-12)
  assert abs(float(sequence[0] - token[0])) > 1e-3


def test_marginal_gradient_of_scores_is_posterior_minus_prior(example):
  """The gradient of a score is p(z|a,q) − p(z|q): what helps rises."""
  scores = jnp.asarray(example["scores"])
  gradient = jax.grad(
    lambda s: marginal(
      jnp.asarray(example["logits"]), s, example, "sequence"
    ).sum()
  )(scores)
  readers = np.where(example["mask"][:, None], token_log_probs(example), 0).sum(
    -1
  )
  prior = np.exp(log_softmax(example["scores"]))
  posterior = np.exp(log_softmax(readers + log_softmax(example["scores"])))
  np.testing.assert_allclose(gradient, posterior - prior, atol=1e-12)


def test_marginal_survives_tiny_probabilities():
  """Answers of probability exp(-2000) have no place in probability space."""
  tokens = jnp.full((1, 2, 4), -500.0)
  prior = jnp.log(jnp.array([[0.25, 0.75]]))
  mask = jnp.ones((1, 4), bool)
  for kind in MARGINALS:
    out = objectives.individual_log_likelihood(tokens, mask, prior, kind)
    np.testing.assert_allclose(out, -2000.0)


def test_unknown_marginal_is_named():
  with pytest.raises(ValueError, match="marginal='mean'; known: sequence"):
    objectives.individual_log_likelihood(
      jnp.zeros((1, 1, 1)), jnp.ones((1, 1), bool), jnp.zeros((1, 1)), "mean"
    )


@pytest.mark.parametrize("kind", ["prob", "logprob"])
@pytest.mark.parametrize("scope", [(), (2,), (2, 3)])
def test_attention_bias_equals_numpy(kind, scope):
  r = rng()
  scores, weight = r.normal(size=(4, 5)), r.normal(size=scope)
  values = {
    "prob": np.exp(log_softmax(scores)),
    "logprob": log_softmax(scores),
  }[kind]
  bias = objectives.attention_bias(
    jnp.asarray(scores), jnp.asarray(weight), kind
  )
  full = np.broadcast_to(
    np.asarray(weight).reshape(*scope, *(1,) * (2 - len(scope))), (2, 3)
  )
  for y in range(2):
    for h in range(3):
      for b in range(4):
        for k in range(5):
          ours = bias[
            min(y, bias.shape[0] - 1), b, min(h, bias.shape[2] - 1), k
          ]
          assert abs(float(ours) - full[y, h] * values[b, k]) < 1e-12


def test_attention_bias_gradient_and_kinds():
  r = rng()
  for kind in ("prob", "logprob"):
    check_gradients(
      lambda s, w, kind=kind: objectives.attention_bias(s, w, kind),
      r.normal(size=(2, 3)),
      r.normal(size=(2,)),
    )
  with pytest.raises(ValueError, match="bias='score'; known: logprob, prob"):
    objectives.attention_bias(jnp.zeros((1, 2)), jnp.ones(()), "score")


def test_passage_scores_equal_numpy():
  r = rng()
  q, z = r.normal(size=(3, 8)), r.normal(size=(3, 4, 8))
  ours = objectives.passage_scores(jnp.asarray(q), jnp.asarray(z), 8**0.5)
  expected = np.array([[q[b] @ z[b, k] for k in range(4)] for b in range(3)])
  np.testing.assert_allclose(ours, expected / np.sqrt(8), atol=1e-12)


def test_span_loss_equals_numpy():
  r = rng()
  logits = r.normal(size=(3, 10, 2)) * 2
  starts = np.array([[2, 7], [-1, 4], [-1, -1]])
  ends = np.array([[3, 8], [-1, 4], [-1, -1]])
  losses, found = objectives.span_loss(
    jnp.asarray(logits), jnp.asarray(starts), jnp.asarray(ends)
  )
  probs = np.exp(log_softmax(logits, axis=1))
  expected = []
  for b in range(3):
    s = [i for i in starts[b] if i >= 0]
    e = [i for i in ends[b] if i >= 0]
    if not s:
      expected.append(0.0)
      continue
    expected.append(
      -np.log(probs[b, s, 0].sum()) - np.log(probs[b, e, 1].sum())
    )
  np.testing.assert_allclose(losses, expected, atol=1e-9)
  assert found.tolist() == [True, True, False]
  check_gradients(
    lambda x: objectives.span_loss(x, jnp.asarray(starts), jnp.asarray(ends))[
      0
    ],
    logits,
  )
