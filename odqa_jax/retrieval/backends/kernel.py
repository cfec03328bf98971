"""The largest score of every group of rows, in one kernel for a GPU.

XLA writes all scores of a product to memory before their maximum is taken, and
copies a block of rows to multiply it. This kernel reads every row once and
writes one number per group and question: 1 % of bfloat16 rows' bytes for 64
questions, with groups of 16.

The tensor cores multiply bfloat16 and add in float32. A float32 number is the
sum of three bfloat16 ones, so that a product with bfloat16 rows takes three of
them, and is as exact as one of float32; between float32 numbers it takes six
(what is left out is below 2⁻²⁴ of the product). For 64 questions that is 0.8 ms
of an H100's matrix units where reading the rows takes 1.2.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int8, Shaped

try:
  from jax.experimental.pallas import triton
except ImportError:  # It is deprecated since jax 0.11.
  triton = None  # type: ignore[assignment]

# Rows of a program: with fewer, the questions, which every program reads, would
# cost more than the rows. The last program is moved back to end with the rows.
_TILE, _TILE_INT8 = 256, 128
# Of a row, read at a time: a line of the cache. With half of it (and twice the
# warps) an H100 takes 16.6 ms for 21 million rows in place of 12.0; with more
# it has no room for 64 questions.
_WIDTH_BYTES = 128
# GPUs whose cores share less than 100 KiB, a third to a half of the others'.
_NARROW = {"7.5", "8.6", "8.7", "8.9", "12.0", "12.1"}
_NARROW_BYTES = 64
# The matrix units take no less, and nothing but powers of two.
_LEAST = 16
_PARTS = 3


def takes(rows: Shaped[Array, "n e"]) -> bool:
  """Whether there is a kernel for such rows."""
  return triton is not None and not rows.shape[1] % _LEAST


def group_maxima(
  queries: Float[Array, "b e"] | Int8[Array, "b e"],
  rows: Shaped[Array, "n e"],
  group: int,
  scales: Float[Array, " n"] | None = None,
  *,
  interpret: bool = False,
) -> Float[Array, "b m"]:
  """The best score of every group of rows; memory holds no other score.

  Args:
    queries: float32; int8 for int8 rows.
    rows: float32, bfloat16 or int8, as many as a multiple of 64; see `takes`.
    group: rows per group, a power of two up to 64.
    scales: every score is multiplied by its row's.
    interpret: runs the kernel as XLA operations on any device.

  Returns:
    float32 maxima, [b, n / `group`].
  """
  b, (n, e) = len(queries), rows.shape
  padded = max(_LEAST, 1 << (b - 1).bit_length())
  queries = jnp.pad(queries, ((0, padded - b), (0, 0)))
  parts = queries[None] if rows.dtype == jnp.int8 else jnp.stack(split(queries))
  tile = _TILE_INT8 if rows.dtype == jnp.int8 else _TILE
  tile = min(tile, n & -n if n < tile else tile)
  arguments = (parts, rows) if scales is None else (parts, rows, scales)
  wide = _width_bytes() // rows.dtype.itemsize
  kernel = functools.partial(
    _kernel, tile=tile, wide=math.gcd(e, wide), group=group
  )
  out = pl.pallas_call(
    kernel,
    out_shape=jax.ShapeDtypeStruct((padded, n // group), jnp.float32),
    grid=(pl.cdiv(n, tile),),
    interpret=interpret,
    compiler_params=triton.CompilerParams(
      num_warps=4, num_stages=4 if padded <= 64 and tile < _TILE else 2
    ),
  )(*arguments)
  return out[:b]


def _width_bytes() -> int:
  """Bytes of a row to read at a time, on the GPU that is here, if any."""
  if jax.default_backend() != "gpu":
    return _WIDTH_BYTES
  kind = jax.devices()[0].compute_capability
  return _NARROW_BYTES if kind in _NARROW else _WIDTH_BYTES


def split(x: Float[Array, "*n"]) -> list[Float[Array, "*n"]]:
  """Three bfloat16 numbers whose sum is a float32 one.

  Bits are cut off, not rounded: XLA may take a conversion there and back for
  nothing, and the largest numbers do not overflow.
  """
  parts = []
  for _ in range(_PARTS):
    bits = lax.bitcast_convert_type(x, jnp.uint32) & jnp.uint32(0xFFFF0000)
    part = lax.bitcast_convert_type(bits, jnp.float32)
    parts.append(part.astype(jnp.bfloat16))
    x = x - part
  return parts


def _kernel(
  queries: Any,
  rows: Any,
  *rest: Any,
  tile: int,
  wide: int,
  group: int,
) -> None:
  """One tile of rows: queries [parts, b, e], rows [n, e], maxima [b, m]."""
  *scales, maxima = rest
  (count, b, _), (n, e) = queries.shape, rows.shape
  first = jnp.minimum(pl.program_id(0) * tile, n - tile)
  here = pl.ds(first, tile)
  kind = jnp.int32 if rows.dtype == jnp.int8 else jnp.float32

  def step(i: Array, sums: Array) -> Array:
    columns = pl.ds(i * wide, wide)
    part = rows[here, columns]
    parts = split(part) if part.dtype == jnp.float32 else [part]
    for at in range(count):
      query = queries[at, :, columns]
      for x in parts[: count - at]:
        sums += lax.dot_general(
          x, query, (((1,), (1,)), ((), ())), preferred_element_type=kind
        )
    return sums

  sums = lax.fori_loop(0, e // wide, step, jnp.zeros((tile, b), kind))
  scores = sums.astype(jnp.float32)
  if scales:
    scores *= scales[0][here][:, None]
  best = scores.reshape(tile // group, group, b).max(axis=1)
  maxima[:, pl.ds(first // group, tile // group)] = best.T
