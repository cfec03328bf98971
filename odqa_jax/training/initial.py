"""The components that a training stage begins with, and what they read."""

import dataclasses
from typing import Any

from jax.sharding import Mesh

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.reader_inputs import ReaderInputs
from odqa_jax.models.families import Components, InitialNetwork, describe
from odqa_jax.runtime.settings import Settings
from odqa_jax.training.initial_reader import initial_reader, reader_inputs
from odqa_jax.training.initial_retriever import initial_retriever
from odqa_jax.training.tasks.task import Needs


@dataclasses.dataclass(frozen=True)
class Initial:
  """What a stage begins with.

  Attributes:
    components: the networks of the task.
    params: of those whose first parameters are not random.
    inputs: how the reader's inputs are packed; None without a reader.
    descriptions: of every component, as a checkpoint holds them.
    loaded_from: lines that say what was loaded.
  """

  components: Components
  params: dict[str, Any]
  inputs: ReaderInputs | None
  descriptions: dict[str, dict[str, Any]]
  loaded_from: str


def initial_components(
  settings: Settings, needs: Needs, corpus: Corpus, mesh: Mesh
) -> Initial:
  """The components that a task needs.

  Raises:
    ValueError: if vocabulary or sizes do not fit, naming both sides.
  """
  data = settings.data
  networks: dict[str, InitialNetwork] = {
    "retriever": initial_retriever(settings, corpus, mesh)
  }
  descriptions: dict[str, dict[str, Any]] = {
    "retriever": {
      "tokenizer": corpus.tokenizer.fingerprint,
      "question_length": data.question_length,
      "passage_length": data.passage_length,
      "title": data.title,
    }
  }
  inputs = None
  if "reader" in needs.components:
    inputs = reader_inputs(settings, corpus)
    networks["reader"] = initial_reader(settings, inputs.vocabulary, mesh)
    descriptions["reader"] = {"tokenizer": inputs.vocabulary.fingerprint}
  for name, start in networks.items():
    descriptions[name] |= describe(start.network)
  return Initial(
    components={name: start.network for name, start in networks.items()},
    params={
      name: start.params
      for name, start in networks.items()
      if start.params is not None
    },
    inputs=inputs,
    descriptions=descriptions,
    loaded_from="\n".join(start.loaded_from for start in networks.values()),
  )
