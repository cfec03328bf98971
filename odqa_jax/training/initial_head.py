"""The network with a head that a training stage begins with.

Rerankers, extractive readers, passage classifiers and filters: random; a
published folder, with its head or without; "minilm"; or another stage's
workdir.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.models.bert import BertConfig
from odqa_jax.models.extractive_reader import ExtractiveReader, SpanConfig
from odqa_jax.models.families import InitialNetwork, network_from
from odqa_jax.models.hf.heads import HeadNetwork, read_body, read_params
from odqa_jax.models.hf.minilm import resolve_folder
from odqa_jax.models.passage_scorer import (
  ALONE,
  PassageClassifier,
  PassageFilter,
  Reranker,
  ScorerConfig,
)
from odqa_jax.reading.trained_component import check_vocabulary
from odqa_jax.retrieval.retriever import is_pretrained_folder
from odqa_jax.runtime.checkpoint import find_step, restore_params
from odqa_jax.runtime.mesh import replicated
from odqa_jax.runtime.settings import Settings
from odqa_jax.text.byte_pairs import BytePairTokenizer, load_pair_tokenizer
from odqa_jax.text.tokenizer import Tokenizer
from odqa_jax.training.initial_retriever import encoder_config, run_settings

PairTokenizer = Tokenizer | BytePairTokenizer

# Role → its network around an encoder.
HEADS: dict[str, Callable[[Settings, BertConfig], HeadNetwork]] = {
  "reranker": lambda _, bert: Reranker(ScorerConfig(bert)),
  "passage_classifier": lambda _, bert: PassageClassifier(ScorerConfig(bert)),
  "passage_filter": lambda _, bert: PassageFilter(ScorerConfig(bert)),
  "extractive_reader": lambda settings, bert: ExtractiveReader(
    SpanConfig(bert, span=settings.objective.extractive != "dpr")
  ),
}


def initial_head(
  role: str, settings: Settings, corpus: Corpus, mesh: Mesh
) -> tuple[InitialNetwork, PairTokenizer]:
  """The network that `config.model` and `config.init_from` describe.

  A published folder or a workdir decides the sizes and the vocabulary; without
  one they are the preset's and the corpus's. A head that the folder lacks is
  random.

  Args:
    role: of `HEADS`.
    settings: of the run.
    corpus: whose tokenizer a network without weights gets.
    mesh: parameters are replicated there.

  Raises:
    ValueError: if the weights are of another network, or inputs are longer than
      it takes.
  """
  model = settings.model
  if not settings.init_from:
    if model.preset == "init":
      raise ValueError(
        "config.model.preset=init takes the sizes of weights, and "
        "config.init_from names none; set one of the two."
      )
    bert = encoder_config(model, corpus.tokenizer.vocab_size).bert
    network = HEADS[role](settings, bert)
    start = InitialNetwork(network, None, "initial weights: random")
    tokenizer: PairTokenizer = corpus.tokenizer
  else:
    path = resolve_folder(settings.init_from)
    read = _from_folder if is_pretrained_folder(path) else _from_workdir
    start, tokenizer = read(role, settings, path, mesh)
  _check_lengths(role, settings, start.network.config.bert)
  return start, tokenizer


def _from_folder(
  role: str, settings: Settings, path: Path, mesh: Mesh
) -> tuple[InitialNetwork, PairTokenizer]:
  del mesh
  bert = run_settings(read_body(path), settings.model)
  network = HEADS[role](settings, bert)
  tokenizer = load_pair_tokenizer(path)
  check_vocabulary(f"config.init_from={path}", tokenizer, bert)
  found, missing = read_params(path, network)
  said = f"initial weights: published folder {path}"
  if missing:
    said += f", and random {', '.join(missing)}"
  params = _completed(network, found, missing, settings.seed)
  return InitialNetwork(network, params, said), tokenizer


def _completed(
  network: HeadNetwork, found: Any, missing: tuple[str, ...], seed: int
) -> Any:
  """The parameters with fresh ones where a folder lacks a head."""
  if not missing:
    return found

  def fresh(rng: jax.Array) -> Any:
    params = network.init(rng)
    return {name.split(".")[0]: params[name.split(".")[0]] for name in missing}

  made = jax.jit(fresh)(jax.random.key(seed))
  if "classifier" in found:
    made["classifier"] |= found["classifier"]
  return found | made


def _from_workdir(
  role: str, settings: Settings, path: Path, mesh: Mesh
) -> tuple[InitialNetwork, PairTokenizer]:
  folder, step = find_step(path)
  params, extra = restore_params(path, replicated(mesh))
  if role not in extra["components"]:
    raise ValueError(
      f"config.init_from={path} has no {role.replace('_', ' ')} but "
      f"{', '.join(extra['components'])}; name a published folder, or the "
      "workdir of the same task."
    )
  theirs = network_from(extra["components"][role])
  bert = run_settings(theirs.config.bert, settings.model)
  network = type(theirs)(dataclasses.replace(theirs.config, bert=bert))
  wanted = HEADS[role](settings, bert)
  if network.config != wanted.config:
    raise ValueError(
      f"config.init_from={path} has other heads ({network.config}) than "
      "config.objective.extractive asks for; change that."
    )
  tokenizer = load_pair_tokenizer(folder.parent / "tokenizer")
  said = f"initial weights: step {step} of {folder}"
  return InitialNetwork(network, params[role], said), tokenizer


def _check_lengths(role: str, settings: Settings, bert: BertConfig) -> None:
  """Refuses inputs that are longer than the network takes.

  Raises:
    ValueError: naming the key.
  """
  key = "passage_length" if role in ALONE else "pair_length"
  length = getattr(settings.data, key)
  if length > bert.max_positions:
    raise ValueError(
      f"config.data.{key}={length}: the network takes {bert.max_positions} "
      "tokens at most; lower it."
    )
