"""Where a training stage's first weights come from (`config.init_from`).

Random; a Hugging Face or sentence-transformers folder; "minilm", real weights
fetched once; or another stage's workdir (ICT → supervised).
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.models.dual_encoder import DualEncoder, EncoderConfig
from odqa_jax.models.hf.encoder import load_encoder
from odqa_jax.models.hf.minilm import resolve_folder
from odqa_jax.retrieval.retriever import (
  encoder_config_from_dict,
  is_pretrained_folder,
)
from odqa_jax.runtime.checkpoint import find_step, restore_params
from odqa_jax.runtime.mesh import replicated
from odqa_jax.text.tokenizer import load_tokenizer
from odqa_jax.training.tasks.tasks import encoder_config


@dataclasses.dataclass(frozen=True)
class InitialModel:
  """A model and, unless they are random, its first parameters.

  Attributes:
    encoder: the model.
    params: parameters to begin from; None for the task's random ones.
    loaded_from: one line that says what was loaded.
  """

  encoder: DualEncoder
  params: Any
  loaded_from: str


def initial_model(
  config: ConfigDict, corpus: Corpus, mesh: Mesh
) -> InitialModel:
  """The model that `config.model` and `config.init_from` describe.

  A published folder decides the sizes, pooling, normalisation and projection;
  `config.model` decides whether its encoder is shared or doubled, dropout,
  dtype, remat and scan. Another stage's workdir must have the config's model.

  Raises:
    ValueError: if tokenizer or model do not fit, naming both sides.
  """
  if not config.init_from:
    encoder = DualEncoder(
      encoder_config(config.model, corpus.tokenizer.vocab_size)
    )
    return InitialModel(encoder, None, "initial weights: random")
  path = resolve_folder(config.init_from)
  if is_pretrained_folder(path):
    check_same_tokenizer(path, load_tokenizer(path).fingerprint, corpus)
    return _from_published(config, path)
  folder, step = find_step(path)
  params, extra = restore_params(path, replicated(mesh))
  # A workdir of end-to-end training holds a reader as well.
  params = params.get("retriever", params)
  check_same_tokenizer(path, extra["tokenizer"], corpus)
  theirs = encoder_config_from_dict(extra["encoder"])
  if theirs.shared and not config.model.shared:
    theirs, params = _doubled(theirs, params)
  mine = _with_run_settings(theirs, config)
  if config.model.preset != "init":
    mine = encoder_config(config.model, corpus.tokenizer.vocab_size)
    mine = dataclasses.replace(mine, passage_type=theirs.passage_type)
    _check_same_model(path, theirs, mine)
  return InitialModel(
    DualEncoder(mine), params, f"initial weights: step {step} of {folder}"
  )


def _doubled(
  config: EncoderConfig, params: Any
) -> tuple[EncoderConfig, dict[str, Any]]:
  """Two encoders from one that served both sides; embeddings stay the same."""
  # A buffer that stands twice in the state cannot be donated.
  copy = jax.tree.map(jnp.copy, params["shared"])
  config = dataclasses.replace(
    config, shared=False, passage_type=config.passage_token_type
  )
  return config, {"question": params["shared"], "passage": copy}


def check_same_tokenizer(path: Path, fingerprint: str, corpus: Corpus) -> None:
  """Refuses weights whose word pieces are numbered otherwise.

  Raises:
    ValueError: naming both tokenizers.
  """
  mine = corpus.tokenizer.fingerprint
  if fingerprint != mine:
    raise ValueError(
      f"config.init_from={path} was trained with the tokenizer "
      f"{fingerprint[:12]}, the corpus was tokenised with {mine[:12]}; "
      f"prepare the corpus with --tokenizer {path}."
    )


def _with_run_settings(
  theirs: EncoderConfig, config: ConfigDict
) -> EncoderConfig:
  """Sizes from the weights; how they are run from the config."""
  model = config.model
  bert = dataclasses.replace(
    theirs.bert,
    dropout=model.dropout,
    attention_dropout=model.dropout,
    dtype=model.dtype,
    remat=model.remat,
    scan=model.scan,
  )
  return dataclasses.replace(theirs, bert=bert)


def _from_published(config: ConfigDict, path: Path) -> InitialModel:
  theirs, params, _ = load_encoder(path, scan=config.model.scan)
  mine = _with_run_settings(theirs, config)
  if mine.shared != config.model.shared:
    if not mine.shared:
      raise ValueError(
        f"config.model.shared=True, but {path} holds two encoders."
      )
    mine, params = _doubled(mine, params)
  return InitialModel(
    DualEncoder(mine), params, f"initial weights: published folder {path}"
  )


def _check_same_model(
  path: Path, theirs: EncoderConfig, mine: EncoderConfig
) -> None:
  free = ("dropout", "attention_dropout", "dtype", "remat", "scan")
  a, b = dataclasses.asdict(theirs), dataclasses.asdict(mine)
  a, b = a | a.pop("bert"), b | b.pop("bert")
  different = [
    f"{name} is {a[name]!r} there and {b[name]!r} here"
    for name in a
    if a[name] != b[name] and name not in free
  ]
  if different:
    raise ValueError(
      f"config.init_from={path} holds another model: {'; '.join(different)}. "
      "Mend config.model, or set config.model.preset=init to take its sizes."
    )
