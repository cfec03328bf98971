"""What a compiled program does on one device, added up from its HLO text.

XLA's own `cost_analysis` counts the body of a loop once, on-chip memory like
HBM, and no collective. Here loops count as often as they run, and bytes are
those of buffers in the main memory, by their shapes (tiles may pad them).

    work = measure(parse(compiled.as_text()))
    work.hbm_bytes, work.matmul_flops, collective_totals(work)
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator

from odqa_jax.plan.hlo import Computation, Instruction, Program, Shape

_COLLECTIVES = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "ragged-all-to-all",
  "collective-permute",
  "collective-broadcast",
)
# They touch no memory.
_FREE = (
  "parameter",
  "constant",
  "tuple",
  "get-tuple-element",
  "bitcast",
  "after-all",
  "partition-id",
  "replica-id",
  "opt-barrier",
)
# They read of their first operand what they return.
_SLICES = ("slice", "dynamic-slice", "gather")
# They change their first operand where it lies, if they may.
_UPDATES = ("dynamic-update-slice", "scatter")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_WINDOW = re.compile(r"\bwindow=\{([^}]*)\}")


@dataclasses.dataclass
class Work:
  """What one run of a program does on one device.

  Attributes:
    hbm_bytes: read from and written to the main memory.
    matmul_flops: of products and convolutions; one of m·k by k·n has 2mkn.
    collectives: (operation, bytes of its result, how often) each.
    unknown_loops: loops whose length the text does not tell, counted once.
  """

  hbm_bytes: int = 0
  matmul_flops: int = 0
  collectives: list[tuple[str, int, int]] = dataclasses.field(
    default_factory=list
  )
  unknown_loops: int = 0


def collective_totals(work: Work) -> dict[str, dict[str, int]]:
  """Operation → `count`, `bytes` of all results, and those of the `largest`."""
  totals: dict[str, dict[str, int]] = {}
  for name, size, times in work.collectives:
    total = totals.setdefault(name, {"count": 0, "bytes": 0, "largest": 0})
    total["count"] += times
    total["bytes"] += size * times
    total["largest"] = max(total["largest"], size)
  return totals


def measure(program: Program) -> Work:
  """Adds up what the entry computation does."""
  work = Work()
  _add(program, program.entry, 1, work)
  return work


def _add(program: Program, name: str, times: int, work: Work) -> None:
  """Adds `times` runs of a computation."""
  computation = program.computations[name]
  for made in computation.values():
    if made.opcode == "while":
      trips = trip_count(program, computation, made)
      work.unknown_loops += trips is None
      assert made.called
      _add(program, made.called, times * (1 if trips is None else trips), work)
    elif made.opcode == "conditional":
      _add_dearest(program, made, times, work)
    elif made.opcode in ("call", "async-start") and made.called:
      _add(program, made.called, times, work)
    else:
      work.hbm_bytes += times * _traffic(program, computation, made)
      for around, inner in _inside(program, computation, made):
        work.matmul_flops += times * _flops(around, inner)
        found = _collective(inner)
        if found:
          work.collectives.append((*found, times))


def _add_dearest(
  program: Program, made: Instruction, times: int, work: Work
) -> None:
  """Adds the branch of a conditional that moves most."""
  branches = []
  for name in made.branches:
    branches.append(Work())
    _add(program, name, times, branches[-1])
  dearest = max(branches, key=lambda b: (b.hbm_bytes, b.matmul_flops))
  work.hbm_bytes += dearest.hbm_bytes
  work.matmul_flops += dearest.matmul_flops
  work.collectives += dearest.collectives
  work.unknown_loops += dearest.unknown_loops


def _inside(
  program: Program, computation: Computation, made: Instruction
) -> Iterator[tuple[Computation, Instruction]]:
  """An instruction, or those of the fusion that it is."""
  if made.opcode != "fusion" or made.called is None:
    yield computation, made
    return
  fused = program.computations[made.called]
  for other in fused.values():
    yield from _inside(program, fused, other)


# ---- Collectives ----


def _collective(made: Instruction) -> tuple[str, int] | None:
  """The operation and the bytes of its result."""
  name = made.opcode.removesuffix("-start")
  if name not in _COLLECTIVES:
    return None
  return name, sum(s.bytes for s in _results(made))


def _results(made: Instruction) -> list[Shape]:
  """The arrays that an instruction makes, or will have made when it is done.

  All `-start` forms but all-reduce's list their operands first and end with
  scalars of their own.
  """
  if not made.opcode.endswith("-start") or made.opcode == "all-reduce-start":
    return made.shapes
  if made.opcode == "copy-start":
    return made.shapes[:1]
  inputs = len(made.operands)
  results = made.shapes[inputs : 2 * inputs]
  return results if len(results) == inputs else made.shapes[-1:]


# ---- Memory ----


def _traffic(
  program: Program, computation: Computation, made: Instruction
) -> int:
  """Bytes of the main memory that an instruction reads and writes."""
  if made.opcode in _FREE or made.opcode.endswith(("-done", "-update")):
    return 0
  base = made.opcode.removesuffix("-start")
  if base in _SLICES:
    moved = sum(s.bytes for s in _results(made))
    source = computation[made.operands[0]]
    return moved * (_in_hbm(source) + all(s.space == 0 for s in _results(made)))
  if base in _UPDATES:
    return 2 * _updated(computation, made) * _in_hbm(made)
  if base == "fusion" and made.called:
    return _fusion_traffic(program, computation, made)
  return _hbm(_results(made)) + sum(
    _hbm(computation[name].shapes) for name in _distinct(made)
  )


def _hbm(shapes: list[Shape]) -> int:
  return sum(s.bytes for s in shapes if s.space == 0)


def _in_hbm(made: Instruction) -> bool:
  return all(s.space == 0 for s in made.shapes)


def _distinct(made: Instruction) -> list[str]:
  return list(dict.fromkeys(made.operands))


def _fusion_traffic(
  program: Program, computation: Computation, made: Instruction
) -> int:
  """As XLA counts it: of what is only sliced, the slices; in place, updates."""
  assert made.called
  fused = program.computations[made.called]
  total = 0
  inputs = [i for i in fused.values() if i.opcode == "parameter"]
  for parameter in inputs:
    source = computation[made.operands[int(parameter.literal)]]
    if _in_hbm(source):
      total += _read(program, fused, parameter)
  root = next(i for i in fused.values() if i.root)
  roots = (
    [fused[n] for n in root.operands] if root.opcode == "tuple" else [root]
  )
  for shape, part in zip(made.shapes, roots, strict=False):
    if shape.space == 0:
      total += _written(program, fused, part, shape)
  return total


def _users(fused: Computation, made: Instruction) -> list[Instruction]:
  return [i for i in fused.values() if made.name in i.operands]


def _read(program: Program, fused: Computation, made: Instruction) -> int:
  """Bytes of a fusion's input, or of a view of it, that the fusion reads."""
  whole = sum(s.bytes for s in made.shapes)
  total = 0
  for user in _users(fused, made):
    only_first = (
      user.operands.index(made.name)
      == 0
      == (user.operands.count(made.name) - 1)
    )
    if user.opcode == "bitcast":
      total += _read(program, fused, user)
    elif user.opcode in _SLICES and only_first:
      total += sum(s.bytes for s in user.shapes)
    elif user.opcode in _UPDATES and only_first:
      continue  # What is not replaced stays where it is.
    elif user.opcode == "fusion" and user.called and only_first:
      inner = program.computations[user.called]
      parameter = next(
        i
        for i in inner.values()
        if i.opcode == "parameter" and i.literal == "0"
      )
      total += (
        _read(program, fused, user)
        if _is_view(inner)
        else _read(program, inner, parameter)
      )
    else:
      return whole
  return whole if made.root else min(total, whole)


def _is_view(fused: Computation) -> bool:
  """Whether a fusion only looks at its input in another shape."""
  return {i.opcode for i in fused.values()} <= {"parameter", "bitcast"}


def _written(
  program: Program, fused: Computation, root: Instruction, shape: Shape
) -> int:
  """Bytes of a fusion's output that it writes."""
  while root.opcode in ("bitcast", "copy") and root.operands:
    root = fused[root.operands[0]]
  if root.opcode == "fusion" and root.called:
    inner = program.computations[root.called]
    last = next(i for i in inner.values() if i.root)
    return _written(program, inner, last, shape)
  if root.opcode in _UPDATES:
    first = fused[root.operands[0]]
    while first.opcode == "bitcast":
      first = fused[first.operands[0]]
    if first.opcode == "parameter":
      return _updated(fused, root)
  return shape.bytes


def _updated(computation: Computation, made: Instruction) -> int:
  """Bytes that an update in place writes."""
  arrays = (len(made.operands) - 1) // 2  # Of a scatter; its indices follow.
  names = made.operands[1:2]
  if made.opcode == "scatter":
    names = made.operands[arrays + 1 :]
  return sum(s.bytes for name in names for s in computation[name].shapes)


# ---- FLOPs ----


def _flops(computation: Computation, made: Instruction) -> int:
  """FLOPs of a product or convolution."""
  if made.opcode not in ("dot", "convolution"):
    return 0
  lhs, rhs = (computation[name].shapes[0].dims for name in made.operands[:2])
  out = made.shapes[0].dims
  if made.opcode == "dot":
    found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", made.attributes)
    axes = [int(d) for d in found.group(1).split(",") if d] if found else []
    return 2 * math.prod(out) * math.prod(lhs[a] for a in axes)
  labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", made.attributes)
  assert labels, made
  of_lhs, of_rhs, of_out = labels.groups()
  total = 2 * out[of_out.index("f")] * out[of_out.index("b")]
  total *= rhs[of_rhs.index("i")]
  window = _window(made.attributes)
  for axis, settings in enumerate(window):
    total *= _positions(
      lhs[of_lhs.index(str(axis))], out[of_out.index(str(axis))], settings
    )
  return total


def _window(attributes: str) -> list[dict[str, str]]:
  """The window's settings, axis by axis."""
  found = _WINDOW.search(attributes)
  pairs = [p.split("=") for p in found.group(1).split()] if found else []
  columns = {key: value.split("x") for key, value in pairs}
  count = len(columns.get("size", []))
  return [{k: v[axis] for k, v in columns.items()} for axis in range(count)]


def _positions(length: int, out: int, settings: dict[str, str]) -> int:
  """Pairs of an output and a window position that meet a real input."""
  size, stride = int(settings["size"]), int(settings.get("stride", 1))
  low = int(settings.get("pad", "0_0").split("_")[0])
  spread, base = (
    int(settings.get(key, 1)) for key in ("rhs_dilate", "lhs_dilate")
  )
  if size == 1 and stride == 1 and base == 1 and low == 0:
    return out
  total = 0
  for at, step in itertools.product(range(out), range(size)):
    place = at * stride - low + step * spread
    total += place % base == 0 and 0 <= place // base < length
  return total


# ---- Loops ----


def trip_count(
  program: Program, computation: Computation, made: Instruction
) -> int | None:
  """How often the body of a while loop runs; None if the text does not tell.

  Either XLA has noted it, or the condition compares a counter that begins at a
  constant, and goes up by one, with a constant.
  """
  noted = _TRIPS.search(made.attributes)
  if noted:
    return int(noted.group(1))
  condition = program.computations[made.condition or ""]
  root = next(i for i in condition.values() if i.root)
  around: dict[str, str] = {}
  if root.opcode == "fusion" and root.called:
    fused = program.computations[root.called]
    around = {
      p.name: root.operands[int(p.literal)]
      for p in fused.values()
      if p.opcode == "parameter"
    }
    condition = condition | fused
    root = next(i for i in fused.values() if i.root)
  if root.opcode != "compare" or "direction=LT" not in root.attributes:
    return None
  start, end = (
    _number(computation, made, condition, around.get(name, name))
    for name in root.operands
  )
  return None if start is None or end is None else max(end - start, 0)


def _number(
  computation: Computation,
  loop: Instruction,
  condition: Computation,
  name: str,
) -> int | None:
  """The value of a loop's variable at its start, or of a constant."""
  made = condition[name]
  if made.opcode == "get-tuple-element":
    index = re.search(r"index=(\d+)", made.attributes)
    first = computation[loop.operands[0]]
    if not index or first.opcode != "tuple":
      return None
    made = computation[first.operands[int(index.group(1))]]
    while made.opcode in ("copy", "bitcast", "copy-done", "copy-start"):
      made = computation[made.operands[0]]
  if made.opcode != "constant" or not re.fullmatch(r"-?\d+", made.literal):
    return None
  return int(made.literal)
