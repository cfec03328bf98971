"""Open-domain question answering in JAX: train, index, evaluate, serve.

    from odqa_jax import build_index, load_retriever

    retriever = load_retriever("minilm")
    index = build_index(retriever, ["Emma is a novel by Jane Austen."])
    for passage in index.search(["who wrote Emma"], k=1)[0]:
      print(passage.score, passage.text)

The names of `__all__` are stable, and all that most programs need; each has an
example. They are imported when they are first used, so that the command line
answers `--help` without waiting for JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from odqa_jax.data.corpus.passages import Passage
  from odqa_jax.data.prepare import prepare
  from odqa_jax.data.questions.sets import Question
  from odqa_jax.retrieval.retriever import load_retriever
  from odqa_jax.serving.loaded_reader import load_reader
  from odqa_jax.serving.loaded_system import load_system
  from odqa_jax.serving.passage_index import build_index, open_index
  from odqa_jax.training.train import train

__version__ = "0.10.1"
__all__ = [
  "Passage",
  "Question",
  "build_index",
  "load_reader",
  "load_retriever",
  "load_system",
  "open_index",
  "prepare",
  "train",
]

_MODULES = {
  "Passage": "data.corpus.passages",
  "Question": "data.questions.sets",
  "build_index": "serving.passage_index",
  "load_reader": "serving.loaded_reader",
  "load_retriever": "retrieval.retriever",
  "load_system": "serving.loaded_system",
  "open_index": "serving.passage_index",
  "prepare": "data.prepare",
  "train": "training.train",
}


def __getattr__(name: str) -> Any:
  if name not in _MODULES:
    raise AttributeError(f"module 'odqa_jax' has no attribute {name!r}")
  return getattr(importlib.import_module(f"odqa_jax.{_MODULES[name]}"), name)
