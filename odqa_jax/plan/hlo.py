"""A compiled program as XLA prints it: computations of instructions.

    program = parse(compiled.as_text())
    program.computations[program.entry]["fusion.1"].shapes

What the program does is added up in `plan_work.py`.
"""

import dataclasses
import math
import re
from collections.abc import Mapping

_ARRAY = re.compile(r"([a-z][a-z0-9]*)\[([\d,<=]*)\](\{[^{}]*\})?")
_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+)[\s(].*\{$")
_NOISE = re.compile(r"/\*.*?\*/|[\[{][^\]}]*[\]}]")
_CALLED = re.compile(r"\b(?:calls|to_apply|body)=%?([\w.\-]+)")
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_EITHER = re.compile(r"\b(?:true|false)_computation=%?([\w.\-]+)")
_BITS = {"pred": 8, "token": 0, "opaque": 0}


@dataclasses.dataclass(frozen=True)
class Shape:
  """One array of an instruction's result.

  Attributes:
    bits: of one element.
    dims: its dimensions.
    space: memory space; 0 is the main memory.
  """

  bits: int
  dims: tuple[int, ...]
  space: int

  @property
  def bytes(self) -> int:
    """Bytes without padding."""
    return math.prod(self.dims) * self.bits // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation.

  Attributes:
    name: unique in the program.
    opcode: as in `fusion` or `all-gather-start`.
    result: text of the result's type.
    operands: names; of a parameter or constant, none.
    literal: what stands in the parentheses.
    attributes: what follows them.
    root: whether it is what the computation returns.
  """

  name: str
  opcode: str
  result: str
  operands: tuple[str, ...]
  literal: str
  attributes: str
  root: bool

  @property
  def shapes(self) -> list[Shape]:
    """The arrays of the result; several for a tuple."""
    return [_shape(m) for m in _ARRAY.finditer(self.result)]

  @property
  def called(self) -> str | None:
    """The computation that it runs."""
    found = _CALLED.search(self.attributes)
    return found.group(1) if found else None

  @property
  def condition(self) -> str | None:
    """The computation that says whether a loop goes on."""
    found = _CONDITION.search(self.attributes)
    return found.group(1) if found else None

  @property
  def branches(self) -> list[str]:
    """The computations of a conditional."""
    listed = _BRANCHES.search(self.attributes)
    if listed:
      return [name.strip(" %") for name in listed.group(1).split(",")]
    return _EITHER.findall(self.attributes)


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Program:
  """Computations by name; the instructions of each in order, by name."""

  computations: Mapping[str, Computation]
  entry: str


def _shape(match: re.Match[str]) -> Shape:
  kind, dims, layout = match.groups()
  digits = re.search(r"\d+", kind)
  bits = _BITS.get(kind, int(digits.group()) if digits else 8)
  space = re.search(r"S\((\d+)\)", layout or "")
  return Shape(
    bits,
    tuple(int(d.lstrip("<=")) for d in dims.split(",") if d),
    int(space.group(1)) if space else 0,
  )


def _closing(text: str, start: int) -> int:
  """Where the parenthesis that opens at `start` closes."""
  depth = 0
  for i in range(start, len(text)):
    depth += (text[i] == "(") - (text[i] == ")")
    if not depth:
      return i
  raise ValueError(f"no closing parenthesis in {text[start : start + 60]!r}.")


def _instruction(line: str) -> Instruction | None:
  """One line of a computation; None for what is none."""
  head, equals, rest = line.strip().partition(" = ")
  name = head.removeprefix("ROOT ").removeprefix("%")
  if not equals or " " in name:
    return None
  end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.find(" ")
  result, rest = rest[:end], rest[end:].lstrip()
  opcode, paren, _ = rest.partition("(")
  if not paren:
    return None
  close = _closing(rest, len(opcode))
  literal = rest[len(opcode) + 1 : close]
  return Instruction(
    name,
    opcode,
    result,
    _operands(opcode, literal),
    literal,
    rest[close + 1 :],
    head.startswith("ROOT "),
  )


def _operands(opcode: str, literal: str) -> tuple[str, ...]:
  """The names in the parentheses; their types may stand before them."""
  if opcode in ("parameter", "constant"):
    return ()
  parts = _NOISE.sub("", literal).split(",")
  return tuple(p.split()[-1].removeprefix("%") for p in parts if p.strip())


def parse(text: str) -> Program:
  """Reads `compiled.as_text()`, or `lowered.as_text("hlo")`.

  Raises:
    ValueError: if no entry computation is found.
  """
  computations: dict[str, Computation] = {}
  entry, inside = "", None
  for line in text.splitlines():
    head = _HEAD.match(line.rstrip())
    if head and not line.startswith("HloModule"):
      inside = computations.setdefault(head.group(2), {})
      if head.group(1):
        entry = head.group(2)
    elif line.startswith("}"):
      inside = None
    elif inside is not None:
      made = _instruction(line)
      if made:
        inside[made.name] = made
  if not entry:
    raise ValueError("this is no HLO module: it has no ENTRY computation.")
  return Program(computations, entry)
