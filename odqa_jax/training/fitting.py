"""`config.micro_batches = "auto"`: as few as the devices' memory allows.

    settings = fitted(run, memory_limit(mesh))

A run that cannot fit is refused here, in less than a minute, before anything is
compiled or loaded.
"""

import bisect
import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from odqa_jax.models import dual_encoder, t5
from odqa_jax.runtime.checkpoint import find_step, read_extra
from odqa_jax.runtime.settings import AUTO, RetrievalSettings, Settings
from odqa_jax.training.memory import (
  MARGIN,
  Held,
  Run,
  local_examples,
  resident,
  step_bytes,
)

_GIB = 2**30
# As many devices as are ever proposed.
_MOST_DEVICES = 4096
_SMALLER = "base"


class _Choice(NamedTuple):
  """A number of micro-batches, and the examples of one on a device."""

  micro_batches: int
  examples: int


def fitted(run: Run, limit: int, *, before: int | None = None) -> Settings:
  """The settings with a number of micro-batches that fits.

  Args:
    run: what is trained. A number of its own is kept if it fits; it is refused
      if even without the margin of the estimate it does not.
    limit: bytes that programs may use on a device.
    before: the number that a run to be resumed has had: kept if it still fits,
      as another one rounds otherwise.

  Raises:
    ValueError: with what would fit.
  """
  if run.settings.micro_batches != AUTO:
    return _checked(run, limit)
  if before is not None:
    same = dataclasses.replace(run.settings, micro_batches=before)
    with contextlib.suppress(ValueError):
      return _checked(dataclasses.replace(run, settings=same), limit)
  number = fewest_micro_batches(run, limit)
  return dataclasses.replace(run.settings, micro_batches=number)


def _checked(run: Run, limit: int) -> Settings:
  """The settings as they are, if they fit; see `fitted`."""
  parts, number = resident(run), run.settings.parts
  step = step_bytes(run, -(-local_examples(run) // number))
  if _fits(parts, run.mesh.size, round(step / MARGIN), limit):
    return run.settings
  fewest = fewest_micro_batches(run, limit)
  raise ValueError(
    f"config.micro_batches={number} does not fit a device with {_gib(limit)} "
    f"GiB: {_listed(parts, run.mesh.size, step)}; use "
    f"--config.micro_batches={fewest}."
  )


def chosen_before(workdir: Path) -> int | None:
  """The number of micro-batches of a run that a workdir holds, if any."""
  try:
    folder, step = find_step(workdir)
    return read_extra(folder, step)["micro_batches"]
  except ValueError:
    return None  # Nothing is there, or what is will be judged when it is read.


def fewest_micro_batches(run: Run, limit: int) -> int:
  """The smallest number of micro-batches with which a step fits a device.

  Args:
    run: what is trained; its own `micro_batches` do not count.
    limit: bytes that programs may use on a device.

  Raises:
    ValueError: if no number does, with what would fit.
  """
  parts, devices = resident(run), run.mesh.size
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
    if other.components != run.components:
      flags = " ".join(f"--config.{block}.{key}={value}" for block in blocks)
      yield flags, other


def _with_retrieval(run: Run, retrieval: RetrievalSettings) -> Run:
  settings = dataclasses.replace(run.settings, retrieval=retrieval)
  return dataclasses.replace(run, settings=settings)


def _with_networks(run: Run, key: str, value: str) -> Run:
  """The run with `remat`, or with the sizes of a preset, in its networks."""
  changed: dict[str, Any] = dict(run.components)

  def change(config: Any, presets: Mapping[str, Any]) -> Any:
    if key == "remat":
      return dataclasses.replace(config, remat=value)
    sizes = {k: v for k, v in presets[value].items() if k != "vocab_size"}
    smaller = sizes["width"] < config.width
    return dataclasses.replace(config, **sizes) if smaller else config

  encoder = run.components["retriever"].config
  bert = change(encoder.bert, dual_encoder.PRESETS)
  if bert != encoder.bert:
    changed["retriever"] = dual_encoder.DualEncoder(
      dataclasses.replace(encoder, bert=bert)
    )
  if "reader" in run.components:
    config = run.components["reader"].config
    reader = change(config, t5.PRESETS)
    if reader != config:
      changed["reader"] = t5.T5(reader)
  return dataclasses.replace(run, components=changed)


def _gib(size: int) -> str:
  return f"{size / _GIB:,.2f}"
