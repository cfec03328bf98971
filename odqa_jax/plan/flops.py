"""FLOPs of the products in a program: 2·m·n·k for one of m·k by k·n.

Compilers write products as `dot`, as `convolution` (on TPUs), or as calls of
libraries: cuBLAS for a product, cuDNN and kernels of Pallas for attention.
"""

import itertools
import math
import re

from odqa_jax.plan.hlo import Instruction

# Products of fused attention, each of 2·b·h·t·s·d: scores and values; backward,
# the scores again, and the gradients of weights, values, queries and keys.
_FORWARD, _BACKWARD = 2, 5


def is_exact(instruction: Instruction) -> bool:
  """Whether the operands of a product keep all their bits of float32."""
  return bool(
    instruction.arrays
    and instruction.inputs
    and instruction.inputs[0].arrays[0].bits == 32
    and re.search(
      r"(?:operand_precision=\{|\"operand_precision\":\[\")highest",
      instruction.attributes,
      re.IGNORECASE,
    )
  )


def flops_of(instruction: Instruction) -> int:
  """FLOPs of a product or convolution, or of a library's function with some."""
  if instruction.opcode == "custom-call":
    return _library_flops(instruction)
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


def _library_flops(instruction: Instruction) -> int:
  """FLOPs of a custom call, from the shapes that it is given."""
  target, attributes = instruction.target, instruction.attributes
  if target.startswith("__cublas$"):
    return _gemm_flops(instruction)
  if target.startswith("__cudnn$fmha"):
    scores = re.search(
      r'"intermediate_tensor_shape": ?\{.*?"dimensions": ?\[([^\]]*)\]',
      attributes,
    )
    assert scores, instruction
    pairs = math.prod(int(n) for n in re.findall(r"\d+", scores.group(1)))
    width = instruction.inputs[0].arrays[0].dims[-1]
    products = _BACKWARD if "Backward" in target else _FORWARD
    return 2 * products * pairs * width
  # What a kernel of Pallas says of itself.
  said = re.search(r'"cost_estimate": ?\{[^}]*?"flops": ?"?(\d+)', attributes)
  return int(said.group(1)) if said else 0


def _gemm_flops(instruction: Instruction) -> int:
  """A gemm multiplies its first two operands, and adds what follows."""
  axes = re.search(
    r'"lhs_contracting_dimensions": ?\[([^\]]*)\]', instruction.attributes
  )
  assert axes, instruction
  lhs = instruction.inputs[0].arrays[0].dims
  contracted = math.prod(lhs[int(n)] for n in re.findall(r"\d+", axes.group(1)))
  return 2 * math.prod(instruction.arrays[0].dims) * contracted
