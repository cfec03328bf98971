"""Attention of every network: one function, and what computes it where.

    attended = attention(query, key, value, lengths=lengths, heads=12)

| implementation | where | takes | gives up |
|---|---|---|---|
| `xla` | anywhere | everything | speed: scores go through the main memory |
| `cudnn` | NVIDIA GPUs | bfloat16; heads up to 128 wide; with a bias, even \
lengths | dropout of the weights; bits of the bias below bfloat16 |
| `pallas` | TPUs | inputs up to 1,024 tokens in tiles of 128; heads that fill \
128 lanes | nothing |

"auto" takes the fused one of the platform. Where it, or one asked for by name,
does not take what it is given, XLA computes the same, and the log says why,
once. The choice is made while a function is traced, from shapes and dtypes
alone: `jax.lax.platform_dependent` would keep the residuals of all branches.
"""

import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from odqa_jax.models import attention_pallas, layers
from odqa_jax.models.attention_xla import cpu_attention, xla_attention

IMPLEMENTATIONS = ("auto", "xla", "cudnn", "pallas")
# As `jax.default_backend` names them, and NVIDIA GPUs by their other name.
_FUSED = {"gpu": "cudnn", "cuda": "cudnn", "tpu": "pallas"}
PLATFORMS = ("", "cpu", *_FUSED)

# What cuDNN's flash attention takes on every GPU that has it.
_WIDEST_HEAD = 128
_OLDEST_GPU = 8.0  # Ampere's compute capability


def attention(
  query: Float[Array, "b l d"],
  key: Float[Array, "b m d"],
  value: Float[Array, "b m d"],
  *,
  heads: int,
  bias: Float[Array, "#b #h #l m"] | None = None,
  lengths: Int[Array, "b s"] | None = None,
  scale: float = 1.0,
  rate: float = 0.0,
  seed: UInt32[Array, "2"] | None = None,
  implementation: str = "auto",
  platform: str = "",
) -> Float[Array, "b l d"]:
  """Softmax attention; the softmax is float32 whatever the inputs are.

  Args:
    query: queries of `l` tokens; each head has its part of the width `d`.
    key: keys of `m` tokens.
    value: values of `m` tokens.
    heads: `h`, a divisor of `d`.
    bias: float32 scores to add.
    lengths: which keys are real, see `layers.length_bias`; None means all. The
      result of a row without any is finite and means nothing.
    scale: factor on the query-key products, before the bias.
    rate: share of the attention weights to drop; cuDNN drops none.
    seed: two random words for that dropout; None means no dropout.
    implementation: one of `IMPLEMENTATIONS`.
    platform: what the program is for, one of `PLATFORMS`; "" means JAX's
      default backend.

  Returns:
    One weighted sum of values per query, in the dtype of `value`.
  """
  platform = platform or jax.default_backend()
  chosen = _choose(implementation, platform, query, key, heads, bias, lengths)
  if chosen == "cudnn":
    return _cudnn(query, key, value, heads, bias, lengths, scale)
  if chosen == "pallas":
    last = None if lengths is None else lengths[:, 0]
    args = (query, key, value, bias, last, seed if rate else None)
    return attention_pallas.attention(
      *args, heads=heads, scale=scale, rate=rate
    )
  q, k, v = (layers.split_heads(x, heads) for x in (query, key, value))
  plain = cpu_attention if platform == "cpu" else xla_attention
  return layers.merge_heads(plain(q, k, v, bias, lengths, scale, rate, seed))


def _choose(
  implementation: str,
  platform: str,
  query: Array,
  key: Array,
  heads: int,
  bias: Array | None,
  lengths: Array | None,
) -> str:
  """The implementation that computes this call."""
  layers.check_choice("attention", implementation, IMPLEMENTATIONS)
  fused = _FUSED.get(platform, "xla")
  wanted = fused if implementation == "auto" else implementation
  # A single query, as of BERT's [CLS] in the last layer, reads all keys and
  # has next to no scores: nothing is gained by a kernel.
  if wanted == "xla" or query.shape[1] == 1:
    return "xla"
  if wanted != fused:
    reason: str | None = f"the platform is {platform}"
  elif wanted == "cudnn":
    reason = _not_for_cudnn(query, key, heads, bias)
  else:
    reason = attention_pallas.reason_against(query, key, heads, bias, lengths)
  if reason is None:
    return wanted
  _log_once(
    wanted,
    reason,
    logging.INFO if implementation == "auto" else logging.WARNING,
  )
  return "xla"


@functools.cache
def _log_once(implementation: str, reason: str, level: int) -> None:
  message = "attention: %s does not take this (%s); XLA computes it."
  logging.getLogger(__name__).log(level, message, implementation, reason)


def _not_for_cudnn(
  query: Array, key: Array, heads: int, bias: Array | None
) -> str | None:
  """Why cuDNN cannot compute this; None if it can."""
  width, (l, m) = query.shape[2] // heads, (query.shape[1], key.shape[1])
  if query.dtype not in (jnp.bfloat16, jnp.float16):
    return f"{query.dtype} in place of bfloat16"
  if width % 8 or width > _WIDEST_HEAD:
    return f"heads of width {width}, no multiple of 8 up to {_WIDEST_HEAD}"
  if bias is not None and (l % 2 or m % 2):
    return f"a bias of odd lengths, {l} x {m}"
  if jax.default_backend() == "gpu":
    found = jax.devices()[0].compute_capability
    if float(found) < _OLDEST_GPU:
      return f"a GPU of compute capability {found}, below {_OLDEST_GPU}"
  return None


def _cudnn(
  query: Float[Array, "b l d"],
  key: Float[Array, "b m d"],
  value: Float[Array, "b m d"],
  heads: int,
  bias: Float[Array, "#b #h #l m"] | None,
  lengths: Int[Array, "b s"] | None,
  scale: float,
) -> Float[Array, "b l d"]:
  """CuDNN's flash attention, which has tokens before heads.

  It knows one length per row. Of keys in several segments the padding becomes a
  bias, which it wants in the dtype of the queries and for every query.
  """
  b, l, d = query.shape
  q, k, v = (x.reshape(b, -1, heads, d // heads) for x in (query, key, value))
  keys = None
  if lengths is not None and lengths.shape[1] == 1:
    # Of no key at all the softmax would be 0/0.
    keys = jnp.maximum(lengths[:, 0], 1).astype(jnp.int32)
  elif lengths is not None:
    padding = layers.length_bias(lengths, key.shape[1])
    bias = padding if bias is None else bias + padding
  if bias is not None:
    shape = (*bias.shape[:2], l, key.shape[1])
    bias = jnp.broadcast_to(bias.astype(query.dtype), shape)
  attended: Any = jax.nn.dot_product_attention
  out = attended(
    q,
    k,
    v,
    bias,
    scale=scale,
    key_value_seq_lengths=keys,
    implementation="cudnn",
  )
  return out.reshape(b, l, d)
