"""The retriever that a training stage begins with (`config.init_from`).

Random; a Hugging Face or sentence-transformers folder; "minilm", real weights
fetched once; or another stage's workdir (ICT → supervised).
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.models.bert import BertConfig
from odqa_jax.models.dual_encoder import (
  DualEncoder,
  EncoderConfig,
  bert_of_preset,
)
from odqa_jax.models.families import InitialNetwork, network_from
from odqa_jax.models.hf.encoder import load_encoder
from odqa_jax.models.hf.minilm import resolve_folder
from odqa_jax.models.roles import role_params, roles
from odqa_jax.retrieval.retriever import (
  folder_tokenizer,
  is_pretrained_folder,
)
from odqa_jax.runtime.checkpoint import find_step, restore_params
from odqa_jax.runtime.mesh import replicated
from odqa_jax.runtime.settings import AUTO, ModelSettings, Settings
from odqa_jax.training.layer_runs import layer_run


def initial_retriever(
  settings: Settings, corpus: Corpus, mesh: Mesh
) -> InitialNetwork:
  """The retriever that `config.model` and `config.init_from` describe.

  A published folder decides the sizes, pooling, normalisation and projection;
  `config.model` decides whether its encoder is shared or doubled, dropout,
  dtype, remat and scan. Another stage's workdir must have the config's model.
  Of either, `config.model` may keep the first dimensions only, and give
  passages another token type.

  Raises:
    ValueError: if tokenizer or model do not fit, naming both sides.
  """
  model, vocabulary = settings.model, corpus.tokenizer.vocab_size
  if not settings.init_from:
    if model.preset == "init":
      raise ValueError(
        "config.model.preset=init takes the sizes of weights, and "
        "config.init_from names none; set one of the two."
      )
    encoder = DualEncoder(encoder_config(model, vocabulary))
    return InitialNetwork(encoder, None, "initial weights: random")
  path = resolve_folder(settings.init_from)
  if is_pretrained_folder(path):
    _check_same_tokenizer(path, folder_tokenizer(path).fingerprint, corpus)
    return _from_published(model, path)
  folder, step = find_step(path)
  params, extra = restore_params(path, replicated(mesh))
  components = extra["components"]
  description = roles(components)["retriever"]
  _check_same_tokenizer(path, description["tokenizer"], corpus)
  theirs: EncoderConfig = network_from(description).config
  theirs = _adapted(theirs, model, path)
  params = role_params("retriever", components, params)
  if theirs.shared and not model.shared:
    theirs, params = _doubled(theirs, params)
  mine = dataclasses.replace(theirs, bert=run_settings(theirs.bert, model))
  if model.preset != "init":
    mine = encoder_config(model, vocabulary)
    mine = dataclasses.replace(mine, passage_type=theirs.passage_type)
    _check_same_model(path, theirs, mine)
  return InitialNetwork(
    DualEncoder(mine), params, f"initial weights: step {step} of {folder}"
  )


def encoder_config(
  model: ModelSettings, vocab_size: int, platform: str = ""
) -> EncoderConfig:
  """The dual encoder that `config.model` describes, for a platform."""
  bert = bert_of_preset(
    model.preset,
    vocab_size=vocab_size,
    max_positions=model.max_positions,
    dropout=model.dropout,
    attention_dropout=model.dropout,
    dtype=model.dtype,
    attention=model.attention,
    **layer_run(model, platform),
  )
  return EncoderConfig(
    bert=bert,
    shared=model.shared,
    pooling=model.pooling,
    normalise=model.normalise,
    embedding_dim=model.embedding_dim or None,
    projection=model.projection,
    passage_type=_passage_type(model),
  )


def _passage_type(model: ModelSettings) -> int | None:
  """The token type of passages; None where it is left open."""
  return None if model.passage_type == AUTO else int(model.passage_type)


def _adapted(
  theirs: EncoderConfig, model: ModelSettings, path: Path
) -> EncoderConfig:
  """The encoder of weights, cut and typed as `config.model` says.

  Raises:
    ValueError: for a projection that the weights do not have, two encoders in
      place of one, or dimensions that are not there.
  """
  if model.shared and not theirs.shared:
    raise ValueError(
      f"config.model.shared=True, but {path} holds two encoders; set "
      "config.model.shared=False, or begin with a model of one."
    )
  if (passage_type := _passage_type(model)) is not None:
    theirs = dataclasses.replace(theirs, passage_type=passage_type)
  dim = model.embedding_dim
  if model.projection == "none" and not dim:
    return theirs
  if model.projection == "truncate" and theirs.projection != "dense":
    if not 0 < dim <= theirs.output_dim:
      raise ValueError(
        f"config.model.embedding_dim={dim}: embeddings of {path} have "
        f"{theirs.output_dim} dimensions; keep 1 to {theirs.output_dim}."
      )
    return dataclasses.replace(theirs, projection="truncate", embedding_dim=dim)
  if (model.projection, dim) != (theirs.projection, theirs.embedding_dim):
    raise ValueError(
      f"config.model.projection={model.projection} to embedding_dim={dim}, but "
      f"{path} has projection={theirs.projection} and {theirs.output_dim} "
      "dimensions; take these, or begin without weights. (Of embeddings that "
      "no learned projection made, projection=truncate keeps the first.)"
    )
  return theirs


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


def _check_same_tokenizer(path: Path, fingerprint: str, corpus: Corpus) -> None:
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


def run_settings(bert: BertConfig, model: ModelSettings) -> BertConfig:
  """Sizes from the weights; how they are run from the config."""
  return dataclasses.replace(
    bert,
    dropout=model.dropout,
    attention_dropout=model.dropout,
    dtype=model.dtype,
    **layer_run(model),
    attention=model.attention,
  )


def _from_published(model: ModelSettings, path: Path) -> InitialNetwork:
  theirs, params, facts = load_encoder(path)
  folder_tokenizer(path, theirs.bert.vocab_size)
  theirs = _adapted(theirs, model, path)
  mine = dataclasses.replace(theirs, bert=run_settings(theirs.bert, model))
  if mine.shared and not model.shared:
    mine, params = _doubled(mine, params)
  prompts = [facts[f"{side}_prompt"] for side in ("question", "passage")]
  without = f", without its prompts {prompts}" if any(prompts) else ""
  return InitialNetwork(
    DualEncoder(mine),
    params,
    f"initial weights: published folder {path}{without}",
  )


def _check_same_model(
  path: Path, theirs: EncoderConfig, mine: EncoderConfig
) -> None:
  run = ("dropout", "attention_dropout", "dtype", "remat", "scan")
  free = (*run, "attention", "platform")
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
