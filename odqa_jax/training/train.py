"""The training loop, one for every task, read from top to bottom.

State is `TrainState(step, params, opt_state)`. Randomness is a function of
(seed, step), the data order of (seed, epoch): nothing random is stored, and a
run that was killed and resumed gives the same bits as one that was not.
"""

import dataclasses
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.views import tell_cut
from odqa_jax.data.examples.batch import check_batch
from odqa_jax.data.examples.loader import chosen_examples
from odqa_jax.data.examples.sources import load_examples
from odqa_jax.reading.gather import PassageGatherer
from odqa_jax.runtime.checkpoint import (
  Checkpoints,
  probe_writable,
  read_extra,
)
from odqa_jax.runtime.config import (
  check_same_config,
  flatten,
)
from odqa_jax.runtime.files import write_json
from odqa_jax.runtime.interruption import Interrupted, stop_requested
from odqa_jax.runtime.mesh import (
  is_primary,
  make_mesh,
  sync,
  to_global,
)
from odqa_jax.runtime.plots import plot_loss
from odqa_jax.runtime.progress import progress_bar
from odqa_jax.runtime.report import Report, parameter_table
from odqa_jax.runtime.run_record import Recipe, RunRecord
from odqa_jax.runtime.settings import Settings
from odqa_jax.training.asked import ask
from odqa_jax.training.contents import (
  check_same_contents,
  contents,
  described,
  origins,
)
from odqa_jax.training.fitting import chosen_before, is_open, recomputed
from odqa_jax.training.initial import initial_components
from odqa_jax.training.length_groups import grouped_task
from odqa_jax.training.measuring import make_dev_evaluator
from odqa_jax.training.memory import Held, Run, memory_limit
from odqa_jax.training.meters import Meter, Window, check_finite
from odqa_jax.training.optimizer import learning_rate
from odqa_jax.training.pipelines import (
  make_gatherer,
  make_pipeline,
  trains_passages,
)
from odqa_jax.training.program import TrainState, training_program
from odqa_jax.training.stored_teacher import open_teacher
from odqa_jax.training.tasks.table import make_task
from odqa_jax.training.tokens import (
  make_device_gatherer,
  settled,
  stored_tokens,
)


class SavedState(NamedTuple):
  """What a checkpoint holds: the fields of `TrainState`, and the index's."""

  step: Any
  params: Any
  opt_state: Any
  refresh: Any


def number_of_steps(settings: Settings, examples: int) -> int:
  """`config.steps`, or what `config.epochs` makes of the examples."""
  if not settings.epochs:
    return settings.steps
  return math.ceil(settings.epochs * examples / settings.batch_size)


def settled_run(
  run: Run, gatherer: PassageGatherer | None, workdir: Path
) -> Run:
  """The run with its micro-batches and the place of its tokens; logs both.

  Args:
    run: as the settings say.
    gatherer: of its passages; None where it retrieves none.
    workdir: a run to be resumed keeps its number while it fits.
  """

  def stored() -> Held:
    assert gatherer is not None, "nothing is retrieved"
    return stored_tokens(run, gatherer)

  limit, before = memory_limit(run.mesh), chosen_before(workdir)
  made = settled(run, stored, limit, before=before)
  if is_open(run.settings) and is_primary():
    print(f"micro-batches: {made.settings.parts}", file=sys.stderr)
  return made


def train(
  config: ConfigDict | str | Path,
  workdir: str | Path,
  overrides: Mapping[str, Any] | None = None,
  *,
  recipe: Recipe | None = None,
) -> dict[str, Any]:
  """Trains to `config.steps`, taking up what the workdir holds.

  >>> figures = train(
  ...   "configs/ict.py:debug",
  ...   "work/ict",
  ...   {"data.corpus": "data/corpus", "steps": 2},
  ... )
  >>> figures["steps"]
  2

  Args:
    config: a recipe as for `odqa train --config`, "configs/ict.py:size=tiny";
      or its values, see `runtime.settings`, which are read here, once.
    workdir: checkpoints, metrics, tokenizer and plots go here.
    overrides: settings of a recipe that are changed, such as
      {"data.corpus": "data/corpus", "steps": 500}.
    recipe: that values were made from, for reports.

  Returns:
    Figures: steps, seconds, throughput, last metrics, what was loaded.

  Raises:
    ValueError: for bad settings or data, before the first step.
    ImportError: if what metrics are to be sent to is not installed.
    FloatingPointError: on a loss or gradient that is not finite.
    Interrupted: after Ctrl-C or SIGTERM, with everything saved.
  """
  workdir = Path(workdir)
  started = time.monotonic()

  # ---- Settings ----
  asked = ask(config, overrides or {}, recipe)
  config, settings, needs = asked.config, asked.settings, asked.needs
  mesh = make_mesh(settings.mesh)
  probe_writable(workdir)

  # ---- Components, task, data ----
  corpus = Corpus(settings.data.corpus)
  if "retriever" in needs.components and is_primary():
    tell_cut(corpus, settings.data.passage_length, title=settings.data.title)
  initial = initial_components(settings, needs, corpus, mesh)
  gatherer = make_gatherer(settings, initial, corpus)
  run = settled_run(
    Run(settings, needs, initial.components, mesh, len(corpus)),
    gatherer,
    workdir,
  )
  settings = run.settings
  initial = dataclasses.replace(initial, components=run.components)
  task = make_task(settings, initial.components)
  teacher = None
  if needs.teacher:
    teacher = open_teacher(settings, corpus, mesh)
  examples = load_examples(settings.data, corpus, initial.vocabulary)
  used = len(
    chosen_examples(len(examples), settings.data.fraction, seed=settings.seed)
  )
  if settings.batch_size > used and is_primary():
    print(
      f"config.batch_size={settings.batch_size}: there are {used} examples, so "
      "that a batch has some of them twice; lower it.",
      file=sys.stderr,
    )
  if gatherer is not None and settings.data.length_groups > 1:
    task = grouped_task(task, run, gatherer, examples)
  steps = number_of_steps(settings, used)
  program = training_program(settings, task, mesh, steps=steps)
  abstract, shardings = program.abstract, program.shardings
  pipeline = make_pipeline(
    settings,
    initial,
    examples,
    gatherer,
    mesh,
    workdir,
    trained=needs.retrieval
    and trains_passages(settings, task, abstract.params),
    whole=program.whole,
    on_devices=make_device_gatherer(run, gatherer),
    teacher=teacher,
  )
  left_out = sum(examples.left_out.values())

  # ---- Resume, or begin ----
  evaluator = make_dev_evaluator(
    settings, task, initial, corpus, gatherer, mesh, workdir, examples
  )
  best = settings.evaluate.best if evaluator else None
  extra = {
    "config": config.to_dict(),
    "components": initial.descriptions,
    "reading": task.reading and dataclasses.asdict(task.reading),
    "corpus": corpus.fingerprint,
    "contents": contents(settings),
    "origins": origins(settings),
    "best": best,
    "micro_batches": settings.parts,
    "remat": recomputed(run),
  }
  with Checkpoints(
    workdir / "checkpoints", keep=settings.checkpoint.keep, best=best
  ) as checkpoints:
    resumed = checkpoints.latest()
    if resumed is not None:
      saved = read_extra(workdir / "checkpoints", resumed)
      check_same_config(saved["config"], config, longer=steps > resumed)
      check_same_contents(saved["contents"], extra["contents"], settings)
      pipeline.check(saved)
      wanted = SavedState(
        step=abstract.step,
        params=abstract.params,
        opt_state=abstract.opt_state,
        refresh=pipeline.abstract(abstract.params),
      )
      restored, saved = checkpoints.restore(wanted)
      state = TrainState(restored.step, restored.params, restored.opt_state)
      pipeline.resume(saved, restored.refresh)
      window = Window(saved["window"])
    else:
      state = jax.jit(program.init, out_shardings=shardings)()
      given = {name: shardings.params[name] for name in initial.params}
      place = jax.jit(lambda p: p, out_shardings=given)
      state = state._replace(params=state.params | place(initial.params))
      pipeline.begin(state.params)
      window = Window()
      if is_primary():
        initial.tokenizer.save(workdir / "tokenizer")
        if initial.inputs is not None:
          reader_tokenizer = initial.inputs.store.any_tokenizer
          reader_tokenizer.save(workdir / "reader_tokenizer")
    if is_primary():
      write_json(workdir / "config.json", config.to_dict())
    sync("begin")

    rate = learning_rate(settings.optimizer, steps * task.updates)

    record = RunRecord(
      workdir,
      step=resumed or 0,
      about={
        "steps": steps,
        "seed": settings.seed,
        "task": settings.task,
        "recipe": asked.recipe and asked.recipe._asdict(),
        "data": described(settings, extra["contents"]),
        "examples": used,
        "examples_left_out": dict(examples.left_out),
        "passages": len(corpus),
        "initial": None if resumed else initial.loaded_from,
        "parameters": sum(x.size for x in jax.tree.leaves(abstract.params)),
      },
      started=started,
      enabled=is_primary(),
    )

    def save(step: int, scores: Mapping[str, float] | None = None) -> None:
      position = pipeline.position() | {"window": window.sums}
      saved = SavedState(*state, pipeline.arrays())
      checkpoints.save(step, saved, extra | position, scores)
      record.update(step)

    if is_primary():
      print(parameter_table(state.params, shardings.params), file=sys.stderr)
      begun = initial.loaded_from
      if resumed is not None:
        begun = f"{workdir}: resuming at step {resumed} of {steps}"
      print(begun, file=sys.stderr, flush=True)

    # ---- The loop ----
    step = int(state.step)
    with (
      Report(
        workdir,
        settings.report,
        enabled=is_primary(),
        resume_step=resumed or 0,
        config=flatten(config.to_dict()),
      ) as report,
      progress_bar("train", steps, "step") as update,
      stop_requested() as is_requested,
    ):
      meter, pending, figures = Meter(), [], {}
      shown: dict[str, Any] = {"status": "compiling"} if step < steps else {}
      update(step, **shown)
      with jax.transfer_guard("disallow"):
        while step < steps:
          batch = pipeline.take()
          if not meter.steps:
            check_batch(batch, needs.batch)
          placed = to_global(mesh, batch)
          pipeline.prefetch(state.params)
          state, metrics = program.step(state, placed)
          step += 1
          shown.pop("status", None)
          pipeline.refresh(state.params, step)
          meter.add(batch, task.flops(placed))
          pending.append((step, metrics))
          stop = checkpoints.should_stop(step, is_requested())
          save_now = step % settings.checkpoint.every == 0 or stop
          log_now = step % settings.log_every == 0 or step == steps

          # Read the step *before*, so that the device never waits for us;
          # except where its own numbers are needed now.
          held_back = 0 if save_now or log_now else 1
          while len(pending) > held_back:
            at, values = pending.pop(0)
            values = jax.device_get(values)
            check_finite(at, values)
            window.add(values)

          if log_now:
            lines = window.take() | pipeline.metrics(step)
            lines["examples_left_out"] = left_out
            with jax.transfer_guard("allow"):
              lines["learning_rate"] = float(rate((step - 1) * task.updates))
            speed = meter.take()
            report.write(step, lines | speed)
            shown |= {"loss": lines["loss"], **speed}
            figures = lines | speed
          update(step, **shown)
          if save_now or step == steps:
            with meter.pause():
              scores = None
              if evaluator and not (stop and step < steps):
                scores = evaluator(state.params, pipeline.index())
                scores |= pipeline.metrics(step)
                report.write(step, {f"dev/{k}": v for k, v in scores.items()})
                if best in scores:
                  shown[f"dev_{best}"] = scores[best]
              save(step, scores)
              report.flush()
          if stop and step < steps:
            checkpoints.wait()
            record.update(step, "stopped")
            raise Interrupted(
              f"stopped at step {step} of {steps}, saved; the same command "
              "goes on from there."
            )
    checkpoints.wait()
  record.update(step, "finished")
  if is_primary():
    plot_loss(workdir / "metrics.jsonl", workdir / "loss.png")
  return figures | {
    "steps": step,
    "seconds": round(time.monotonic() - started, 3),
    "examples": used,
    "examples_left_out": left_out,
    "parameters": sum(x.size for x in jax.tree.leaves(abstract.params)),
    "initial": initial.loaded_from,
    "chosen_on": [str(choice) for choice in asked.choices],
  }
