"""The text of a compiled program as a graph of instructions.

XLA prints one computation after the other, and what one of them uses before
it; the last one is the entry. The same reader serves programs of TPUs, GPUs and
CPUs.
"""

import dataclasses
import math
import re

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
_COPIES = ("copy", "bitcast", "copy-done", "copy-start")


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

  @property
  def target(self) -> str:
    """The library function of a custom call; "" for anything else."""
    match = re.search(r'custom_call_target="([^"]*)"', self.attributes)
    return match.group(1) if match else ""


Computation = list[Instruction]


def partitions(text: str) -> int:
  """How many devices run the program together, by its first line."""
  head = text.partition("\n")[0]
  counts = re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", head)
  return math.prod(int(n) for n in counts)


def parse(text: str) -> Computation:
  """The entry computation; the text defines whatever it uses before.

  Args:
    text: `compiled.as_text()`, or `lowered.as_text("hlo")`.

  Raises:
    ValueError: if a line is not understood, or no entry is found.
  """
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


def root_of(computation: Computation) -> Instruction:
  """What a computation returns."""
  return next(i for i in computation if i.root)


def results_of(instruction: Instruction) -> list[Array]:
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


def trip_count(loop: Instruction) -> int | None:
  """How often the body of a while loop runs; None if the text does not tell.

  Either XLA has noted it, or the condition compares a counter that begins at a
  constant, and goes up by one, with a constant.
  """
  noted = _TRIPS.search(loop.attributes)
  if noted:
    return int(noted.group(1))
  root = root_of(loop.called[0])
  given: list[Instruction] = []
  if root.opcode == "fusion":
    given, root = root.inputs, root_of(root.called[0])
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
