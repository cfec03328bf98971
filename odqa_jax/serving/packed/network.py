"""BERT and MobileBERT in NumPy: one input at a time, without padding.

    states = encode(config, weights, ids, first_length=len(ids))  # [l, d]

The weights have the names of `models/bert.py`, whose function this is, in
float32. Inputs of any length need no masks this way; several of them run in
threads, as NumPy lets go of the interpreter.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from odqa_jax.serving.packed import mobilebert
from odqa_jax.serving.packed.layers import (
  Weights,
  attend,
  dense,
  gelu,
  layer_norm,
)


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
  types = np.full(len(ids), kind)
  if config["type_vocab"] > 1:
    types[first_length:] = 1
  mobile = config["variant"] == "mobilebert"
  embed = mobilebert.embed if mobile else _embed
  layer = mobilebert.layer if mobile else _layer
  x = embed(config, weights, np.array(ids), types)
  for i in range(config["layers"]):
    last = first_only and i + 1 == config["layers"]
    x = layer(config, weights, f"layer/{i}", x, 1 if last else len(ids))
  return x


def _embed(
  config: Mapping[str, Any],
  weights: Weights,
  ids: Int[np.ndarray, " l"],
  types: Int[np.ndarray, " l"],
) -> Float32[np.ndarray, "l d"]:
  tables = {
    name: weights[f"embeddings/{name}_embeddings/embedding"]
    for name in ("word", "position", "token_type")
  }
  first = config["first_position"]
  x = tables["word"][ids].astype(np.float32)
  x += tables["position"][first : first + len(ids)]
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
  own, norm = f"{name}/attention/self", f"{name}/attention/output"
  mixed = attend(
    dense(x[:outputs], weights, f"{own}/query"),
    dense(x, weights, f"{own}/key"),
    dense(x, weights, f"{own}/value"),
    config["heads"],
  )
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
