"""The step over devices: what travels, and that no layout changes a gradient.

Collectives are those of the compiled programs of eight fake devices.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from odqa_jax.models.layers import apply_module, of_layers, run_layers
from odqa_jax.plan.work import measure
from odqa_jax.runtime.config import base_config
from odqa_jax.runtime.mesh import make_mesh, split_axis, to_global
from odqa_jax.runtime.settings import read_settings
from odqa_jax.training.program import (
  batch_gradients,
  make_layout,
  training_program,
)
from odqa_jax.training.tasks.losses import SeparateLoss
from odqa_jax.training.tasks.task import Task

LAYERS, WIDTH, ROWS = 6, 128, 250
FORMS = [("zero", True), ("fsdp", True), ("fsdp", False), ("replicated", True)]


class Config:
  """As much of a network's config as `layers.of_layers` reads."""

  def __init__(self, scan):
    self.scan = scan


def parameters(dtype):
  """A stack of layers, and tables that are split by rows and by columns."""
  r = np.random.default_rng(0)
  shapes = {
    "net": {
      "layer": {"kernel": (LAYERS, WIDTH, WIDTH), "bias": (LAYERS, WIDTH)},
      "rows": (2 * WIDTH, WIDTH),
      # 250 rows divide among no eight devices.
      "columns": (ROWS, WIDTH + 8),
    },
    "fixed": {"table": (2 * WIDTH, WIDTH)},
  }
  return jax.tree.map(
    lambda shape: (r.normal(size=shape) / shape[-1] ** 0.5).astype(dtype),
    shapes,
    is_leaf=lambda x: isinstance(x, tuple),
  )


def make_task(*, scan, dtype="float32", remat="full"):
  """Numbers of each example, through a stack of layers."""
  dense = nn.Dense(WIDTH, dtype=dtype, param_dtype=dtype)

  def sums(params, batch, rng):
    del rng
    net = params["net"]
    x = net["rows"][batch["ids"]] + params["fixed"]["table"][batch["ids"]]
    x = x + net["columns"][batch["ids"]][..., :WIDTH]

    def layer(x, params):
      return jnp.tanh(x + apply_module(dense, params, x).astype(x.dtype)), None

    stack = of_layers(Config(scan), LAYERS, net["layer"])
    x, _ = run_layers(layer, x, *stack, remat=remat)
    losses = jnp.mean(jnp.square(x), axis=(1, 2))
    weight = batch["example_mask"].astype(x.dtype)
    return {"loss": (jnp.sum(losses * weight), jnp.sum(weight))}

  return Task(
    init=lambda rng: parameters(np.float32),
    loss=SeparateLoss(sums),
    flops=lambda batch: 1.0,
    frozen=("fixed/.*",),
    dtypes=((r"net/layer/kernel", "bfloat16"),) if dtype == "bfloat16" else (),
  )


def make_settings(**settings):
  config = base_config()
  config.update_from_flattened_dict({"batch_size": 48} | settings)
  return read_settings(config)


def make_batch(size=48, length=4):
  ids = np.random.default_rng(1).integers(0, ROWS, (size, length))
  mask = np.arange(size) % 5 != 3
  return {"ids": ids.astype(np.int32), "example_mask": mask}


def work_of(task, *, sharding, parts, devices=8, length=4, compile=True):
  """What a step does, and its state.

  Where `compile` is off, as it is before XLA's CPU compiler makes f32 of bf16.
  """
  settings = make_settings(sharding=sharding, micro_batches=parts)
  mesh = make_mesh(devices=jax.devices()[:devices])
  program = training_program(settings, task, mesh, steps=10)
  batch = to_global(mesh, make_batch(length=length))
  step = program.step.lower(program.abstract, batch)
  text = step.compile().as_text() if compile else step.as_text("hlo")
  return measure(text), program.abstract


def bytes_of(tree, itemsize=4):
  return sum(x.size * itemsize for x in jax.tree.leaves(tree))


def added_up(work):
  """Bytes that are summed over the devices: each result's share counts."""
  found = work.collectives
  scattered = found.get("reduce-scatter", {"bytes": 0})["bytes"]
  return 8 * scattered + found.get("all-reduce", {"bytes": 0})["bytes"]


@pytest.mark.parametrize(("sharding", "scan"), FORMS)
@pytest.mark.parametrize(
  ("parts", "remat"), [(1, "none"), (3, "none"), (3, "full")]
)
def test_no_layout_changes_the_gradient_in_float64(
  sharding, scan, parts, remat
):
  batch = make_batch()
  with jax.enable_x64(True):
    params = jax.tree.map(jnp.asarray, parameters(np.float64))
    task = make_task(scan=scan, dtype="float64", remat=remat)
    mean_loss = jax.jit(jax.grad(lambda p, b: task.loss(p, b, None)[0]))
    whole = mean_loss(params, jax.tree.map(jnp.asarray, batch))
    settings = make_settings(sharding=sharding, micro_batches=parts)
    mesh = make_mesh()
    layout = make_layout(settings, task, mesh, params)
    run = jax.jit(
      functools.partial(
        batch_gradients, loss=task.loss, layout=layout, parts=parts
      )
    )
    placed = jax.device_put(params, layout.shardings)
    found, metrics = run(placed, to_global(mesh, batch), None)
    total, weight = metrics["loss"]
    loss, _ = task.loss(params, jax.tree.map(jnp.asarray, batch), None)
    assert weight == batch["example_mask"].sum()
    np.testing.assert_allclose(total / weight, loss, rtol=1e-12)
    assert jax.tree.leaves(found)[0].dtype == np.float64
    difference = jax.tree.map(lambda a, b: a - b, found["net"], whole["net"])
    norm = optax.tree.norm(whole["net"])
    assert optax.tree.norm(difference) < 1e-12 * norm
    # What is not trained has no gradient, and nothing is sent for it.
    assert not found["fixed"]["table"].any()
    is_split = not found["net"]["layer"]["kernel"].sharding.is_fully_replicated
    assert is_split == (sharding != "replicated")


def test_gradients_add_up_in_f32_over_micro_batches():
  """Of weights in bf16 that many micro-batches share."""
  scale = np.float32(1 + 2**-6)

  def sums(params, batch, rng):
    del rng
    products = batch["x"].astype(jnp.bfloat16) @ params["w"]
    total = jnp.sum(products.astype(jnp.float32))
    return {"loss": (total, jnp.float32(len(batch["x"])))}

  task = Task(
    init=lambda rng: {}, loss=SeparateLoss(sums), flops=lambda batch: 1.0,
    dtypes=((".*", "bfloat16"),),
  )  # fmt: skip
  params = {"w": jnp.zeros((1, 2**15))}
  mesh = make_mesh()
  layout = make_layout(make_settings(), task, mesh, params)
  batch = {"x": np.full((8 * 512, 1), scale, np.float32)}
  run = functools.partial(
    batch_gradients, loss=task.loss, layout=layout, parts=512
  )
  placed = jax.device_put(params, layout.shardings)
  found, _ = jax.jit(run)(placed, to_global(mesh, batch), None)
  # In bf16 a sum of 512 such numbers stands still at 256.
  np.testing.assert_allclose(found["w"], scale, rtol=1e-6)


@pytest.mark.parametrize("sharding", ["zero", "replicated"])
def test_gradients_are_added_up_once_whatever_the_micro_batches(sharding):
  task = make_task(scan=True)
  one, state = work_of(task, sharding=sharding, parts=1)
  six, _ = work_of(task, sharding=sharding, parts=6)
  gradient = bytes_of(state.params["net"])
  for work in (one, six):
    assert work.unknown_loops == 0
    assert gradient <= added_up(work) <= 1.1 * gradient
  assert added_up(one) == added_up(six)
  names = [n for n in one.collectives if n != "all-gather"]
  assert {n: one.collectives[n]["count"] for n in names} == {
    n: six.collectives[n]["count"] for n in names
  }


def test_weights_are_gathered_once_in_the_dtype_that_computes():
  task = make_task(scan=True, dtype="bfloat16")
  one, state = work_of(task, sharding="zero", parts=1, compile=False)
  six, _ = work_of(task, sharding="zero", parts=6, compile=False)
  params = state.params
  kernels = bytes_of(params["net"]["layer"]["kernel"], 2)
  tables = bytes_of([params["net"]["rows"], params["net"]["columns"]])
  tables += bytes_of(params["fixed"])
  for work in (one, six):
    assert work.collectives["all-gather"]["bytes"] == kernels + tables
  # At rest a device has an eighth, but for what is small.
  per_device = sum(
    np.prod(x.sharding.shard_shape(x.shape)) * 4 for x in jax.tree.leaves(state)
  )
  assert per_device < bytes_of(state) / 7.5


@pytest.mark.parametrize("remat", ["none", "full"])
@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2)])
def test_fsdp_gathers_one_layer_at_a_time_and_no_activation(remat, dtype, size):
  """Of activations that are larger than the weights of a layer."""
  parts, length = 3, 512
  task = make_task(scan=True, dtype=dtype, remat=remat)
  work, state = work_of(
    task, sharding="fsdp", parts=parts, length=length, compile=size == 4
  )
  activations = 48 // parts // 8 * length * WIDTH * size
  layer = WIDTH * WIDTH * size
  assert activations > 2 * layer
  params = state.params["net"]
  tables = bytes_of([params["rows"], params["columns"]])
  tables += bytes_of(state.params["fixed"])
  gathered = work.collectives["all-gather"]
  # Forward, and again for the backward pass, of every micro-batch; the tables
  # once a step.
  assert gathered["bytes"] == 2 * parts * LAYERS * layer + tables
  # A kernel's gradient is added up in f32 for each micro-batch.
  scattered = work.collectives["reduce-scatter"]["bytes"] * 8
  assert scattered == (
    parts * LAYERS * WIDTH * WIDTH * 4
    + bytes_of([params["rows"], params["columns"]])
  )
  others = set(work.collectives) - {"all-gather", "reduce-scatter"}
  assert others <= {"all-reduce"}
  # Biases, metrics and norms.
  assert work.collectives["all-reduce"]["bytes"] < 2 * LAYERS * WIDTH * 4


def test_one_device_sends_nothing():
  work, state = work_of(
    make_task(scan=True), sharding="zero", parts=2, devices=1
  )
  assert not work.collectives
  leaves = jax.tree.leaves(state)
  assert all(x.sharding.is_fully_replicated for x in leaves)


def test_arrays_are_split_where_they_divide():
  assert split_axis((12, 768, 3072), 8) == 2
  assert split_axis((12, 3072, 768), 8) == 1
  # 30,522 word pieces are no multiple of eight.
  assert split_axis((30522, 768), 8) == 1
  assert split_axis((32128, 768), 8) == 0
  assert split_axis((12, 768), 8) is None  # Small.
  assert split_axis((333, 333), 8) is None
  assert split_axis((12, 768, 3072), 1) is None


def test_whole_weights_are_those_that_the_step_computes_with():
  task = make_task(scan=True, dtype="bfloat16")
  mesh = make_mesh()
  program = training_program(make_settings(), task, mesh, steps=10)
  params = parameters(np.float32)
  placed = jax.device_put(params, program.shardings.params)
  some = program.whole({"net": placed["net"]})["net"]
  assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(some))
  assert some["layer"]["kernel"].dtype == jnp.bfloat16
  np.testing.assert_array_equal(
    some["layer"]["kernel"], params["net"]["layer"]["kernel"].astype("bfloat16")
  )
  for name in ("rows", "columns"):
    assert some[name].dtype == jnp.float32
    np.testing.assert_array_equal(some[name], params["net"][name])
