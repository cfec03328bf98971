"""The families of networks, and components: trained networks by name.

A component is one network in its role: `retriever`, `reader`, … A checkpoint
says of each which family it is of and how it is configured, so that it can be
put together again without the code that trained it:

    description = describe(DualEncoder(config))  # JSON
    network = network_from(description)

To add a family: a file with a frozen config and a network whose parameters
`init(rng)` makes, and a row in `FAMILIES`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import PRNGKeyArray

from odqa_jax.models.bert import BertConfig
from odqa_jax.models.dual_encoder import DualEncoder, EncoderConfig
from odqa_jax.models.extractive_reader import ExtractiveReader, SpanConfig
from odqa_jax.models.mobilebert import config_class
from odqa_jax.models.passage_scorer import (
  PassageClassifier,
  PassageFilter,
  Reranker,
  ScorerConfig,
)
from odqa_jax.models.t5 import T5, T5Config
from odqa_jax.models.unified_reader import UnifiedConfig, UnifiedReader

Params = Any


@runtime_checkable
class Network(Protocol):
  """What every family's networks have."""

  config: Any

  def init(self, rng: PRNGKeyArray) -> Params:
    """Fresh parameters, a pure function of `rng`."""
    ...


# Role → network; a task says which roles it needs.
Components = Mapping[str, Any]


class InitialNetwork(NamedTuple):
  """A network and, unless they are random, its first parameters.

  Attributes:
    network: of any family.
    params: parameters to begin from; None for random ones.
    loaded_from: one line that says what was loaded.
  """

  network: Any
  params: Params | None
  loaded_from: str


@dataclasses.dataclass(frozen=True)
class Family:
  """A row of `FAMILIES`.

  Attributes:
    config: the frozen dataclass that describes a network.
    network: makes it from its config.
  """

  config: type
  network: Callable[[Any], Network]


FAMILIES: dict[str, Family] = {
  "dual_encoder": Family(EncoderConfig, DualEncoder),
  "t5": Family(T5Config, T5),
  "reranker": Family(ScorerConfig, Reranker),
  "passage_classifier": Family(ScorerConfig, PassageClassifier),
  "passage_filter": Family(ScorerConfig, PassageFilter),
  "extractive_reader": Family(SpanConfig, ExtractiveReader),
  "unified_reader": Family(UnifiedConfig, UnifiedReader),
}


def describe(network: Network) -> dict[str, Any]:
  """What JSON can hold of a network: its family and config."""
  name = next(
    name for name, row in FAMILIES.items() if row.network is type(network)
  )
  return {"family": name, "config": dataclasses.asdict(network.config)}


def network_from(description: Mapping[str, Any]) -> Any:
  """The network that `describe` told of.

  Raises:
    ValueError: for a family that this version does not have.
  """
  name = description["family"]
  if name not in FAMILIES:
    raise ValueError(
      f"the checkpoint has a network of the family {name!r}; this version "
      f"knows {', '.join(sorted(FAMILIES))}."
    )
  family = FAMILIES[name]
  return family.network(_dataclass_from(family.config, description["config"]))


def _dataclass_from(kind: Any, values: Mapping[str, Any]) -> Any:
  """The inverse of `dataclasses.asdict`."""
  if kind is BertConfig:
    kind = config_class(values.get("variant", kind.variant))
  fields = {field.name: field.type for field in dataclasses.fields(kind)}
  return kind(
    **{
      name: _dataclass_from(fields[name], value)
      if dataclasses.is_dataclass(fields[name])
      else value
      for name, value in values.items()
    }
  )
