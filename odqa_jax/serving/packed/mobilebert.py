"""MobileBERT in NumPy; see `models/mobilebert.py`, whose function this is."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from odqa_jax.serving.packed.layers import (
  Weights,
  attend,
  dense,
  gelu,
  layer_norm,
)

# See `models/mobilebert.py`.
_OTHER_EPS = 1e-5

Config = Mapping[str, Any]


def embed(
  config: Config,
  weights: Weights,
  ids: Int[np.ndarray, " l"],
  types: Int[np.ndarray, " l"],
) -> Float32[np.ndarray, "l d"]:
  """The embeddings of an input."""
  names = ("word", "position", "token_type")
  words, positions, kinds = (
    weights[f"embeddings/{name}_embeddings/embedding"] for name in names
  )
  x = words[ids]
  if config["trigrams"]:
    none = np.zeros_like(x[:1])
    after, before = np.append(x[1:], none, 0), np.append(none, x[:-1], 0)
    x = np.concatenate([after, x, before], axis=1)
  if config["trigrams"] or config["word_width"] != config["width"]:
    x = dense(x, weights, "embeddings/embedding_transformation")
  x = x + positions[: len(ids)] + kinds[types]
  return _norm(config, x, weights, "embeddings/LayerNorm", _OTHER_EPS)


def layer(
  config: Config,
  weights: Weights,
  name: str,
  x: Float32[np.ndarray, "l d"],
  outputs: int,
) -> Float32[np.ndarray, "q d"]:
  """One layer, computed for the first `outputs` tokens."""
  states = x[:outputs]
  queries, keys, values, x = _inputs(config, weights, name, x, outputs)
  own = f"{name}/attention/self"
  attended = attend(
    dense(queries, weights, f"{own}/query"),
    dense(keys, weights, f"{own}/key"),
    dense(values, weights, f"{own}/value"),
    config["heads"],
  )
  x = _joined(config, weights, f"{name}/attention/output", attended, x)
  for i in range(config["feed_forwards"] - 1):
    block = f"{name}/ffn/{i}"
    wide = _widened(config, weights, block, x)
    x = _joined(config, weights, f"{block}/output", wide, x)
  wide = _widened(config, weights, name, x)
  x = _joined(config, weights, f"{name}/output", wide, x, _OTHER_EPS)
  if not config["bottleneck"]:
    return x
  return _joined(config, weights, f"{name}/output/bottleneck", x, states)


def _inputs(
  config: Config,
  weights: Weights,
  name: str,
  x: Float32[np.ndarray, "l d"],
  outputs: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """What attention gets: queries, keys, values, and the residual."""
  if not config["bottleneck"]:
    return x[:outputs], x, x, x[:outputs]

  def narrowed(x: np.ndarray, kind: str) -> np.ndarray:
    path = f"{name}/bottleneck/{kind}"
    out = dense(x, weights, f"{path}/dense")
    return _norm(config, out, weights, f"{path}/LayerNorm", config["eps"])

  if config["bottleneck_attention"]:
    x = narrowed(x, "input")
    return x[:outputs], x, x, x[:outputs]
  keys = narrowed(x, "attention") if config["shared_bottleneck"] else x
  return keys[:outputs], keys, x, narrowed(x[:outputs], "input")


def _widened(
  config: Config, weights: Weights, name: str, x: np.ndarray
) -> np.ndarray:
  wide = dense(x, weights, f"{name}/intermediate/dense")
  if config["activation"] == "gelu":
    return gelu(wide)
  return np.maximum(wide, 0, out=wide)


def _joined(
  config: Config,
  weights: Weights,
  name: str,
  x: np.ndarray,
  residual: np.ndarray,
  eps: float | None = None,
) -> np.ndarray:
  """A product, then the norm of the sum with the residual."""
  out = dense(x, weights, f"{name}/dense")
  out += residual
  eps = config["eps"] if eps is None else eps
  return _norm(config, out, weights, f"{name}/LayerNorm", eps)


def _norm(
  config: Config, x: np.ndarray, weights: Weights, name: str, eps: float
) -> np.ndarray:
  if config["norm"] == "layer_norm":
    return layer_norm(x, weights, name, eps)
  x *= weights[f"{name}/scale"]
  x += weights[f"{name}/bias"]
  return x
