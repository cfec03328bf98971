"""Algorithm 1 of "Minimal Retrieve-and-Read" against NumPy, by hand.

The network is linear: a question is the sum of its tokens' rows times one
matrix, a passage the sum of its own times another; tokens and passages are read
with one vector each. Everything, gradients and Adam as well, is in float64.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from unified import CONFIGS, noise, unified_network

from odqa_jax.models.dual_encoder import DualEncoder
from odqa_jax.models.extractive_reader import ExtractiveReader, ExtractiveScores
from odqa_jax.models.roles import UNIFIED
from odqa_jax.runtime.config import load_config
from odqa_jax.runtime.mesh import make_mesh, to_global
from odqa_jax.runtime.settings import read_settings
from odqa_jax.training.optimizer import learning_rate
from odqa_jax.training.program import training_program
from odqa_jax.training.tasks.table import make_task

V, D, B, M, L = 12, 3, 4, 3, 7
QUESTION, PASSAGE = np.random.default_rng(7).normal(0, 0.5, (2, D, 8))
TAU = 3.0


# --- The linear network, for JAX --------------------------------------------


class LinearRetriever(DualEncoder):
  def encode_question(self, params, ids, lengths, *, rng=None):
    return self.vectors(params, ids, lengths, QUESTION)

  def encode_passage(self, params, ids, lengths, *, rng=None):
    return self.vectors(params, ids, lengths, PASSAGE)

  def vectors(self, params, ids, lengths, matrix):
    real = jnp.arange(ids.shape[1])[None] < lengths[:, None]
    rows = params["shared"]["rows"][ids] * real[..., None]
    return rows.sum(axis=1) @ matrix


class LinearReader(ExtractiveReader):
  def read(self, params, ids, lengths, first_lengths=None, *, rng=None):
    rows = params["rows"][ids]
    real = jnp.arange(ids.shape[1])[None] < lengths[:, None]
    summed = (rows * real[..., None]).sum(axis=1)
    ends = rows @ params["qa_outputs"]
    return ExtractiveScores(
      ends[..., 0], ends[..., 1], summed @ params["qa_classifier"]
    )


def linear_network():
  network = unified_network()
  network.retriever = LinearRetriever(network.config.encoder)
  network.reader = LinearReader(network.config.reader)
  return network


def start_params():
  r = np.random.default_rng(0)
  return {
    "rows": r.normal(size=(V, D)),
    "qa_outputs": r.normal(size=(D, 2)),
    "qa_classifier": r.normal(size=D),
  }


def made_batch(b=B, seed=1):
  r = np.random.default_rng(seed)
  lengths = r.integers(5, L + 1, (b, M)).astype(np.int32)
  starts = np.full((b, M, 2), -1, np.int32)
  # Two places in the first passage of each question; of one question one.
  starts[:, 0] = [1, 3]
  starts[0, 0, 1] = -1
  int32 = {"dtype": np.int32}
  return {
    "question_ids": r.integers(0, V, (b, 4), **int32),
    "question_lengths": r.integers(2, 5, b, **int32),
    "passage_ids": r.integers(0, V, (b, M, 5), **int32),
    "passage_lengths": r.integers(3, 6, (b, M), **int32),
    "run_scores": np.zeros((b, M), np.float32),
    "ids": r.integers(0, V, (b, M, L), **int32),
    "lengths": lengths,
    "first_lengths": lengths - 2,
    "passage_rows": np.zeros((b, M), np.int32),
    "passage_mask": np.ones((b, M), bool),
    "context_starts": np.ones((b, M), np.int32),
    "context_ends": lengths - 1,
    "answer_starts": starts,
    "answer_ends": np.where(starts < 0, -1, starts + 1).astype(np.int32),
    "example_mask": np.arange(b) != b - 1,
  }


# --- The same by hand --------------------------------------------------------


def softmax(x):
  weights = np.exp(x - x.max())
  return weights / weights.sum()


def sums(p, ids, lengths):
  return np.stack(
    [p["rows"][i[:n]].sum(0) for i, n in zip(ids, lengths, strict=True)]
  )


def vectors(p, batch, i):
  question = sums(
    p, batch["question_ids"][i : i + 1], batch["question_lengths"][i : i + 1]
  )[0]
  passages = sums(p, batch["passage_ids"][i], batch["passage_lengths"][i])
  return question, passages


def retrieval(p, batch, i):
  question, passages = vectors(p, batch, i)
  return (passages @ PASSAGE) @ (question @ QUESTION)


def into_rows(gradient, ids, lengths, value):
  for row, n in zip(ids, lengths, strict=True):
    np.add.at(gradient["rows"], row[:n], value)


def zeros(p):
  return {name: np.zeros_like(x) for name, x in p.items()}


def read_gradient(p, batch):
  """Of −log Σ P(start)·P(end) over the places, plus −log P(first passage)."""
  g = zeros(p)
  real = np.flatnonzero(batch["example_mask"])
  for i in real:
    inside = slice(1, batch["context_ends"][i, 0])
    ids = batch["ids"][i, 0][inside]
    logits = p["rows"][ids] @ p["qa_outputs"]
    probs = [softmax(x) for x in logits.T]
    places = [
      (s - 1, e - 1)
      for s, e in zip(
        batch["answer_starts"][i, 0], batch["answer_ends"][i, 0], strict=True
      )
      if s >= 0 and e < batch["context_ends"][i, 0]
    ]
    each = np.array([probs[0][s] * probs[1][e] for s, e in places])
    share = each / each.sum()
    slopes = np.stack(probs, axis=1)
    for (s, e), w in zip(places, share, strict=True):
      slopes[s, 0] -= w
      slopes[e, 1] -= w
    g["qa_outputs"] += p["rows"][ids].T @ slopes
    np.add.at(g["rows"], ids, slopes @ p["qa_outputs"].T)
    summed = sums(p, batch["ids"][i], batch["lengths"][i])
    rank = softmax(summed @ p["qa_classifier"]) - np.eye(M)[0]
    g["qa_classifier"] += summed.T @ rank
    for m in range(M):
      value = rank[m] * p["qa_classifier"]
      into_rows(g, batch["ids"][i, m : m + 1], [batch["lengths"][i, m]], value)
  return {name: x / len(real) for name, x in g.items()}


def retrieval_gradient(p, batch, before, reconstruct):
  """Of −log softmax(ℓ̂)₁ + KL(softmax(ℓ/τ) ‖ softmax(ℓ̂/τ)), by θ̂ alone."""
  g = zeros(p)
  real = np.flatnonzero(batch["example_mask"])
  for i in real:
    after = retrieval(p, batch, i)
    slope = softmax(after) - np.eye(M)[0]
    if reconstruct:
      slope += (softmax(after / TAU) - softmax(before[i] / TAU)) / TAU
    question, passages = vectors(p, batch, i)
    towards = (slope @ passages @ PASSAGE) @ QUESTION.T
    into_rows(
      g,
      batch["question_ids"][i : i + 1],
      batch["question_lengths"][i : i + 1],
      towards,
    )
    back = PASSAGE @ (question @ QUESTION)
    for m in range(M):
      into_rows(
        g,
        batch["passage_ids"][i, m : m + 1],
        [batch["passage_lengths"][i, m]],
        slope[m] * back,
      )
  return {name: x / len(real) for name, x in g.items()}


class Adam:
  """With a clipped gradient, and its bias corrections by hand."""

  def __init__(self, p, settings, rate):
    self.settings, self.rate, self.count = settings, rate, 0
    self.mean, self.square = zeros(p), zeros(p)

  def update(self, p, g):
    s = self.settings
    norm = np.sqrt(sum((x**2).sum() for x in g.values()))
    if norm > s.clip_norm:
      g = {name: x * s.clip_norm / norm for name, x in g.items()}
    rate = float(self.rate(self.count))
    self.count += 1
    made = {}
    for name, x in g.items():
      self.mean[name] = s.b1 * self.mean[name] + (1 - s.b1) * x
      self.square[name] = s.b2 * self.square[name] + (1 - s.b2) * x**2
      mean = self.mean[name] / (1 - s.b1**self.count)
      root = np.sqrt(self.square[name] / (1 - s.b2**self.count))
      made[name] = p[name] - rate * mean / (root + s.eps)
    return made


def settings_of(**changes):
  overrides = [f"{key}={value}" for key, value in changes.items()]
  config = load_config(f"{CONFIGS}/unified.py:debug,stage=iterative", overrides)
  return read_settings(config)


RATES: dict[str, Any] = {
  "optimizer.learning_rate": 0.05,
  "optimizer.warmup": 0.25,
  "optimizer.clip_norm": 0.5,
}


@pytest.mark.parametrize("reconstruct", [True, False])
def test_two_updates_are_those_of_algorithm_1(reconstruct):
  settings = settings_of(**RATES, **{"unified.reconstruction": reconstruct})
  steps = 4
  with jax.enable_x64(True):
    task = make_task(settings, {UNIFIED: linear_network()})
    params = jax.tree.map(jnp.asarray, {UNIFIED: start_params()})
    task = dataclasses.replace(task, init=lambda rng: params, dtypes=())
    mesh = make_mesh(devices=jax.devices()[:1])
    program = training_program(settings, task, mesh, steps=steps)
    state = jax.jit(program.init, out_shardings=program.shardings)()
    p = start_params()
    adam = Adam(p, settings.optimizer, learning_rate(settings.optimizer, 8))
    for step in range(2):
      batch = made_batch(seed=step)
      before = [retrieval(p, batch, i) for i in range(B)]
      middle = adam.update(p, read_gradient(p, batch))
      p = adam.update(
        middle, retrieval_gradient(middle, batch, before, reconstruct)
      )
      state, metrics = program.step(state, to_global(mesh, batch))
    # The last step's numbers are of the weights that its updates began with.
    real = range(B - 1)
    after = [retrieval(middle, batch, i) for i in real]
    nll = np.mean([-np.log(softmax(x)[0]) for x in after])
    np.testing.assert_allclose(
      np.divide(*metrics["retrieval_loss"]), nll, rtol=1e-6
    )
    if reconstruct:
      old, new = (
        [softmax(np.asarray(x) / TAU) for x in side]
        for side in ([before[i] for i in real], after)
      )
      gap = np.mean(
        [
          np.sum(a * (np.log(a) - np.log(b)))
          for a, b in zip(old, new, strict=True)
        ]
      )
      assert gap > 1e-4
      np.testing.assert_allclose(
        np.divide(*metrics["reconstruction_loss"]), gap, rtol=1e-5
      )
    parts = ("span_loss", "rank_loss", "retrieval_loss")
    parts += ("reconstruction_loss",) if reconstruct else ()
    total = sum(np.divide(*metrics[name]) for name in parts)
    np.testing.assert_allclose(np.divide(*metrics["loss"]), total, rtol=1e-6)
    for name, expected in p.items():
      # The schedule alone is in float32.
      np.testing.assert_allclose(
        state.params[UNIFIED][name], expected, rtol=1e-6, atol=1e-8
      )
    counts = [
      int(x)
      for path, x in jax.tree_util.tree_leaves_with_path(state.opt_state)
      if "count" in jax.tree_util.keystr(path)
    ]
    assert int(state.step) == 2 and set(counts) == {4}


# --- On many devices, and of a real network ---------------------------------


def one_step(network, params, devices, parts=1, eps=1e-8):
  """The weights after a step, and what it tells."""
  settings = settings_of(**RATES, **{"optimizer.eps": eps})
  settings = dataclasses.replace(settings, micro_batches=parts)
  task = make_task(settings, {UNIFIED: network})
  placed = {UNIFIED: jax.tree.map(lambda x: jnp.asarray(x), params)}
  task = dataclasses.replace(task, init=lambda rng: placed, dtypes=())
  mesh = make_mesh(devices=jax.devices()[:devices])
  program = training_program(settings, task, mesh, steps=4)
  state = jax.jit(program.init, out_shardings=program.shardings)()
  state, metrics = program.step(state, to_global(mesh, made_batch(16)))
  return jax.device_get((state.params, metrics)), task, placed


def test_devices_and_micro_batches_change_nothing():
  with jax.enable_x64(True):
    made = [
      one_step(linear_network(), start_params(), devices, parts)[0]
      for devices, parts in ((1, 1), (4, 2))
    ]
  (params, metrics), *others = made
  for found, told in others:
    for name, expected in params[UNIFIED].items():
      np.testing.assert_allclose(
        found[UNIFIED][name], expected, rtol=1e-9, atol=1e-9
      )
    for name, pair in metrics.items():
      np.testing.assert_allclose(
        np.divide(*told[name]), np.divide(*pair), rtol=1e-5
      )


@pytest.mark.slow
def test_a_step_of_a_real_network_is_that_of_both_derivatives():
  network = unified_network()
  weights = noise(network.init)
  # So large that gradients of rounding alone make no difference.
  eps = 0.1
  (found, _), task, params = one_step(network, weights, 1, eps=eps)
  assert task.second is not None and task.updates == 2
  batch = jax.tree.map(jnp.asarray, made_batch(16))
  after = batch | dict(task.second.remember(params, batch, None))
  tx = optax.chain(
    optax.clip_by_global_norm(RATES["optimizer.clip_norm"]),
    optax.scale_by_adam(eps=eps),
    optax.scale_by_learning_rate(
      learning_rate(settings_of(**RATES).optimizer, 8)
    ),
  )
  opt_state, made = tx.init(params), params
  for loss, inputs in ((task.loss, batch), (task.second.loss, after)):

    @jax.jit
    def slope(params, loss=loss, inputs=inputs):
      return jax.grad(lambda p: loss(p, inputs, None)[0])(params)

    updates, opt_state = tx.update(slope(made), opt_state, made)
    made = optax.apply_updates(made, updates)
  jax.tree.map(
    # In float32, compiled as two programs and as one.
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    found,
    made,
  )
