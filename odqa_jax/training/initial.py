"""The components that a training stage begins with, and what they read."""

import dataclasses
from typing import Any

from jax.sharding import Mesh

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.reader_inputs import ReaderInputs
from odqa_jax.models.families import Components, InitialNetwork, describe
from odqa_jax.models.roles import UNIFIED
from odqa_jax.runtime.settings import Settings
from odqa_jax.text.byte_pairs import BytePairTokenizer
from odqa_jax.text.pairs import PairVocabulary
from odqa_jax.text.reader_vocabulary import ReaderVocabulary
from odqa_jax.text.tokenizer import Tokenizer
from odqa_jax.training.initial_head import HEADS, initial_head
from odqa_jax.training.initial_reader import initial_reader, reader_inputs
from odqa_jax.training.initial_retriever import initial_retriever
from odqa_jax.training.initial_unified import initial_unified
from odqa_jax.training.tasks.task import Needs


@dataclasses.dataclass(frozen=True)
class Initial:
  """What a stage begins with.

  Attributes:
    components: the networks of the task.
    params: of those whose first parameters are not random.
    inputs: how the reader's inputs are packed; None without a reader.
    tokenizer: of the retriever, or of the network that reads passages.
    vocabulary: of the examples, for those who read; None for a retriever.
    descriptions: of every component, as a checkpoint holds them.
    loaded_from: lines that say what was loaded.
  """

  components: Components
  params: dict[str, Any]
  inputs: ReaderInputs | None
  tokenizer: Tokenizer | BytePairTokenizer
  vocabulary: ReaderVocabulary | PairVocabulary | None
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
  networks: dict[str, InitialNetwork] = {}
  descriptions: dict[str, dict[str, Any]] = {}
  inputs = None
  tokenizer: Tokenizer | BytePairTokenizer = corpus.tokenizer
  vocabulary: ReaderVocabulary | PairVocabulary | None = None
  lengths = {"question_length": data.question_length, "title": data.title}
  if "retriever" in needs.components:
    networks["retriever"] = initial_retriever(settings, corpus, mesh)
    descriptions["retriever"] = {
      "tokenizer": corpus.tokenizer.fingerprint,
      "passage_length": data.passage_length,
      **lengths,
    }
  if "reader" in needs.components:
    inputs = reader_inputs(settings, corpus)
    networks["reader"] = initial_reader(settings, inputs.vocabulary, mesh)
    descriptions["reader"] = {"tokenizer": inputs.vocabulary.fingerprint}
    vocabulary = inputs.vocabulary
  for role in HEADS.keys() & set(needs.components):
    networks[role], tokenizer = initial_head(role, settings, corpus, mesh)
    vocabulary = PairVocabulary(tokenizer)
    descriptions[role] = {
      "tokenizer": tokenizer.fingerprint,
      "passage_length": data.passage_length,
      "pair_length": data.pair_length,
      "span_length": data.span_length,
      **lengths,
    }
    if role == "extractive_reader":
      descriptions[role]["objective"] = settings.objective.extractive
    if role == "passage_filter":
      descriptions[role]["leaky"] = data.leaky
  if UNIFIED in needs.components:
    networks[UNIFIED] = initial_unified(settings, corpus, mesh)
    vocabulary = PairVocabulary(corpus.tokenizer)
    descriptions[UNIFIED] = {
      "tokenizer": corpus.tokenizer.fingerprint,
      "passage_length": data.passage_length,
      "pair_length": data.pair_length,
      "span_length": data.span_length,
      "passage_first": data.passage_first,
      "objective": "dpr",
      **lengths,
    }
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
    tokenizer=tokenizer,
    vocabulary=vocabulary,
    descriptions=descriptions,
    loaded_from="\n".join(start.loaded_from for start in networks.values()),
  )
