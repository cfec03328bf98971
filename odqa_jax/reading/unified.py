"""A unified checkpoint at work: its retriever and its reader, read once.

retriever, reader = load_unified("work/unified", corpus)
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from odqa_jax.data.corpus.passages import PassageTexts
from odqa_jax.models.hf.minilm import resolve_folder
from odqa_jax.models.roles import UNIFIED, roles
from odqa_jax.models.unified_reader import HEADS
from odqa_jax.reading.extract import SpanReader, span_reader, without_params
from odqa_jax.retrieval.retriever import (
  Retriever,
  is_pretrained_folder,
  restored_retriever,
)
from odqa_jax.runtime.checkpoint import find_step, read_extra, restore_params
from odqa_jax.runtime.mesh import make_mesh, replicated


class Unified(NamedTuple):
  """Both sides; their weights are the same arrays.

  Attributes:
    retriever: what searches.
    reader: what reads.
  """

  retriever: Retriever
  reader: SpanReader


def holds_unified(path: str | Path) -> bool:
  """Whether a checkpoint is a workdir, or a step, of a unified reader.

  Raises:
    ValueError: if it is no checkpoint at all.
  """
  path = resolve_folder(path)
  if is_pretrained_folder(path):
    return False
  folder, step = find_step(path)
  return UNIFIED in read_extra(folder, step)["components"]


def load_unified(path: str | Path, corpus: PassageTexts) -> Unified:
  """Loads both sides of a checkpoint, which is read once.

  Args:
    path: a workdir, or a step of it.
    corpus: the evidence.

  Raises:
    ValueError: if it is none; see `restored_retriever`.
  """
  path = Path(path)
  params, extra = restore_params(path, replicated(make_mesh()))
  retriever = restored_retriever(path, params, extra)
  described = roles(extra["components"])["extractive_reader"]
  heads = {name: params[UNIFIED][name] for name in HEADS}
  reader = span_reader(described, heads, retriever.tokenizer, corpus)
  shared: dict[str, Any] = {**retriever.params["shared"], **reader.params}
  whole = dataclasses.replace(without_params(reader), params=shared)
  return Unified(retriever, whole)
