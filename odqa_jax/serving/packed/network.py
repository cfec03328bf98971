"""BERT in NumPy: one input at a time, without padding.

    states = encode(config, weights, ids, first_length=len(ids))  # [l, d]

The weights have the names of `models/bert.py`, whose function this is, in
float32. Inputs of any length need no masks this way; several of them run in
threads, as NumPy lets go of the interpreter.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32

Weights = Mapping[str, np.ndarray]

# erf as a quotient of polynomials in x² that single precision asks for: Eigen's
# and XLA's coefficients, highest power first.
_ABOVE = (
  -2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06,
  -5.69250639462346e-05, -7.34990630326855e-04, -2.95459980854025e-03,
  -1.60960333262415e-02,
)  # fmt: skip
_BELOW = (
  -1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03,
  -7.37332916720468e-03, -1.42647390514189e-02,
)  # fmt: skip
# Numbers that are computed at once, so that they stay in cache.
_CACHED = 2**15


def gelu(x: Float32[np.ndarray, "l f"]) -> Float32[np.ndarray, "l f"]:
  """The exact GELU, in place; see `models/layers.py`."""
  flat = x.reshape(-1)
  for start in range(0, flat.size, _CACHED):
    _gelu(flat[start : start + _CACHED])
  return x


def _gelu(x: np.ndarray) -> None:
  z = x * np.float32(np.sqrt(0.5))
  np.clip(z, -4, 4, out=z)
  square = z * z
  above = np.full_like(z, _ABOVE[0])
  for c in _ABOVE[1:]:
    above *= square
    above += np.float32(c)
  below = np.full_like(z, _BELOW[0])
  for c in _BELOW[1:]:
    below *= square
    below += np.float32(c)
  z *= above
  z /= below
  z += 1
  z *= np.float32(0.5)
  x *= z


def layer_norm(
  x: Float32[np.ndarray, "l d"], weights: Weights, name: str, eps: float
) -> Float32[np.ndarray, "l d"]:
  """LayerNorm with the weights of a name, in place."""
  x -= x.mean(axis=1, keepdims=True)
  variance = np.einsum("ld,ld->l", x, x) / np.float32(x.shape[1])
  x *= (1 / np.sqrt(variance + np.float32(eps)))[:, None]
  x *= weights[f"{name}/scale"]
  x += weights[f"{name}/bias"]
  return x


def dense(
  x: Float32[np.ndarray, "l d"], weights: Weights, name: str
) -> Float32[np.ndarray, "l f"]:
  """A dense layer with the weights of a name."""
  out = x @ weights[f"{name}/kernel"]
  out += weights[f"{name}/bias"]
  return out


def encode(
  config: Mapping[str, Any],
  weights: Weights,
  ids: list[int],
  *,
  first_length: int,
  kind: int = 0,
  first_only: bool = False,
) -> Float32[np.ndarray, "q d"]:
  """Last hidden states of one input, as `models.bert.apply_bert` has them.

  Args:
    config: the fields of `BertConfig`, and `first_position`.
    weights: by path, with the layers as a number: `layer/0/attention/…`.
    ids: with special tokens.
    first_length: tokens of the first segment; the others have type 1.
    kind: token type of the first segment.
    first_only: compute the last layer for token 0 alone.
  """
  x = _embed(config, weights, ids, first_length, kind)
  for i in range(config["layers"]):
    last = first_only and i + 1 == config["layers"]
    x = _layer(config, weights, f"layer/{i}", x, 1 if last else len(ids))
  return x


def _embed(
  config: Mapping[str, Any],
  weights: Weights,
  ids: list[int],
  first_length: int,
  kind: int,
) -> Float32[np.ndarray, "l d"]:
  tables = {
    name: weights[f"embeddings/{name}_embeddings/embedding"]
    for name in ("word", "position", "token_type")
  }
  first = config["first_position"]
  x = tables["word"][np.array(ids)].astype(np.float32)
  x += tables["position"][first : first + len(ids)]
  types = np.full(len(ids), kind)
  if config["type_vocab"] > 1:
    types[first_length:] = 1
  x += tables["token_type"][types]
  layer_norm(x, weights, "embeddings/LayerNorm", config["eps"])
  if config["embedding_width"]:
    x = dense(x, weights, "embeddings_project")
  return x


def _layer(
  config: Mapping[str, Any],
  weights: Weights,
  name: str,
  x: Float32[np.ndarray, "l d"],
  outputs: int,
) -> Float32[np.ndarray, "q d"]:
  heads = config["heads"]
  width = x.shape[1] // heads

  def split(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), heads, width).transpose(1, 0, 2)

  own, norm = f"{name}/attention/self", f"{name}/attention/output"
  query = split(dense(x[:outputs], weights, f"{own}/query"))
  key = split(dense(x, weights, f"{own}/key"))
  value = split(dense(x, weights, f"{own}/value"))
  scores = query @ key.transpose(0, 2, 1)
  scores *= np.float32(1 / np.sqrt(width))
  scores -= scores.max(axis=2, keepdims=True)
  np.exp(scores, out=scores)
  scores /= scores.sum(axis=2, keepdims=True)
  mixed = (scores @ value).transpose(1, 0, 2).reshape(outputs, -1)
  attended = dense(mixed, weights, f"{norm}/dense")
  attended += x[:outputs]
  layer_norm(attended, weights, f"{norm}/LayerNorm", config["eps"])
  wide = gelu(dense(attended, weights, f"{name}/intermediate/dense"))
  out = dense(wide, weights, f"{name}/output/dense")
  out += attended
  return layer_norm(out, weights, f"{name}/output/LayerNorm", config["eps"])


def question_vector(
  config: Mapping[str, Any], weights: Weights, ids: list[int]
) -> Float32[np.ndarray, " e"]:
  """The embedding of a question; see `models/dual_encoder.py`.

  Args:
    config: the fields of `EncoderConfig`, `bert` among them.
    weights: of the question's encoder.
    ids: with special tokens.
  """
  states = encode(
    config["bert"],
    weights,
    ids,
    first_length=len(ids),
    first_only=config["pooling"] == "cls",
  )
  vector = states[0] if config["pooling"] == "cls" else states.mean(axis=0)
  if config["projection"] == "dense":
    vector = dense(vector[None], weights, "encode_proj")[0]
  vector = vector[: config["output_dim"]]
  if config["normalise"]:
    vector = vector / np.sqrt(np.maximum(np.square(vector).sum(), 1e-24))
  return vector.astype(np.float32)
