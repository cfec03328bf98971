"""Open-domain question answering in JAX: train, index, evaluate, serve.

The names below are imported when they are first used, so that the command line
answers `--help` without waiting for JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from odqa_jax.data.corpus.corpus import Corpus
  from odqa_jax.reading.answer import answer_questions
  from odqa_jax.reading.system import load_system
  from odqa_jax.retrieval.retriever import (
    index_corpus,
    load_retriever,
    search_questions,
  )
  from odqa_jax.runtime.mesh import make_mesh
  from odqa_jax.training.train import train

__version__ = "0.9.0"
__all__ = [
  "Corpus",
  "answer_questions",
  "index_corpus",
  "load_retriever",
  "load_system",
  "make_mesh",
  "search_questions",
  "train",
]

_MODULES = {
  "Corpus": "data.corpus.corpus",
  "answer_questions": "reading.answer",
  "index_corpus": "retrieval.retriever",
  "load_retriever": "retrieval.retriever",
  "load_system": "reading.system",
  "make_mesh": "runtime.mesh",
  "search_questions": "retrieval.retriever",
  "train": "training.train",
}


def __getattr__(name: str) -> Any:
  if name not in _MODULES:
    raise AttributeError(f"module 'odqa_jax' has no attribute {name!r}")
  return getattr(importlib.import_module(f"odqa_jax.{_MODULES[name]}"), name)
