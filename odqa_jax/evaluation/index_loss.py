"""How an index is searched, and what that finds less than exact search.

facts = index_facts("work/sup", "work/index", "scann", corpus, questions)
facts["loss"]   # "0.0130 of the 20 best, on 100 questions"
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.sets import Question
from odqa_jax.retrieval.backends.int8 import Int8Index
from odqa_jax.retrieval.backends.table import open_index
from odqa_jax.retrieval.retriever import (
  Retriever,
  encode_questions,
  fit_to_index,
)
from odqa_jax.retrieval.searchable import Searchable, search_embeddings
from odqa_jax.retrieval.storage import read_manifest
from odqa_jax.runtime.mesh import make_mesh

# Questions that are searched again, and passages that are compared.
SAMPLE, BEST = 100, 20
# Rows whose products are held at once.
_BLOCK = 1 << 16
# Of products that differ by less, float32 does not know which is larger.
_EQUAL = 1e-5


def index_facts(
  retriever: Retriever,
  directory: str | Path,
  backend: str,
  corpus: Corpus,
  questions: Sequence[Question],
) -> dict[str, Any]:
  """The type of the rows, who searches them, and what is lost by it.

  An exact search of rows as they are stored loses nothing. What others miss is
  measured on at most `SAMPLE` of the questions, evenly spaced, against the
  inner products with all rows.

  Args:
    retriever: of the index.
    directory: the index.
    backend: that searches; see `backends/table.py`.
    corpus: of the index.
    questions: those that are measured on.

  Returns:
    `backend`, `dtype`, `count`, `width`, `sha256`, `loss` in words, and
    `missed`, the share of the best passages that is not found; None where that
    was not measured.
  """
  manifest = read_manifest(Path(directory))
  facts = {"path": str(directory), "backend": backend}
  facts |= {name: manifest[name] for name in ("dtype", "count", "width")}
  facts["sha256"] = manifest["sha256"]
  dtype, name = manifest["dtype"], backend.partition(":")[0]
  rounded = ""
  if dtype != "float32":
    rounded = f"; what rounding the rows to {dtype} costs: not measured"
  if name in ("exact", "host") and dtype != "int8":
    return facts | {"missed": 0.0, "loss": f"none, all rows compared{rounded}"}
  step = max(len(questions) // SAMPLE, 1)
  texts = [question.question for question in questions[::step][:SAMPLE]]
  k = min(BEST, len(corpus))
  embeddings = encode_questions(
    fit_to_index(retriever, corpus, manifest), texts
  )
  searched = open_index(directory, make_mesh(), backend=backend)
  scores, rows = search_embeddings(searched, embeddings, k)
  best, wanted = _exact(searched, directory, embeddings, k)
  same = (rows[:, :, None] == wanted[:, None, :]).any(axis=2)
  # Rows with the product of the last of the best are as good as that one.
  floor = best[:, -1:] - _EQUAL * np.abs(best[:, -1:])
  missed = 1 - float((same | (scores >= floor)).mean())
  loss = f"{missed:.4f} of the {k} best, on {len(texts)} questions{rounded}"
  return facts | {"missed": missed, "loss": loss}


def _exact(
  searched: Searchable,
  directory: str | Path,
  embeddings: Float32[np.ndarray, "n e"],
  k: int,
) -> tuple[Float32[np.ndarray, "n {k}"], Int32[np.ndarray, "n {k}"]]:
  """The largest inner products with the rows as they are stored, and these."""
  if not isinstance(searched, Int8Index):
    host = open_index(directory, make_mesh(), backend="host")
    return search_embeddings(host, embeddings, k)
  kept = np.zeros((len(embeddings), 0), np.float32)
  rows = np.zeros(kept.shape, np.int32)
  for start in range(0, searched.count, _BLOCK):
    block = np.arange(
      start, min(start + _BLOCK, searched.count), dtype=np.int32
    )
    scores = embeddings @ searched.rows(block).T
    kept = np.concatenate([kept, scores], axis=1)
    rows = np.concatenate([rows, np.tile(block, (len(rows), 1))], axis=1)
    order = np.argsort(-kept, axis=1, kind="stable")[:, :k]
    kept = np.take_along_axis(kept, order, axis=1)
    rows = np.take_along_axis(rows, order, axis=1)
  return kept, rows
