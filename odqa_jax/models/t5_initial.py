"""Fresh parameters of a T5.

The deviations are those of the published models (Mesh TensorFlow, and
transformers after it): 1 for embeddings, d^-0.5 for most kernels, (d * c)^-0.5
for queries, so that scores need no scale.

`mimetic` gives attention what trained networks have (after "Mimetic
Initialization of Self-Attention Layers", Trockman and Kolter 2023, which sets
products of weights by a factorisation; here the weights are tied directly):
keys like queries, so that equal tokens attend to each other; cross-attention
that passes values on almost unchanged, so that what is attended to can be
copied; and a first head that looks at its neighbourhood.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from odqa_jax.models.t5_network import (
  DECODER_MIXING,
  ENCODER_MIXING,
  Params,
  T5Config,
  relative_buckets,
)

_NOISE = 0.1  # of the weights that `mimetic` ties, in their own deviations
_COPIED = 0.7  # diagonal of the value and output kernels that pass values on
_FLAG_DEVIATION = 0.2
# What the first head loses per token of distance, and the distance from which
# on it loses no more.
_LOCAL_SLOPE, _LOCAL_REACH = 0.5, 8


class _Leaf(NamedTuple):
  """A parameter: a normal of this deviation, or ones for None."""

  shape: tuple[int, ...]
  deviation: float | None


def init_t5(config: T5Config, rng: PRNGKeyArray) -> Params:
  """Fresh float32 parameters, a pure function of `rng`.

  Args:
    config: shape of the network.
    rng: random key.

  Returns:
    A nested dict with the published names; the layers are stacked on the
    leading axis of every leaf under `block`.
  """
  d = config.width
  tree: Params = {
    "shared": {"embedding": _Leaf((config.vocab_size, d), 1.0)},
    "encoder": _stack(
      config, config.layers, ENCODER_MIXING, ("SelfAttention",)
    ),
    "decoder": _stack(
      config,
      config.decoder_layers,
      DECODER_MIXING,
      ("SelfAttention", "EncDecAttention"),
    ),
  }
  if not config.tied:
    tree["lm_head"] = {"kernel": _Leaf((d, config.vocab_size), 1.0)}
  if config.flags:
    leaf = _Leaf((config.flags, d), _FLAG_DEVIATION)
    tree["flags"] = {"embedding": leaf}
  if config.span_head:
    tree["span_head"] = {
      "kernel": _Leaf((d, 2), d**-0.5),
      "marks": _Leaf((3, d), 1.0),
    }
  params = _draw(tree, rng)
  if config.flags:
    params["flags"]["embedding"] = params["flags"]["embedding"].at[0].set(0.0)
  if config.mimetic:
    _tie_keys(params)
    _pass_values_on(config, params)
    _look_around(config, params)
  return params


def _draw(tree: Params, rng: PRNGKeyArray) -> Params:
  """Draws all leaves at once: each use of `jax.random` costs compile time.

  One draw per leaf would take eight seconds to compile on a CPU.
  """
  leaves, structure = jax.tree.flatten(
    tree, is_leaf=lambda x: isinstance(x, _Leaf)
  )
  sizes = [math.prod(x.shape) if x.deviation else 0 for x in leaves]
  drawn = jax.lax.split(jax.random.normal(rng, (sum(sizes),)), sizes)
  arrays = [
    x.deviation * y.reshape(x.shape) if x.deviation else jnp.ones(x.shape)
    for x, y in zip(leaves, drawn, strict=True)
  ]
  params: Params = jax.tree.unflatten(structure, arrays)
  return params


def _stack(
  config: T5Config, count: int, mixing: int, attentions: tuple[str, ...]
) -> dict[str, Any]:
  """The leaves of one stack: `attentions`, then the feed-forward block."""
  d, f, inner = config.width, config.mlp_dim, config.inner

  def kernel(rows: int, columns: int, deviation: float) -> dict[str, _Leaf]:
    return {"kernel": _Leaf((count, rows, columns), deviation)}

  query, key = (d * config.head_dim) ** -0.5, d**-0.5
  if config.mimetic:
    # The same product, shared equally: what tied weights can have.
    query = key = (query * key) ** 0.5
  attention = {
    "q": kernel(d, inner, query),
    "k": kernel(d, inner, key),
    "v": kernel(d, inner, d**-0.5),
    "o": kernel(inner, d, inner**-0.5),
  }
  into = ("wi_0", "wi_1") if config.gated else ("wi",)
  feed_forward = {name: kernel(d, f, d**-0.5) for name in into}
  feed_forward["wo"] = kernel(f, d, f**-0.5)
  blocks = [(name, attention) for name in attentions]
  blocks.append(("DenseReluDense", feed_forward))
  tree: dict[str, Any] = {
    "block": {
      f"layer_{i}": {
        name: block,
        "layer_norm": {"scale": _Leaf((count, d), None)},
      }
      for i, (name, block) in enumerate(blocks)
    },
    "relative_attention_bias": {
      "embedding": _Leaf((config.relative_buckets, config.heads), d**-0.5)
    },
    "final_layer_norm": {"scale": _Leaf((d,), None)},
  }
  if config.mixing:
    # As much from the neighbours together as from the token itself.
    tree["mixing"] = {"kernel": _Leaf((mixing, d), mixing**-0.5)}
  return tree


def _tie_keys(params: Params) -> None:
  """Makes every key kernel the query kernel with a little noise."""
  for stack in ("encoder", "decoder"):
    for layer in params[stack]["block"].values():
      for name in ("SelfAttention", "EncDecAttention"):
        if name in layer:
          query, noise = layer[name]["q"]["kernel"], layer[name]["k"]["kernel"]
          layer[name]["k"]["kernel"] = query + _NOISE * noise


def _pass_values_on(config: T5Config, params: Params) -> None:
  """Makes the decoder's values and outputs nearly diagonal.

  Cross-attention then passes on what it attends to, and self-attention takes
  away what is there already: with a tied head the residual of the last token
  is a vote for writing it again. (Trained self-attention has products near
  −I, "Mimetic Initialization of Self-Attention Layers", Sec. 3.)

  Only where the heads together are as wide as the model; elsewhere there is no
  diagonal, and the kernels stay random.
  """
  if config.inner != config.width:
    return
  blocks = params["decoder"]["block"]
  cross = blocks["layer_1"]["EncDecAttention"]
  own = blocks["layer_0"]["SelfAttention"]
  for kernels, name, sign in (
    (cross, "v", 1),
    (cross, "o", 1),
    (own, "v", 1),
    (own, "o", -1),
  ):
    diagonal = sign * _COPIED * jnp.eye(config.width)[None]
    kernels[name]["kernel"] = diagonal + _NOISE * kernels[name]["kernel"]


def _look_around(config: T5Config, params: Params) -> None:
  """Gives head 0 of both stacks a bias that falls with the distance."""
  reach = config.relative_distance
  offsets = np.arange(-reach, reach + 1, dtype=np.int32)
  for stack, both_ways in (("encoder", True), ("decoder", False)):
    buckets = relative_buckets(config, offsets, both_ways=both_ways)
    nearest = np.full(config.relative_buckets, _LOCAL_REACH, np.float32)
    np.minimum.at(nearest, buckets, np.abs(offsets))
    table = params[stack]["relative_attention_bias"]
    table["embedding"] = (
      table["embedding"].at[:, 0].add(-_LOCAL_SLOPE * nearest)
    )
