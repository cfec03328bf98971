"""The state of training, its step, and how both lie on a mesh."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int

from odqa_jax.runtime.mesh import tree_shardings
from odqa_jax.runtime.settings import Settings
from odqa_jax.training.optimizer import make_optimizer
from odqa_jax.training.tasks.task import Batch, Metrics, Task


class TrainState(NamedTuple):
  """All that a step changes.

  Attributes:
    step: updates made so far, int32 scalar.
    params: f32 parameters.
    opt_state: optax's state.
  """

  step: Int[Array, ""]
  params: Any
  opt_state: Any


def train_step(
  state: TrainState,
  batch: Batch,
  *,
  task: Task,
  tx: optax.GradientTransformation,
  seed: int,
) -> tuple[TrainState, Metrics]:
  """One update on the global batch. Metrics are of the state before it."""
  rng = jax.random.fold_in(jax.random.key(seed), state.step)
  (_, metrics), gradients = jax.value_and_grad(task.loss, has_aux=True)(
    state.params, batch, rng
  )
  updates, opt_state = tx.update(gradients, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  norm = optax.tree.norm(gradients)
  metrics = metrics | {"gradient_norm": (norm, jnp.ones(()))}
  return TrainState(state.step + 1, params, opt_state), metrics


class TrainingProgram(NamedTuple):
  """What a config trains, before anything is placed on a device.

  Attributes:
    init: makes the first state.
    abstract: shapes, types and shardings of the state.
    shardings: the shardings alone.
    step: the jitted `train_step`; it donates the state.
  """

  init: Callable[[], TrainState]
  abstract: TrainState
  shardings: TrainState
  step: Any


def training_program(
  settings: Settings, task: Task, mesh: Mesh, *, steps: int
) -> TrainingProgram:
  """The state and the step of a training run on a mesh.

  Args:
    settings: of the run.
    task: what is trained.
    mesh: where.
    steps: of the learning rate's schedule.
  """
  tx = make_optimizer(
    settings.optimizer,
    steps=steps,
    frozen_paths=task.frozen,
    rates=task.rates,
  )

  def init_state() -> TrainState:
    params = task.init(jax.random.key(settings.seed))
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))

  # Abstract first, so that no device ever holds all of it.
  abstract = jax.eval_shape(init_state)
  shardings = tree_shardings(mesh, settings.sharding, abstract)
  abstract = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    abstract,
    shardings,
  )
  step = jax.jit(
    functools.partial(train_step, task=task, tx=tx, seed=settings.seed),
    out_shardings=(shardings, None),
    donate_argnums=0,
  )
  return TrainingProgram(init_state, abstract, shardings, step)


def check_batch_size(settings: Settings, devices: int) -> None:
  """Refuses a batch that the devices cannot share.

  Raises:
    ValueError: naming the keys and the numbers.
  """
  parts = settings.parts
  per_part = settings.batch_size // parts
  if per_part % devices:
    raise ValueError(
      f"config.batch_size={settings.batch_size} in config.micro_batches="
      f"{parts} gives {per_part} examples at a time, which {devices} devices "
      f"cannot share; use a multiple of {devices * parts}."
    )
