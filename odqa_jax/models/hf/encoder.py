"""Hugging Face encoder folders and our parameter trees, in both directions.

Reads BERT, DPR and sentence-transformers folders (safetensors only; nothing is
unpickled) and writes folders that those libraries load.

>>> from odqa_jax.models.dual_encoder import DualEncoder
>>> from odqa_jax.models.hf.encoder import load_encoder
>>> folder = "~/all-MiniLM-L6-v2"
>>> config, params, facts = load_encoder(folder)  # doctest: +SKIP
>>> encoder = DualEncoder(config)  # doctest: +SKIP
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from odqa_jax.models.bert import BertConfig
from odqa_jax.models.dual_encoder import DualEncoder, EncoderConfig
from odqa_jax.models.hf import folders
from odqa_jax.models.hf import tensors as published
from odqa_jax.models.hf.bert_config import (
  bert_config,
  class_name,
  read_bert_config,
  write_config,
)
from odqa_jax.models.layers import Params

_LAYOUTS = ("sentence-transformers", "dpr")
_SIDES = ("question", "passage")
_DPR_NAMES = {
  "question": ("question_encoder", "DPRQuestionEncoder"),
  "passage": ("ctx_encoder", "DPRContextEncoder"),
}


@runtime_checkable
class SavesTokenizer(Protocol):
  """What `save_encoder` needs of a tokenizer."""

  def save(self, directory: Path) -> None:
    """Writes tokenizer.json and its companions into `directory`."""


def load_encoder(
  directory: str | Path, *, dtype: str = "float32", scan: bool = True
) -> tuple[EncoderConfig, Params, dict[str, Any]]:
  """Reads a dual encoder from a BERT, DPR or sentence-transformers folder.

  A folder with `question/` and `passage/` in it holds separate encoders: put
  the two folders of a DPR model there, and its tokenizer beside them. Any other
  folder holds one encoder, which serves questions and passages alike, both with
  token type 0.

  Args:
    directory: the folder, with `config.json` and safetensors weights; names may
      carry a `bert.` or a DPR prefix, LayerNorms may be called gamma and beta.
    dtype: dtype of the computation; the parameters are float32.
    scan: how the layers will run, see `BertConfig`.

  Returns:
    The configuration, the parameters for `DualEncoder`, and facts that the
    configuration has no place for: `question_length` and `passage_length`
    (tokens), `title` (whether passages begin with their title),
    `question_prompt` and `passage_prompt` (text that the published model
    expects before its inputs, mostly ""), and `ignored` (names of tensors in
    the folder that an encoder does not use).

  Raises:
    ValueError: not a BERT, pickled weights, or names and shapes that differ
      from the configuration's (all of them are listed); or the folder pools,
      projects or joins modules in a way that `DualEncoder` does not; or its two
      encoders differ in shape.
    FileNotFoundError: there is no config.json or no weights.
  """
  directory = Path(directory).expanduser()
  ours = folders.read_ours(directory)
  pair = all((directory / side).is_dir() for side in _SIDES)
  load = _load_pair if pair else _load_single
  config, params, facts = load(directory, ours)
  for key in sorted(facts.keys() & ours.keys()):
    facts[key] = ours[key]
    if key.endswith("_length"):
      folders.check_length(directory, key, ours[key], config.bert)
  bert = dataclasses.replace(config.bert, dtype=dtype, scan=scan)
  return dataclasses.replace(config, bert=bert), params, facts


def save_encoder(
  directory: str | Path,
  config: EncoderConfig,
  params: Mapping[str, Any],
  tokenizer: SavesTokenizer,
  *,
  question_length: int,
  passage_length: int,
  title: bool = True,
  layout: str = "sentence-transformers",
) -> None:
  """Writes a dual encoder for other libraries, and for `load_encoder`.

  One model when questions and passages are encoded alike (shared weights, token
  type 0); otherwise `question/` and `passage/`, each a whole model. Passages of
  another token type get it at place 0 of their table, as other libraries give
  type 0 to every token. A truncating projection is written as a dense one with
  rows of the identity.

  Args:
    directory: folder to make; it must not exist, or be empty.
    config: configuration of the encoder.
    params: its parameters.
    tokenizer: has `save(directory)`.
    question_length: tokens at which questions are cut.
    passage_length: tokens at which passages are cut.
    title: whether passages begin with their title.
    layout: "sentence-transformers" (each folder loads in SentenceTransformer
      and AutoModel) or "dpr" (DPRQuestionEncoder and DPRContextEncoder).

  Raises:
    ValueError: unknown layout, or DPR cannot express this encoder.
    FileExistsError: `directory` has something in it.
  """
  directory = Path(directory).expanduser()
  if layout not in _LAYOUTS:
    raise ValueError(f"layout={layout!r} is unknown; use one of {_LAYOUTS}.")
  if layout == "dpr" and (config.pooling != "cls" or config.normalise):
    raise ValueError(
      f"layout='dpr' with pooling={config.pooling!r}, normalise="
      f"{config.normalise}: DPR takes the first token's state as it is; use "
      "sentence-transformers."
    )
  if layout == "dpr" and config.bert.variant != "bert":
    raise ValueError(
      f"layout='dpr' for variant={config.bert.variant!r}: DPR's classes hold a "
      "BERT; use sentence-transformers."
    )
  lengths = {
    "question_length": question_length,
    "passage_length": passage_length,
  }
  ours = {
    "shared": config.shared,
    "passage_type": config.passage_token_type,
    "projection": config.projection,
    "title": title,
    **lengths,
  }
  alike = config.shared and not config.passage_token_type
  with folders.new_folder(directory) as folder:
    folders.write_ours(folder, ours)
    tokenizer.save(folder)
    if alike and layout != "dpr":
      longest = max(lengths.values())
      _save_one(folder, config, params["shared"], longest)
      return
    for side in _SIDES:
      tree = dict(params["shared" if config.shared else side])
      if side == "passage":
        tree = _swap_types(tree, config.passage_token_type)
      (folder / side).mkdir()
      tokenizer.save(folder / side)
      if layout == "dpr":
        _save_dpr(folder / side, config, tree, side)
      else:
        _save_one(folder / side, config, tree, lengths[f"{side}_length"])


def _load_tree(
  directory: Path, config: BertConfig, projection_dim: int
) -> tuple[Params, list[str]]:
  """One encoder's tree, with `encode_proj` if `projection_dim` is not 0."""
  projected = EncoderConfig(
    config,
    shared=True,
    passage_type=0,
    embedding_dim=projection_dim or None,
    projection="dense" if projection_dim else "none",
  )
  spec = jax.eval_shape(DualEncoder(projected).init, jax.random.key(0))
  with published.open_tensors(directory, published.BERT) as tensors:
    return published.read_tree(tensors, spec["shared"], directory)


def _load_single(
  directory: Path, ours: Mapping[str, Any]
) -> tuple[EncoderConfig, Params, dict[str, Any]]:
  """One encoder for both sides; half a DPR model is an error."""
  config, tree, facts = _load_side(directory, ours)
  if read_bert_config(directory)["model_type"] == "dpr":
    raise ValueError(
      f"{directory}: one half of a DPR model; make a folder that holds the "
      "question encoder as question/ and the passage encoder as passage/."
    )
  return config, {"shared": tree}, facts


def _load_pair(
  directory: Path, ours: Mapping[str, Any]
) -> tuple[EncoderConfig, Params, dict[str, Any]]:
  """The encoders in question/ and passage/."""
  (config, tree, facts), (other, passage_tree, passage_facts) = (
    _load_side(directory / side, ours) for side in _SIDES
  )
  if config != other:
    raise ValueError(
      f"{directory}: the two encoders must have one shape and one pooling, "
      f"but question/ is {config} and passage/ is {other}."
    )
  facts |= {k: v for k, v in passage_facts.items() if k.startswith("passage_")}
  facts["ignored"] = [f"question/{name}" for name in facts["ignored"]] + [
    f"passage/{name}" for name in passage_facts["ignored"]
  ]
  if ours.get("shared"):
    config = dataclasses.replace(config, passage_type=ours["passage_type"])
    return config, {"shared": tree}, facts
  config = dataclasses.replace(config, shared=False)
  return config, {"question": tree, "passage": passage_tree}, facts


def _load_side(
  directory: Path, ours: Mapping[str, Any]
) -> tuple[EncoderConfig, Params, dict[str, Any]]:
  """One model, configured as an encoder that serves both sides."""
  published_config = read_bert_config(directory)
  bert = bert_config(published_config)
  width = published_config["projection_dim"]
  tree, ignored = _load_tree(directory, bert, width)
  head = folders.read_modules(directory)
  if head.dense:
    tree["encode_proj"] = _load_dense(head.dense, bert.width)
    width = tree["encode_proj"]["bias"].shape[0]
  projection = ours.get("projection", "dense" if width else "none")
  if projection == "truncate":
    tree.pop("encode_proj", None)
  config = EncoderConfig(
    bert,
    shared=True,
    pooling=head.pooling,
    normalise=head.normalise,
    embedding_dim=width or None,
    projection=projection,
    passage_type=0,
  )
  facts = folders.read_facts(directory, bert)
  # sentence-transformers models were trained on plain text, DPR on titles.
  title = not (directory / "modules.json").is_file()
  return config, tree, facts | {"title": title, "ignored": ignored}


def _load_dense(folder: Path, width: int) -> Params:
  config = folders.read_json(folder / "config.json", required=True)
  if (
    not str(config.get("activation_function")).endswith(".Identity")
    or config.get("use_residual")
    or config.get("in_features") != width
    or type(config.get("out_features")) is not int
  ):
    raise ValueError(
      f"{folder / 'config.json'}: a linear map from {width} features without "
      "activation or residual is needed (activation_function "
      "torch.nn.modules.linear.Identity)."
    )
  embedding_dim = config["out_features"]
  spec = {
    "linear": {
      "kernel": jax.ShapeDtypeStruct((width, embedding_dim), jnp.float32),
      "bias": jax.ShapeDtypeStruct((embedding_dim,), jnp.float32),
    }
  }
  if not config.get("bias", True):
    del spec["linear"]["bias"]
  with published.open_tensors(folder, published.BERT) as tensors:
    tree, _ = published.read_tree(tensors, spec, folder)
  return {"bias": jnp.zeros(embedding_dim)} | tree["linear"]


def _swap_types(tree: Params, kind: int) -> Params:
  """The tree that does with token type 0 what `tree` does with type `kind`."""
  embeddings = dict(tree["embeddings"])
  table = jnp.asarray(embeddings["token_type_embeddings"]["embedding"])
  order = jnp.arange(table.shape[0]).at[0].set(kind).at[kind].set(0)
  embeddings["token_type_embeddings"] = {"embedding": table[order]}
  return {**tree, "embeddings": embeddings}


def _projection(config: EncoderConfig, tree: Params) -> Params | None:
  """Kernel and bias of the projection, also of one that only truncates."""
  if config.projection == "truncate":
    kernel = jnp.eye(config.bert.width, config.output_dim)
    return {"kernel": kernel, "bias": jnp.zeros(config.output_dim)}
  return tree.get("encode_proj")


def _save_one(
  folder: Path, config: EncoderConfig, tree: Params, length: int
) -> None:
  """One encoder as a sentence-transformers folder."""
  projection = _projection(config, tree)
  tree = {key: tree[key] for key in tree if key != "encode_proj"}
  published.write_tree(folder / "model.safetensors", tree, published.BERT)
  architecture = class_name(config.bert, "Model")
  write_config(folder, config.bert, architectures=[architecture])
  dense = folders.write_modules(folder, config, length)
  if dense:
    published.write_tree(
      dense / "model.safetensors", {"linear": projection}, published.BERT
    )


def _save_dpr(
  folder: Path,
  config: EncoderConfig,
  tree: Params,
  side: str,
) -> None:
  """One encoder as a DPRQuestionEncoder or DPRContextEncoder folder."""
  prefix, kind = _DPR_NAMES[side]
  projection = _projection(config, tree)
  if projection:
    tree = {**tree, "encode_proj": projection}

  def rename(name: str) -> str:
    inner = "" if name.startswith("encode_proj.") else "bert_model."
    return f"{prefix}.{inner}{name}"

  published.write_tree(
    folder / "model.safetensors", tree, published.BERT, rename
  )
  write_config(
    folder,
    config.bert,
    model_type="dpr",
    architectures=[kind],
    projection_dim=config.embedding_dim or 0,
  )
