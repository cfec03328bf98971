"""The loop: learning, resuming, sharding, accumulation, and refusals."""

import functools
import json
import os
import shutil
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.batch import fill_up
from odqa_jax.data.examples.loader import train_batches
from odqa_jax.data.examples.sources import load_examples
from odqa_jax.models.dual_encoder import DualEncoder
from odqa_jax.runtime.checkpoint import read_extra, restore_params
from odqa_jax.runtime.config import saved_config
from odqa_jax.runtime.interruption import Interrupted
from odqa_jax.runtime.mesh import make_mesh, padded_size, replicated, to_global
from odqa_jax.runtime.run_record import read_record
from odqa_jax.runtime.settings import read_settings
from odqa_jax.training import program as program_module
from odqa_jax.training import train as train_module
from odqa_jax.training.initial_retriever import initial_retriever
from odqa_jax.training.optimizer import make_optimizer
from odqa_jax.training.program import (
  TrainState,
  batch_gradients,
  make_layout,
  train_step,
)
from odqa_jax.training.tasks.table import make_task
from odqa_jax.training.train import train


@pytest.fixture(autouse=True)
def one_device(request, monkeypatch):
  """Training runs on one device unless a test is marked to use all eight."""
  if "eight_devices" not in request.keywords:
    one = make_mesh(devices=jax.devices()[:1])
    monkeypatch.setattr(train_module, "make_mesh", lambda *_: one)


def params_of(workdir: Path, step: int | None = None):
  path = workdir if step is None else workdir / "checkpoints" / str(step)
  return jax.device_get(restore_params(path, replicated(make_mesh()))[0])


def assert_same_bits(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def metrics_of(workdir: Path) -> list[dict]:
  """Every logged row without wall-clock figures."""
  rows = (workdir / "metrics.jsonl").read_text().splitlines()
  return [
    {k: v for k, v in json.loads(row).items() if not k.startswith("time/")}
    for row in rows
  ]


def step_inputs(config):
  """Task, optimizer, state and first batch of a run, on the host."""
  corpus = Corpus(config.data.corpus)
  settings = read_settings(config)
  start = initial_retriever(settings, corpus, make_mesh())
  task = make_task(settings, {"retriever": start.network})
  tx = make_optimizer(settings.optimizer, steps=config.steps)
  examples = load_examples(settings.data, corpus)
  rows = slice(0, config.batch_size)
  batch = next(train_batches(examples, config.batch_size, seed=0, rows=rows))
  params = task.init(jax.random.key(0))
  state = TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))
  return task, tx, state, batch


def spread_gradients(settings, task, params, batch, devices, rng=None):
  """The step's own gradient on so many devices, whatever the batch."""
  mesh = make_mesh(devices=jax.devices()[:devices])
  layout = make_layout(settings, task, mesh, params)
  run = jax.jit(
    functools.partial(
      batch_gradients, loss=task.loss, layout=layout, parts=settings.parts
    )
  )
  size = len(batch["example_mask"])
  batch = fill_up(batch, size, padded_size(size, devices * settings.parts))
  placed = jax.device_put(params, layout.shardings)
  return jax.device_get(run(placed, to_global(mesh, batch), rng)[0])


def gradients(config, devices: int, rng=None):
  task, _, state, batch = step_inputs(config)
  settings = read_settings(config)
  return spread_gradients(settings, task, state.params, batch, devices, rng)


def relative_difference(a, b) -> float:
  """The norm of the difference of two gradients over the norm of the first."""
  difference = jax.tree.map(np.subtract, a, b)
  return float(optax.tree.norm(difference) / optax.tree.norm(a))


# Mean pooling: at random weights all [CLS] outputs are alike, and a gradient
# that is left over when they cancel is noise in its last three digits of f32.
EXACT = {"model.dropout": 0.0, "model.pooling": "mean"}


@pytest.mark.slow
@pytest.mark.parametrize("source", ["ict", "pairs"])
def test_training_learns(toy_config, tmp_path, source):
  config = toy_config(
    **{"data.source": source, "steps": 30, "log_every": 10}
    | {"checkpoint.every": 30, "model.dropout": 0.0}
  )
  figures = train(config, tmp_path)
  losses = [row["loss"] for row in metrics_of(tmp_path)]
  assert losses[-1] < losses[0]
  assert figures["steps"] == 30
  assert (tmp_path / "loss.png").stat().st_size > 1000


@pytest.mark.slow
def test_configured_steps_are_the_updates_made(toy_config, tmp_path):
  train(toy_config(steps=5), tmp_path)
  folder = tmp_path / "checkpoints"
  assert max(int(p.name) for p in folder.iterdir() if p.name.isdigit()) == 5
  assert read_extra(folder, 5)["loader"] == {"next_index": 5}


SMALL_SHARED = {
  "model.preset": "mobilebert-tiny",
  "model.shared": True,
  "model.projection": "truncate",
  "model.embedding_dim": 32,
}


@pytest.mark.slow
@pytest.mark.parametrize("model", [{}, SMALL_SHARED], ids=["", "mobilebert"])
def test_eight_devices_give_the_gradient_of_one(toy_config, model):
  """With hard negatives: every passage of every device is a candidate."""
  config = toy_config(**EXACT | {"data.hard_negatives": 2} | model)
  one, eight = gradients(config, 1), gradients(config, 8)
  assert relative_difference(one, eight) < 1e-5


@pytest.mark.slow
def test_dropout_is_the_same_on_eight_devices(toy_config):
  rng = jax.random.key(7)
  config = toy_config(**{"model.pooling": "mean"})
  one, eight = gradients(config, 1, rng), gradients(config, 8, rng)
  assert relative_difference(one, eight) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_micro_batches_give_the_gradient_of_the_whole(toy_config, devices):
  whole, chunked = toy_config(**EXACT), toy_config(**EXACT, micro_batches=4)
  difference = relative_difference(
    gradients(whole, devices), gradients(chunked, devices)
  )
  # f32 rounds otherwise on every kind of CPU (1.2e-6 was seen); what decides is
  # the same in float64, below.
  assert difference < 1e-5


class TinyEncoder(DualEncoder):
  """A float64 stand-in for the dual encoder, so that rounding is no excuse."""

  embedding_dim = 8

  def __init__(self):
    pass  # Nothing of the real encoder is wanted but its interface.

  def encode_question(self, params, ids, lengths, *, rng=None):
    del rng
    real = jnp.arange(ids.shape[1])[None, :] < lengths[:, None]
    counts = jnp.maximum(lengths, 1)[:, None]
    mean = (params["table"][ids] * real[..., None]).sum(1) / counts
    return jnp.tanh(mean @ params["kernel"])

  encode_passage = encode_question


# (micro-batches, devices, examples): uneven ones are padded with masked
# examples, also where there are more devices than examples.
@pytest.mark.parametrize(
  ("parts", "devices", "examples"),
  [(4, 1, 16), (16, 1, 16), (1, 8, 16), (2, 8, 16), (3, 8, 13), (1, 8, 5)],
)
@pytest.mark.parametrize("sharding", ["zero", "replicated"])
def test_gradient_is_exact_in_float64(
  toy_config, sharding, parts, devices, examples
):
  """Of micro-batches and devices, it is that of one large batch."""
  batch = step_inputs(toy_config(**{"data.hard_negatives": 2}))[3]
  batch = {name: x[:examples] for name, x in batch.items()}
  rng = np.random.default_rng(0)
  params = {
    "retriever": {
      "table": rng.normal(size=(4096, 8)),
      "kernel": rng.normal(size=(8, 8)),
    }
  }
  with jax.enable_x64(True):
    params = jax.tree.map(jnp.asarray, params)
    settings = read_settings(toy_config(micro_batches=parts, sharding=sharding))
    task = make_task(settings, {"retriever": TinyEncoder()})
    mean_loss = jax.jit(jax.grad(lambda p, b: task.loss(p, b, None)[0]))
    whole = mean_loss(params, batch)
    found = spread_gradients(settings, task, params, batch, devices)
    assert found["retriever"]["table"].dtype == np.float64
    assert relative_difference(whole, found) < 1e-12


@pytest.mark.slow
def test_micro_batches_save_memory(toy_config):
  def temporary_bytes(parts):
    config = toy_config(micro_batches=parts, batch_size=128)
    task, _, state, batch = step_inputs(config)
    mesh = make_mesh(devices=jax.devices()[:1])
    layout = make_layout(read_settings(config), task, mesh, state.params)
    gradient = jax.jit(
      functools.partial(
        batch_gradients, loss=task.loss, layout=layout, parts=parts
      )
    )
    compiled = gradient.lower(state.params, batch, jax.random.key(0)).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporary_bytes(8) < 0.5 * temporary_bytes(1)


@pytest.mark.eight_devices
@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["zero", "fsdp"])
@pytest.mark.parametrize("size", [5, 12])
def test_eight_devices_train_as_one_does(
  toy_config, tmp_path, monkeypatch, sharding, size
):
  """With dropout, and batches that eight devices cannot share evenly."""
  settings = {"log_every": 1, "batch_size": size, "micro_batches": 2}
  settings |= {"model.pooling": "mean", "optimizer.eps": 1e-3}
  train(toy_config(**settings, sharding=sharding), tmp_path / "eight")
  one = make_mesh(devices=jax.devices()[:1])
  monkeypatch.setattr(train_module, "make_mesh", lambda *_: one)
  train(toy_config(**settings, sharding="replicated"), tmp_path / "one")
  rows = zip(
    metrics_of(tmp_path / "eight"), metrics_of(tmp_path / "one"), strict=True
  )
  for a, b in rows:
    assert a == pytest.approx(b, rel=1e-3)


@pytest.mark.parametrize(
  "devices",
  [1, pytest.param(8, marks=[pytest.mark.eight_devices, pytest.mark.slow])],
)
def test_resumed_run_equals_uninterrupted_bit_for_bit(
  toy_config, tmp_path, devices
):
  """Killed after a save, in the middle of a log window; dropout is on.

  The state of eight devices is split over them, and 12 examples are uneven.
  """
  config = toy_config(
    **{"steps": 8, "log_every": 5, "checkpoint.every": 3}
    | {"batch_size": 12, "sharding": "zero"}
  )
  train(config, tmp_path / "whole")

  stop_after = 3
  original = train_module.check_finite

  def check_then_die(step, metrics):
    original(step, metrics)
    if step == stop_after + 1:
      raise ConnectionError("killed")

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train_module, "check_finite", check_then_die)
    with pytest.raises(ConnectionError):
      train(config, tmp_path / "killed")
  train(config, tmp_path / "killed")

  assert_same_bits(
    params_of(tmp_path / "whole"), params_of(tmp_path / "killed")
  )
  assert metrics_of(tmp_path / "whole") == metrics_of(tmp_path / "killed")


@pytest.mark.slow
def test_a_run_is_extended_by_more_steps(toy_config, tmp_path):
  """And then goes on by what it was last told; fewer steps are refused."""
  train(toy_config(steps=1), tmp_path)
  assert train(toy_config(steps=6), tmp_path)["steps"] == 6
  again = saved_config(tmp_path, ["steps=7"])
  assert again.to_dict() == toy_config(steps=7).to_dict()
  with pytest.raises(ValueError, match=r"config\.steps was 6 and is 5"):
    train(toy_config(steps=5), tmp_path)
  with pytest.raises(ValueError, match=r"config\.seed was .* and is 3"):
    train(toy_config(steps=9, seed=3), tmp_path)


@pytest.mark.slow
def test_programs_from_disk_give_the_same_bits(toy_config, tmp_path):
  """Compiled in one process, and read by the one that resumes."""
  config = toy_config(**{"steps": 6, "log_every": 1, "checkpoint.every": 3})
  hits = []
  jax.monitoring.register_event_listener(
    lambda name, **_: hits.append(name.endswith("cache_hits"))
  )

  def run(folder, *, kept: bool) -> int:
    hits.clear()
    jax.clear_caches()
    jax.config.update("jax_enable_compilation_cache", kept)
    compilation_cache.reset_cache()
    try:
      train(config, tmp_path / folder)
    finally:
      jax.config.update("jax_enable_compilation_cache", True)
      compilation_cache.reset_cache()
    return sum(hits)

  assert run("compiled", kept=False) == 0
  run("kept", kept=True)
  assert run("read", kept=True) > 0
  shutil.rmtree(tmp_path / "read" / "checkpoints" / "6")
  assert run("read", kept=True) > 0
  expected = tmp_path / "compiled"
  for folder in (tmp_path / "kept", tmp_path / "read"):
    assert_same_bits(params_of(expected), params_of(folder))
    assert metrics_of(expected) == metrics_of(folder)


@pytest.mark.slow
def test_sigterm_saves_and_the_run_goes_on(toy_config, tmp_path):
  config = toy_config(**{"steps": 12, "checkpoint.every": 100})
  train(config, tmp_path / "whole")

  original = train_module.check_finite

  def signal_at_five(step, metrics):
    original(step, metrics)
    if step == 5:
      os.kill(os.getpid(), signal.SIGTERM)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train_module, "check_finite", signal_at_five)
    with pytest.raises(Interrupted, match="of 12, saved"):
      train(config, tmp_path / "stopped")
  figures = train(config, tmp_path / "stopped")
  assert figures["steps"] == 12
  assert_same_bits(
    params_of(tmp_path / "whole"), params_of(tmp_path / "stopped")
  )
  assert metrics_of(tmp_path / "whole") == metrics_of(tmp_path / "stopped")


@pytest.mark.eight_devices
@pytest.mark.slow
def test_checkpoint_restores_on_another_device_count(
  toy_config, tmp_path, monkeypatch
):
  """Of a state that is split; one device goes on, and eight after it."""
  train(toy_config(steps=2, **EXACT), tmp_path)
  before = params_of(tmp_path)
  one = make_mesh(devices=jax.devices()[:1])
  with monkeypatch.context() as patch:
    patch.setattr(train_module, "make_mesh", lambda *_: one)
    # Two of two steps are done: nothing but the restore and a save happens.
    assert train(toy_config(steps=2, **EXACT), tmp_path)["steps"] == 2
    assert_same_bits(before, params_of(tmp_path))


@pytest.mark.slow
def test_a_second_stage_begins_where_the_first_ended(toy_config, tmp_path):
  train(toy_config(**{"data.source": "ict"}), tmp_path / "ict")
  config = toy_config(
    **{"init_from": str(tmp_path / "ict"), "optimizer.learning_rate": 0.0}
  )
  figures = train(config, tmp_path / "sup")
  assert "step 6" in figures["initial"]
  assert_same_bits(params_of(tmp_path / "ict"), params_of(tmp_path / "sup"))


@pytest.mark.slow
def test_no_recompilation_after_the_first_steps(toy_config, tmp_path):
  config = toy_config(**{"steps": 12})
  traces = []
  original = program_module.train_step

  @functools.wraps(original)
  def counted(*args, **kwargs):
    traces.append(jax.tree.map(jnp.shape, args[1]))
    return original(*args, **kwargs)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(program_module, "train_step", counted)
    train(config, tmp_path)
  shapes = [json.dumps(t, sort_keys=True) for t in traces]
  assert len(shapes) == len(set(shapes)) <= 4


@pytest.mark.slow
def test_nan_stops_the_run_and_names_step_and_metric(toy_config, tmp_path):
  config = toy_config(**{"optimizer.learning_rate": 1e30, "steps": 20})
  with pytest.raises(FloatingPointError, match=r"is (nan|inf) at step \d+"):
    train(config, tmp_path)


def refused(config, workdir, message):
  with pytest.raises(ValueError, match=message):
    train(config, workdir)


@pytest.mark.eight_devices
def test_refusals_come_before_the_first_step(toy_config, tmp_path):
  refused(toy_config(task="x"), tmp_path, "known: contrastive")
  refused(toy_config(**{"data.source": "x"}), tmp_path, "known: answers, found")
  refused(toy_config(**{"model.preset": "x"}), tmp_path, "config.model.preset")
  refused(toy_config(init_from=str(tmp_path)), tmp_path, "holds no checkpoint")
  refused(toy_config(**{"report.writers": "cvs"}), tmp_path, "mean 'csv'")
  assert not (tmp_path / "metrics.jsonl").exists()


def test_changed_config_is_refused_on_resume(toy_config, tmp_path):
  train(toy_config(), tmp_path)
  record = read_record(tmp_path)
  told = {row["key"]: row["counts"]["count"] for row in record["data"]}
  assert told == {
    "data.corpus": 200, "data.questions": 100, "data.pairs": 100
  }  # fmt: skip
  (session,) = record["sessions"]
  assert (session["to_step"], session["ended"]) == (6, "finished")
  refused(
    toy_config(**{"optimizer.learning_rate": 5e-4, "seed": 7}),
    tmp_path,
    r"config.optimizer.learning_rate was 0.001 and is 0.0005; config.seed was",
  )


def test_init_from_another_tokenizer_is_refused(toy_config, tmp_path):
  train(toy_config(), tmp_path / "first")
  from odqa_jax.data.prepare import prepare

  prepare(
    corpus=[str(Path(toy_config().data.corpus).parents[1] / "passages.jsonl")],
    questions=[],
    out=tmp_path / "other",
    vocabulary_size=200,
  )
  config = toy_config(
    **{"init_from": str(tmp_path / "first"), "data.source": "ict"}
    | {"data.corpus": str(tmp_path / "other" / "corpus")}
  )
  refused(config, tmp_path / "second", "prepare the corpus with --tokenizer")


def test_unwritable_workdir_is_found_before_anything(toy_config, tmp_path):
  blocked = tmp_path / "file"
  blocked.write_text("")
  refused(toy_config(), blocked / "workdir", "cannot write to")


@pytest.mark.slow
def test_step_is_pure(toy_config):
  """The same state and batch give the same bits, twice."""
  config = toy_config()
  task, tx, state, batch = step_inputs(config)
  layout = make_layout(
    read_settings(config),
    task,
    make_mesh(devices=jax.devices()[:1]),
    state.params,
  )
  run = jax.jit(
    functools.partial(train_step, task=task, tx=tx, seed=3, layout=layout)
  )
  assert_same_bits(run(state, batch), run(state, batch))
