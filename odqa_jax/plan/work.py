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
import itertools
import math
import re
from collections.abc import Iterator

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
# They change their first operand where it lies, if they may.
_UPDATES = ("dynamic-update-slice", "scatter")
_COPIES = ("copy", "bitcast", "copy-done", "copy-start")

_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+).*\{$")
_LINE = re.compile(
  r"\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*?)\)(, [a-z_\-]+=.*)?$"
)
_ARRAY = re.compile(r"([a-z][a-z0-9]*)\[([\d,<=]*)\](\{[^{}]*\})?")
_CALLED = re.compile(
  r"\b(?:calls|to_apply|condition|body|branch_computations"
  r"|(?:true|false)_computation)=(\{[^}]*\}|%?[\w.\-]+)"
)
_NOISE = re.compile(r"/\*.*?\*/|[\[{][^\]}]*[\]}]")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_BITS = {"pred": 8, "token": 0, "opaque": 0}


@dataclasses.dataclass
class Work:
  """What one run of a program does on one device.

  Attributes:
    hbm_bytes: read from and written to the main memory.
    matmul_flops: of products and convolutions; one of m·k by k·n has 2mkn.
    collectives: operation → `count`, `bytes` of all results, and those of the
      `largest`.
    unknown_loops: loops whose length the text does not tell, counted once.
  """

  hbm_bytes: int = 0
  matmul_flops: int = 0
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
  work = Work()
  _add(_parse(text), 1, work)
  return work


def _add(computation: "Computation", times: int, work: Work) -> None:
  """Adds `times` runs of a computation."""
  for instruction in computation:
    if instruction.opcode == "while":
      trips = _trip_count(instruction)
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
        work.matmul_flops += times * _flops(inner)
        _add_collective(inner, times, work)


def _cost(computation: "Computation") -> tuple[int, int]:
  """By which the dearest branch of a conditional is chosen."""
  alone = Work()
  _add(computation, 1, alone)
  return alone.hbm_bytes, alone.matmul_flops


def _unfused(instruction: "Instruction") -> Iterator["Instruction"]:
  """An instruction, or those of the fusion that it is."""
  if instruction.opcode != "fusion":
    yield instruction
    return
  for inner in instruction.called[0]:
    yield from _unfused(inner)


def _add_collective(instruction: "Instruction", times: int, work: Work) -> None:
  name = instruction.opcode.removesuffix("-start")
  if name not in _COLLECTIVES:
    return
  size = sum(a.bytes for a in _results(instruction))
  total = work.collectives.setdefault(
    name, {"count": 0, "bytes": 0, "largest": 0}
  )
  total["count"] += times
  total["bytes"] += size * times
  total["largest"] = max(total["largest"], size)


# ---- The text ----


@dataclasses.dataclass(frozen=True)
class Array:
  """One array of an instruction's result.

  Attributes:
    bits: of one element.
    dims: its dimensions.
    in_hbm: whether it lies in the main memory.
  """

  bits: int
  dims: tuple[int, ...]
  in_hbm: bool

  @property
  def bytes(self) -> int:
    """Bytes without padding."""
    return math.prod(self.dims) * self.bits // 8


@dataclasses.dataclass(frozen=True, eq=False)
class Instruction:
  """One line of a computation.

  Attributes:
    opcode: as in `fusion` or `all-gather-start`.
    arrays: of its result; several for a tuple.
    inputs: its operands.
    literal: what stands in the parentheses.
    attributes: what follows them.
    called: the computations that it runs; of a loop, condition and body.
    root: whether it is what its computation returns.
  """

  opcode: str
  arrays: list[Array]
  inputs: list["Instruction"]
  literal: str
  attributes: str
  called: list["Computation"]
  root: bool

  @property
  def bytes(self) -> int:
    """Bytes of the result, wherever it lies."""
    return sum(a.bytes for a in self.arrays)

  @property
  def in_hbm(self) -> bool:
    """Whether all of the result lies in the main memory."""
    return all(a.in_hbm for a in self.arrays)


Computation = list[Instruction]


def _parse(text: str) -> Computation:
  """The entry computation; the text defines whatever it uses before."""
  computations: dict[str, Computation] = {}
  entry: Computation | None = None
  inside: Computation = []
  named: dict[str, Instruction] = {}
  for line in text.splitlines():
    if match := _LINE.match(line):
      root, name, result, opcode, literal, attributes = match.groups("")
      named[name] = Instruction(
        opcode=opcode,
        arrays=_arrays(result),
        inputs=[named[n] for n in _operands(opcode, literal)],
        literal=literal,
        attributes=attributes,
        called=_called(attributes, computations),
        root=bool(root),
      )
      inside.append(named[name])
    elif " = " in line and line.startswith(" "):
      raise ValueError(f"this line of an HLO module is not understood: {line}")
    elif (head := _HEAD.match(line)) and not line.startswith("HloModule"):
      inside = computations[head.group(2)] = []
      named = {}
      if head.group(1):
        entry = inside
  if entry is None:
    raise ValueError("this is no HLO module: it has no ENTRY computation.")
  return entry


def _arrays(result: str) -> list[Array]:
  arrays = []
  for kind, dims, layout in _ARRAY.findall(result):
    digits = re.search(r"\d+", kind)
    bits = _BITS.get(kind, int(digits.group()) if digits else 8)
    sizes = tuple(int(d.lstrip("<=")) for d in dims.split(",") if d)
    arrays.append(Array(bits, sizes, not re.search(r"S\([1-9]", layout)))
  return arrays


def _operands(opcode: str, literal: str) -> list[str]:
  """The names in the parentheses; their types may stand before them."""
  if opcode in ("parameter", "constant"):
    return []
  parts = _NOISE.sub("", literal).split(",")
  return [p.split()[-1].removeprefix("%") for p in parts if p.strip()]


def _called(
  attributes: str, computations: dict[str, Computation]
) -> list[Computation]:
  names = re.findall(r"[\w.\-]+", " ".join(_CALLED.findall(attributes)))
  return [computations.get(name, []) for name in names]


def _root(computation: Computation) -> Instruction:
  return next(i for i in computation if i.root)


def _results(instruction: Instruction) -> list[Array]:
  """The arrays that an instruction makes, or will have made when it is done.

  All `-start` forms but all-reduce's list their operands first and end with
  scalars of their own.
  """
  opcode = instruction.opcode
  if not opcode.endswith("-start") or opcode == "all-reduce-start":
    return instruction.arrays
  if opcode == "copy-start":
    return instruction.arrays[:1]
  inputs = len(instruction.inputs)
  results = instruction.arrays[inputs : 2 * inputs]
  return results if len(results) == inputs else instruction.arrays[-1:]


# ---- Memory ----


def _traffic(instruction: Instruction) -> int:
  """Bytes of the main memory that an instruction reads and writes."""
  opcode = instruction.opcode
  if opcode in _FREE or opcode.endswith(("-done", "-update")):
    return 0
  if opcode == "fusion":
    return _fusion_traffic(instruction)
  base = opcode.removesuffix("-start")
  results = _results(instruction)
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
  root = _root(fused)
  parts = root.inputs if root.opcode == "tuple" else [root]
  for array, part in zip(instruction.arrays, parts, strict=False):
    total += _written(part, array) * array.in_hbm
  return total


def _read(fused: Computation, instruction: Instruction) -> int:
  """Bytes of a fusion's input, or of a view of it, that the fusion reads."""
  total = 0
  for user in (i for i in fused if instruction in i.inputs):
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
    return _written(_root(root.called[0]), array)
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


# ---- FLOPs ----


def _flops(instruction: Instruction) -> int:
  """FLOPs of a product or convolution."""
  if instruction.opcode not in ("dot", "convolution"):
    return 0
  lhs, rhs = (i.arrays[0].dims for i in instruction.inputs[:2])
  out = instruction.arrays[0].dims
  if instruction.opcode == "dot":
    match = re.search(
      r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes
    )
    axes = [int(d) for d in match.group(1).split(",") if d] if match else []
    return 2 * math.prod(out) * math.prod(lhs[a] for a in axes)
  labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
  assert labels, instruction
  of_lhs, of_rhs, of_out = labels.groups()
  total = 2 * out[of_out.index("f")] * out[of_out.index("b")]
  total *= rhs[of_rhs.index("i")]
  for axis, window in enumerate(_windows(instruction.attributes)):
    name = str(axis)
    total *= _positions(
      lhs[of_lhs.index(name)], out[of_out.index(name)], window
    )
  return total


def _windows(attributes: str) -> list[dict[str, str]]:
  """The window's settings, axis by axis."""
  match = re.search(r"\bwindow=\{([^}]*)\}", attributes)
  pairs = [p.split("=") for p in match.group(1).split()] if match else []
  columns = [[(key, v) for v in value.split("x")] for key, value in pairs]
  return [dict(settings) for settings in zip(*columns, strict=True)]


def _positions(length: int, out: int, window: dict[str, str]) -> int:
  """Pairs of an output and a window position that meet a real input."""
  low = int(window.get("pad", "0_0").split("_")[0])
  size, stride, spread, base = (
    int(window.get(key, 1))
    for key in ("size", "stride", "rhs_dilate", "lhs_dilate")
  )
  if size == stride == base == 1 and low == 0:
    return out
  total = 0
  for at, step in itertools.product(range(out), range(size)):
    place = at * stride - low + step * spread
    total += place % base == 0 and 0 <= place // base < length
  return total


# ---- Loops ----


def _trip_count(loop: Instruction) -> int | None:
  """How often the body of a while loop runs; None if the text does not tell.

  Either XLA has noted it, or the condition compares a counter that begins at a
  constant, and goes up by one, with a constant.
  """
  noted = _TRIPS.search(loop.attributes)
  if noted:
    return int(noted.group(1))
  root = _root(loop.called[0])
  given: list[Instruction] = []
  if root.opcode == "fusion":
    given, root = root.inputs, _root(root.called[0])
  if root.opcode != "compare" or "direction=LT" not in root.attributes:
    return None
  start, end = (
    _number(
      loop, given[int(i.literal)] if given and i.opcode == "parameter" else i
    )
    for i in root.inputs
  )
  return None if start is None or end is None else max(end - start, 0)


def _number(loop: Instruction, instruction: Instruction) -> int | None:
  """The value of a loop's variable at its start, or of a constant."""
  if instruction.opcode == "get-tuple-element":
    index = re.search(r"index=(\d+)", instruction.attributes)
    first = loop.inputs[0]
    if not index or first.opcode != "tuple":
      return None
    instruction = first.inputs[int(index.group(1))]
    while instruction.opcode in _COPIES:
      instruction = instruction.inputs[0]
  if instruction.opcode != "constant" or not re.fullmatch(
    r"-?\d+", instruction.literal
  ):
    return None
  return int(instruction.literal)
