"""What a function needs of a device's memory, told without compiling it.

A trace lists the operations of a function in order. Whatever gets a buffer of
its own lives from there to its last use, and the largest sum of what lives at
once is the answer. XLA fuses element-wise operations, so that their results
live nowhere, unless an operation that it does not fuse reads them; what such a
result is made of must live as long in its place. XLA orders operations as it
likes, and pads, so this is an estimate: see `training.memory` for its error.

    >>> import jax, jax.numpy as jnp
    >>> x = jax.ShapeDtypeStruct((1024, 1024), "float32")
    >>> peak_bytes(lambda x: jnp.sum(jnp.tanh(x @ x)), x) // 2**20
    4
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.extend import core

# These write buffers of their own, and read whole ones. What is not here is
# element-wise, or moves elements about.
_UNFUSED = frozenset(
  "dot_general ragged_dot_general conv_general_dilated scan while cond gather "
  "scatter scatter-add sort top_k cumsum concatenate dynamic_update_slice "
  "custom_partitioning pallas_call ffi_call all_gather all_gather_invariant "
  "psum psum_invariant reduce_scatter ppermute all_to_all".split()
)
# They write little, and what they read is fused into them.
_REDUCTIONS = frozenset(
  "reduce_sum reduce_max reduce_min reduce_and reduce_or argmax argmin".split()
)
# Never written: they are made where they are used, or the same bytes.
_FREE = frozenset(
  "broadcast_in_dim iota reshape squeeze expand_dims transpose".split()
)


@dataclasses.dataclass(eq=False)
class _Value:
  """A result within the trace, or an argument.

  Attributes:
    size: in bytes.
    maker: position of the operation that makes it; −1 for an argument.
    readers: positions of those that read it.
    returned: whether the function returns it.
    buffered: whether it has a buffer of its own.
    end: position of its last use.
  """

  size: int
  maker: int
  readers: list[int] = dataclasses.field(default_factory=list)
  returned: bool = False
  buffered: bool = False
  end: int = -1


@dataclasses.dataclass
class _Operation:
  name: str
  inputs: list[_Value]
  outputs: list[_Value]
  inner: int


def peak_bytes(function: Callable[..., Any], *args: Any) -> int:
  """Bytes that a function needs at once beside its arguments.

  Args:
    function: what `jax.jit` takes.
    args: trees of arrays or their shapes. Nothing is computed.
  """
  return _peak(jax.make_jaxpr(function)(*args).jaxpr)


def _peak(jaxpr: Any) -> int:
  operations = _operations(jaxpr)
  ends: list[list[_Value]] = [[] for _ in range(len(operations) + 1)]
  _find_buffers(operations)
  for operation in operations:
    for value in operation.outputs:
      if value.buffered:
        ends[max(value.end, value.maker)].append(value)
  live = most = 0
  for operation, over in zip(operations, ends, strict=False):
    made = sum(v.size for v in operation.outputs if v.buffered)
    reused = 0
    if operation.name not in _UNFUSED:
      # A result may take the place of an input that nothing else reads.
      given = [v.size for v in over if v not in operation.outputs]
      reused = min(made, max(given, default=0))
    most = max(most, live + made - reused + operation.inner)
    live += made - sum(v.size for v in over)
  return most


def _find_buffers(operations: list[_Operation]) -> None:
  """Sets `buffered` and `end` of all values."""
  whole: list[bool] = [False] * len(operations)
  for position, operation in reversed(list(enumerate(operations))):
    name = operation.name
    for value in operation.outputs:
      fused = name not in _UNFUSED and name not in _REDUCTIONS
      # What only looks at a value otherwise reads it as its own readers do.
      read_whole = any(
        operations[i].name in _UNFUSED or whole[i] for i in value.readers
      )
      whole[position] |= read_whole and name in _FREE
      value.buffered = value.returned or (
        not fused or (read_whole and name not in _FREE)
      )
      if value.returned:
        value.end = len(operations)
  for position in reversed(range(len(operations))):
    operation = operations[position]
    fused_ends = [v.end for v in operation.outputs if not v.buffered]
    end = max([position, *fused_ends])
    for value in operation.inputs:
      value.end = max(value.end, end)


def _operations(jaxpr: Any) -> list[_Operation]:
  """All operations in order, those of called functions in their place."""
  made: list[_Operation] = []
  arguments = [*jaxpr.constvars, *jaxpr.invars]
  names = {var: _Value(_bytes(var), -1) for var in arguments}
  for value in _inlined(jaxpr, names, made):
    value.returned = value.maker >= 0
  return made


def _inlined(
  jaxpr: Any, names: dict[Any, _Value], made: list[_Operation]
) -> list[_Value]:
  """Appends the operations of a function; returns what it returns."""

  def read(atoms: Any) -> list[_Value]:
    return [names[a] for a in atoms if not isinstance(a, core.Literal)]

  for eqn in jaxpr.eqns:
    inner = list(_inner(eqn))
    if eqn.primitive.name not in _UNFUSED and len(inner) == 1:
      (body,) = inner
      given = eqn.invars[len(eqn.invars) - len(body.invars) :]
      inside = {
        var: _Value(0, -1) if isinstance(a, core.Literal) else names[a]
        for var, a in zip(body.invars, given, strict=True)
      } | {var: _Value(_bytes(var), -1) for var in body.constvars}
      results = _inlined(body, inside, made)
      names.update(zip(eqn.outvars, results, strict=True))
      continue
    outputs = [_Value(_bytes(var), len(made)) for var in eqn.outvars]
    inputs = read(eqn.invars)
    for value in inputs:
      value.readers.append(len(made))
    beside = max((_peak(body) for body in inner), default=0)
    made.append(_Operation(eqn.primitive.name, inputs, outputs, beside))
    names.update(zip(eqn.outvars, outputs, strict=True))
  return [
    _Value(_bytes(a), -1) if isinstance(a, core.Literal) else names[a]
    for a in jaxpr.outvars
  ]


def _inner(eqn: Any) -> Iterator[Any]:
  """The functions that an operation calls; of a kernel none, it has none."""
  if eqn.primitive.name == "pallas_call":
    return
  for param in eqn.params.values():
    for value in param if isinstance(param, tuple | list) else (param,):
      if isinstance(value, core.ClosedJaxpr):
        yield value.jaxpr
      elif isinstance(value, core.Jaxpr):
        yield value


def _bytes(var: Any) -> int:
  """Bytes of an array; keys of random numbers are two words."""
  shape, dtype = (
    getattr(var.aval, "shape", ()),
    getattr(var.aval, "dtype", None),
  )
  if dtype is None:
    return 0
  item = dtype.itemsize if isinstance(dtype, np.dtype) else 8
  return math.prod(shape) * item
