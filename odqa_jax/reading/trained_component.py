"""A network that reads passages and its tokenizer: trained here, or published.

    found = load_component("work/reranker", "reranker")
    found = load_component("ms-marco-MiniLM-L6-v2/", "reranker")

A published folder does not say how its inputs are made, unless this project
wrote it. It gets questions of 64 tokens, pairs of 512, passages alone of 256
and answers of 30, less where the network takes no more; the question comes
first. Classifiers and models for question answering read the text of a passage
alone, as they were trained; a reader that ranks passages too is DPR's, or this
project's own if it has all heads, and reads titles as these do.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from odqa_jax.models.bert import BertConfig
from odqa_jax.models.extractive_reader import ExtractiveReader, SpanConfig
from odqa_jax.models.families import describe
from odqa_jax.models.hf.folders import check_length, read_ours
from odqa_jax.models.hf.heads import (
  HeadNetwork,
  load_extractive_reader,
  load_scorer,
)
from odqa_jax.models.hf.minilm import resolve_folder
from odqa_jax.models.layers import Params
from odqa_jax.models.passage_scorer import (
  ALONE,
  PassageClassifier,
  PassageFilter,
  Reranker,
)
from odqa_jax.models.roles import described_role, role_params
from odqa_jax.retrieval.retriever import is_pretrained_folder
from odqa_jax.runtime.checkpoint import find_step, read_extra, restore_params
from odqa_jax.runtime.data_settings import DataSettings
from odqa_jax.runtime.mesh import is_primary, make_mesh, replicated
from odqa_jax.text.byte_pairs import BytePairTokenizer, load_pair_tokenizer
from odqa_jax.text.tokenizer import Tokenizer

# What published networks read at most, as their tokenizers say.
_PAIR_LENGTH = 512

_PUBLISHED: dict[str, Callable[[Path], tuple[HeadNetwork, Params]]] = {
  "reranker": lambda path: load_scorer(path, Reranker),
  "passage_classifier": lambda path: load_scorer(path, PassageClassifier),
  "passage_filter": lambda path: load_scorer(path, PassageFilter),
  "extractive_reader": load_extractive_reader,
}


class TrainedComponent(NamedTuple):
  """What a checkpoint has of one network.

  Attributes:
    description: as the checkpoint holds it.
    params: of this network alone, replicated on all devices.
    tokenizer: what made the ids that it was trained on.
  """

  description: dict[str, Any]
  params: Any
  tokenizer: Tokenizer | BytePairTokenizer


def load_component(path: str | Path, *roles: str) -> TrainedComponent:
  """Loads a component of a training workdir, of a step, or a published one.

  Args:
    path: the folder, or a name that `resolve_folder` knows.
    roles: "reranker", "passage_classifier", "passage_filter" or
      "extractive_reader"; of several the first that the checkpoint has, and of
      a published folder the first one.

  Raises:
    ValueError: if the checkpoint lacks the component, naming what it has; or
      its tokenizer is not the one of the training; or a published folder has
      another network, no such head, or several labels.
  """
  path = resolve_folder(path)
  if is_pretrained_folder(path):
    return _published(path, roles[0])
  folder, step = find_step(path)
  components = read_extra(folder, step)["components"]
  role, described = described_role(path, components, *roles)
  tokenizer = load_pair_tokenizer(folder.parent / "tokenizer")
  theirs = described["tokenizer"]
  if tokenizer.fingerprint != theirs:
    raise ValueError(
      f"{folder.parent / 'tokenizer'}: is not the tokenizer that {path} was "
      f"trained with ({tokenizer.fingerprint[:12]} against {theirs[:12]}); "
      "restore the original folder."
    )
  params, _ = restore_params(path, replicated(make_mesh()))
  mine = role_params(role, components, params)
  return TrainedComponent(dict(described), mine, tokenizer)


def _published(path: Path, role: str) -> TrainedComponent:
  """A published folder, with what it does not say; see the module."""
  network, params = _PUBLISHED[role](path)
  tokenizer = load_pair_tokenizer(path)
  bert = network.config.bert
  check_vocabulary(f"{path}:", tokenizer, bert)
  usual = DataSettings()
  pair_length = min(_PAIR_LENGTH, bert.max_positions)
  described = describe(network) | {
    "tokenizer": tokenizer.fingerprint,
    "question_length": min(usual.question_length, pair_length // 4),
    "passage_length": min(usual.passage_length, bert.max_positions),
    "pair_length": pair_length,
    "span_length": usual.span_length,
    "title": False,
  }
  if isinstance(network, ExtractiveReader):
    described |= _reading(network.config)
  ours = read_ours(path)
  described |= {name: ours[name] for name in described if name in ours}
  longest = "passage_length" if role in ALONE else "pair_length"
  check_length(path, longest, described[longest], bert)
  if is_primary():
    alone = role in ALONE
    names = ["passage_length"] if alone else ["question_length", "pair_length"]
    told = [f"{name} {described[name]}" for name in (*names, "title")]
    if isinstance(network, ExtractiveReader):
      told.append(f"answers by {', '.join(_heads(network.config))} alone")
    print(f"{path}: a published {role}: {', '.join(told)}", file=sys.stderr)
  return TrainedComponent(described, params, tokenizer)


def _heads(config: SpanConfig) -> list[str]:
  has = {"span": config.span, "passage": config.passage}
  return ["start", "end", *(name for name, there in has.items() if there)]


def _reading(config: SpanConfig) -> dict[str, Any]:
  """How a published reader reads, by the heads that it has."""
  ranks, whole = config.passage, config.passage and config.span
  return {
    "title": ranks,
    "passage_first": whole,
    "objective": "dpr" if ranks and not whole else "independent",
  }


def check_vocabulary(
  where: str, tokenizer: Tokenizer | BytePairTokenizer, bert: BertConfig
) -> None:
  """Refuses a tokenizer with ids that the embeddings have no row for.

  Args:
    where: what both came from, as an error names it.
    tokenizer: of the network.
    bert: its encoder.

  Raises:
    ValueError: naming both sizes.
  """
  size = tokenizer.vocab_size
  if size > bert.vocab_size:
    raise ValueError(
      f"{where} has {bert.vocab_size} embeddings, and its tokenizer {size} "
      "ids; copy both from one place."
    )
