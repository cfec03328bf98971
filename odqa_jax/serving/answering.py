"""Systems that stay open: loaded once, asked any number of times.

    system = open_answering("system")
    (found,) = system.answer(["who wrote emma"])
    found["answer"], found["confidence"], found["passages"][0]["text"]

What comes back is what `odqa answer` writes (`records.py`), with the passages,
their texts, and who decided how surely; `views.py` has the keys.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float, Int

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.runs import Ranking
from odqa_jax.reading.answer import (
  check_found,
  default_batch_size,
  encode_request,
  read_batches,
  search_request,
)
from odqa_jax.reading.answer_scoring import AnswerScoring, load_scoring
from odqa_jax.reading.pair_scores import rerank
from odqa_jax.reading.span_answers import Passages, answer_with_spans
from odqa_jax.reading.system import ReadingSystem, load_system
from odqa_jax.retrieval.division import steady_sizes
from odqa_jax.retrieval.embed import bulk_tokens
from odqa_jax.retrieval.folders import make_index
from odqa_jax.retrieval.retriever import Retriever, search_questions
from odqa_jax.retrieval.searchable import Searchable
from odqa_jax.serving.extraction import Parts, Sources, load_parts
from odqa_jax.serving.system_folder import SystemFolder, open_for_answering
from odqa_jax.serving.views import (
  Record,
  found_passages,
  span_view,
  written_view,
)

RETRIEVED, RERANKED, ANSWERED = "retrieved", "reranked", "answered"
# Passages that are found for an extractive reader.
_FOUND = 100


@runtime_checkable
class Answering(Protocol):
  """A system that is open. One thread at a time may ask it.

  Attributes:
    name: for people.
    versions: component → what it is known by.
    corpus: the evidence.
    k: passages that are found for an answer, and the most that may be.
  """

  name: str
  versions: Mapping[str, str]
  corpus: Corpus
  k: int

  def search(self, questions: Sequence[str], k: int) -> list[Record]:
    """The k best passages of every question, at most the whole corpus."""

  def stages(
    self, questions: Sequence[str], k: int | None = None
  ) -> Iterator[tuple[str, list[Record]]]:
    """What is known of every question after each stage.

    Args:
      questions: their texts, none of them blank.
      k: passages that are found; None: `self.k`.

    Yields:
      The stage's name, the last one `ANSWERED`, and a record per question.
    """

  def answer(
    self, questions: Sequence[str], k: int | None = None
  ) -> list[Record]:
    """What the last stage gives."""


class _Staged:
  """Answers are what the last stage gives."""

  def stages(
    self, questions: Sequence[str], k: int | None = None
  ) -> Iterator[tuple[str, list[Record]]]:
    raise NotImplementedError

  def answer(
    self, questions: Sequence[str], k: int | None = None
  ) -> list[Record]:
    """See `Answering`."""
    *_, (_, records) = self.stages(questions, k)
    return records


class WritingSystem(_Staged):
  """A retriever and a reader that writes."""

  def __init__(
    self,
    name: str,
    system: ReadingSystem,
    index: Searchable,
    versions: Mapping[str, str],
    k: int | None = None,
  ) -> None:
    """Puts it together; by default it reads as many passages as in training.

    Raises:
      ValueError: for a k that the corpus does not have.
    """
    self.name, self.versions, self.corpus = name, versions, system.corpus
    self.k = _possible_k(k, system.config.k, system.corpus)
    self._system, self._index = system, index

  def search(self, questions: Sequence[str], k: int) -> list[Record]:
    """See `Answering`."""
    return _search(
      self._system.retriever, self._index, self.corpus, questions, k
    )

  def stages(
    self, questions: Sequence[str], k: int | None = None
  ) -> Iterator[tuple[str, list[Record]]]:
    """See `Answering`."""
    system, k = self._system, self.k if k is None else k
    request = encode_request(system, questions)
    scores, rows = search_request(system, self._index, request, k=k)
    yield RETRIEVED, _found(self.corpus, questions, rows, scores)
    batches = read_batches(
      system,
      request,
      check_found(rows),
      batch_size=default_batch_size(system, k),
    )
    answers = [
      answer
      for batch in batches
      for answer in batch.answers(max_tokens=system.config.answer_length)
    ]
    yield (
      ANSWERED,
      [
        written_view(question, answer, self.corpus)
        for question, answer in zip(questions, answers, strict=True)
      ],
    )


class SpanSystem(_Staged):
  """A retriever and an extractive reader, and what else takes part."""

  def __init__(
    self,
    name: str,
    parts: Parts,
    corpus: Corpus,
    *,
    k: int | None = None,
    read_k: int | None = None,
    spans: int = 10,
  ) -> None:
    """Puts it together.

    Args:
      name: for people.
      parts: with a retriever.
      corpus: the evidence.
      k: passages that are found; None: 100.
      read_k: the first of these, which are read; None: all.
      spans: that are compared.

    Raises:
      ValueError: for a k that the corpus does not have, or a `read_k` above it.
    """
    assert parts.retriever is not None and parts.index is not None
    self.name, self.versions, self.corpus = name, parts.versions, corpus
    self.k = _possible_k(k, _FOUND, corpus)
    if read_k is not None and not 1 <= read_k <= self.k:
      raise ValueError(f"--read-k {read_k}: choose from 1 to --k {self.k}.")
    self._retriever, self._index = parts.retriever, parts.index
    self._parts, self._read_k, self._spans = parts, read_k, spans
    self._read_sizes = _sizes(parts.reader.inputs.length, self.k)
    if parts.reranker is not None:
      self._rerank_sizes = _sizes(parts.reranker.pair_length, self.k)

  def search(self, questions: Sequence[str], k: int) -> list[Record]:
    """See `Answering`."""
    return _search(self._retriever, self._index, self.corpus, questions, k)

  def stages(
    self, questions: Sequence[str], k: int | None = None
  ) -> Iterator[tuple[str, list[Record]]]:
    """See `Answering`."""
    parts, k = self._parts, self.k if k is None else k
    scores, rows = search_questions(
      self._retriever, self._index, self.corpus, questions, k=k
    )
    asked = [Question(str(i), text, ()) for i, text in enumerate(questions)]
    ranking = Ranking(tuple(q.id for q in asked), rows, scores)
    yield RETRIEVED, _found(self.corpus, questions, rows, scores)
    reranked = None
    if parts.reranker is not None:
      reranked = rerank(
        parts.reranker, ranking, asked, self.corpus, sizes=self._rerank_sizes
      )
      yield (
        RERANKED,
        _found(
          self.corpus, questions, reranked.rows, reranked.scores, "reranker"
        ),
      )
    read_k = k if self._read_k is None else min(self._read_k, k)
    passages = Passages.of(ranking, reranked, read_k)
    answers = answer_with_spans(
      parts.reader,
      asked,
      passages,
      most=self._spans,
      generator=parts.generator,
      fusion=parts.fusion,
      sizes=self._read_sizes,
    )
    weighed = parts.reader.rank_weight is not None
    yield (
      ANSWERED,
      [
        span_view(question, found, passages, i, self.corpus, weighed=weighed)
        for i, (question, (found,)) in enumerate(
          zip(questions, answers, strict=True)
        )
      ],
    )


def open_answering(
  directory: str | Path,
  *,
  backend: str = "exact",
  k: int | None = None,
  read_k: int | None = None,
  spans: int = 10,
) -> Answering:
  """Opens a system folder, of a reader that writes or of one that extracts.

  Args:
    directory: from `odqa assemble`.
    backend: of the search.
    k: see `WritingSystem` and `SpanSystem`.
    read_k: for an extractive reader.
    spans: likewise.

  Raises:
    ValueError: naming the part that is missing, has changed or does not fit.
  """
  folder = open_for_answering(directory)
  name = folder.directory.resolve().name
  corpus = Corpus(folder.paths["corpus"])
  if "extractive_reader" in folder.paths:
    scoring = None
    if "scoring" in folder.paths:
      scoring = load_scoring(folder.paths["scoring"])
    parts = load_parts(_sources(folder, backend, scoring), corpus)
    if scoring is not None and read_k is None:
      read_k = scoring.read_k
    return SpanSystem(name, parts, corpus, k=k, read_k=read_k, spans=spans)
  if read_k is not None:
    raise ValueError(
      f"--read-k {read_k} is for an extractive reader, and {directory} has "
      "none; --k says how many passages are read."
    )
  paths = folder.paths
  system = load_system(
    paths.get("reader", paths["retriever"]),
    corpus,
    Corpus(paths["reader_corpus"]) if "reader_corpus" in paths else None,
  )
  index = make_index(system.retriever, corpus, str(paths["index"]), backend)
  return WritingSystem(name, system, index, folder.versions, k)


def warm_up(system: Answering, questions: int) -> None:
  """Compiles what answering needs, for one question and for so many.

  Words of the corpus stand for questions, a few and many.
  """
  words = system.corpus.text(0).split() or ["what"]
  for count in sorted({1, questions}):
    for length in (6, 16):
      system.answer([" ".join(words[:length])] * count)


def _sources(
  folder: SystemFolder, backend: str, scoring: AnswerScoring | None
) -> Sources:
  paths = {name: str(path) for name, path in folder.paths.items()}
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


def _possible_k(k: int | None, default: int, corpus: Corpus) -> int:
  if k is None:
    return min(default, len(corpus))
  if not 1 <= k <= len(corpus):
    raise ValueError(
      f"--k {k}: the corpus has {len(corpus)} passages; choose from 1 to that "
      "number."
    )
  return k


def _sizes(longest: int, k: int) -> dict[int, int]:
  """Batches of pairs, the same for all questions."""
  devices = jax.local_device_count()
  tokens = bulk_tokens(jax.default_backend(), devices)
  return steady_sizes(longest, tokens, rows=k, devices=devices)


def _search(
  retriever: Retriever,
  index: Searchable,
  corpus: Corpus,
  questions: Sequence[str],
  k: int,
) -> list[Record]:
  # Few numbers of passages are compiled for, whatever is asked.
  rounded = min(1 << (k - 1).bit_length(), len(corpus))
  scores, rows = search_questions(
    retriever, index, corpus, questions, k=rounded
  )
  return _found(corpus, questions, rows[:, :k], scores[:, :k])


def _found(
  corpus: Corpus,
  questions: Sequence[str],
  rows: Int[np.ndarray, "n k"],
  scores: Float[np.ndarray, "n k"],
  component: str = "retriever",
) -> list[Record]:
  """Records of a stage that only finds."""
  records: list[dict[str, Any]] = []
  for question, mine, values in zip(questions, rows, scores, strict=True):
    passages = found_passages(corpus, mine, {component: values})
    records.append({"question": question, "passages": passages})
  return records
