"""Whether the tokens of retrieved passages are gathered on the devices.

There they need no host between search and step, but room. The choice depends
on nothing but settings, corpus and devices, so that a run that goes on makes it
again: the devices pad otherwise than the host does.
"""

import sys
from collections.abc import Callable

from jax.sharding import Mesh

from odqa_jax.reading.device_gather import DeviceGatherer, gatherer_bytes
from odqa_jax.reading.gather import PassageGatherer
from odqa_jax.runtime.mesh import is_primary
from odqa_jax.training.memory import (
  MARGIN,
  Run,
  local_examples,
  memory_limit,
  resident,
  step_bytes,
)

_GIB = 2**30


def device_gatherer(
  run: Run,
  gatherer: PassageGatherer,
  *,
  limit: Callable[[Mesh], int] = memory_limit,
) -> DeviceGatherer | None:
  """Decides by `config.retrieval.tokens`, says so in a line, places the tokens.

  Args:
    run: with the number of its micro-batches.
    gatherer: of its passages.
    limit: bytes that programs may use on a device; all processes call it.

  Returns:
    None where the host gathers.

  Raises:
    ValueError: if the devices are asked for, and have no room.
  """
  wanted = run.settings.retrieval.tokens
  if not run.settings.retrieval.k or wanted == "host":
    return None
  reason, cpu = "", is_cpu(run.mesh)
  if wanted == "auto" and cpu:
    reason = "a CPU has nothing to wait for"
  elif wanted == "auto" and gatherer.inputs.overlap_features:
    reason = "only it makes config.reader.overlap_features"
  elif not cpu:
    reason = _lack(run, gatherer, limit(run.mesh))
  if reason and wanted == "device":
    raise ValueError(
      f"config.retrieval.tokens='device': {reason}; use 'host', more "
      "micro-batches, or more devices."
    )
  if is_primary():
    where = f"host: {reason}" if reason else "devices"
    print(f"passages' tokens are gathered on the {where}.", file=sys.stderr)
  if reason:
    return None
  length = run.settings.data.question_length
  return DeviceGatherer(gatherer, run.mesh, question_length=length)


def is_cpu(mesh: Mesh) -> bool:
  """Whether the devices share the host's memory."""
  return mesh.devices.flat[0].platform == "cpu"


def _lack(run: Run, gatherer: PassageGatherer, limit: int) -> str:
  """Why the tokens do not fit beside what the run needs; "" if they do."""
  length, mesh = run.settings.data.question_length, run.mesh
  try:
    tokens = gatherer_bytes(gatherer, mesh, question_length=length)
  except ValueError as error:
    return str(error)
  examples = -(-local_examples(run) // run.settings.parts)
  step = step_bytes(run, examples)
  if run.settings.retrieval.tokens == "device":
    # Who asks for it is refused only what cannot be.
    step = round(step / MARGIN)
  held = sum(part.on_one(mesh.size) for part in resident(run).values())
  if tokens + step + held <= limit:
    return ""
  return (
    f"their {tokens / _GIB:,.2f} GiB do not fit beside {held / _GIB:,.2f} of "
    f"state and index and {step / _GIB:,.2f} of a step in "
    f"{limit / _GIB:,.2f} GiB of a device"
  )
