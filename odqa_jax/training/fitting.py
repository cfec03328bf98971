"""What `config.micro_batches` and `remat` leave to the memory: "auto".

    run = fitted(run, memory_limit(mesh))

A run that cannot fit is refused here, in less than a minute, before anything is
compiled or loaded.
"""

import bisect
import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax

from odqa_jax.models import dual_encoder, t5
from odqa_jax.runtime.checkpoint import find_step, read_extra
from odqa_jax.runtime.settings import AUTO, RetrievalSettings, Settings
from odqa_jax.training.layer_runs import LEVELS, unrolled
from odqa_jax.training.memory import (
  MARGIN,
  Held,
  Run,
  local_examples,
  resident,
  step_bytes,
)
from odqa_jax.training.tasks.losses import InBatchLoss
from odqa_jax.training.tasks.table import make_task

_GIB = 2**30
# As many devices as are ever proposed.
_MOST_DEVICES = 4096
_SMALLER = "base"


class _Choice(NamedTuple):
  """A number of micro-batches, and the examples of one on a device."""

  micro_batches: int
  examples: int


class Chosen(NamedTuple):
  """What a run that is taken up again has had.

  Attributes:
    micro_batches: how many.
    remat: component → what its layers compute again.
  """

  micro_batches: int
  remat: dict[str, str]


R = TypeVar("R", bound=Run)


def is_open(settings: Settings) -> bool:
  """Whether anything is left to the memory of the devices."""
  blocks = (settings.model, settings.reader)
  return AUTO in (settings.micro_batches, *(block.remat for block in blocks))


def recomputed(run: Run) -> dict[str, str]:
  """Component → what its layers compute again."""
  networks: dict[str, Any] = {k: c.config for k, c in run.components.items()}
  return {
    name: str(getattr(config, "bert", config).remat)
    for name, config in networks.items()
  }


def fitted(run: R, limit: int, *, before: Chosen | None = None) -> R:
  """The run with micro-batches, and as little computed again, as fits.

  Micro-batches are as few as they can be; of those that only split a sum, any
  number costs less than to compute layers again. Of others each is computed
  twice, so that one with layers computed again is tried first.

  Args:
    run: what is trained. A number of its own is kept if it fits; it is refused
      if even without the margin of the estimate it does not.
    limit: bytes that programs may use on a device.
    before: what a run to be resumed has had: kept if it still fits, as
      another choice rounds otherwise.

  Raises:
    ValueError: with what would fit.
  """
  # Neither micro-batches nor what is computed again change what stays.
  levels, parts = _levels(run), resident(run)

  def fits(level: Run, number: int) -> bool:
    step = step_bytes(level, -(-local_examples(run) // number))
    return _fits(parts, run.mesh.size, step, limit)

  if before is not None:
    same = _with_remat(_in_parts(run, before.micro_batches), before.remat)
    with contextlib.suppress(ValueError):
      return _checked(same, parts, limit)
  if run.settings.micro_batches != AUTO:
    for level in levels[:-1]:
      if fits(level, run.settings.parts):
        return level
    return _checked(levels[-1], parts, limit)
  if computed_twice(run):
    for level in levels:
      if fits(level, 1):
        return _in_parts(level, 1)
  for level in levels[:-1]:
    with contextlib.suppress(ValueError):
      return _in_parts(level, fewest_micro_batches(level, parts, limit))
  return _in_parts(levels[-1], fewest_micro_batches(levels[-1], parts, limit))


def computed_twice(run: Run) -> bool:
  """Whether more than one micro-batch needs a second forward pass of each."""
  settings = dataclasses.replace(run.settings, micro_batches=1)
  return isinstance(make_task(settings, run.components).loss, InBatchLoss)


def _in_parts(run: R, number: int) -> R:
  settings = dataclasses.replace(run.settings, micro_batches=number)
  return dataclasses.replace(run, settings=settings)


def _levels(run: R) -> list[R]:
  """The run with what may be computed again, up to everything.

  On a GPU from nothing on; elsewhere from what `layer_run` has decided.
  """
  model, reader = run.settings.model, run.settings.reader
  blocks = {name: model for name in run.components} | {"reader": reader}
  names = [name for name in run.components if blocks[name].remat == AUTO]
  config = next(iter(run.components.values())).config
  platform = getattr(config, "bert", config).platform
  if unrolled(platform or jax.default_backend()):
    return [_with_remat(run, dict.fromkeys(names, level)) for level in LEVELS]
  everything = _with_remat(run, dict.fromkeys(names, LEVELS[-1]))
  same = recomputed(everything) == recomputed(run)
  return [run] if same else [run, everything]


def _with_remat(run: R, remat: Mapping[str, str]) -> R:
  """The run with what some of its networks compute again."""
  components: dict[str, Any] = dict(run.components)
  for name, level in remat.items():
    components[name] = _changed(run.components[name], {"remat": level})
  return dataclasses.replace(run, components=components)


def _configs(run: Run) -> list[Any]:
  return [network.config for network in run.components.values()]


def _changed(network: Any, values: Mapping[str, Any]) -> Any:
  """A network with other values in the config of its stack of layers."""
  config = network.config
  if hasattr(config, "bert"):
    bert = dataclasses.replace(config.bert, **values)
    return type(network)(dataclasses.replace(config, bert=bert))
  return type(network)(dataclasses.replace(config, **values))


def _checked(run: R, parts: Mapping[str, Held], limit: int) -> R:
  """The run as it is, if it fits beside what stays; see `fitted`."""
  number = run.settings.parts
  step = step_bytes(run, -(-local_examples(run) // number))
  if _fits(parts, run.mesh.size, round(step / MARGIN), limit):
    return run
  fewest = fewest_micro_batches(run, parts, limit)
  raise ValueError(
    f"config.micro_batches={number} does not fit a device with {_gib(limit)} "
    f"GiB: {_listed(parts, run.mesh.size, step)}; use "
    f"--config.micro_batches={fewest}."
  )


def chosen_before(workdir: Path) -> Chosen | None:
  """What a run has had that a workdir holds, if any."""
  try:
    folder, step = find_step(workdir)
    extra = read_extra(folder, step)
    return Chosen(extra["micro_batches"], extra.get("remat", {}))
  except ValueError:
    return None  # Nothing is there, or what is will be judged when it is read.


def fewest_micro_batches(
  run: Run, parts: Mapping[str, Held], limit: int
) -> int:
  """The smallest number of micro-batches with which a step fits a device.

  Args:
    run: what is trained; its own `micro_batches` do not count.
    parts: what stays on the devices, see `resident`.
    limit: bytes that programs may use on a device.

  Raises:
    ValueError: if no number does, with what would fit.
  """
  devices = run.mesh.size
  needs = functools.cache(lambda examples: step_bytes(run, examples))

  def fits(choice: _Choice) -> bool:
    return _fits(parts, devices, needs(choice.examples), limit)

  choices = _choices(run)
  if fits(choices[0]):
    return choices[0].micro_batches
  if not fits(choices[-1]):
    raise ValueError(_refusal(run, limit, parts, needs(choices[-1].examples)))
  # More micro-batches never need more memory: the first that fits is between.
  return choices[bisect.bisect_left(choices, True, key=fits)].micro_batches


def _choices(run: Run) -> list[_Choice]:
  """Numbers of micro-batches that are all of a size, the smallest first."""
  local = local_examples(run)
  return [_Choice(n, local // n) for n in range(1, local + 1) if local % n == 0]


def _fits(
  parts: Mapping[str, Held], devices: int, step: int, limit: int
) -> bool:
  return step + sum(p.on_one(devices) for p in parts.values()) <= limit


def _listed(parts: Mapping[str, Held], devices: int, step: int) -> str:
  """What a device needs, and every part of it, in GiB."""
  sizes = {name: part.on_one(devices) for name, part in parts.items()}
  sizes["step"] = step
  named = ", ".join(
    f"{k.replace('_', ' ')} {_gib(v)}" for k, v in sizes.items()
  )
  return f"it needs {_gib(sum(sizes.values()))} ({named})"


def _refusal(run: Run, limit: int, parts: Mapping[str, Held], step: int) -> str:
  """Why not even single examples fit, and what would."""
  devices = run.mesh.size
  means = [
    name
    for name, other in _alternatives(run)
    if _fits(resident(other), devices, step_bytes(other, 1), limit)
  ]
  more = 2 * devices
  while more < _MOST_DEVICES and not _fits(parts, more, step, limit):
    more *= 2
  if _fits(parts, more, step, limit):
    means.append(f"{more} devices")
  would = "; or ".join(means) or "smaller networks or shorter passages"
  return (
    f"this run cannot fit {devices} devices of {_gib(limit)} GiB: with one "
    f"example at a time on each, {_listed(parts, devices, step)}. What would "
    f"fit: {would}."
  )


def _alternatives(run: Run) -> Iterator[tuple[str, Run]]:
  """Single changes that need less memory, as flags, and the run with them."""
  if run.needs.retrieval:
    retrieval = run.settings.retrieval
    if run.tokens is not None:
      host = dataclasses.replace(retrieval, tokens="host")
      yield (
        "--config.retrieval.tokens=host",
        _with_retrieval(dataclasses.replace(run, tokens=None), host),
      )
    if retrieval.dtype != "int8":
      yield (
        "--config.retrieval.dtype=int8",
        _with_retrieval(run, dataclasses.replace(retrieval, dtype="int8")),
      )
    if retrieval.refresh == "snapshot":
      yield (
        "--config.retrieval.refresh=rolling",
        _with_retrieval(run, dataclasses.replace(retrieval, refresh="rolling")),
      )
  blocks = ["model", *(["reader"] if "reader" in run.needs.components else [])]
  for key, value in (("remat", "full"), ("preset", _SMALLER)):
    other = _with_networks(run, key, value)
    if _configs(other) != _configs(run):
      flags = " ".join(f"--config.{block}.{key}={value}" for block in blocks)
      yield flags, other


def _with_retrieval(run: Run, retrieval: RetrievalSettings) -> Run:
  settings = dataclasses.replace(run.settings, retrieval=retrieval)
  return dataclasses.replace(run, settings=settings)


def _with_networks(run: Run, key: str, value: str) -> Run:
  """The run with `remat`, or with the sizes of a preset, in its networks."""
  changed: dict[str, Any] = dict(run.components)
  for name, network in run.components.items():
    config = getattr(network.config, "bert", network.config)
    values: dict[str, Any] = {"remat": value}
    if key != "remat":
      presets = t5.PRESETS if name == "reader" else dual_encoder.PRESETS
      values = {k: v for k, v in presets[value].items() if k != "vocab_size"}
      if values["width"] >= config.width:
        continue
    changed[name] = _changed(network, values)
  return dataclasses.replace(run, components=changed)


def _gib(size: int) -> str:
  return f"{size / _GIB:,.2f}"
