"""What a run needs of a device, against what compiled programs need."""

import jax
import numpy as np
import pytest
from runs import make_run, task_settings

from odqa_jax.runtime.mesh import make_mesh, replicated, row_sharding
from odqa_jax.training import memory
from odqa_jax.training.program import training_program
from odqa_jax.training.tasks.table import make_task


def test_what_is_split_shrinks_with_the_devices():
  mesh = make_mesh()
  split = jax.ShapeDtypeStruct((80, 3), np.float32, sharding=row_sharding(mesh))
  whole = jax.ShapeDtypeStruct((7,), np.int8, sharding=replicated(mesh))
  held = memory.held({"a": split, "b": (whole, whole)})
  assert held == (80 * 3 * 4, 14)
  assert held.on_one(8) == 10 * 3 * 4 + 14
  assert held.on_one(7) == 138 + 14


@pytest.mark.parametrize("mode", ["none", "rolling", "snapshot"])
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_the_parts_that_stay_are_those_of_the_run(toy_config, mode, dtype):
  changes = {"retrieval.refresh": mode, "retrieval.dtype": dtype}
  run = make_run(toy_config(**task_settings("individual", **changes)), 8)
  parts = memory.resident(run)
  rows = 5000 * (128 * 2 if dtype == "bfloat16" else 128 + 4)
  assert parts["index"].on_one(8) == pytest.approx(rows / 8, rel=0.1)
  assert parts["index"].whole == 0
  assert ("refresh" in parts) == (mode == "snapshot")
  if mode == "snapshot":
    assert parts["refresh"].on_one(8) > parts["index"].on_one(8)
  task = make_task(run.settings, run.components)
  params = jax.eval_shape(task.init, jax.random.key(0))
  count = sum(x.size for x in jax.tree.leaves(params))
  state = parts["training_state"]
  # Parameters and two moments, split where they are large.
  assert state.split + state.whole == pytest.approx(12 * count, rel=1e-3)
  assert state.split > state.whole


@pytest.mark.parametrize(("task", "k"), [("contrastive", 4), ("individual", 0)])
def test_without_an_index_the_state_alone_stays(toy_config, task, k):
  config = toy_config(**task_settings(task, **{"retrieval.k": k}))
  assert set(memory.resident(make_run(config))) == {"training_state"}


@pytest.mark.slow
def test_half_the_batch_needs_less_and_more_than_half(toy_config):
  run = make_run(toy_config(**task_settings("contrastive")))
  whole, half, quarter = (memory.step_bytes(run, n) for n in (32, 16, 8))
  assert whole > half > quarter > whole / 8


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("task", ["contrastive", "individual", "joint", "fid"])
def test_a_step_needs_about_what_xla_says(toy_config, task, parts, devices):
  """Never much less, so that what is chosen fits; for readers not much more.

  Of a contrastive step XLA keeps less on a CPU than is told.
  """
  config = toy_config(**task_settings(task, micro_batches=parts))
  run = make_run(config, devices)
  settings = run.settings
  program = training_program(
    settings, make_task(settings, run.components), run.mesh, steps=10
  )
  batch = memory.abstract_batch(settings, run.needs, row_sharding(run.mesh))
  said = program.step.lower(program.abstract, batch).compile().memory_analysis()
  real = said.temp_size_in_bytes + said.output_size_in_bytes
  real -= said.alias_size_in_bytes
  examples = memory.local_examples(run) // parts
  told = memory.step_bytes(run, examples) / memory.MARGIN
  assert 0.9 < told / real < (2 if task == "contrastive" else 1.15)


def test_a_cpu_lends_half_of_what_is_free(monkeypatch):
  sizes = {"SC_AVPHYS_PAGES": 1 << 20, "SC_PAGE_SIZE": 4096}
  monkeypatch.setattr(memory.os, "sysconf", sizes.__getitem__)
  assert memory.memory_limit(make_mesh()) == 2**32 // 2 // 8
