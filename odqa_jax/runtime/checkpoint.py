"""Checkpoints: the arrays of a step as Orbax keeps them, under a manifest.

    with Checkpoints(workdir / "checkpoints", keep=1, best="recall@20") as c:
      c.save(step, state, {"loader": {...}, "config": {...}}, metrics)
      state, extra = c.restore(abstract_state)

    checkpoints/300/manifest.json   what the step was made from (loader
                                    position, config, fingerprints), metrics,
                                    shapes of the parameters, checksums
    checkpoints/300/state/          Orbax's

The only module that knows Orbax's training checkpoints. A step restores onto
any mesh: the target's shardings decide where arrays go. It has its name only
once Orbax is done and the manifest is written; older steps stay until then.
"""

import contextlib
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from odqa_jax.runtime import artifact
from odqa_jax.runtime.artifact import Artifact, Draft, open_artifact
from odqa_jax.runtime.files import Damage, FullDisk, saying_what_is_full
from odqa_jax.runtime.mesh import is_primary, path_name, sync

_STATE = "state"
_DAMAGED = ".damaged"
# What `latest` tells other processes instead of a step.
_NONE, _ALL_DAMAGED = -1, -2
# No array of a model has as many; a manifest that says so was made to hurt.
_MOST_ELEMENTS = 1 << 40


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
  """The steps kept in one folder, which one run at a time writes.

  All processes of a run make the same calls.

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
    self._keep, self._best = keep, best
    self._closing = ExitStack()
    if is_primary():
      self._closing.enter_context(artifact.lock(self.directory))
      for unfinished in self.directory.glob("*.tmp"):
        shutil.rmtree(unfinished)
    self._closing.enter_context(_without_late_answers())
    self._checkpointer = ocp.StandardCheckpointer()
    # Writes one manifest after the other, while the training goes on.
    self._pool = ThreadPoolExecutor(1)
    self._saving: Future[None] | None = None
    self._failed = False
    self._sound: int | None = None

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, *_: object) -> None:
    with self._closing:
      try:
        self._finish_saving()
      finally:
        self._pool.shutdown()
        # It raises again what was raised where the save was waited for.
        with suppress(Exception) if self._failed else nullcontext():
          self._checkpointer.close()

  def latest(self) -> int | None:
    """The newest step whose files are what was written; None if none is there.

    A newer one that is damaged is set aside, with a warning.

    Raises:
      ValueError: if there are steps, but none that can be used.
    """
    step = self._latest_sound() if is_primary() else _NONE
    if jax.process_count() > 1:
      step = int(multihost_utils.broadcast_one_to_all(np.int32(step)))
    if step == _ALL_DAMAGED:
      raise ValueError(
        f"{self.directory}: no step in it can be used: they are damaged, not "
        f"complete, or of another format than {artifact.FORMAT}, which this "
        "version reads; choose another workdir, or remove this folder to begin "
        "anew."
      )
    self._sound = None if step == _NONE else step
    return self._sound

  def _latest_sound(self) -> int:
    steps = _steps(self.directory)
    while steps:
      folder = self.directory / str(steps.pop())
      try:
        open_artifact(folder, "checkpoint")
        return int(folder.name)
      except Damage as error:
        aside = folder.with_name(folder.name + _DAMAGED)
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        _warn(f"{error} It was set aside as {aside.name}.")
    left = any(_numbered(self.directory)) or any(
      self.directory.glob(f"*{_DAMAGED}")
    )
    return _ALL_DAMAGED if left else _NONE

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

    Raises:
      FullDisk: if there is no room for this step, or was none for the last.
    """
    self._finish_saving()
    folder = self.directory / f"{step}.tmp"
    with self._room_for(folder):
      self._checkpointer.save(folder / _STATE, state, force=True)
    draft = Draft(folder, {"metrics": dict(metrics or {})})
    draft.counts["params"] = _shapes(state)
    self._saving = self._pool.submit(self._seal, draft, step, dict(extra))

  def _seal(self, draft: Draft, step: int, extra: dict[str, Any]) -> None:
    """Waits for Orbax, gives the step its name, removes older ones.

    Raises:
      FullDisk: if there is no room; what is half written is removed.
    """
    with self._room_for(draft.folder):
      self._checkpointer.wait_until_finished()
      if not is_primary():
        return
      folder = self.directory / str(step)
      artifact.seal(draft, folder, "checkpoint", extra)
    steps = _steps(self.directory)
    kept = set(steps[-self._keep :])
    if self._best is not None:
      kept.add(max(steps, key=lambda s: _rank(self.directory, s, self._best)))
    for old in set(steps) - kept:
      shutil.rmtree(self.directory / str(old))

  @contextlib.contextmanager
  def _room_for(self, folder: Path) -> Iterator[None]:
    """Says what was not saved for want of room, and gives its part back.

    Raises:
      FullDisk: if there is no room.
    """
    try:
      with saying_what_is_full(folder):
        yield
    except FullDisk as error:
      self._failed = True
      shutil.rmtree(folder, ignore_errors=True)
      raise FullDisk(f"step {folder.stem} was not saved: {error}") from error

  def _finish_saving(self) -> None:
    if self._saving is not None:
      saving, self._saving = self._saving, None
      saving.result()

  def should_stop(self, step: int, asked: bool) -> bool:
    """Whether to stop after this step; all processes answer alike.

    With several processes the cluster's preemption notice decides, which
    reaches every process at the same step; alone, this process's own signal.

    Raises:
      FullDisk: if the last step could not be saved.
    """
    if self._saving is not None and self._saving.done():
      self._finish_saving()
    if jax.process_count() > 1:
      return ocp.utils.reached_preemption(step)
    return asked

  def wait(self) -> None:
    """Returns once all saves are on disk."""
    self._finish_saving()
    sync("checkpoints: saved")

  def restore(
    self, abstract_state: Any, step: int | None = None
  ) -> tuple[Any, dict[str, Any]]:
    """State and extra of a step, the latest by default.

    Args:
      abstract_state: `ShapeDtypeStruct`s with the shardings wanted.
      step: which step.

    Raises:
      ValueError: if there is no such step, or it is damaged.
    """
    self.wait()
    step = self.latest() if step is None else step
    if step not in _steps(self.directory):
      raise ValueError(f"no checkpoint {step} in {self.directory}.")
    folder = self.directory / str(step)
    if step != self._sound:
      open_artifact(folder, "checkpoint")
    with _reading(folder):
      state = self._checkpointer.restore(folder / _STATE, abstract_state)
    return state, read_extra(self.directory, step)


@contextlib.contextmanager
def _without_late_answers() -> Iterator[None]:
  """Leaves out the tracebacks of writes that end after one has failed.

  TensorStore tells each to an event loop, which Orbax has closed by then, and
  hands what comes of it to `sys.unraisablehook`. The failure itself is raised
  where the save is waited for.
  """
  before = sys.unraisablehook

  def hook(unraisable: Any) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
      before(unraisable)

  sys.unraisablehook = hook
  try:
    yield
  finally:
    sys.unraisablehook = before


def _warn(message: str) -> None:
  print(f"warning: {message}", file=sys.stderr, flush=True)


def _numbered(folder: Path) -> Iterator[Path]:
  """What may be a step, by its name."""
  return (path for path in folder.glob("*") if path.name.isdigit())


def _steps(folder: Path) -> list[int]:
  """The complete steps, in order: a step without a manifest is not one."""
  return sorted(
    int(p.name) for p in _numbered(folder) if (p / artifact.MANIFEST).is_file()
  )


def _rank(folder: Path, step: int, best: str | None) -> tuple[float, int]:
  """Orders steps by a metric, those without it first, then by number."""
  try:
    manifest = artifact.read_manifest(folder / str(step), "checkpoint")
  except Damage:
    return -np.inf, -1
  return manifest["metrics"].get(best, -np.inf), step


def _shapes(state: Any) -> dict[str, Any]:
  """Path, shape and type of all parameters in a training state."""
  leaves = jax.tree_util.tree_leaves_with_path(state)
  named = {path_name(path): leaf for path, leaf in leaves}
  return {
    name: [leaf.shape, str(leaf.dtype)]
    for name, leaf in named.items()
    if name.startswith("params/")
  }


def find_step(path: Path) -> tuple[Path, int]:
  """Resolves a training workdir, or one step of it.

  A workdir stands for its best step where one was chosen, else its last.

  Raises:
    ValueError: if there is no checkpoint, or its manifest is damaged.
  """
  path = Path(path)
  if path.name.isdigit() and (path / artifact.MANIFEST).is_file():
    return path.parent, int(path.name)
  folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
  steps = _steps(folder)
  if not steps:
    if path.name.isdigit() or any(_numbered(folder)):
      raise ValueError(
        f"{path} holds no {artifact.MANIFEST}: the checkpoint is not complete, "
        f"or of a format before {artifact.FORMAT}, which this version reads; "
        "train again."
      )
    raise ValueError(
      f"{path} holds no checkpoint: neither a training workdir with "
      "checkpoints/, nor a step, nor a folder with config.json and "
      "model.safetensors."
    )
  step = steps[-1]
  try:
    best = read_extra(folder, step).get("best")
    if best is not None:
      # One that is damaged might be the best: nothing else is put in its place.
      for step in steps:
        read_extra(folder, step)
  except Damage as error:
    raise _with_whole_step(error, folder, step) from error
  return folder, max(steps, key=lambda step: _rank(folder, step, best))


def _with_whole_step(error: Damage, folder: Path, damaged: int) -> Damage:
  """The error, and the newest other step whose files are what was written."""
  for step in reversed(_steps(folder)):
    if step == damaged:
      continue
    try:
      open_artifact(folder / str(step), "checkpoint")
    except ValueError:
      continue
    return Damage(f"{error} But step {step} is whole: {folder / str(step)}.")
  return Damage(f"{error} No other step is there that is whole.")


def read_extra(folder: Path, step: int) -> dict[str, Any]:
  """What a step was made from, without opening the arrays."""
  manifest = artifact.read_manifest(folder / str(step), "checkpoint")
  return manifest["made_from"]


def restore_params(path: Path, sharding: Any) -> tuple[Any, dict[str, Any]]:
  """The parameters alone of a workdir or step, and the step's extra.

  Args:
    path: a training workdir or one step of it.
    sharding: where every parameter is placed.

  Raises:
    ValueError: if there is no checkpoint, or it is damaged.
  """
  folder, step = find_step(path)
  try:
    files = open_artifact(folder.absolute() / str(step), "checkpoint")
  except Damage as error:
    raise _with_whole_step(error, folder, step) from error
  target = _abstract_params(files, sharding)
  with ocp.PyTreeCheckpointer() as checkpointer, _reading(files.directory):
    restored = checkpointer.restore(
      files.directory / _STATE,
      args=ocp.args.PyTreeRestore(
        item=target,
        restore_args=ocp.checkpoint_utils.construct_restore_args(target),
        partial_restore=True,
      ),
    )
  return restored["params"], files.manifest["made_from"]


def _abstract_params(files: Artifact, sharding: Any) -> dict[str, Any]:
  """The tree of shapes that a manifest lists.

  Raises:
    ValueError: if what it lists is no tree of arrays.
  """
  target: dict[str, Any] = {}
  for name, entry in files.manifest["params"].items():
    *parents, leaf = name.split("/")
    branch = target
    try:
      shape, dtype = entry
      if math.prod(shape) > _MOST_ELEMENTS or min(shape, default=0) < 0:
        raise ValueError("an array of that shape fits nowhere")
      for parent in parents:
        branch = branch.setdefault(parent, {})
      branch[leaf] = jax.ShapeDtypeStruct(
        tuple(shape), np.dtype(dtype), sharding=sharding
      )
    except (TypeError, ValueError, AttributeError) as error:
      raise ValueError(
        f"{files.directory / artifact.MANIFEST}: the parameter {name!r} is "
        f"{entry!r} ({error}); train again."
      ) from error
  return target


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[None]:
  """Names the step where Orbax cannot read what the manifest vouches for.

  Raises:
    ValueError: for any of Orbax's errors, which come as bare `Exception`s.
  """
  try:
    yield
  except Exception as error:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    raise ValueError(
      f"{folder}: Orbax cannot restore the arrays ({lines[0][:300]}); use "
      "another step, or train again."
    ) from error
