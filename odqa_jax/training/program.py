"""The state of training, its step, and how both lie on a mesh."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int, PRNGKeyArray

from odqa_jax.reading.likelihoods import Batch
from odqa_jax.runtime.mesh import state_shardings
from odqa_jax.runtime.settings import Settings
from odqa_jax.training.layout import Layout
from odqa_jax.training.optimizer import freezing_rules, frozen, make_optimizer
from odqa_jax.training.tasks.losses import Loss, Metrics, Shard, in_parts
from odqa_jax.training.tasks.task import SecondUpdate, Task


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


def batch_gradients(
  params: Any,
  batch: Batch,
  rng: PRNGKeyArray | None,
  *,
  loss: Loss,
  layout: Layout,
  parts: int,
) -> tuple[Any, Metrics]:
  """The gradient of the mean loss over a global batch, and sums of metrics.

  Every device computes its examples, in micro-batches; then gradients are added
  up over the devices, once.

  Args:
    params: of all components, placed as `layout` says.
    batch: split over the devices; see `padded_size` for its length.
    rng: for dropout; None means no dropout.
    loss: of a task.
    layout: of the parameters.
    parts: micro-batches.

  Returns:
    Gradients that lie as the parameters do; zeros for what is not trained.
  """

  def on_device(
    shards: Any, batch: Batch, rng: PRNGKeyArray | None
  ) -> tuple[Any, Metrics]:
    trained, complete = layout.divide(layout.gather(shards))
    gradients, metrics = loss.gradients(
      trained, complete, batch, rng, parts=parts, shard=Shard(layout.over)
    )
    metrics = layout.add_up(metrics)
    examples = jnp.maximum(metrics["loss"][1], 1.0)
    summed = layout.reduce(gradients, shards)
    return jax.tree.map(lambda x: x / examples, summed), metrics

  everywhere = PartitionSpec()
  return layout.map_over_devices(
    on_device,
    (layout.specs, layout.batch_spec, everywhere),
    (layout.specs, everywhere),
  )(params, batch, rng)


def remembered(
  params: Any,
  batch: Batch,
  rng: PRNGKeyArray | None,
  *,
  second: SecondUpdate,
  layout: Layout,
  parts: int,
) -> Batch:
  """The batch with what a second update must know of these weights.

  Args:
    params: before the first update, placed as `layout` says.
    batch: split over the devices.
    rng: for dropout; None means no dropout.
    second: which makes it.
    layout: of the parameters.
    parts: micro-batches.
  """

  def on_device(shards: Any, batch: Batch, rng: PRNGKeyArray | None) -> Batch:
    weights = layout.gather(shards)
    return dict(
      in_parts(
        lambda part, rng: second.remember(weights, part, rng),
        batch,
        rng,
        parts,
      )
    )

  made = layout.map_over_devices(
    on_device,
    (layout.specs, layout.batch_spec, PartitionSpec()),
    layout.batch_spec,
  )(params, batch, rng)
  return batch | made


def train_step(
  state: TrainState,
  batch: Batch,
  *,
  task: Task,
  tx: optax.GradientTransformation,
  seed: int,
  layout: Layout,
  parts: int = 1,
) -> tuple[TrainState, Metrics]:
  """The updates of a task on the global batch, one or two.

  A second one continues the first: it differentiates at the weights that this
  has made, and takes its moments and its place in the schedule. Metrics are of
  the weights before the update that they belong to.
  """
  rng = jax.random.fold_in(jax.random.key(seed), state.step)

  def update(
    params: Any, opt_state: Any, batch: Batch, loss: Loss
  ) -> tuple[Any, Any, Metrics]:
    gradients, metrics = batch_gradients(
      params, batch, rng, loss=loss, layout=layout, parts=parts
    )
    # Element by element on the parts that each device has.
    updates, opt_state = tx.update(gradients, opt_state, params)
    norm = optax.tree.norm(gradients)
    metrics = metrics | {"gradient_norm": (norm, jnp.ones(()))}
    return optax.apply_updates(params, updates), opt_state, metrics

  if task.second is not None:
    after = remembered(
      state.params,
      batch,
      rng,
      second=task.second,
      layout=layout,
      parts=parts,
    )
  params, opt_state, metrics = update(
    state.params, state.opt_state, batch, task.loss
  )
  if task.second is not None:
    params, opt_state, more = update(params, opt_state, after, task.second.loss)
    metrics = _of_both(metrics, more)
  return TrainState(state.step + 1, params, opt_state), metrics


def _of_both(first: Metrics, second: Metrics) -> Metrics:
  """What a step of two updates tells: the sum of their losses, and the rest."""
  (one, weight), (other, _) = first["loss"], second["loss"]
  renamed = dict(second)
  renamed["second_gradient_norm"] = renamed.pop("gradient_norm")
  return renamed | first | {"loss": (one + other, weight)}


class TrainingProgram(NamedTuple):
  """What a config trains, before anything is placed on a device.

  Attributes:
    init: makes the first state.
    abstract: shapes, types and shardings of the state.
    shardings: the shardings alone.
    step: the jitted `train_step`; it donates the state.
    whole: the jitted `Layout.whole`: weights for networks beside the step.
  """

  init: Callable[[], TrainState]
  abstract: TrainState
  shardings: TrainState
  step: Any
  whole: Any


def make_layout(
  settings: Settings, task: Task, mesh: Mesh, params: Any
) -> Layout:
  """How the parameters of a training run lie on a mesh.

  Args:
    settings: of the run.
    task: what is trained.
    mesh: where.
    params: abstract, of all components.
  """
  rules = freezing_rules(settings.optimizer, task.frozen)
  return Layout(
    mesh,
    state_shardings(mesh, params, split=settings.sharding != "replicated"),
    trained=jax.tree.map(lambda x: not x, frozen(params, rules)),
    dtypes=task.dtypes,
    by_layer=settings.sharding == "fsdp",
  )


def training_program(
  settings: Settings, task: Task, mesh: Mesh, *, steps: int
) -> TrainingProgram:
  """The state and the step of a training run on a mesh.

  Args:
    settings: of the run.
    task: what is trained.
    mesh: where.
    steps: of the run; the schedule counts every update of them.
  """
  tx = make_optimizer(
    settings.optimizer,
    steps=steps * task.updates,
    frozen_paths=task.frozen,
    rates=task.rates,
  )

  def init_state() -> TrainState:
    params = task.init(jax.random.key(settings.seed))
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))

  # Abstract first, so that no device ever holds all of it.
  abstract = jax.eval_shape(init_state)
  split = settings.sharding != "replicated"
  shardings = state_shardings(mesh, abstract, split=split)
  abstract = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    abstract,
    shardings,
  )
  layout = make_layout(settings, task, mesh, abstract.params)
  step = jax.jit(
    functools.partial(
      train_step,
      task=task,
      tx=tx,
      seed=settings.seed,
      layout=layout,
      parts=settings.parts,
    ),
    out_shardings=(shardings, None),
    donate_argnums=0,
  )
  whole = jax.jit(layout.whole) if layout.over else layout.whole
  return TrainingProgram(init_state, abstract, shardings, step, whole)
