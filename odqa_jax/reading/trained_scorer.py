"""A trained network that scores passages, put together from its checkpoint.

reranker = load_trained_scorer("work/reranker", "reranker")
scorer = load_trained_scorer("work/pruner", *ALONE)
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from odqa_jax.models.families import network_from
from odqa_jax.models.passage_scorer import PassageScorer
from odqa_jax.reading.trained_component import load_component
from odqa_jax.runtime.files import content_hash
from odqa_jax.runtime.mesh import make_mesh, path_name, replicated, to_host
from odqa_jax.text.byte_pairs import BytePairTokenizer
from odqa_jax.text.tokenizer import Tokenizer

# How a function is computed, which does not change the function.
_RUN = (
  "dropout",
  "attention_dropout",
  "remat",
  "scan",
  "attention",
  "platform",
)


@dataclasses.dataclass(frozen=True)
class TrainedScorer:
  """A network that scores passages, with everything that decides how.

  Attributes:
    network: a `Reranker`, a `PassageClassifier` or a `PassageFilter`.
    params: its parameters, replicated on `mesh`.
    mesh: this process's own devices.
    tokenizer: what made the ids that it was trained on.
    question_length: longest question in tokens.
    passage_length: longest passage in tokens, of those that read it alone.
    pair_length: longest pair in tokens, of those that read pairs.
    title: whether titles are read.
    leaky: whether questions that are measured on have trained it.
    fingerprint: of all of these that a score depends on.
  """

  network: PassageScorer
  params: Any
  mesh: Mesh
  tokenizer: Tokenizer | BytePairTokenizer
  question_length: int
  passage_length: int
  pair_length: int
  title: bool
  leaky: bool
  fingerprint: str


def make_scorer(
  description: Mapping[str, Any],
  params: Any,
  tokenizer: Tokenizer | BytePairTokenizer,
  *,
  mesh: Mesh | None = None,
) -> TrainedScorer:
  """Puts a scorer together from parts in memory (any sharding).

  Args:
    description: of the component, as checkpoints hold it.
    params: of this component alone.
    tokenizer: of the network.
    mesh: devices of this process; by default all.
  """
  host = to_host(params)
  mesh = mesh or make_mesh(devices=jax.local_devices())
  lengths = ("question_length", "passage_length", "pair_length", "title")
  return TrainedScorer(
    network=network_from(description),
    params=jax.device_put(host, replicated(mesh)),
    mesh=mesh,
    tokenizer=tokenizer,
    leaky=description.get("leaky", False),
    fingerprint=_fingerprint(description, host),
    **{name: description[name] for name in lengths},
  )


def load_trained_scorer(path: str | Path, *roles: str) -> TrainedScorer:
  """Loads a component of a training workdir, or of one step of it.

  Args:
    path: the folder.
    roles: "reranker", or those of `ALONE`: the first that it has.

  Raises:
    ValueError: see `load_component`.
  """
  found = load_component(path, *roles)
  return make_scorer(found.description, found.params, found.tokenizer)


def _fingerprint(description: Mapping[str, Any], params: Any) -> str:
  """Hash of all that a score depends on, besides the passage."""
  config = description["config"]
  bert = {k: v for k, v in config["bert"].items() if k not in _RUN}
  described = {**description, "config": {**config, "bert": bert}}
  digest = hashlib.sha256(content_hash(described).encode())
  for place, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
    digest.update(path_name(place).encode())
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()
