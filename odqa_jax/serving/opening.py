"""Opens systems that stay open, from a folder, a pack, or parts.

system = open_answering("system")
warm_up(system, 8)
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.reading.answer_scoring import AnswerScoring, load_scoring
from odqa_jax.reading.fusion import load_fusion
from odqa_jax.reading.system import load_reading_system
from odqa_jax.retrieval.folders import make_index
from odqa_jax.serving.answering import (
  Answering,
  PackedAnswering,
  SpanSystem,
  WritingSystem,
)
from odqa_jax.serving.extraction import Sources, load_parts
from odqa_jax.serving.packed.system import open_packed
from odqa_jax.serving.system_folder import open_for_answering


def open_answering(
  path: str | Path, *, backend: str = "exact", **options: Any
) -> Answering:
  """Opens a system folder, or a pack.

  Args:
    path: from `odqa assemble` or `odqa pack`.
    backend: of the search; a pack has its own.
    options: `k` of `WritingSystem`; also `read_k` and `spans` of the others.

  Raises:
    ValueError: naming the part that is missing, has changed or does not fit.
  """
  options = {n: value for n, value in options.items() if value is not None}
  if Path(path).is_file():
    return PackedAnswering(Path(path).name, open_packed(path), **options)
  folder = open_for_answering(path)
  paths = {name: str(part) for name, part in folder.paths.items()}
  name = folder.directory.resolve().name
  corpus = Corpus(paths["corpus"])
  if "extractive_reader" in paths:
    scoring = None
    if "fusion" in paths:
      options |= load_fusion(paths["fusion"]).sized(options, len(corpus))
      options = {n: value for n, value in options.items() if value is not None}
    if "scoring" in paths:
      scoring = load_scoring(paths["scoring"])
      if options.get("read_k") is None:
        most = options.get("k") or len(corpus)
        options["read_k"] = min(scoring.read_k, most)
    sources = _sources(paths, backend, scoring)
    return SpanSystem(name, load_parts(sources, corpus), corpus, **options)
  return open_writing(
    name,
    paths.get("reader", paths["retriever"]),
    corpus,
    paths["index"],
    reader_corpus=paths.get("reader_corpus"),
    versions=folder.versions,
    backend=backend,
    **options,
  )


def open_writing(
  name: str,
  checkpoint: str,
  corpus: Corpus,
  index: str,
  *,
  reader_corpus: str | None = None,
  versions: Mapping[str, str] | None = None,
  backend: str = "exact",
  **options: Any,
) -> WritingSystem:
  """Opens a reader that writes, and the retriever of its checkpoint.

  Args:
    name: for people.
    checkpoint: of both.
    corpus: the evidence.
    index: its folder; made when absent.
    reader_corpus: see `load_reading_system`.
    versions: of the components.
    backend: of the search.
    options: of `WritingSystem`; `spans` has no meaning here.

  Raises:
    ValueError: for a `read_k`; see also `load_system`.
  """
  options.pop("spans", None)
  if (read_k := options.pop("read_k", None)) is not None:
    raise ValueError(
      f"--read-k {read_k} is for an extractive reader, and {name} has none; "
      "--k says how many passages are read."
    )
  store = None if reader_corpus is None else Corpus(reader_corpus)
  system = load_reading_system(checkpoint, corpus, store)
  opened = make_index(system.retriever, corpus, index, backend)
  return WritingSystem(name, system, opened, versions or {}, **options)


def warm_up(system: Answering, questions: int) -> None:
  """Compiles what answering needs, for one question and for so many.

  Words of the corpus stand for questions, a few and many.
  """
  words = system.corpus.text(0).split() or ["what"]
  for count in sorted({1, questions}):
    for length in (6, 16):
      system.answer([" ".join(words[:length])] * count)


def _sources(
  paths: Mapping[str, str], backend: str, scoring: AnswerScoring | None
) -> Sources:
  return Sources(
    extractive_reader=paths["extractive_reader"],
    retriever=paths["retriever"],
    index=paths["index"],
    backend=backend,
    reranker=paths.get("reranker"),
    reader=paths.get("reader"),
    reader_corpus=paths.get("reader_corpus"),
    fusion=paths.get("fusion"),
    rank_weight=None if scoring is None else scoring.rank_weight,
  )
