"""Whether the tokens of retrieved passages are gathered on the devices.

    run = settled(run, lambda: stored_tokens(run, gatherer), limit)
    if run.tokens is not None: …

There they need no host between search and step, but room. The choice depends
on nothing but settings, corpus and devices, so that a run that goes on makes it
again: the devices pad otherwise than the host does.
"""

import dataclasses
import sys
from collections.abc import Callable
from typing import TypeVar

from jax.sharding import Mesh

from odqa_jax.reading.device_gather import DeviceGatherer, gatherer_bytes
from odqa_jax.reading.gather import PassageGatherer
from odqa_jax.runtime.mesh import is_primary
from odqa_jax.training.fitting import Chosen, fitted, is_open
from odqa_jax.training.memory import (
  Held,
  Run,
  local_examples,
  resident,
  step_bytes,
)

_GIB = 2**30

R = TypeVar("R", bound=Run)


def stored_tokens(run: Run, gatherer: PassageGatherer) -> Held:
  """What the passages' tokens take of the devices.

  Raises:
    ValueError: if they are too many for a device's numbers.
  """
  length, mesh = run.settings.data.question_length, run.mesh
  each = gatherer_bytes(gatherer, mesh, question_length=length)
  return Held(split=each * mesh.size, whole=0)


def settled(
  run: R,
  stored: Callable[[], Held],
  limit: int,
  *,
  before: Chosen | None = None,
  check: bool = False,
) -> R:
  """Decides where the tokens are and how many micro-batches there are.

  Tokens that `config.retrieval.tokens` asks for are counted like the index, and
  micro-batches make room for them. Left to us they never cost a micro-batch,
  which every step would feel: they go where they fit beside. It is said in one
  line of the log.

  Args:
    run: what is trained.
    stored: what the tokens would take; called where that matters.
    limit: bytes that programs may use on a device.
    before: see `fitted`.
    check: whether micro-batches that the settings number are checked, too.

  Returns:
    The run with what `fitted` chooses, and with `tokens` where the devices hold
    them.

  Raises:
    ValueError: for what cannot fit, or if only the host can gather.
  """
  retrieval, cpu = run.settings.retrieval, is_cpu(run.mesh)
  asked = retrieves(run) and retrieval.tokens == "device"
  reason = _only_the_host(run)
  if asked and reason:
    raise ValueError(f"config.retrieval.tokens='device': {reason}; use 'host'.")
  if asked:
    run = dataclasses.replace(run, tokens=stored())
  # A CPU's memory is the host's, where the tokens lie in any case.
  if is_open(run.settings) or check or (asked and not cpu):
    run = fitted(run, limit, before=before)
  if not retrieves(run) or retrieval.tokens == "host":
    return run
  if not asked and cpu:
    reason = "a CPU has nothing to wait for"
  elif not asked and not reason:
    run, reason = _beside(run, stored, limit)
  if is_primary():
    where = f"host: {reason}" if reason else f"devices, {_part(run)} of each"
    print(f"passages' tokens are gathered on the {where}.", file=sys.stderr)
  return run


def make_device_gatherer(
  run: Run, gatherer: PassageGatherer | None
) -> DeviceGatherer | None:
  """Places the passages' tokens where `settled` has decided so."""
  if gatherer is None or run.tokens is None:
    return None
  length = run.settings.data.question_length
  return DeviceGatherer(gatherer, run.mesh, question_length=length)


def retrieves(run: Run) -> bool:
  """Whether the loop gathers passages that it has searched for."""
  return run.needs.retrieval and run.settings.retrieval.k > 0


def is_cpu(mesh: Mesh) -> bool:
  """Whether the devices share the host's memory."""
  return mesh.devices.flat[0].platform == "cpu"


def _only_the_host(run: Run) -> str:
  """Why the devices cannot gather, room or not; "" if they can."""
  if run.settings.reader.overlap_features:
    return "only the host makes config.reader.overlap_features"
  return ""


def _beside(run: R, stored: Callable[[], Held], limit: int) -> tuple[R, str]:
  """The run with its tokens on the devices, or why they do not fit there."""
  devices = run.mesh.size
  held = sum(part.on_one(devices) for part in resident(run).values())
  step = step_bytes(run, -(-local_examples(run) // run.settings.parts))
  try:
    tokens = stored()
  except ValueError as error:
    return run, str(error)
  if held + step + tokens.on_one(devices) <= limit:
    return dataclasses.replace(run, tokens=tokens), ""
  return run, (
    f"their {_gib(tokens.on_one(devices))} do not fit beside {_gib(held)} of "
    f"state and index and {_gib(step)} of a step in the {_gib(limit)} of a "
    "device"
  )


def _part(run: Run) -> str:
  assert run.tokens is not None
  return _gib(run.tokens.on_one(run.mesh.size))


def _gib(size: int) -> str:
  return f"{size / _GIB:,.2f} GiB"
