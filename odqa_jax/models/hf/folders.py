"""The JSON files of published model folders, read and written.

`config.json` (transformers), `modules.json` and the settings beside it
(sentence-transformers). What the first holds of a BERT is the business of
`bert_config.py`, the tensors are that of `tensors.py`.
"""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from odqa_jax.models.bert import BertConfig
from odqa_jax.models.dual_encoder import EncoderConfig
from odqa_jax.runtime import artifact
from odqa_jax.runtime.files import write_json

# Keys of any model that make it compute something else, or stand for weights
# that are not plain arrays.
_PLAIN: dict[str, tuple[Any, ...]] = {
  "quantization_config": (None, {}),
  "pruned_heads": ({}, None),
  "auto_map": (None, {}),
  "add_cross_attention": (False,),
}
# The largest numbers that a config is taken seriously with.
_MOST = {
  "num_hidden_layers": 1000,
  "num_layers": 1000,
  "num_decoder_layers": 1000,
}
_MOST_OF_ANY = 2**31 - 1
_OURS = "odqa_jax.json"
_FORMAT = 1
# The older paths: every version of sentence-transformers knows them.
_MODULE_TYPE = "sentence_transformers.models."
_POOLINGS = {
  "cls": "cls",
  "cls_token": "cls",
  "mean": "mean",
  "mean_tokens": "mean",
}


def read_json(path: Path, *, required: bool) -> dict[str, Any]:
  """A JSON object; {} when the file is optional and absent."""
  if not path.is_file():
    if not required:
      return {}
    raise FileNotFoundError(f"{path}: there is no such file; is this a model?")
  return artifact.read_json(path)


def read_ours(directory: Path) -> dict[str, Any]:
  """What `write_ours` has written; {} where it has not.

  Raises:
    ValueError: it is of another format.
  """
  path = directory / _OURS
  ours = read_json(path, required=False)
  if ours.get("format", _FORMAT) != _FORMAT:
    raise ValueError(
      f"{path}: format {ours['format']} is not {_FORMAT}, the one that this "
      "version reads; use the version that wrote it."
    )
  for key in ours:
    if key.endswith("_length") and type(ours[key]) is not int:
      raise ValueError(f"{path}: {key}={ours[key]!r} is no number; mend it.")
  return ours


def write_ours(directory: Path, content: Mapping[str, Any]) -> None:
  """Writes what the files of other libraries have no place for."""
  write_json(directory / _OURS, {"format": _FORMAT, **content})


@contextlib.contextmanager
def new_folder(directory: Path) -> Iterator[Path]:
  """A folder to fill, renamed to `directory` once it is complete.

  Raises:
    FileExistsError: `directory` has something in it.
  """
  if directory.exists() and any(directory.iterdir()):
    raise FileExistsError(f"{directory} is not empty; delete it or choose one.")
  partial = directory.with_name(directory.name + ".tmp")
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  try:
    yield partial
    os.replace(partial, directory)
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def read_config(
  directory: Path,
  defaults: Mapping[str, Any],
  known: Mapping[str, tuple[Any, ...]],
  fields: tuple[tuple[str, str], ...],
  remedy: str,
) -> dict[str, Any]:
  """config.json, checked to describe a network that we have.

  Args:
    directory: the folder.
    defaults: what holds where the file says nothing.
    known: values that can be loaded.
    fields: (our field, name in the file) of what must be there.
    remedy: what to choose instead of another network.
  """
  path = directory / "config.json"
  given = read_json(path, required=True).items()
  config = {**defaults, **{k: v for k, v in given if v is not None}}
  for key, values in (_PLAIN | dict(known)).items():
    if config.get(key, values[0]) not in values:
      raise ValueError(
        f"{path}: {key}={config[key]!r}, but only {values} can be loaded; "
        f"choose {remedy}."
      )
  for _, name in fields:
    _check_number(path, name, config.get(name), like=defaults[name])
  return config


def _check_number(path: Path, name: str, value: Any, *, like: Any) -> None:
  """Refuses a size that is none, before it becomes a shape.

  Raises:
    ValueError: naming the key.
  """
  most = _MOST.get(name, _MOST_OF_ANY)
  if isinstance(like, float):
    good = isinstance(value, int | float) and 0 <= value < 1
    rule = "a number, at least 0 and below 1"
  else:
    # Ids and the width of a projection may be 0.
    least = 0 if name.endswith("_id") or name == "projection_dim" else 1
    good = type(value) is int and least <= value <= most
    rule = f"a whole number from {least} to {most}"
  if not good or isinstance(value, bool):
    raise ValueError(f"{path}: {name}={value!r} is not {rule}; mend it.")


@dataclasses.dataclass(frozen=True)
class Head:
  """What a sentence-transformers folder puts after the BERT."""

  pooling: str = "cls"
  normalise: bool = False
  dense: Path | None = None


def read_modules(directory: Path) -> Head:
  """Reads modules.json; without one the first token's state is taken."""
  path = directory / "modules.json"
  if not path.is_file():
    return Head()
  modules = _read_list(path)
  kinds = [str(module.get("type")).rpartition(".")[2] for module in modules]
  if kinds not in (
    ["Transformer", "Pooling"],
    ["Transformer", "Pooling", "Normalize"],
    ["Transformer", "Pooling", "Dense"],
    ["Transformer", "Pooling", "Dense", "Normalize"],
  ):
    raise ValueError(
      f"{path}: the modules {kinds} are not supported; Transformer, Pooling, "
      "then at most one Dense and one Normalize are."
    )
  folders = {
    kind: _below(directory, str(module.get("path", "")))
    for kind, module in zip(kinds, modules, strict=True)
  }
  if folders["Transformer"] != directory:
    raise ValueError(
      f"{path}: the Transformer must stand in the folder itself."
    )
  pooling = _read_pooling(folders["Pooling"] / "config.json")
  normalise = "Normalize" in kinds or _compares_directions(directory)
  return Head(pooling, normalise, folders.get("Dense"))


def _read_list(path: Path) -> list[dict[str, Any]]:
  """A JSON list of objects."""
  try:
    value = json.loads(path.read_bytes())
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{path}: not JSON ({error}); copy it again.") from error
  if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
    raise ValueError(f"{path}: not a list of JSON objects; copy it again.")
  return value


def _compares_directions(directory: Path) -> bool:
  """Whether the model says that its embeddings are compared by the cosine.

  That is the inner product of embeddings of length 1, which is what we search
  by. Without a word of it the inner product stands.

  Raises:
    ValueError: it wants a distance.
  """
  path = directory / "config_sentence_transformers.json"
  name = read_json(path, required=False).get("similarity_fn_name")
  if name not in (None, "dot", "dot_product", "cosine"):
    raise ValueError(
      f"{path}: similarity_fn_name={name!r}, but passages are ranked by the "
      "inner product or the cosine; choose a model that was trained for one."
    )
  return bool(name == "cosine")


def _below(directory: Path, name: str) -> Path:
  """The folder `name` in `directory`; a path that leads out is an error."""
  folder = (directory / name).resolve()
  if not folder.is_relative_to(directory.resolve()):
    raise ValueError(f"{directory / 'modules.json'}: {name!r} leads elsewhere.")
  return directory / name


def _read_pooling(path: Path) -> str:
  """The pooling of our name, from today's or the older form of the file."""
  config = read_json(path, required=True)
  modes = config.get("pooling_mode") or [
    key.removeprefix("pooling_mode_")
    for key, on in config.items()
    if key.startswith("pooling_mode_") and on
  ]
  modes = [modes] if isinstance(modes, str) else list(modes)
  if len(modes) != 1 or modes[0] not in _POOLINGS:
    raise ValueError(f"{path}: pooling by {modes}; one of cls, mean is needed.")
  return _POOLINGS[modes[0]]


def write_modules(
  directory: Path, config: EncoderConfig, length: int
) -> Path | None:
  """Makes a folder with a BERT a sentence-transformers folder.

  Returns:
    The folder of the projection, whose weights are still to be written.
  """
  kinds = ["Transformer", "Pooling"]
  kinds += ["Dense"] if config.embedding_dim else []
  kinds += ["Normalize"] if config.normalise else []
  names = [f"{i}_{kind}" if i else "" for i, kind in enumerate(kinds)]
  for name in names[1:]:
    (directory / name).mkdir()
  modules = [
    {"idx": i, "name": str(i), "path": name, "type": _MODULE_TYPE + kind}
    for i, (name, kind) in enumerate(zip(names, kinds, strict=True))
  ]
  write_json(directory / "modules.json", modules)
  # Without a word of it, sentence-transformers compares by the cosine.
  similarity = "cosine" if config.normalise else "dot"
  write_json(
    directory / "config_sentence_transformers.json",
    {"similarity_fn_name": similarity},
  )
  write_json(
    directory / "sentence_bert_config.json",
    {"max_seq_length": length, "do_lower_case": False},
  )
  _write_pooling(directory / "1_Pooling" / "config.json", config)
  if not config.embedding_dim:
    return None
  dense = {
    "in_features": config.bert.width,
    "out_features": config.embedding_dim,
    "bias": True,
    "activation_function": "torch.nn.modules.linear.Identity",
  }
  write_json(directory / "2_Dense" / "config.json", dense)
  return directory / "2_Dense"


def _write_pooling(path: Path, config: EncoderConfig) -> None:
  write_json(
    path,
    {
      "word_embedding_dimension": config.bert.width,
      "pooling_mode_cls_token": config.pooling == "cls",
      "pooling_mode_mean_tokens": config.pooling == "mean",
      "pooling_mode_max_tokens": False,
      "pooling_mode_mean_sqrt_len_tokens": False,
    },
  )


def read_facts(directory: Path, bert: BertConfig) -> dict[str, Any]:
  """Lengths and prompts, from the files that sentence-transformers reads.

  Raises:
    ValueError: a length is none, or longer than the table of positions.
  """
  options_path = directory / "sentence_bert_config.json"
  options = read_json(options_path, required=False)
  tokens = read_json(directory / "tokenizer_config.json", required=False)
  extra = read_json(
    directory / "config_sentence_transformers.json", required=False
  )
  length = options.get("max_seq_length")
  if length is None:
    length = _shortest(tokens.get("model_max_length"), bert.max_positions)
  check_length(options_path, "max_seq_length", length, bert)
  prompts = extra.get("prompts") or {}
  default = prompts.get(extra.get("default_prompt_name")) or ""
  passage = prompts.get("document") or prompts.get("passage")
  return {
    "question_length": length,
    "passage_length": length,
    "question_prompt": prompts.get("query") or default,
    "passage_prompt": passage or default,
  }


def _shortest(stated: Any, positions: int) -> int:
  """The tokenizer's limit, which may be a number without end or absent."""
  known = isinstance(stated, int | float) and not isinstance(stated, bool)
  return min(positions, int(stated)) if known else positions


def check_length(path: Path, key: str, length: Any, bert: BertConfig) -> None:
  """Refuses a length that the table of positions has not.

  Raises:
    ValueError: naming the file and the key.
  """
  most = bert.max_positions
  if type(length) is not int or not 3 <= length <= most:
    raise ValueError(
      f"{path}: {key}={length!r}; the model takes 3 to {most} tokens "
      "(max_position_embeddings); mend it."
    )
