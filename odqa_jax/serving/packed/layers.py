"""What layers are made of, in NumPy and float32; see `models/layers.py`."""

from collections.abc import Mapping

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


def attend(
  query: Float32[np.ndarray, "q d"],
  key: Float32[np.ndarray, "l d"],
  value: Float32[np.ndarray, "l d"],
  heads: int,
) -> Float32[np.ndarray, "q d"]:
  """Multi-head attention of the first tokens over all."""
  width = query.shape[1] // heads

  def split(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), heads, width).transpose(1, 0, 2)

  scores = split(query) @ split(key).transpose(0, 2, 1)
  scores *= np.float32(1 / np.sqrt(width))
  scores -= scores.max(axis=2, keepdims=True)
  np.exp(scores, out=scores)
  scores /= scores.sum(axis=2, keepdims=True)
  return (scores @ split(value)).transpose(1, 0, 2).reshape(query.shape)
