"""A step in groups by length is the step without them."""

import functools

import jax
import numpy as np
import pytest
from small_reader import reader_settings, small_parts

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.models.length_groups import LengthProfile
from odqa_jax.runtime.mesh import make_mesh, to_global
from odqa_jax.training.length_groups import grouped_task, with_profiles
from odqa_jax.training.memory import Run
from odqa_jax.training.program import batch_gradients, make_layout
from odqa_jax.training.tasks.table import check_names, make_task

B, K, PASSAGE, READER = 32, 4, 48, 64
SHORT = np.minimum(np.random.default_rng(0).geometric(0.1, 3000) + 2, 40)


def make_batch(seed=0):
  rng = np.random.default_rng(seed)

  def tokens(*shape, lengths=None):
    if lengths is None:
      lengths = rng.integers(2, shape[-1] + 1, shape[:-1])
    return rng.integers(3, 60, shape).astype(np.int32), lengths.astype(np.int32)

  batch = {}
  for name, shape, lengths in (
    ("question", (B, 6), None),
    ("passage", (B, K, PASSAGE), rng.choice(SHORT, (B, K))),
    ("reader", (B, K, READER), rng.choice(SHORT, (B, K)) + 10),
    ("answer", (B, 5), None),
  ):
    made = tokens(*shape, lengths=lengths)
    batch |= dict(zip((f"{name}_ids", f"{name}_lengths"), made, strict=True))
  places = np.where(rng.random((B, K)) < 0.5, 12 + np.arange(K) * READER, -1)
  batch["answer_starts"] = batch["answer_ends"] = places.astype(np.int32)
  batch["example_mask"] = np.arange(B) < B - 1
  return batch


def make_run(toy_data, task, devices, **settings):
  made = reader_settings(
    task, toy_data, batch_size=B, **{"data.source": "answers"} | settings
  )
  corpus = Corpus(toy_data / "corpus")
  _, components, params, gatherer = small_parts(made, corpus)
  mesh = make_mesh(devices=jax.devices()[:devices])
  run = Run(made, check_names(made), components, mesh, len(corpus))
  return run, params, gatherer


def profiles(groups=3):
  return {
    "retriever": LengthProfile.of(SHORT, groups=groups, step=8),
    "reader": LengthProfile.of(SHORT + 10, groups=groups, step=8),
  }


def gradients(run, params, batch, task, rng=None):
  layout = make_layout(run.settings, task, run.mesh, params)
  step = jax.jit(
    functools.partial(
      batch_gradients, loss=task.loss, layout=layout, parts=run.settings.parts
    )
  )
  placed = jax.device_put(params, layout.shardings)
  return jax.device_get(step(placed, to_global(run.mesh, batch), rng))


def check_close(one, other):
  """Gradients and metrics; f32 sums of some hundred tokens in another order."""
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-6),
    one,
    other,
  )


@pytest.mark.slow
@pytest.mark.eight_devices
@pytest.mark.parametrize(
  ("task", "devices", "settings"),
  [
    ("individual", 8, {"micro_batches": 2}),
    ("joint", 1, {}),
    ("individual", 8, {"sharding": "fsdp", "micro_batches": 2}),
    ("fid", 1, {}),
  ],
)
def test_gradients_are_those_of_one_group(toy_data, task, devices, settings):
  run, params, _ = make_run(toy_data, task, devices, **settings)
  plain, batch = make_task(run.settings, run.components), make_batch()
  grouped = with_profiles(plain, run, profiles())
  whole, metrics = gradients(run, params, batch, plain)
  made, others = gradients(run, params, batch, grouped)
  share, parts = others.pop("in_length_groups")
  assert share == parts == devices * run.settings.parts
  check_close((made, others), (whole, metrics))
  assert plain.flops(batch) > 1.2 * grouped.flops(batch)


@pytest.mark.slow
@pytest.mark.eight_devices
def test_what_does_not_fit_is_computed_as_one_group(toy_data):
  """As without groups; by all devices, for one that has too many long rows."""
  settings = {"micro_batches": 2}
  run, params, _ = make_run(toy_data, "fid", 8, **settings)
  plain, batch = make_task(run.settings, run.components), make_batch()
  grouped = with_profiles(plain, run, profiles())
  layout = make_layout(run.settings, plain, run.mesh, params)
  steps = [
    jax.jit(
      functools.partial(batch_gradients, loss=task.loss, layout=layout, parts=2)
    )
    for task in (plain, grouped)
  ]
  placed = jax.device_put(params, layout.shardings)
  rng = jax.random.key(0)
  # Device 3 has rows 12 to 15; the second micro-batch those of odd numbers.
  for rows, expected in ((slice(13, 16, 2), 0.5), (slice(None), 0.0)):
    batch["reader_lengths"][rows] = READER
    one, two = (
      jax.device_get(step(placed, to_global(run.mesh, batch), rng))
      for step in steps
    )
    share, parts = two[1].pop("in_length_groups")
    assert share / parts == expected
    if not expected:
      # With dropout, too: its masks are those of the whole.
      check_close(two, one)


class Questions:
  """Examples whose questions have so many tokens."""

  def __init__(self, lengths):
    self.left_out = {}
    self.lengths = np.array(lengths, np.int32)

  def __len__(self):
    return len(self.lengths)

  def batch(self, indices, rng, rows):
    return {"reader_question_lengths": self.lengths[indices][rows]}


def test_profiles_are_those_of_what_training_gathers(toy_data, monkeypatch):
  """Of all passages alone, and with questions."""
  run, _, gatherer = make_run(
    toy_data, "individual", 1, **{"data.length_groups": 3}
  )
  seen = {}

  def record(task, run, profiles):
    seen.update(profiles)
    return task

  monkeypatch.setattr("odqa_jax.training.length_groups.with_profiles", record)
  task = make_task(run.settings, run.components)
  questions = Questions(np.arange(1000) % 20)
  assert grouped_task(task, run, gatherer, questions) is task
  count = len(gatherer.corpus)
  empty = {
    "reader_question_ids": np.zeros((20, 32), np.int32),
    "reader_question_lengths": np.arange(20, dtype=np.int32),
  }
  rows = np.tile(np.arange(count), (20, 1))
  made = gatherer.gather(empty, rows, empty["reader_question_lengths"])
  passages = np.bincount(made["passage_lengths"][0])
  assert seen["retriever"].counts == tuple(passages.tolist())
  assert seen["retriever"].groups == seen["reader"].groups == 3
  # Of random pairs: shares within five deviations of those of all pairs.
  expected = np.bincount(made["reader_lengths"].reshape(-1)) / (20 * count)
  counts = np.array(seen["reader"].counts)
  bound = 5 * np.sqrt(expected / counts.sum()) + 1e-3
  assert (np.abs(counts / counts.sum() - expected) < bound).all()
