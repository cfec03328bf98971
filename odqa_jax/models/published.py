"""Published tensor names and safetensors files, to and from our BERT tree.

Only this file knows how Hugging Face calls and lays out the tensors: kernels
are transposed, layers are numbered instead of stacked, LayerNorms have a
`weight`, and a model with a head puts a prefix before every name.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Float

_ANCHOR = "embeddings.word_embeddings.weight"
# Heads and buffers that an encoder does without, after the prefix is off.
_IGNORED = ("cls.", "pooler.", "embeddings.position_ids")
_STACKED = "encoder.layer."
_LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "embedding": "weight",
  "bias": "bias",
}


class Tensors:
  """The tensors of a folder by canonical name, read when asked for."""

  def __init__(self, files: Mapping[str, Any]):
    """Takes the name in the file -> the open safetensors file."""
    anchor = next((name for name in files if name.endswith(_ANCHOR)), _ANCHOR)
    prefix = anchor.removesuffix(_ANCHOR)
    self.raw = {_canonical(name, prefix): name for name in files}
    self._files = files

  def shape(self, name: str) -> tuple[int, ...]:
    """The shape in the file, without reading the tensor."""
    raw = self.raw[name]
    return tuple(self._files[raw].get_slice(raw).get_shape())

  def read(self, name: str) -> Float[np.ndarray, "*shape"]:
    """The tensor as float32."""
    raw = self.raw[name]
    return self._files[raw].get_tensor(raw).astype(np.float32)


@contextlib.contextmanager
def open_tensors(directory: Path) -> Iterator[Tensors]:
  """Opens the safetensors file or shards of a folder, memory-mapped.

  Raises:
    FileNotFoundError: there are no weights.
    ValueError: the weights are pickled, or the shard index is unusable.
  """
  with contextlib.ExitStack() as stack:
    files: dict[str, Any] = {}
    for path in _weight_files(directory):
      if not path.is_file():
        raise FileNotFoundError(f"{path}: the shard index names it; copy it.")
      try:
        opened = stack.enter_context(safetensors.safe_open(path, "numpy"))
      except safetensors.SafetensorError as error:
        raise ValueError(
          f"{path}: not a readable safetensors file ({error}); copy it again."
        ) from error
      files |= dict.fromkeys(opened.keys(), opened)
    yield Tensors(files)


def _weight_files(directory: Path) -> list[Path]:
  index = directory / "model.safetensors.index.json"
  single = directory / "model.safetensors"
  if single.is_file():
    return [single]
  if index.is_file():
    names = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    for name in names:
      if name != Path(name).name:
        raise ValueError(f"{index}: {name!r} is not a plain file name.")
    return [directory / name for name in sorted(names)]
  if (directory / "pytorch_model.bin").is_file():
    raise ValueError(
      f"{directory / 'pytorch_model.bin'}: pickled weights can run code and "
      "are not read; convert them once where you trust them: AutoModel"
      ".from_pretrained(DIR).save_pretrained(DIR) of transformers writes "
      "model.safetensors."
    )
  raise FileNotFoundError(f"{single}: there is no such file, nor an index.")


def _canonical(name: str, prefix: str) -> str:
  """A name without its model's prefix and with today's LayerNorm names.

  Args:
    name: name in the file.
    prefix: what stands before the BERT's tensors, "bert." or
      "ctx_encoder.bert_model."; a projection stands one level further out.
  """
  name = name.removeprefix(prefix)
  if "." in prefix.removesuffix("."):
    name = name.removeprefix(prefix.split(".")[0] + ".")
  return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
    "LayerNorm.beta", "LayerNorm.bias"
  )


def _flatten(tree: Any) -> list[tuple[str, Any]]:
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return [
    (jax.tree_util.keystr(path, simple=True, separator="."), leaf)
    for path, leaf in leaves
  ]


def _published_names(path: str, leaf: Any) -> list[str]:
  """Names of the tensors that one of our leaves is made of, in layer order."""
  stem, _, last = path.rpartition(".")
  name = f"{stem}.{_LEAVES[last]}"
  if not name.startswith(_STACKED):
    return [name]
  rest = name.removeprefix(_STACKED)
  return [f"{_STACKED}{i}.{rest}" for i in range(leaf.shape[0])]


def _published_shape(path: str, leaf: Any) -> tuple[int, ...]:
  shape = leaf.shape[1:] if path.startswith(_STACKED) else leaf.shape
  return shape[::-1] if path.endswith("kernel") else shape


def read_tree(
  tensors: Tensors, spec: Any, where: Path
) -> tuple[Any, list[str]]:
  """Fills a tree of shapes from published tensors.

  Args:
    tensors: what the folder holds.
    spec: tree of `jax.ShapeDtypeStruct`, as `jax.eval_shape` makes it.
    where: folder, for the error.

  Returns:
    The tree with float32 arrays, and the names in the file that were ignored.

  Raises:
    ValueError: names or shapes differ; all that is missing is listed with `-`,
      all that is too much with `+`.
  """
  paths = _flatten(spec)
  wanted = {
    name: _published_shape(path, leaf)
    for path, leaf in paths
    for name in _published_names(path, leaf)
  }
  ignored = [
    name
    for name in tensors.raw
    if name not in wanted and name.startswith(_IGNORED)
  ]
  found = {name: tensors.shape(name) for name in tensors.raw.keys() - ignored}
  _check_same(wanted, found, where)

  def leaf_array(path: str, leaf: Any) -> jax.Array:
    names = _published_names(path, leaf)
    arrays = [tensors.read(name) for name in names]
    if path.endswith("kernel"):
      arrays = [array.T for array in arrays]
    stacked = path.startswith(_STACKED)
    return jnp.asarray(np.stack(arrays) if stacked else arrays[0])

  leaves = [leaf_array(path, leaf) for path, leaf in paths]
  tree = jax.tree.unflatten(jax.tree.structure(spec), leaves)
  return tree, sorted(tensors.raw[name] for name in ignored)


def _check_same(
  wanted: Mapping[str, tuple[int, ...]],
  found: Mapping[str, tuple[int, ...]],
  where: Path,
) -> None:
  lines = [
    f"{sign} {name} {list(shape)}"
    for name, shape, sign in sorted(
      [(*item, "-") for item in wanted.items() - found.items()]
      + [(*item, "+") for item in found.items() - wanted.items()]
    )
  ]
  if lines:
    raise ValueError(
      f"{where}: the weights do not fit config.json; tensors that are missing "
      "(-) and that are not expected (+); fix config.json or the weights:\n"
      + "\n".join(lines)
    )


def write_tree(
  path: Path, tree: Any, rename: Callable[[str], str] = lambda name: name
) -> None:
  """Writes a tree as a safetensors file with published names, float32.

  Args:
    path: file to write.
    tree: our parameters; must be addressable by this process.
    rename: maps a canonical name to the name in the file.
  """
  tensors = {}
  for name, leaf in _flatten(tree):
    array = np.asarray(leaf, np.float32)
    layers = array if name.startswith(_STACKED) else [array]
    for published, layer in zip(
      _published_names(name, leaf), layers, strict=True
    ):
      layer = layer.T if name.endswith("kernel") else layer
      # save_file writes the buffer of a transposed view in the wrong order.
      tensors[rename(published)] = np.ascontiguousarray(layer)
  safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})
