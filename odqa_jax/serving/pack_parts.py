"""The parts of a pack but its passages: networks, rows, tokenizer.

What is written here `packed/tensors.py` and `packed/search.py` read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, Shaped

from odqa_jax.models.bert import VARIANTS
from odqa_jax.runtime.mesh import path_name, to_host
from odqa_jax.serving.packed import container, search
from odqa_jax.serving.packed.container import PackWriter
from odqa_jax.serving.packed.tensors import quantised

# What weights may be stored as, the exact one first.
WEIGHTS = ("f32", "f16", "int8")


def add_networks(
  writer: PackWriter,
  networks: Mapping[str, tuple[dict[str, Any], Any]],
  weights: str,
  *,
  compress: bool,
) -> int:
  """Adds networks; a tensor that several of them have is stored once.

  Args:
    writer: of the pack.
    networks: role → what it is, with `bert` in it, and its parameters.
    weights: of `WEIGHTS`.
    compress: whether they are compressed too.

  Returns:
    Bytes of all tensors in float32.

  Raises:
    ValueError: for weights that half precision does not hold.
  """
  known: dict[str, dict[str, str]] = {}
  size = 0
  for role, (described, params) in networks.items():
    variant = VARIANTS[described["bert"]["variant"]]
    first = {"first_position": variant.first_position}
    config = described | {"bert": described["bert"] | first}
    tensors = {}
    leaves = jax.tree_util.tree_flatten_with_path(to_host(params))[0]
    for path, leaf in leaves:
      name, values = path_name(path), np.asarray(leaf, np.float32)
      content = f"{values.shape}{container.digest(values.tobytes()).hex()}"
      if content not in known:
        stored = f"models/{role}/{name}"
        known[content] = _add_tensor(writer, stored, values, weights, compress)
        size += values.nbytes
      tensors[name] = known[content]
    writer.about["networks"][role] = {"config": config, "tensors": tensors}
  return size


def _add_tensor(
  writer: PackWriter,
  name: str,
  values: np.ndarray,
  weights: str,
  compress: bool,
) -> dict[str, str]:
  """Adds a tensor; returns where it is."""
  # Biases and norms are a thousandth of all, and matter more.
  if weights == "int8" and name.endswith(("/kernel", "/embedding")):
    codes, scales = quantised(name, values)
    writer.add(name, "models", codes, xz=compress)
    writer.add(f"{name}/scales", "models", scales)
    return {"part": name, "scales": f"{name}/scales"}
  if weights != "f32":
    values = _halved(name, values)
  writer.add(name, "models", values, xz=compress)
  return {"part": name}


def _halved(name: str, values: np.ndarray) -> np.ndarray:
  """In half precision.

  Raises:
    ValueError: for a weight beyond its range.
  """
  if np.abs(values).max(initial=0) > np.finfo(np.float16).max:
    raise ValueError(
      f"{name}: has weights above 65,504, which half precision does not hold; "
      "pack with --weights f32."
    )
  return values.astype(np.float16)


def add_rows(
  writer: PackWriter,
  rows: Shaped[np.ndarray, "n e"],
  scales: Float32[np.ndarray, " n"] | None,
) -> int:
  """Adds the rows of an index; returns the bytes that a search of them holds.

  Args:
    writer: of the pack.
    rows: float32, or codes of 8 bits.
    scales: of the codes; None for float32.
  """
  writer.add(search.CODES, "index", rows)
  if scales is not None:
    # Half precision holds shares of the largest well.
    step = scales.max(initial=0) or np.float32(1)
    halves = (scales / step).astype(np.float16)
    writer.add(search.SCALES, "index", halves)
    writer.add(search.STEP, "index", np.array([step], np.float32))
  return rows.nbytes + 8 * len(rows)


def add_tokenizer(writer: PackWriter, file: Path) -> None:
  """Adds a `tokenizer.json`."""
  data = np.frombuffer(file.read_bytes(), np.uint8)
  writer.add("tokenizer", "tokenizer", data, xz=True)
