"""Tasks with a reader: what they equal, and what their gradients reach."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odqa_jax.models.bert import BertConfig
from odqa_jax.models.dual_encoder import DualEncoder, EncoderConfig
from odqa_jax.models.t5 import T5, T5Config
from odqa_jax.objectives import contrastive
from odqa_jax.reading.likelihoods import live_scores, read_passages
from odqa_jax.runtime.config import base_config
from odqa_jax.runtime.mesh import make_mesh, to_global
from odqa_jax.runtime.settings import read_settings
from odqa_jax.training.program import batch_gradients, make_layout
from odqa_jax.training.tasks.table import make_task

B, K, L, T, V = 8, 3, 12, 5, 40
BERT = BertConfig(V, 16, 1, 2, 32, max_positions=16, dropout=0.0)
READER = T5Config(
  vocab_size=V,
  width=16,
  layers=1,
  decoder_layers=2,
  heads=2,
  head_dim=8,
  mlp_dim=32,
  dropout=0.0,
  start_id=1,
  eos_id=2,
)


def make_config(task, **settings):
  config = base_config()
  config.task = task
  config.batch_size = B
  config.objective.temperature = 1.0
  config.update_from_flattened_dict(settings)
  return read_settings(config)


def make_components(shared=False, **reader):
  # Mean pooling: with [CLS] of random weights all embeddings are alike.
  encoder = EncoderConfig(BERT, shared=shared, pooling="mean")
  config = T5Config(**(READER.__dict__ | reader))
  return {"retriever": DualEncoder(encoder), "reader": T5(config)}


def make_batch(k=K, seed=0):
  r = np.random.default_rng(seed)

  def tokens(*shape):
    lengths = r.integers(2, shape[-1] + 1, shape[:-1])
    return r.integers(3, V, shape).astype(np.int32), lengths.astype(np.int32)

  question_ids, question_lengths = tokens(B, 6)
  passage_ids, passage_lengths = tokens(B, k, 8)
  reader_ids, reader_lengths = tokens(B, k, L)
  answer_ids, answer_lengths = tokens(B, T)
  starts = np.where(r.random((B, k)) < 0.5, 1, -1) + np.arange(k) * L
  starts = np.where(starts % L == 1, starts, -1).astype(np.int32)
  return {
    "question_ids": question_ids,
    "question_lengths": question_lengths,
    "passage_ids": passage_ids,
    "passage_lengths": passage_lengths,
    "reader_ids": reader_ids,
    "reader_lengths": reader_lengths,
    "answer_ids": answer_ids,
    "answer_lengths": answer_lengths,
    "answer_starts": starts,
    "answer_ends": starts,
    "example_mask": np.ones(B, bool),
  }


def loss_and_gradients(config, components, batch, params=None):
  task = make_task(config, components)
  if params is None:
    params = task.init(jax.random.key(0))
  (loss, metrics), gradients = jax.jit(
    jax.value_and_grad(task.loss, has_aux=True), static_argnums=2
  )(params, batch, None)
  return loss, metrics, gradients, params


def gradients_over_devices(config, components, batch, params, devices):
  """The step's own gradient, in the config's micro-batches."""
  task = make_task(config, components)
  mesh = make_mesh(devices=jax.devices()[:devices])
  layout = make_layout(config, task, mesh, params)
  run = jax.jit(
    functools.partial(
      batch_gradients, loss=task.loss, layout=layout, parts=config.parts
    )
  )
  placed = jax.device_put(params, layout.shardings)
  gradients, metrics = run(placed, to_global(mesh, batch), None)
  total, weight = metrics["loss"]
  return total / weight, metrics, jax.device_get(gradients), params


def scores_of(config, components, params, batch):
  score = functools.partial(
    live_scores,
    make_task(config, components).reading,
    components["retriever"],
    rng=None,
    train_passages=True,
  )
  return jax.jit(score)(params, batch)


def size(tree):
  return max(float(jnp.abs(x).max()) for x in jax.tree.leaves(tree))


def test_individual_is_equation_5_over_the_models_outputs():
  """Against a NumPy sum over passages of p(a|q,z) p(z|q), in probabilities."""
  config, components = make_config("individual"), make_components()
  batch = jax.tree.map(jnp.asarray, make_batch())
  loss, _, _, params = loss_and_gradients(config, components, batch)
  scores = scores_of(config, components, params, batch)
  reader = components["reader"]
  states = jax.jit(functools.partial(read_passages, reader))(
    params, batch, None
  )
  decode = jax.jit(reader.decode)
  total = []
  for i in range(B):
    exp = np.exp(np.asarray(scores[i], np.float64))
    likelihood = 0.0
    for z in range(K):
      logits = decode(
        params["reader"],
        reader.shift_right(jnp.asarray(batch["answer_ids"][i : i + 1])),
        states[i : i + 1, z : z + 1],
        jnp.asarray(batch["reader_lengths"][i : i + 1, z : z + 1]),
      )
      probs = np.asarray(jax.nn.softmax(logits[0]), np.float64)
      n = batch["answer_lengths"][i]
      chosen = probs[np.arange(n), batch["answer_ids"][i, :n]]
      likelihood += exp[z] / exp.sum() * np.prod(chosen)
    total.append(-np.log(likelihood))
  np.testing.assert_allclose(loss, np.mean(total), rtol=1e-5)


@pytest.mark.slow
def test_gradients_reach_what_the_config_says():
  components, batch = make_components(), make_batch()
  cases = {
    ("individual", True, "prob"): (True, True),
    ("individual", False, "prob"): (True, False),
    ("joint", False, "prob"): (True, False),
    ("joint", True, "logprob"): (True, True),
    ("joint", False, "none"): (False, False),
    ("fid", False, "prob"): (False, False),
  }
  for (task, context, bias), (question, passage) in cases.items():
    config = make_config(
      task,
      **{"objective.passage_encoder": context, "objective.bias": bias},
    )
    _, _, gradients, _ = loss_and_gradients(config, components, batch)
    assert size(gradients["reader"]) > 1e-4
    reached = size(gradients["retriever"]["question"]) > 0
    assert reached == question, (task, context, bias)
    reached = size(gradients["retriever"]["passage"]) > 0
    assert reached == passage, (task, context, bias)
    if "bias" in gradients:
      assert size(gradients["bias"]) > 0


def test_what_is_not_trained_is_frozen_in_the_optimizer():
  components = make_components()
  frozen = {
    task: make_task(
      make_config(task, **{"objective.passage_encoder": context}), components
    ).frozen
    for task, context in (
      ("individual", True),
      ("joint", False),
      ("fid", False),
    )
  }
  assert frozen == {
    "individual": (),
    "joint": ("retriever/passage/.*",),
    "fid": ("retriever/.*",),
  }


def test_a_shared_encoder_cannot_be_half_trained():
  config = make_config(
    "joint", **{"objective.passage_encoder": False, "model.shared": True}
  )
  with pytest.raises(ValueError, match=r"config\.model\.shared=False to train"):
    make_task(config, make_components(shared=True))


@pytest.mark.slow
def test_zero_lambda_and_no_bias_are_fusion_in_decoder_bit_for_bit():
  components, batch = make_components(), make_batch()
  fid, _, gradients, params = loss_and_gradients(
    make_config("fid"), components, batch
  )
  start = {"objective.bias_start": 0.0}
  zero, _, zero_gradients, _ = loss_and_gradients(
    make_config("joint", **start), components, batch
  )
  assert fid == zero
  for a, b in zip(
    jax.tree.leaves(gradients["reader"]),
    jax.tree.leaves(zero_gradients["reader"]),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  none, *_ = loss_and_gradients(
    make_config("joint", **{"objective.bias": "none"}),
    components,
    batch,
    params,
  )
  assert fid == none
  one, *_ = loss_and_gradients(make_config("joint"), components, batch)
  assert one != fid


@pytest.mark.slow
def test_one_passage_makes_all_tasks_one():
  """With k = 1, p(z|q) is 1: no marginal, no choice for the bias."""
  components, batch = make_components(), make_batch(k=1)
  losses = [
    float(loss_and_gradients(make_config(task), components, batch)[0])
    for task in ("individual", "joint", "fid")
  ]
  np.testing.assert_allclose(losses, losses[0], rtol=1e-6)


@pytest.mark.slow
def test_order_of_passages_and_padded_examples_do_not_matter():
  components, batch = make_components(), make_batch()
  order = np.array([2, 0, 1])
  turned = {
    name: x[:, order] if name.startswith(("passage_", "reader_")) else x
    for name, x in batch.items()
  }
  padded = jax.tree.map(lambda x: x.copy(), batch)
  padded["example_mask"][5:] = False
  other = make_batch(seed=1)
  replaced = {
    name: np.concatenate([x[:5], other[name][5:]]) for name, x in padded.items()
  } | {"example_mask": padded["example_mask"]}
  for task in ("individual", "joint"):
    config = make_config(task)
    loss, *_ = loss_and_gradients(config, components, batch)
    same, *_ = loss_and_gradients(config, components, turned)
    np.testing.assert_allclose(loss, same, rtol=1e-6)
    a, metrics, *_ = loss_and_gradients(config, components, padded)
    b, *_ = loss_and_gradients(config, components, replaced)
    assert a == b and metrics["loss"][1] == 5


@pytest.mark.slow
@pytest.mark.parametrize("task", ["individual", "joint", "fid"])
def test_accumulation_equals_the_whole_batch(task):
  components, batch = make_components(span_head=True), make_batch()
  settings = {"reader.span_loss": 0.5, "retrieval.null_document": True}
  whole = loss_and_gradients(make_config(task, **settings), components, batch)
  parts = gradients_over_devices(
    make_config(task, micro_batches=4, **settings),
    components,
    batch,
    whole[3],
    devices=1,
  )
  np.testing.assert_allclose(whole[0], parts[0], rtol=1e-6)
  assert whole[1].keys() == parts[1].keys()
  for name in whole[1]:
    total, weight = (np.asarray(x) for x in whole[1][name])
    other, other_weight = (np.asarray(x) for x in parts[1][name])
    np.testing.assert_allclose(
      total / weight, other / other_weight, rtol=1e-5, err_msg=name
    )
  for a, b in zip(
    jax.tree.leaves(whole[2]), jax.tree.leaves(parts[2]), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.eight_devices
@pytest.mark.parametrize("task", ["individual", "joint"])
@pytest.mark.slow
def test_eight_devices_equal_one(task):
  components, batch = make_components(), make_batch()
  config = make_config(task)
  one = loss_and_gradients(config, components, batch)
  eight = gradients_over_devices(config, components, batch, one[3], devices=8)
  np.testing.assert_allclose(one[0], eight[0], rtol=1e-6)
  for a, b in zip(
    jax.tree.leaves(one[2]), jax.tree.leaves(eight[2]), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_metrics_say_what_they_are_called():
  components, batch = make_components(), make_batch()
  config = make_config("individual", **{"retrieval.null_document": True})
  _, metrics, _, params = loss_and_gradients(config, components, batch)
  scores = np.asarray(
    scores_of(config, components, params, jax.tree.map(jnp.asarray, batch)),
    np.float64,
  )
  probs = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
  entropy = -(probs * np.log(probs)).sum(1).mean()
  mean = {name: float(s / w) for name, (s, w) in metrics.items()}
  np.testing.assert_allclose(mean["passage_entropy"], entropy, rtol=1e-5)
  np.testing.assert_allclose(mean["passage_top_prob"], probs.max(1).mean())
  found = (batch["answer_starts"] >= 0).any(1).mean()
  np.testing.assert_allclose(mean["answer_in_top_k"], found)
  # Utility: log p(a|q) less log p(a|q, null), the last candidate.
  null = {
    name: x[:, -1:]
    if name.startswith(("passage_", "reader_", "answer_s", "answer_en"))
    else x
    for name, x in batch.items()
  }
  alone, *_ = loss_and_gradients(
    make_config("individual"), components, null, params
  )
  np.testing.assert_allclose(
    mean["retrieval_utility"], float(alone) - mean["loss"], atol=1e-5
  )


@pytest.mark.slow
def test_lambda_scopes_and_their_names():
  components, batch = make_components(), make_batch()
  for scope, count in (("model", 1), ("layer", 2), ("head", 4)):
    config = make_config("joint", **{"objective.bias_scope": scope})
    _, metrics, _, params = loss_and_gradients(config, components, batch)
    assert params["bias"]["lambda"].size == count
    named = [name for name in metrics if name.startswith("lambda/")]
    assert len(named) == count
    assert all(float(metrics[n][0] / metrics[n][1]) == 1.0 for n in named)
  with pytest.raises(ValueError, match=r"config\.objective\.bias_scope='all'"):
    make_config("joint", **{"objective.bias_scope": "all"})


def test_masked_scores_are_finite():
  assert np.isfinite(contrastive.MASKED)
