"""Attention as a Pallas kernel for TPUs, where scores stay on the chip.

One step of the grid computes a few rows of a batch for the heads that fill 128
lanes: all scores of a head, 1,024 x 1,024 at most, fit the chip's memory, so
that nothing is computed twice but the scores, in the backward pass. That needs
queries, keys and values only.

Two heads of 64 lie side by side in 128 lanes. To contract over one of them, the
other's lanes of the queries are zeroed, which costs the 128 x 128 multiplier
nothing and spares a transposition of all of them.

A bias that all rows share, as T5's of relative positions, is read once per
head, and its gradient is summed over the rows on the chip. (JAX's own
`flash_attention` wants one of full size per row, and drops no weights.)
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int, UInt32

from odqa_jax.models import layers

_LANES = 128
_LONGEST = 1024
# Tokens of a step: at few of them its overhead, about 0.4 us, would show.
_TOKENS = 1024
_VMEM = 64 << 20
# Contractions: of the last axes, of the first, and an ordinary product.
_LAST, _FIRST, _PLAIN = ((1,), (1,)), ((0,), (0,)), ((1,), (0,))


class _Static(NamedTuple):
  """What a kernel is compiled for.

  Attributes:
    heads: of the width together.
    scale: factor on the products of queries and keys.
    rate: share of the weights that is dropped.
    interpret: run it without a TPU.
  """

  heads: int
  scale: float
  rate: float
  interpret: bool


def reason_against(
  query: Array,
  key: Array,
  heads: int,
  bias: Array | None,
  lengths: Array | None,
) -> str | None:
  """Why the kernel cannot compute this; None if it can."""
  if not has_own_rows():
    return "several devices, and no jax.shard_map"
  l, m, width = query.shape[1], key.shape[1], query.shape[2] // heads
  if query.dtype not in (jnp.bfloat16, jnp.float32):
    return f"{query.dtype} in place of bfloat16 or float32"
  if l % _LANES or m % _LANES or max(l, m) > _LONGEST:
    return f"lengths {l} x {m}, no multiples of {_LANES} up to {_LONGEST}"
  if query.shape[2] % _LANES or (_LANES % width and width % _LANES):
    return f"{heads} heads of width {width}, which do not fill {_LANES} lanes"
  if bias is not None and bias.shape != (1, heads, l, m):
    return f"a bias of shape {bias.shape} in place of {(1, heads, l, m)}"
  if lengths is not None and lengths.shape[1] != 1:
    return f"keys in {lengths.shape[1]} segments"
  return None


def has_own_rows() -> bool:
  """Whether a program says itself which device computes which rows.

  XLA cannot share out a kernel. So it is within `jax.shard_map`, or where there
  is one device.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return jax.device_count() == 1 and jax.default_backend() == "tpu"
  return set(mesh.manual_axes) == set(mesh.axis_names)


def attention(
  query: Float[Array, "b l d"],
  key: Float[Array, "b m d"],
  value: Float[Array, "b m d"],
  bias: Float[Array, "1 h l m"] | None,
  lengths: Int[Array, " b"] | None,
  seed: UInt32[Array, "2"] | None,
  *,
  heads: int,
  scale: float,
  rate: float,
  interpret: bool = False,
) -> Float[Array, "b l d"]:
  """See `attention.attention`.

  Weights are dropped where XLA would drop them.
  """
  if lengths is None:
    lengths = jnp.full(query.shape[:1], key.shape[1], jnp.int32)
  if seed is None:
    seed, rate = jnp.zeros(2, jnp.uint32), 0.0
  static = _Static(heads, scale, rate, interpret)
  first = layers.first_position(query.shape[0])[None]
  biases = () if bias is None else (bias.astype(jnp.float32),)
  return _attention(static, lengths, seed, first, query, key, value, *biases)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(static: _Static, *operands: Array) -> Array:
  return _call(static, operands, backward=False)[0]


def _attention_fwd(static: _Static, *operands: Array) -> Any:
  return _attention(static, *operands), operands


def _attention_bwd(static: _Static, operands: Any, gradient: Array) -> Any:
  scalars, arrays = operands[:3], operands[3:]
  operands = (*scalars, gradient, *arrays)
  gradients = _call(static, operands, backward=True)
  return (None, None, None, *gradients)


_attention.defvjp(_attention_fwd, _attention_bwd)


# ---- Kernels ----


class _Sizes(NamedTuple):
  """Shapes of a call.

  Attributes:
    b: rows.
    l: queries.
    m: keys.
    d: width of all heads.
    lanes: of one step.
    together: heads of one step.
    rows: of one step.
  """

  b: int
  l: int
  m: int
  d: int
  lanes: int
  together: int
  rows: int


def _sizes(static: _Static, query: Array, key: Array) -> _Sizes:
  (b, l, d), m = query.shape, key.shape[1]
  lanes = max(_LANES, d // static.heads)
  most = max(1, _TOKENS // max(l, m))
  rows = next(n for n in range(most, 0, -1) if b % n == 0)
  return _Sizes(b, l, m, d, lanes, lanes * static.heads // d, rows)


def _dot(a: Array, b: Array, contracted: Any) -> Array:
  dims = (contracted, ((), ()))
  return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


class _Step:
  """One step of the grid: its rows and heads."""

  def __init__(self, static: _Static, sizes: _Sizes, scalars: Any):
    self.static, self.sizes = static, sizes
    self.lengths, self.seed, self.first = scalars
    self.group, self.block = pl.program_id(0), pl.program_id(1)

  def of_head(self, x: Array, head: int) -> Array:
    """The lanes of one of the heads, the others zeroed."""
    if self.sizes.together == 1:
      return x
    lane = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
    width = self.sizes.lanes // self.sizes.together
    own = (lane >= head * width) & (lane < (head + 1) * width)
    return jnp.where(own, x, jnp.zeros_like(x))

  def weights(
    self, query: Array, key: Array, bias: Array | None, row: int
  ) -> Array:
    """[l, m] f32, before dropout."""
    scores = _dot(query * self.static.scale, key, _LAST)
    if bias is not None:
      scores += bias
    place = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
    length = self.lengths[self.block * self.sizes.rows + row]
    scores += jnp.where(place < length, 0.0, layers.MASKED)
    scores = jnp.exp(scores - jnp.max(scores, axis=1, keepdims=True))
    return scores / jnp.sum(scores, axis=1, keepdims=True)

  def kept(self, row: int, head: int) -> Array | None:
    """[l, m] f32: the factor of every weight; None without dropout."""
    sizes, static = self.sizes, self.static
    if not static.rate:
      return None
    at = self.first[0] + (self.block * sizes.rows + row).astype(jnp.uint32)
    at = at * static.heads + (self.group * sizes.together + head).astype(
      jnp.uint32
    )
    shape = (sizes.l, sizes.m)
    i, j = (jax.lax.broadcasted_iota(jnp.uint32, shape, a) for a in (0, 1))
    words = layers.random_words(
      (at * sizes.l + i) * sizes.m + j, (self.seed[0], self.seed[1])
    )
    kept = words >= jnp.uint32(static.rate * 2**32)
    return jnp.where(kept, 1 / (1 - static.rate), 0.0)


def _forward_kernel(static: _Static, sizes: _Sizes, *refs: Any) -> None:
  """Writes the weighted sums of values."""
  scalars, (q, k, v, *bias), out = refs[:3], refs[3:-1], refs[-1]
  step = _Step(static, sizes, scalars)
  for row in range(sizes.rows):
    total = jnp.zeros((sizes.l, sizes.lanes), jnp.float32)
    for head in range(sizes.together):
      query = step.of_head(q[row], head)
      weights = step.weights(
        query, k[row], bias[0][0, head] if bias else None, row
      )
      factor = step.kept(row, head)
      weights = weights if factor is None else weights * factor
      value = step.of_head(v[row], head)
      total += _dot(weights.astype(value.dtype), value, _PLAIN)
    out[row] = total.astype(out.dtype)


def _backward_kernel(static: _Static, sizes: _Sizes, *refs: Any) -> None:
  """Writes the gradients of queries, keys, values and, summed, of the bias."""
  half = len(refs) // 2 + 2
  scalars, (g, q, k, v, *bias) = refs[:3], refs[3:half]
  dq, dk, dv, *dbias = refs[half:]
  step = _Step(static, sizes, scalars)
  if dbias:

    @pl.when(step.block == 0)
    def _start() -> None:
      dbias[0][...] = jnp.zeros_like(dbias[0])

  for row in range(sizes.rows):
    of_query = jnp.zeros((sizes.l, sizes.lanes), jnp.float32)
    of_key = of_value = jnp.zeros((sizes.m, sizes.lanes), jnp.float32)
    for head in range(sizes.together):
      query, key, value, gradient = (
        step.of_head(x[row], head) for x in (q, k, v, g)
      )
      added = bias[0][0, head] if bias else None
      weights = step.weights(query, key, added, row)
      of_weights = _dot(gradient, value, _LAST)
      factor, used = step.kept(row, head), weights
      if factor is not None:
        used, of_weights = weights * factor, of_weights * factor
      mean = jnp.sum(of_weights * weights, axis=1, keepdims=True)
      of_scores = weights * (of_weights - mean)
      if dbias:
        dbias[0][0, head] += of_scores
      narrow = of_scores.astype(key.dtype)
      of_query += _dot(narrow, key, _PLAIN) * static.scale
      of_key += _dot(narrow, query * static.scale, _FIRST)
      of_value += _dot(used.astype(gradient.dtype), gradient, _FIRST)
    dq[row] = of_query.astype(dq.dtype)
    dk[row] = of_key.astype(dk.dtype)
    dv[row] = of_value.astype(dv.dtype)


def _call(
  static: _Static, operands: Any, *, backward: bool
) -> tuple[Array, ...]:
  """Runs a kernel over all rows and heads.

  Args:
    static: what it is compiled for.
    operands: lengths, seed, first row; for the backward pass the gradient;
      queries, keys, values, and the bias if there is one.
    backward: which of the two.
  """
  query, key, value, *bias = operands[3 + backward :]
  sizes = _sizes(static, query, key)

  def rows(n: int) -> pl.BlockSpec:
    shape = (sizes.rows, n, sizes.lanes)
    return pl.BlockSpec(shape, lambda group, block, *_: (block, 0, group))

  specs = [rows(sizes.l), rows(sizes.m), rows(sizes.m)]
  shape = (1, sizes.together, sizes.l, sizes.m)
  specs += [pl.BlockSpec(shape, lambda group, *_: (0, group, 0, 0))] * len(bias)
  results = [query, key, value, *bias] if backward else [query]
  pairs = sizes.b * sizes.l * sizes.m
  moved = sum(x.size * x.dtype.itemsize for x in (*operands, *results))
  kernel = _backward_kernel if backward else _forward_kernel
  out: tuple[Array, ...] = pl.pallas_call(
    functools.partial(kernel, static, sizes),
    out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in results],
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=3,
      grid=(sizes.d // sizes.lanes, sizes.b // sizes.rows),
      in_specs=[specs[0]] * backward + specs,
      out_specs=specs[: len(results)],
    ),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=_VMEM
    ),
    cost_estimate=pl.CostEstimate(
      flops=2 * (5 if backward else 2) * pairs * sizes.d,
      transcendentals=pairs * static.heads,
      bytes_accessed=moved,
    ),
    interpret=static.interpret,
    name="attention_backward" if backward else "attention_forward",
  )(*operands)
  return out
