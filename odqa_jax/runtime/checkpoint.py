"""Checkpoints: state, loader position and config in one atomic Orbax step.

    with Checkpoints(workdir / "checkpoints", keep=1, best="recall@20") as c:
      c.save(step, state, {"loader": {...}, "config": {...}}, metrics)
      state, extra = c.restore(abstract_state)

The only module that knows Orbax's training checkpoints. A step restores onto
any mesh: the target's shardings decide where arrays go.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp


def probe_writable(directory: Path) -> None:
  """Creates the folder and a file in it, before hours are spent.

  Raises:
    ValueError: if that is not possible.
  """
  try:
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=directory):
      pass
  except OSError as error:
    raise ValueError(
      f"cannot write to {directory}: {error.strerror}; choose another folder "
      "or mend its permissions."
    ) from error


class Checkpoints:
  """The steps kept in one folder.

  Args:
    directory: where steps are kept.
    keep: how many of the last steps stay, besides the best.
    best: the metric whose highest step is kept as well; None keeps the last
      steps only.
  """

  def __init__(
    self, directory: Path, *, keep: int = 1, best: str | None = None
  ) -> None:
    self.directory = Path(directory).absolute()
    policies: list[Any] = [
      ocp.checkpoint_managers.LatestN(keep),
    ]
    if best is not None:
      policies.append(
        ocp.checkpoint_managers.BestN(
          get_metric_fn=lambda metrics: metrics[best], n=1, reverse=False
        )
      )
    self._manager = ocp.CheckpointManager(
      self.directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(
          policies
        ),
        best_fn=None if best is None else lambda m: m[best],
        enable_async_checkpointing=True,
      ),
    )

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, *_: object) -> None:
    self._manager.close()

  def latest(self) -> int | None:
    """The newest complete step, or None."""
    return self._manager.latest_step()

  def save(
    self,
    step: int,
    state: Any,
    extra: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
  ) -> None:
    """Begins to save; returns once the arrays are copied off the device.

    Args:
      step: the number of updates made.
      state: a tree of arrays.
      extra: what JSON can hold (loader position, config, fingerprints).
      metrics: what the best step is chosen by.
    """
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        extra=ocp.args.JsonSave(dict(extra)),
      ),
      metrics=None if metrics is None else dict(metrics),
      force=True,
    )

  def should_stop(self, step: int, asked: bool) -> bool:
    """Whether to stop after this step; all processes answer alike.

    With several processes the cluster's preemption notice decides, which
    reaches every process at the same step; alone, this process's own signal.
    """
    if jax.process_count() > 1:
      return self._manager.reached_preemption(step)
    return asked

  def wait(self) -> None:
    """Returns once all saves are on disk."""
    self._manager.wait_until_finished()

  def restore(
    self, abstract_state: Any, step: int | None = None
  ) -> tuple[Any, dict[str, Any]]:
    """State and extra of a step, the latest by default.

    Args:
      abstract_state: `ShapeDtypeStruct`s with the shardings wanted.
      step: which step.

    Raises:
      ValueError: if there is no such step.
    """
    step = self.latest() if step is None else step
    if step is None or step not in self._manager.all_steps():
      raise ValueError(f"no checkpoint {step} in {self.directory}.")
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(abstract_state),
        extra=ocp.args.JsonRestore(),
      ),
    )
    return restored.state, restored.extra


def find_step(path: Path) -> tuple[Path, int]:
  """Resolves a training workdir, or one step of it.

  A workdir stands for its best step where one was chosen, else its last.

  Raises:
    ValueError: if there is no checkpoint.
  """
  path = Path(path)
  if path.name.isdigit() and (path / "extra").is_dir():
    return path.parent, int(path.name)
  folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
  steps = [int(p.name) for p in folder.glob("*") if p.name.isdigit()]
  if not steps:
    raise ValueError(
      f"{path} holds no checkpoint: neither a training workdir with "
      "checkpoints/, nor a step, nor a folder with config.json and "
      "model.safetensors."
    )
  scored = [(v, s) for s in steps if (v := _score(folder, s)) is not None]
  return folder, max(scored)[1] if scored else max(steps)


def read_extra(folder: Path, step: int) -> dict[str, Any]:
  """The JSON part of a step, without opening the arrays."""
  return json.loads((folder / str(step) / "extra" / "metadata").read_text())


def _score(folder: Path, step: int) -> float | None:
  """The metric a step was kept for, or None where it was not measured."""
  metrics = folder / str(step) / "metrics" / "metrics"
  best = read_extra(folder, step).get("best")
  if best is None or not metrics.is_file():
    return None
  return json.loads(metrics.read_text()).get(best)


def restore_params(path: Path, sharding: Any) -> tuple[Any, dict[str, Any]]:
  """The parameters alone of a workdir or step, and the step's extra.

  Args:
    path: a training workdir or one step of it.
    sharding: where every parameter is placed.

  Raises:
    ValueError: if there is no checkpoint.
  """
  folder, step = find_step(path)
  extra = read_extra(folder, step)
  with ocp.PyTreeCheckpointer() as checkpointer:
    item = folder.absolute() / str(step) / "state"
    stored = checkpointer.metadata(item).item_metadata.tree
    target = jax.tree.map(
      lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=sharding),
      stored["params"],
    )
    restored = checkpointer.restore(
      item,
      args=ocp.args.PyTreeRestore(
        item={"params": target},
        restore_args=ocp.checkpoint_utils.construct_restore_args(
          {"params": target}
        ),
        partial_restore=True,
      ),
    )
  return restored["params"], extra


def write_json(path: Path, value: Any) -> None:
  """Writes JSON to a temporary name and renames it into place."""
  temporary = path.with_name(path.name + ".tmp")
  temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
  os.replace(temporary, path)
