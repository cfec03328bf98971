"""The config.json of a published BERT or relative of it, read and written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from odqa_jax.models.bert import VARIANTS, BertConfig
from odqa_jax.models.hf.folders import read_config, read_json
from odqa_jax.models.mobilebert import (
  ACTIVATIONS,
  NORMS,
  MobileBertConfig,
  config_class,
)
from odqa_jax.runtime.files import write_json

# (our field, name in a published config.json)
_FIELDS = (
  ("vocab_size", "vocab_size"),
  ("width", "hidden_size"),
  ("layers", "num_hidden_layers"),
  ("heads", "num_attention_heads"),
  ("mlp_dim", "intermediate_size"),
  ("type_vocab", "type_vocab_size"),
  ("dropout", "hidden_dropout_prob"),
  ("attention_dropout", "attention_probs_dropout_prob"),
  ("eps", "layer_norm_eps"),
)
# Likewise, what a MobileBERT has besides: numbers, and choices.
_MOBILE_NUMBERS = (
  ("word_width", "embedding_size"),
  ("inner_width", "intra_bottleneck_size"),
  ("feed_forwards", "num_feedforward_networks"),
)
_MOBILE_CHOICES: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
  ("trigrams", "trigram_input", (True, False)),
  ("bottleneck", "use_bottleneck", (True, False)),
  ("bottleneck_attention", "use_bottleneck_attention", (False, True)),
  ("shared_bottleneck", "key_query_shared_bottleneck", (True, False)),
  ("norm", "normalization_type", NORMS),
  ("activation", "hidden_act", ACTIVATIONS),
  ("pooler", "classifier_activation", (True, False)),
)
# What a config.json that leaves a key out stands for (transformers'
# BertConfig); Google's own files have no layer_norm_eps. That the sizes are
# those of the weights is seen when these are read.
CONFIG_DEFAULTS: dict[str, Any] = {
  "vocab_size": 30522,
  "hidden_size": 768,
  "num_hidden_layers": 12,
  "num_attention_heads": 12,
  "intermediate_size": 3072,
  "max_position_embeddings": 512,
  "type_vocab_size": 2,
  "hidden_dropout_prob": 0.1,
  "attention_probs_dropout_prob": 0.1,
  "layer_norm_eps": 1e-12,
  "projection_dim": 0,
}
# Where those of the variants differ.
VARIANT_DEFAULTS: dict[str, dict[str, Any]] = {
  "roberta": {"vocab_size": 50265},
  "electra": {
    "hidden_size": 256,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "embedding_size": 128,
  },
  "mobilebert": {
    "hidden_size": 512,
    "num_hidden_layers": 24,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "hidden_dropout_prob": 0.0,
    "embedding_size": 128,
    "intra_bottleneck_size": 128,
    "num_feedforward_networks": 4,
  },
}
# The padding, of which RoBERTa's positions know, and the ends of a text.
_IDS: dict[str, dict[str, int]] = {
  "bert": {"pad_token_id": 0},
  "roberta": {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
  "electra": {"pad_token_id": 0},
  "mobilebert": {"pad_token_id": 0},
}
# What the names of classes begin with.
_CLASSES = {
  "bert": ("Bert",),
  "dpr": ("DPR",),
  "roberta": ("Roberta",),
  "electra": ("Electra",),
  "mobilebert": ("MobileBert",),
}
# Those whose word pieces a corpus may have; RoBERTa's are of another kind.
ENCODERS = ("bert", "dpr", "electra", "mobilebert")
ALL = tuple(_CLASSES)


def read_bert_config(
  directory: Path, kinds: tuple[str, ...] = ENCODERS
) -> dict[str, Any]:
  """The config.json of a BERT or a relative, perhaps with DPR's projection.

  Args:
    directory: the folder.
    kinds: which values of `model_type` are welcome.

  Raises:
    ValueError: another network, or one that computes something else.
    FileNotFoundError: there is no config.json.
  """
  path = directory / "config.json"
  given = read_json(path, required=True).get("model_type")
  own = VARIANT_DEFAULTS.get(str(given), {})
  known: dict[str, tuple[Any, ...]] = {
    "model_type": kinds,
    # The second is the same function, written in Python.
    "hidden_act": ("gelu", "gelu_python"),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
  }
  if given == "roberta":
    known["pad_token_id"] = (_IDS["roberta"]["pad_token_id"],)
  if given == "mobilebert":
    known |= {theirs: values for _, theirs, values in _MOBILE_CHOICES}
  defaults = {name: values[0] for name, values in known.items()}
  fields = [*_FIELDS, ("positions", "max_position_embeddings")]
  fields += [("projection", "projection_dim")]
  if given == "electra":
    fields += [("embedding_width", "embedding_size")]
  if given == "mobilebert":
    fields += _MOBILE_NUMBERS
  config = read_config(
    directory,
    defaults | CONFIG_DEFAULTS | own,
    known,
    tuple(fields),
    "a model with the BERT architecture",
  )
  _check_class(path, config, kinds)
  for name in ("adapter_config.json", "adapter_model.safetensors"):
    if (directory / name).exists():
      raise ValueError(
        f"{directory / name}: an adapter beside the weights changes what they "
        "compute, and is not read; merge it into them (PEFT: "
        "merge_and_unload), save the model, and name that folder."
      )
  return config


def _check_class(
  path: Path, config: Mapping[str, Any], kinds: tuple[str, ...]
) -> None:
  """Refuses the class of another network where no model_type is given.

  Raises:
    ValueError: naming the class.
  """
  prefixes = tuple(name for kind in kinds for name in _CLASSES[kind])
  for name in config.get("architectures") or ():
    if not str(name).startswith(prefixes):
      raise ValueError(
        f"{path}: architectures={config['architectures']!r}, but only classes "
        f"of {', '.join(prefixes)} can be loaded; choose a model with the BERT "
        "architecture."
      )


def bert_config(config: Mapping[str, Any]) -> BertConfig:
  """Our form of what `read_bert_config` returns.

  Raises:
    ValueError: a RoBERTa with no position but those of its padding.
  """
  kind = config["model_type"]
  variant = kind if kind in VARIANTS else "bert"
  most = config["max_position_embeddings"] - VARIANTS[variant].first_position
  if most < 1:
    raise ValueError(
      f"max_position_embeddings={config['max_position_embeddings']} leaves no "
      f"position to a {variant}'s tokens; mend config.json."
    )
  width = config["hidden_size"]
  narrow = config["embedding_size"] if variant == "electra" else width
  own = {}
  if variant == "mobilebert":
    own = {ours: config[theirs] for ours, theirs in _MOBILE_NUMBERS}
    own |= {ours: config[theirs] for ours, theirs, _ in _MOBILE_CHOICES}
  return config_class(variant)(
    **{ours: config[theirs] for ours, theirs in _FIELDS},
    **own,
    max_positions=most,
    variant=variant,
    embedding_width=narrow if narrow != width else None,
  )


def class_name(config: BertConfig, task: str) -> str:
  """The class of transformers for a network.

  Args:
    config: the network.
    task: "Model", "ForQuestionAnswering" and the like.
  """
  return f"{_CLASSES[config.variant][0]}{task}"


def write_config(directory: Path, config: BertConfig, **extra: Any) -> None:
  """Writes config.json.

  Args:
    directory: a folder.
    config: the network.
    extra: `architectures` and what else a class of transformers wants; a
      `model_type` in it stands before the variant's own.
  """
  fields = {theirs: getattr(config, ours) for ours, theirs in _FIELDS}
  fields |= _IDS[config.variant]
  if config.variant == "electra":
    fields["embedding_size"] = config.embedding_width or config.width
  if isinstance(config, MobileBertConfig):
    choices = ((ours, theirs) for ours, theirs, _ in _MOBILE_CHOICES)
    for ours, theirs in (*_MOBILE_NUMBERS, *choices):
      fields[theirs] = getattr(config, ours)
  content = {
    "model_type": config.variant,
    "hidden_act": "gelu",
    "max_position_embeddings": config.positions,
  }
  write_json(directory / "config.json", content | fields | extra)
