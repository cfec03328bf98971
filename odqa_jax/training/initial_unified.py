"""The unified reader that a training stage begins with.

The weights of a shared retriever, with new heads; or another stage's unified
reader, with its own.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.models.families import InitialNetwork
from odqa_jax.models.hf.minilm import resolve_folder
from odqa_jax.models.roles import UNIFIED
from odqa_jax.models.unified_reader import (
  HEADS,
  UnifiedReader,
  unified_config,
)
from odqa_jax.retrieval.retriever import is_pretrained_folder
from odqa_jax.runtime.checkpoint import find_step, read_extra, restore_params
from odqa_jax.runtime.mesh import replicated
from odqa_jax.runtime.settings import Settings
from odqa_jax.training.initial_retriever import initial_retriever


def initial_unified(
  settings: Settings, corpus: Corpus, mesh: Mesh
) -> InitialNetwork:
  """The network that `config.model` and `config.init_from` describe.

  Args:
    settings: of the run.
    corpus: whose tokens it reads.
    mesh: parameters are replicated there.

  Raises:
    ValueError: if the weights are not of one encoder, of other tokens, or for
      shorter inputs; see `initial_retriever`.
  """
  start = initial_retriever(settings, corpus, mesh)
  network = UnifiedReader(unified_config(start.network.config))
  _check_order(settings)
  limit = network.config.bert.max_positions
  if settings.data.pair_length > limit:
    raise ValueError(
      f"config.data.pair_length={settings.data.pair_length}: the network takes "
      f"{limit} tokens at most; lower it."
    )
  if start.params is None:
    return InitialNetwork(network, None, start.loaded_from)
  heads, said = _heads(settings, network, mesh)
  params = {**start.params["shared"], **heads}
  return InitialNetwork(network, params, start.loaded_from + said)


def _theirs(name: str) -> Mapping[str, Any] | None:
  """What a workdir says of its unified reader; None: there is none."""
  path = resolve_folder(name)
  if is_pretrained_folder(path):
    return None
  folder, step = find_step(path)
  found: Mapping[str, Any] | None = read_extra(folder, step)["components"].get(
    UNIFIED
  )
  return found


def _heads(
  settings: Settings, network: UnifiedReader, mesh: Mesh
) -> tuple[dict[str, Any], str]:
  """The heads of a unified reader, else random ones; and what was done."""
  if _theirs(settings.init_from) is not None:
    path = Path(resolve_folder(settings.init_from))
    params, _ = restore_params(path, replicated(mesh))
    return {name: params[UNIFIED][name] for name in HEADS}, ""

  def fresh(rng: jax.Array) -> dict[str, Any]:
    params = network.init(rng)
    return {name: params[name] for name in HEADS}

  made = jax.jit(fresh)(jax.random.key(settings.seed))
  return made, f", and random {', '.join(HEADS)}"


def _check_order(settings: Settings) -> None:
  """Raises ValueError for another order of pairs than that of the weights."""
  theirs = _theirs(settings.init_from) if settings.init_from else None
  mine = settings.data.passage_first
  if theirs is not None and theirs["passage_first"] != mine:
    raise ValueError(
      f"config.data.passage_first={mine}: {settings.init_from} was trained to "
      f"read pairs with passage_first={theirs['passage_first']}; set that."
    )
