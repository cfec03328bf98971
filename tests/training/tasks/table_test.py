"""To add an objective is to write its function and a row of `TASKS`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_reader import one_device

from odqa_jax.models import dual_encoder, t5
from odqa_jax.reading.likelihoods import read_passages
from odqa_jax.retrieval import encoding as encoding_module
from odqa_jax.retrieval import retriever as retriever_module
from odqa_jax.runtime.checkpoint import restore_params
from odqa_jax.runtime.mesh import replicated
from odqa_jax.training import train as train_module
from odqa_jax.training.tasks.losses import SeparateLoss
from odqa_jax.training.tasks.table import READER, TASKS
from odqa_jax.training.tasks.task import Task, TaskRow
from odqa_jax.training.train import train


def answer_size(settings, components):
  """A throw-away objective: the reader tells how long the answer is."""
  del settings
  retriever, reader = components["retriever"], components["reader"]

  def init(rng):
    one, two = jax.random.split(rng)
    return {"retriever": retriever.init(one), "reader": reader.init(two)}

  def sums(params, batch, rng):
    states = read_passages(reader, params, batch, rng)
    guesses = 4 * jnp.tanh(states.mean(axis=(1, 2, 3)))
    errors = jnp.square(guesses - batch["answer_lengths"])
    weight = batch["example_mask"].astype(jnp.float32)
    return {"loss": (jnp.sum(errors * weight), jnp.sum(weight))}

  return Task(
    init=init,
    loss=SeparateLoss(sums),
    flops=lambda batch: 1.0,
    frozen=("retriever/.*",),
  )


@pytest.fixture
def small(monkeypatch):
  for module in (train_module, retriever_module, encoding_module):
    monkeypatch.setattr(module, "make_mesh", lambda *_, **__: one_device())
  sizes = {"width": 32, "layers": 1, "heads": 2, "mlp_dim": 64}
  tiny = dual_encoder.PRESETS["tiny"] | sizes
  monkeypatch.setitem(dual_encoder.PRESETS, "tiny", tiny)
  sizes |= {"decoder_layers": 1, "head_dim": 16}
  monkeypatch.setitem(t5.PRESETS, "tiny", t5.PRESETS["tiny"] | sizes)


@pytest.mark.slow
def test_a_new_objective_needs_its_function_and_a_row(
  toy_config, tmp_path, monkeypatch, small
):
  """It is trained, saved and taken up by what knows nothing of its name."""
  monkeypatch.setitem(TASKS, "answer_size", TaskRow(READER, answer_size))
  settings = {
    "task": "answer_size",
    "batch_size": 8,
    "log_every": 1,
    "checkpoint.every": 1,
    "checkpoint.keep": 2,
    "data.source": "answers",
    "data.reader_length": 96,
    "data.answer_length": 16,
    "reader.preset": "tiny",
    "retrieval.k": 2,
  }
  figures = train(toy_config(**settings, steps=2), tmp_path)
  assert figures["steps"] == 2 and np.isfinite(figures["loss"])
  first, second = (
    restore_params(tmp_path / "checkpoints" / step, replicated(one_device()))[0]
    for step in "12"
  )

  def moved(name):
    pairs = jax.tree.map(
      lambda a, b: bool(jnp.any(a != b)), first[name], second[name]
    )
    return any(jax.tree.leaves(pairs))

  assert moved("reader") and not moved("retriever")
  # The same command goes on: nothing is left to do.
  assert train(toy_config(**settings, steps=2), tmp_path)["steps"] == 2


def test_every_row_says_what_it_needs():
  for name, row in TASKS.items():
    # One network with a head, or a retriever and whom it serves.
    alone = len(row.needs.components) == 1 and "ids" in row.needs.batch
    assert alone != ("retriever" in row.needs.components), name
    # What reads passages that the loop retrieves has them in its batch.
    retrieved = "reader_ids" in row.needs.batch
    assert (
      retrieved == row.needs.retrieval == ("reader" in row.needs.components)
    )
