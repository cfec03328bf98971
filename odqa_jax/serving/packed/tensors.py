"""The weights of a pack's networks, as float32.

weights = read_weights(pack, "extractive_reader")
weights["layer/0/attention/self/query/kernel"]
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from odqa_jax.serving.packed.container import Pack

LAYERS = "encoder/layer/"


def read_weights(
  pack: Pack, role: str, known: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """The tensors of a network by path; a layer's by the layer's number.

  Args:
    pack: it.
    role: of the network.
    known: part → tensor; what is here is not read again, and what is read is
      put here, as networks may share tensors.
  """
  weights = {}
  for name, stored in pack.about["networks"][role]["tensors"].items():
    if stored["part"] not in known:
      known[stored["part"]] = _widened(pack, stored)
    values = known[stored["part"]]
    if not name.startswith(LAYERS):
      weights[name] = values
      continue
    for i, layer in enumerate(values):
      weights[f"layer/{i}/{name.removeprefix(LAYERS)}"] = layer
  return weights


def _widened(pack: Pack, stored: Mapping[str, Any]) -> np.ndarray:
  values = pack.array(stored["part"])
  if "scales" in stored:
    return values * pack.array(stored["scales"])
  return values.astype(np.float32, copy=False)


def quantised(name: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Codes of 8 bits and the scales of their rows.

  A row is an embedding, or what one output of a layer is computed with.
  """
  axis = -1 if name.endswith("/embedding") else -2
  scales = np.abs(values).max(axis=axis, keepdims=True) / np.float32(127)
  codes = np.rint(values / np.where(scales > 0, scales, 1)).astype(np.int8)
  return codes, scales.astype(np.float32)
