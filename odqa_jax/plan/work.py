"""What a compiled program does on one device, read from its HLO text.

XLA's own `cost_analysis` counts the body of a loop once, on-chip memory like
HBM, and no collective; of a GPU program compiled without a GPU it says nothing.
Here loops count as often as they run, and bytes are those of buffers in the
main memory, by their shapes (tiles may pad them).

    >>> import jax
    >>> x = jax.ShapeDtypeStruct((8, 8), "float32")
    >>> step = lambda x, _: (x @ x, None)
    >>> loop = jax.jit(lambda x: jax.lax.scan(step, x, None, length=5)[0])
    >>> work = measure(loop.lower(x).as_text("hlo"))
    >>> work.matmul_flops == 5 * 2 * 8**3, work.unknown_loops
    (True, 0)
"""

import dataclasses
import math
import re
from collections.abc import Iterator

from odqa_jax.plan.flops import flops_of, is_exact
from odqa_jax.plan.hlo import (
  Array,
  Computation,
  Instruction,
  parse,
  partitions,
  results_of,
  root_of,
  trip_count,
)

_COLLECTIVES = (
  "all-gather all-reduce reduce-scatter all-to-all ragged-all-to-all "
  "collective-permute collective-broadcast"
).split()
# They touch no memory.
_FREE = (
  "parameter constant tuple get-tuple-element bitcast after-all partition-id "
  "replica-id opt-barrier"
).split()
# They read of their first operand what they return.
_SLICES = ("slice", "dynamic-slice", "gather")
# The last result of these libraries' functions is their scratch memory.
_WITH_SCRATCH = ("__cublas$", "__cudnn$")
# They change their first operand where it lies, if they may.
_UPDATES = ("dynamic-update-slice", "scatter")


@dataclasses.dataclass
class Work:
  """What one run of a program does on one device.

  Attributes:
    devices: that run it together.
    hbm_bytes: read from and written to the main memory.
    matmul_flops: of products and convolutions; one of m·k by k·n has 2mkn.
    exact_flops: those of them that are asked for in full float32.
    collectives: operation → `count`, `bytes` of all results, those of the
      `largest`, and what a device has `sent` if it works as a ring.
    unknown_loops: loops whose length the text does not tell, counted once.
  """

  devices: int = 1
  hbm_bytes: int = 0
  matmul_flops: int = 0
  exact_flops: int = 0
  collectives: dict[str, dict[str, int]] = dataclasses.field(
    default_factory=dict
  )
  unknown_loops: int = 0


def measure(text: str) -> Work:
  """Adds up what a program does.

  Args:
    text: `compiled.as_text()`, or `lowered.as_text("hlo")`.

  Raises:
    ValueError: if no entry computation is found.
  """
  work = Work(devices=partitions(text))
  _add(parse(text), 1, work)
  return work


def _add(computation: Computation, times: int, work: Work) -> None:
  """Adds `times` runs of a computation."""
  for instruction in computation:
    if instruction.opcode == "while":
      trips = trip_count(instruction)
      work.unknown_loops += trips is None
      runs = times * (1 if trips is None else trips)
      _add(instruction.called[-1], runs, work)
    elif instruction.opcode == "conditional":
      _add(max(instruction.called, key=_cost), times, work)
    elif instruction.opcode in ("call", "async-start"):
      _add(instruction.called[0], times, work)
    else:
      work.hbm_bytes += times * _traffic(instruction)
      for inner in _unfused(instruction):
        flops = times * flops_of(inner)
        work.matmul_flops += flops
        work.exact_flops += flops * is_exact(inner)
      for name, size, attributes in _collectives(instruction):
        _add_collective(name, size, attributes, times, work)


def _cost(computation: Computation) -> tuple[int, int]:
  """By which the dearest branch of a conditional is chosen."""
  alone = Work()
  _add(computation, 1, alone)
  return alone.hbm_bytes, alone.matmul_flops


def _unfused(instruction: Instruction) -> Iterator[Instruction]:
  """An instruction, or those of the fusion that it is."""
  if instruction.opcode != "fusion":
    yield instruction
    return
  for inner in instruction.called[0]:
    yield from _unfused(inner)


def _collectives(instruction: Instruction) -> Iterator[tuple[str, int, str]]:
  """Names, bytes of results and attributes of what begins here.

  On a TPU a sum that is scattered may be written as a fusion of an all-reduce
  and a slice; and a collective that goes on beside other work as a chain of
  fusions that all repeat it, of which the first one starts it.
  """
  if instruction.opcode != "fusion":
    name = instruction.opcode.removesuffix("-start")
    if name in _COLLECTIVES:
      size = sum(a.bytes for a in results_of(instruction))
      yield name, size, instruction.attributes
    return
  fused = instruction.called[0]
  scattered = re.search(r"calls=%?all-reduce-scatter", instruction.attributes)
  for inner in fused:
    if scattered and inner.opcode == "all-reduce":
      yield "reduce-scatter", instruction.bytes, inner.attributes
    elif not _goes_on(fused, inner):
      yield from _collectives(inner)


def _goes_on(fused: Computation, instruction: Instruction) -> bool:
  """Whether a collective of a fusion was started by an earlier one."""
  return (
    instruction.opcode in _COLLECTIVES
    and "chain_id=" in instruction.attributes
    and all(i.target != "AsyncCollectiveStart" for i in fused)
  )


def _add_collective(
  name: str, size: int, attributes: str, times: int, work: Work
) -> None:
  total = work.collectives.setdefault(
    name, {"count": 0, "bytes": 0, "largest": 0, "sent": 0}
  )
  total["count"] += times
  total["bytes"] += size * times
  total["largest"] = max(total["largest"], size)
  group = _group_size(attributes) or work.devices
  total["sent"] += round(size * times * ring_factor(name, group))


def ring_factor(collective: str, devices: int) -> float:
  """Bytes that a device sends in a ring, for each byte of its result.

  Gathering n parts sends all but one of them on; a sum is scattered and then
  gathered; scattering alone makes 1/n of what it reads.

      >>> ring_factor("all-reduce", 8), ring_factor("reduce-scatter", 8)
      (1.75, 7.0)
  """
  share = (devices - 1) / devices
  factors = {"all-reduce": 2 * share, "reduce-scatter": devices - 1.0}
  if collective in ("collective-permute", "collective-broadcast"):
    return 1.0
  return factors.get(collective, share)


def _group_size(attributes: str) -> int | None:
  """How many devices take part; None where all do, or it is not said.

  XLA writes `{{0,1},{2,3}}`, `[2,2]<=[4]` (two groups of two), or axes of a
  mesh: `mesh['x'=2,'y'=2] {'y'}`.
  """
  groups = re.search(
    r"replica_groups=(\{\{[\d,]+\}|\[\d+,\d+\]|mesh[^}]*\})", attributes
  )
  if groups is None:
    return None
  text = groups.group(1)
  if text.startswith("{"):
    return text.count(",") + 1
  if text.startswith("["):
    return int(text[1:-1].split(",")[1])
  sizes, axes = text.rsplit("{", 1)
  return math.prod(
    int(size)
    for axis, size in re.findall(r"('[^']+')=(\d+)", sizes)
    if axis in axes
  )


def _traffic(instruction: Instruction) -> int:
  """Bytes of the main memory that an instruction reads and writes."""
  opcode = instruction.opcode
  if opcode in _FREE or opcode.endswith(("-done", "-update")):
    return 0
  if opcode == "fusion":
    return _fusion_traffic(instruction)
  base = opcode.removesuffix("-start")
  results = results_of(instruction)
  if instruction.target.startswith(_WITH_SCRATCH) and len(results) > 1:
    results = results[:-1]
  if base in _SLICES:
    times = instruction.inputs[0].in_hbm + all(a.in_hbm for a in results)
    return times * sum(a.bytes for a in results)
  if base in _UPDATES:
    return 2 * _updated(instruction) * instruction.in_hbm
  read = [a for i in dict.fromkeys(instruction.inputs) for a in i.arrays]
  return sum(a.bytes for a in results + read if a.in_hbm)


def _fusion_traffic(instruction: Instruction) -> int:
  """As XLA counts it: of what is only sliced, the slices; in place, updates."""
  fused = instruction.called[0]
  total = sum(
    _read(fused, i)
    for i in fused
    if i.opcode == "parameter" and instruction.inputs[int(i.literal)].in_hbm
  )
  root = root_of(fused)
  if root.target == "AsyncCollectiveStart":
    return total + sum(size for _, size, _ in _collectives(instruction))
  if root.target == "AsyncCollectiveDone":
    return 0
  parts = root.inputs if root.opcode == "tuple" else [root]
  for array, part in zip(instruction.arrays, parts, strict=False):
    if part.opcode != "parameter" and not _goes_on(fused, part):
      total += _written(part, array) * array.in_hbm
  return total


def _read(fused: Computation, instruction: Instruction) -> int:
  """Bytes of a fusion's input, or of a view of it, that the fusion reads."""
  total = 0
  for user in (i for i in fused if instruction in i.inputs):
    # It is passed on, or was read when the collective began.
    if user.opcode == "tuple" or _goes_on(fused, user):
      continue
    only_first = (
      user.inputs[0] is instruction and user.inputs.count(instruction) == 1
    )
    if user.opcode == "bitcast":
      total += _read(fused, user)
    elif only_first and user.opcode in _SLICES:
      total += user.bytes
    elif only_first and user.opcode in _UPDATES:
      continue  # What is not replaced stays where it is.
    elif only_first and user.opcode == "fusion":
      inner = user.called[0]
      # A fusion that only looks at its input in another shape reads nothing.
      if {i.opcode for i in inner} <= {"parameter", "bitcast"}:
        total += _read(fused, user)
      else:
        total += _read(inner, next(i for i in inner if i.literal == "0"))
    else:
      return instruction.bytes
  return (
    instruction.bytes if instruction.root else min(total, instruction.bytes)
  )


def _written(root: Instruction, array: Array) -> int:
  """Bytes of a fusion's output that it writes."""
  while root.opcode in ("bitcast", "copy"):
    root = root.inputs[0]
  if root.opcode == "fusion":
    return _written(root_of(root.called[0]), array)
  if root.opcode in _UPDATES:
    first = root.inputs[0]
    while first.opcode == "bitcast":
      first = first.inputs[0]
    if first.opcode == "parameter":
      return _updated(root)
  return array.bytes


def _updated(instruction: Instruction) -> int:
  """Bytes that an update in place writes."""
  if instruction.opcode != "scatter":
    return instruction.inputs[1].bytes
  arrays = (
    len(instruction.inputs) - 1
  ) // 2  # Their indices follow, then updates.
  return sum(i.bytes for i in instruction.inputs[arrays + 1 :])
