"""Published tensor names and safetensors files, to and from our trees.

How Hugging Face lays out the tensors: kernels are transposed, layers are
numbered instead of stacked, norms have a `weight`, and a model with a head may
put a prefix before every name. What is special to one architecture stands in
its `Layout`; that of BERT is here, that of T5 in `t5.py`.
"""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Float

from odqa_jax.runtime.files import read_json

# Pickles of torch, and what TensorFlow and Flax wrote.
_OTHER_WEIGHTS = (
  "pytorch_model*.bin",
  "*.pt",
  "*.pth",
  "*.cp",
  "*.ckpt*",
  "*.pkl",
  "tf_model.h5",
  "flax_model.msgpack",
)
# The number of a layer.
_NUMBER = re.compile(r"^(encoder\.layer\.)\d+\.")
# Differing tensors that an error lists.
_LISTED = 40
_FLOATS = ("F16", "BF16", "F32", "F64")
_LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "embedding": "weight",
  "bias": "bias",
}


@dataclasses.dataclass(frozen=True)
class Layout:
  """What is special to the names of one architecture.

  Attributes:
    anchor: name of a tensor that every model has; what stands before it in a
      file is the prefix of all names.
    ignored: what the names of tensors begin with that we do without, prefix
      off: heads, buffers, and what published classes make but never apply; with
      `{}` for the number of a layer.
    rename: our dotted path, its leaf already called `weight` or `bias`, to the
      published name. `{}` in the name is the number of the layer: our leaf is
      the stack of all of them.
    loader: class of transformers that loads all of such a model.
  """

  anchor: str
  ignored: tuple[str, ...]
  rename: Callable[[str], str]
  loader: str

  def template(self, path: str) -> str:
    """The published name of a leaf, with `{}` where the layers are counted."""
    stem, _, last = path.rpartition(".")
    return self.rename(f"{stem}.{_LEAVES[last]}")

  def names(self, path: str, leaf: Any) -> list[str]:
    """Names of the tensors that a leaf is made of, in layer order."""
    template = self.template(path)
    if "{}" not in template:
      return [template]
    return [template.format(i) for i in range(leaf.shape[0])]

  def shape(self, path: str, leaf: Any) -> tuple[int, ...]:
    """The published shape of one tensor of a leaf."""
    shape = leaf.shape[1:] if "{}" in self.template(path) else leaf.shape
    return shape[::-1] if path.endswith("kernel") else shape


def _number_layers(name: str) -> str:
  before = "encoder.layer."
  if not name.startswith(before):
    return name
  return f"{before}{{}}.{name.removeprefix(before)}"


BERT = Layout(
  anchor="embeddings.word_embeddings.weight",
  ignored=(
    "cls.",
    "pooler.",
    "embeddings.position_ids",
    # Of a MobileBERT that does not use them.
    "embeddings.embedding_transformation.",
    "encoder.layer.{}.bottleneck.attention.",
  ),
  rename=_number_layers,
  loader="AutoModel",
)


class Tensors:
  """The tensors of a folder by canonical name, read when asked for.

  Attributes:
    layout: whose names they are.
    raw: canonical name -> name in the file; what is deleted from it counts as
      absent.
  """

  def __init__(self, files: Mapping[str, Any], layout: Layout):
    """Takes the name in the file -> the open safetensors file."""
    self.layout = layout
    suffix = layout.anchor
    anchor = next((name for name in files if name.endswith(suffix)), suffix)
    prefix = anchor.removesuffix(suffix)
    self.raw = {_canonical(name, prefix): name for name in files}
    self._files = files

  def shape(self, name: str) -> tuple[int, ...]:
    """The shape in the file, without reading the tensor."""
    raw = self.raw[name]
    return tuple(self._files[raw].get_slice(raw).get_shape())

  def read(self, name: str) -> Float[np.ndarray, "*shape"]:
    """The tensor as float32.

    Raises:
      ValueError: it is of a type that is no plain float: integers need a scale.
    """
    raw = self.raw[name]
    kind = self._files[raw].get_slice(raw).get_dtype()
    if kind not in _FLOATS:
      raise ValueError(
        f"{raw}: the tensor is of type {kind}; weights of {', '.join(_FLOATS)} "
        "are read; save the model without quantisation."
      )
    return self._files[raw].get_tensor(raw).astype(np.float32)


@contextlib.contextmanager
def open_tensors(directory: Path, layout: Layout) -> Iterator[Tensors]:
  """Opens the safetensors file or shards of a folder, memory-mapped.

  Args:
    directory: the folder.
    layout: whose names to expect.

  Raises:
    FileNotFoundError: there are no weights.
    ValueError: the weights are pickled, or the shard index is unusable.
  """
  with contextlib.ExitStack() as stack:
    files: dict[str, Any] = {}
    for path in _weight_files(directory, layout.loader):
      if not path.is_file():
        raise FileNotFoundError(f"{path}: the shard index names it; copy it.")
      try:
        file = stack.enter_context(safetensors.safe_open(path, "numpy"))
      except safetensors.SafetensorError as error:
        raise ValueError(
          f"{path}: not a readable safetensors file ({error}); copy it again."
        ) from error
      files |= dict.fromkeys(file.keys(), file)
    yield Tensors(files, layout)


def other_weights(directory: Path) -> Path | None:
  """A file of weights in a folder that is in no format that is read."""
  for pattern in _OTHER_WEIGHTS:
    for path in sorted(directory.glob(pattern)):
      return path
  return None


def _weight_files(directory: Path, loader: str) -> list[Path]:
  index = directory / "model.safetensors.index.json"
  single = directory / "model.safetensors"
  if single.is_file():
    return [single]
  if index.is_file():
    names = _shard_names(index)
    for name in names:
      if name != Path(name).name:
        raise ValueError(f"{index}: {name!r} is not a plain file name.")
    return [directory / name for name in sorted(names)]
  if other := other_weights(directory):
    raise ValueError(
      f"{other}: weights are read from safetensors alone; pickled ones can run "
      "code and are not read; convert them once where you trust them: "
      f"{loader}.from_pretrained(DIR).save_pretrained(DIR) of transformers "
      "writes model.safetensors."
    )
  raise FileNotFoundError(f"{single}: there is no such file, nor an index.")


def _shard_names(index: Path) -> set[str]:
  weights = read_json(index).get("weight_map")
  if not isinstance(weights, dict) or not weights:
    raise ValueError(
      f"{index}: no weight_map of tensor names and files; copy it again."
    )
  return set(map(str, weights.values()))


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
    ValueError: names or shapes differ; what is missing is listed with `-`,
      what is too much with `+`, the first of them.
  """
  paths, layout = _flatten(spec), tensors.layout
  wanted = {
    name: layout.shape(path, leaf)
    for path, leaf in paths
    for name in layout.names(path, leaf)
  }
  ignored = [
    name
    for name in tensors.raw
    if name not in wanted
    and _NUMBER.sub(r"\1{}.", name).startswith(layout.ignored)
  ]
  shapes = {name: tensors.shape(name) for name in tensors.raw.keys() - ignored}
  _check_same(wanted, shapes, where)

  def leaf_array(path: str, leaf: Any) -> jax.Array:
    arrays = [tensors.read(name) for name in layout.names(path, leaf)]
    if path.endswith("kernel"):
      arrays = [array.T for array in arrays]
    stacked = "{}" in layout.template(path)
    return jnp.asarray(np.stack(arrays) if stacked else arrays[0])

  leaves = [leaf_array(path, leaf) for path, leaf in paths]
  tree = jax.tree.unflatten(jax.tree.structure(spec), leaves)
  return tree, sorted(tensors.raw[name] for name in ignored)


def _check_same(
  wanted: Mapping[str, tuple[int, ...]],
  shapes: Mapping[str, tuple[int, ...]],
  where: Path,
) -> None:
  lines = [
    f"{sign} {name} {list(shape)}"
    for name, shape, sign in sorted(
      [(*item, "-") for item in wanted.items() - shapes.items()]
      + [(*item, "+") for item in shapes.items() - wanted.items()]
    )
  ]
  if len(lines) > _LISTED:
    lines = [*lines[:_LISTED], f"and {len(lines) - _LISTED} more"]
  if lines:
    raise ValueError(
      f"{where}: the weights do not fit config.json (what it leaves out has "
      "the value that transformers gives it); tensors that are missing (-) and "
      "that are not expected (+); fix config.json or the weights:\n"
      + "\n".join(lines)
    )


def write_tree(
  path: Path,
  tree: Any,
  layout: Layout,
  rename: Callable[[str], str] = lambda name: name,
) -> None:
  """Writes a tree as a safetensors file with published names, float32.

  Args:
    path: file to write.
    tree: our parameters; must be addressable by this process.
    layout: whose names to write.
    rename: maps a canonical name to the name in the file.
  """
  tensors = {}
  for name, leaf in _flatten(tree):
    array = np.asarray(leaf, np.float32)
    layers = array if "{}" in layout.template(name) else [array]
    for published, layer in zip(layout.names(name, leaf), layers, strict=True):
      layer = layer.T if name.endswith("kernel") else layer
      # save_file writes the buffer of a transposed view in the wrong order.
      tensors[rename(published)] = np.ascontiguousarray(layer)
  safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})
