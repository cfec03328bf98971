"""Hugging Face T5 folders and our parameter tree, in both directions.

Folders of `T5ForConditionalGeneration`, version 1.0 (ReLU, tied head) and 1.1
(gated GELU, a head of its own); safetensors only, nothing is unpickled.

>>> import jax, tempfile
>>> from odqa_jax.models.hf.t5 import load_t5, save_t5
>>> from odqa_jax.models.t5 import PRESETS, T5, T5Config
>>> config = T5Config(**PRESETS["tiny"] | {"vocab_size": 50})
>>> params = T5(config).init(jax.random.key(0))
>>> with tempfile.TemporaryDirectory() as folder:
...   save_t5(f"{folder}/reader", config, params)
...   load_t5(f"{folder}/reader")[0] == config
True
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from odqa_jax.models.hf import folders
from odqa_jax.models.hf import tensors as published
from odqa_jax.models.hf.encoder import SavesTokenizer
from odqa_jax.models.layers import Params
from odqa_jax.models.t5 import T5, T5Config

# (our field, name in a published config.json)
_FIELDS = (
  ("vocab_size", "vocab_size"),
  ("width", "d_model"),
  ("layers", "num_layers"),
  ("decoder_layers", "num_decoder_layers"),
  ("heads", "num_heads"),
  ("head_dim", "d_kv"),
  ("mlp_dim", "d_ff"),
  ("relative_buckets", "relative_attention_num_buckets"),
  ("relative_distance", "relative_attention_max_distance"),
  ("dropout", "dropout_rate"),
  ("eps", "layer_norm_epsilon"),
  ("pad_id", "pad_token_id"),
  ("eos_id", "eos_token_id"),
  ("start_id", "decoder_start_token_id"),
)
# What a config.json that leaves a key out stands for (transformers' T5Config).
DEFAULTS: dict[str, Any] = {
  "model_type": "t5",
  "vocab_size": 32128,
  "d_model": 512,
  "d_kv": 64,
  "d_ff": 2048,
  "num_layers": 6,
  "num_heads": 8,
  "feed_forward_proj": "relu",
  "tie_word_embeddings": True,
  "relative_attention_max_distance": 128,
  "relative_attention_num_buckets": 32,
  "dropout_rate": 0.1,
  "layer_norm_epsilon": 1e-6,
  "pad_token_id": 0,
  "eos_token_id": 1,
}
_PROJECTIONS = {"relu": False, "gated-gelu": True}
_TABLE, _HEAD = "shared.weight", "lm_head.weight"
# Other names under which files repeat the embedding table.
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_BLOCK = re.compile(r"(encoder|decoder)\.block\.layer_(\d)\.")
_BIAS = re.compile(r"(encoder|decoder)\.(relative_attention_bias\.weight)")
# What no T5 of transformers has.
_OURS = ("depthwise_convolution", "overlap_features", "span_head")


def _rename(name: str) -> str:
  name = _BLOCK.sub(r"\1.block.{}.layer.\2.", name)
  return _BIAS.sub(r"\1.block.0.layer.0.SelfAttention.\2", name)


_LAYOUT = published.Layout(
  anchor=_TABLE,
  # Written by old versions; no T5 ever used it.
  ignored=("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias",),
  rename=_rename,
  loader="AutoModelForSeq2SeqLM",
)


def load_t5(
  directory: str | Path,
  *,
  dtype: str = "float32",
  scan: bool = True,
  remat: str = "none",
  dropout: float | None = None,
) -> tuple[T5Config, Params]:
  """Reads a T5 with its decoder and head.

  A head without weights of its own that takes unscaled states (a v1.1 that
  transformers 5 tied) becomes one with a copy of the embedding table.

  Args:
    directory: folder with `config.json` and safetensors weights, one file or
      shards.
    dtype: dtype of the computation; the parameters are float32.
    scan: how the layers will run, see `T5Config`.
    remat: what the backward pass computes again, see `T5Config`.
    dropout: instead of the published rate.

  Returns:
    The configuration and the parameters as `T5.init` lays them out.

  Raises:
    ValueError: not a T5 of version 1.0 or 1.1, pickled weights, names and
      shapes that differ from the configuration's (all of them are listed), or
      a tied table that is there twice with different values.
    FileNotFoundError: there is no config.json or no weights.
  """
  directory = Path(directory).expanduser()
  config = dataclasses.replace(
    read_t5_config(directory), dtype=dtype, scan=scan, remat=remat
  )
  if dropout is not None:
    config = dataclasses.replace(config, dropout=dropout)
  spec = jax.eval_shape(T5(config).init, jax.random.key(0))
  with published.open_tensors(directory, _LAYOUT) as tensors:
    _merge_copies(tensors, _COPIES, directory)
    if config.tied:
      _merge_copies(tensors, (_HEAD,), directory)
    elif _HEAD not in tensors.raw and _TABLE in tensors.raw:
      tensors.raw[_HEAD] = tensors.raw[_TABLE]
    params, _ = published.read_tree(tensors, spec, directory)
  return config, params


def read_t5_config(directory: str | Path) -> T5Config:
  """Reads config.json alone, without weights.

  Raises:
    ValueError: it describes another network than a T5 of version 1.0 or 1.1.
    FileNotFoundError: there is none.
  """
  directory = Path(directory).expanduser()
  generation = folders.read_json(
    directory / "generation_config.json", required=False
  )
  defaults = DEFAULTS | {
    "decoder_start_token_id": generation.get("decoder_start_token_id", 0),
    "num_decoder_layers": folders.read_json(
      directory / "config.json", required=True
    ).get("num_layers", 6),
  }
  known = {"model_type": ("t5",), "feed_forward_proj": tuple(_PROJECTIONS)}
  remedy = "a T5 of version 1.0 or 1.1"
  config = folders.read_config(directory, defaults, known, _FIELDS, remedy)
  # Version 5 of transformers writes tie_word_embeddings as true for all, and
  # whether states are scaled (as tied heads want) under a name of its own.
  tied = config.get("scale_decoder_outputs", config["tie_word_embeddings"])
  return T5Config(
    **{ours: config[theirs] for ours, theirs in _FIELDS},
    gated=_PROJECTIONS[config["feed_forward_proj"]],
    tied=bool(tied),
  )


def save_t5(
  directory: str | Path,
  config: T5Config,
  params: Mapping[str, Any],
  tokenizer: SavesTokenizer | None = None,
) -> None:
  """Writes a folder for `T5ForConditionalGeneration`, and for `load_t5`.

  Args:
    directory: folder to make; it must not exist, or be empty.
    config: configuration of the reader.
    params: its parameters; written as float32.
    tokenizer: has `save(directory)`; None writes no tokenizer.

  Raises:
    ValueError: the reader has parts that no T5 of transformers has.
    FileExistsError: `directory` has something in it.
  """
  directory = Path(directory).expanduser()
  parts = [f"{n}={v}" for n in _OURS if (v := getattr(config, n))]
  if parts:
    raise ValueError(
      f"{', '.join(parts)}: no T5 of transformers has this, so that the folder "
      f"{directory} would compute something else; keep the checkpoint, or "
      "train a reader without."
    )
  with folders.new_folder(directory) as folder:
    _write_config(folder, config)
    published.write_tree(folder / "model.safetensors", params, _LAYOUT)
    if tokenizer:
      tokenizer.save(folder)


def _write_config(folder: Path, config: T5Config) -> None:
  projections = {gated: name for name, gated in _PROJECTIONS.items()}
  fields = {theirs: getattr(config, ours) for ours, theirs in _FIELDS}
  extra = {
    "model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"],
    "is_encoder_decoder": True,
    "feed_forward_proj": projections[config.gated],
    "tie_word_embeddings": config.tied,
  }
  folders.write_json(folder / "config.json", fields | extra)
  ids = ("pad_token_id", "eos_token_id", "decoder_start_token_id")
  folders.write_json(
    folder / "generation_config.json", {name: fields[name] for name in ids}
  )


def _merge_copies(
  tensors: published.Tensors, copies: tuple[str, ...], where: Path
) -> None:
  """Takes repetitions of the embedding table as the one that they repeat.

  Raises:
    ValueError: one differs from the table.
  """
  for name in copies:
    if name not in tensors.raw:
      continue
    if _TABLE not in tensors.raw:
      tensors.raw[_TABLE] = tensors.raw[name]
    elif not np.array_equal(tensors.read(name), tensors.read(_TABLE)):
      raise ValueError(
        f"{where}: {name} differs from {_TABLE}, but one table serves as both "
        "in this model; copy the weights again, or, for a head with weights of "
        "its own, set tie_word_embeddings to false in config.json."
      )
    del tensors.raw[name]
