"""The training loop, one for every task, read from top to bottom.

State is `TrainState(step, params, opt_state)`. Randomness is a function of
(seed, step), the data order of (seed, epoch): nothing random is stored, and a
run that was killed and resumed gives the same bits as one that was not.
"""

import dataclasses
import functools
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int
from ml_collections import ConfigDict

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.loader import train_batches
from odqa_jax.data.examples.sources import load_examples
from odqa_jax.evaluation.evaluators import make_evaluator
from odqa_jax.models.components import Batch, Metrics, Task
from odqa_jax.reading.gather import Lookup
from odqa_jax.runtime.artifact import write_json
from odqa_jax.runtime.checkpoint import (
  Checkpoints,
  probe_writable,
  read_extra,
)
from odqa_jax.runtime.mesh import (
  host_slice,
  is_primary,
  make_mesh,
  sync,
  to_global,
  tree_shardings,
)
from odqa_jax.runtime.plots import plot_loss
from odqa_jax.runtime.progress import progress_bar
from odqa_jax.runtime.report import Report, parameter_table
from odqa_jax.runtime.run import (
  Interrupted,
  Meter,
  Window,
  check_finite,
  check_same_config,
  stop_requested,
)
from odqa_jax.training.feed import Feed, RetrievalFeed
from odqa_jax.training.initial_reader import Initial, initial_models
from odqa_jax.training.optimizer import learning_rate, make_optimizer
from odqa_jax.training.tasks.tasks import make_task


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


class SavedState(NamedTuple):
  """What a checkpoint holds: the fields of `TrainState`, and the index's."""

  step: Any
  params: Any
  opt_state: Any
  refresh: Any


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
  config: ConfigDict, task: Task, mesh: Mesh
) -> TrainingProgram:
  """The state and the step of a training config on a mesh."""
  tx = make_optimizer(
    config.optimizer, steps=config.steps, frozen_paths=task.frozen
  )

  def init_state() -> TrainState:
    params = task.init(jax.random.key(config.seed))
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))

  # Abstract first, so that no device ever holds all of it.
  abstract = jax.eval_shape(init_state)
  shardings = tree_shardings(mesh, config.sharding, abstract)
  abstract = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    abstract,
    shardings,
  )
  step = jax.jit(
    functools.partial(train_step, task=task, tx=tx, seed=config.seed),
    out_shardings=(shardings, None),
    donate_argnums=0,
  )
  return TrainingProgram(init_state, abstract, shardings, step)


def check_batch(config: ConfigDict, devices: int) -> None:
  """Refuses a batch that the devices cannot share.

  Raises:
    ValueError: naming the keys and the numbers.
  """
  per_chunk = config.batch_size // config.chunks
  if per_chunk % devices:
    raise ValueError(
      f"config.batch_size={config.batch_size} in config.chunks="
      f"{config.chunks} gives {per_chunk} examples at a time, which "
      f"{devices} devices cannot share; use a multiple of "
      f"{devices * config.chunks}."
    )


def make_feed(
  config: ConfigDict,
  initial: Initial,
  task: Task,
  corpus: Corpus,
  mesh: Mesh,
  workdir: Path,
) -> tuple[Feed, int]:
  """Where batches come from, and how many examples there are."""
  inputs, encoder = initial.inputs, initial.models.encoder
  examples = load_examples(
    config.data, corpus, inputs.vocabulary if inputs else None
  )
  batches = train_batches(
    examples,
    config.batch_size,
    seed=config.seed,
    rows=host_slice(config.batch_size),
  )
  if inputs is None:
    return Feed(batches), len(examples)
  lookup = Lookup(config, encoder, corpus, inputs, mesh, k=config.retrieval.k)
  context = "retriever/passage/any"
  feed = RetrievalFeed(
    config,
    batches,
    lookup,
    encoder,
    corpus,
    mesh,
    workdir,
    trained=not any(re.fullmatch(path, context) for path in task.frozen),
  )
  return feed, len(examples)


def train(config: ConfigDict, workdir: str | Path) -> dict[str, Any]:
  """Trains to `config.steps`, taking up what the workdir holds.

  Args:
    config: validated, locked; see `config.base_config`.
    workdir: checkpoints, metrics, tokenizer and plots go here.

  Returns:
    Figures: steps, seconds, throughput, last metrics, what was loaded.

  Raises:
    ValueError: for bad settings or data, before the first step.
    FloatingPointError: on a loss or gradient that is not finite.
    Interrupted: after Ctrl-C or SIGTERM, with everything saved.
  """
  workdir = Path(workdir)
  started = time.monotonic()

  # ---- Data ----
  probe_writable(workdir)
  mesh = make_mesh(config.mesh.to_dict())
  check_batch(config, mesh.size)
  corpus = Corpus(config.data.corpus)

  # ---- Models, task, step ----
  initial = initial_models(config, corpus, mesh)
  models, inputs = initial.models, initial.inputs
  task = make_task(config, models)
  feed, examples = make_feed(config, initial, task, corpus, mesh, workdir)

  program = training_program(config, task, mesh)
  abstract, shardings = program.abstract, program.shardings

  # ---- Resume, or begin ----
  evaluator = make_evaluator(config, models, corpus, inputs, mesh, workdir)
  best = config.evaluate.best if evaluator else None
  extra = {
    "config": config.to_dict(),
    "encoder": dataclasses.asdict(models.encoder.config),
    "reader": dataclasses.asdict(models.reader.config)
    if models.reader
    else None,
    "reader_vocabulary": inputs.vocabulary.fingerprint if inputs else None,
    "tokenizer": corpus.tokenizer.fingerprint,
    "corpus": corpus.fingerprint,
    "best": best,
  }
  with Checkpoints(
    workdir / "checkpoints", keep=config.checkpoint.keep, best=best
  ) as checkpoints:
    resumed = checkpoints.latest()
    if resumed is not None:
      saved = read_extra(workdir / "checkpoints", resumed)
      check_same_config(saved["config"], config)
      feed.check(saved)
      wanted = SavedState(
        step=abstract.step,
        params=abstract.params,
        opt_state=abstract.opt_state,
        refresh=feed.abstract(abstract.params),
      )
      restored, saved = checkpoints.restore(wanted)
      state = TrainState(restored.step, restored.params, restored.opt_state)
      feed.resume(saved, restored.refresh)
      window = Window(saved["window"])
    else:
      state = jax.jit(program.init, out_shardings=shardings)()
      given = {name: shardings.params[name] for name in initial.params}
      place = jax.jit(lambda p: p, out_shardings=given)
      state = state._replace(params=state.params | place(initial.params))
      feed.begin(state.params)
      window = Window()
      if is_primary():
        corpus.tokenizer.save(workdir / "tokenizer")
        if inputs is not None:
          inputs.store.any_tokenizer.save(workdir / "reader_tokenizer")
        write_json(workdir / "config.json", config.to_dict())
    sync("begin")

    rate = learning_rate(config.optimizer, config.steps)

    def save(step: int, scores: Mapping[str, float] | None = None) -> None:
      position = feed.position() | {"window": window.sums}
      saved = SavedState(*state, feed.arrays())
      checkpoints.save(step, saved, extra | position, scores)

    if is_primary():
      print(parameter_table(state.params, shardings.params), file=sys.stderr)
      print(initial.loaded_from, file=sys.stderr, flush=True)

    # ---- The loop ----
    step = int(state.step)
    with (
      Report(workdir, enabled=is_primary(), resume_step=resumed or 0) as report,
      progress_bar("train", config.steps, "step") as update,
      stop_requested() as asked_to_stop,
    ):
      meter, pending, figures = Meter(), [], {}
      with jax.transfer_guard("disallow"):
        while step < config.steps:
          batch = feed.take()
          placed = to_global(mesh, batch)
          feed.prefetch(state.params)
          state, metrics = program.step(state, placed)
          step += 1
          feed.advance(state.params, step)
          meter.add(batch, task.flops(placed))
          pending.append((step, metrics))
          stop = checkpoints.should_stop(step, asked_to_stop())
          save_now = step % config.checkpoint.every == 0 or stop
          log_now = step % config.log_every == 0 or step == config.steps

          # Read the step *before*, so that the device never waits for us;
          # except where its own numbers are needed now.
          held_back = 0 if save_now or log_now else 1
          while len(pending) > held_back:
            at, values = pending.pop(0)
            values = jax.device_get(values)
            check_finite(at, values)
            window.add(values)

          if log_now:
            lines = window.take() | feed.figures(step)
            with jax.transfer_guard("allow"):
              lines["learning_rate"] = float(rate(step - 1))
            speed = meter.take()
            report.write(step, lines | speed)
            update(step, loss=lines["loss"], **speed)
            figures = lines | speed
          if save_now or step == config.steps:
            with meter.pause():
              scores = None
              if evaluator and not stop:
                scores = evaluator(state.params, feed.index())
                report.write(step, {f"dev/{k}": v for k, v in scores.items()})
              save(step, scores)
          if stop and step < config.steps:
            checkpoints.wait()
            raise Interrupted(
              f"stopped at step {step} of {config.steps}, saved; the same "
              "command goes on from there."
            )
    checkpoints.wait()
  if is_primary():
    plot_loss(workdir / "metrics.jsonl", workdir / "loss.png")
  return figures | {
    "steps": step,
    "seconds": round(time.monotonic() - started, 3),
    "examples": examples,
    "parameters": sum(x.size for x in jax.tree.leaves(abstract.params)),
    "initial": initial.loaded_from,
  }
