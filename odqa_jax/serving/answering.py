"""Systems that stay open: loaded once, asked any number of times.

    system = open_answering("system")  # of opening.py
    (found,) = system.answer(["who wrote emma"])
    found["answer"], found["confidence"], found["passages"][0]["text"]

What comes back is what `odqa answer` writes (`records.py`), with the passages,
their texts, and who decided how surely; `views.py` has the keys.
"""

import abc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float, Int

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.passages import PassageTexts
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.runs import Ranking
from odqa_jax.reading.answer import (
  check_found,
  default_batch_size,
  encode_request,
  read_batches,
  search_request,
)
from odqa_jax.reading.pair_scores import rerank
from odqa_jax.reading.span_answers import Passages, answer_with_spans
from odqa_jax.reading.system import ReadingSystem
from odqa_jax.retrieval.division import steady_sizes
from odqa_jax.retrieval.embed import bulk_tokens
from odqa_jax.retrieval.retriever import Retriever, search_questions
from odqa_jax.retrieval.searchable import Searchable
from odqa_jax.serving.extraction import Parts
from odqa_jax.serving.pack_answers import span_answers
from odqa_jax.serving.packed.system import PackedSystem
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
  corpus: PassageTexts
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


class _Staged(abc.ABC):
  """Answers are what the last stage gives."""

  @abc.abstractmethod
  def stages(
    self, questions: Sequence[str], k: int | None = None
  ) -> Iterator[tuple[str, list[Record]]]:
    """See `Answering`."""

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
    *,
    k: int | None = None,
    beams: int = 1,
  ) -> None:
    """Puts it together.

    Args:
      name: for people.
      system: what reads.
      index: of its retriever.
      versions: of the components.
      k: passages that are read; None: as many as in training.
      beams: hypotheses of the beam search; 1 is greedy.

    Raises:
      ValueError: for a k that the corpus does not have.
    """
    self.name, self.versions = name, versions
    self.corpus: PassageTexts = system.corpus
    self.k = _possible_k(k, system.config.k, system.corpus)
    self._system, self._index, self._beams = system, index, beams
    self._evidence = system.corpus

  def search(self, questions: Sequence[str], k: int) -> list[Record]:
    """See `Answering`."""
    return _search(
      self._system.retriever, self._index, self._evidence, questions, k
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
      for answer in batch.answers(
        max_tokens=system.config.answer_length, beams=self._beams
      )
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
    merge: bool = False,
  ) -> None:
    """Puts it together.

    Args:
      name: for people.
      parts: with a retriever.
      corpus: the evidence.
      k: passages that are found; None: 100.
      read_k: the first of these, which are read; None: all.
      spans: that are compared.
      merge: see `best_answers`.

    Raises:
      ValueError: for a k that the corpus does not have, or a `read_k` above it.
    """
    assert parts.retriever is not None and parts.index is not None
    self.name, self.versions = name, parts.versions
    self.corpus: PassageTexts = corpus
    self.k = _possible_k(k, _FOUND, corpus)
    _check_read_k(read_k, self.k)
    self._retriever, self._index = parts.retriever, parts.index
    self._parts, self._read_k, self._evidence = parts, read_k, corpus
    self._spans, self._merge = spans, merge
    self._read_sizes = _sizes(parts.reader.inputs.length, self.k)
    if parts.reranker is not None:
      self._rerank_sizes = _sizes(parts.reranker.pair_length, self.k)

  def search(self, questions: Sequence[str], k: int) -> list[Record]:
    """See `Answering`."""
    return _search(self._retriever, self._index, self._evidence, questions, k)

  def stages(
    self, questions: Sequence[str], k: int | None = None
  ) -> Iterator[tuple[str, list[Record]]]:
    """See `Answering`."""
    parts, k = self._parts, self.k if k is None else k
    scores, rows = search_questions(
      self._retriever, self._index, self._evidence, questions, k=k
    )
    asked = [Question(str(i), text, ()) for i, text in enumerate(questions)]
    ranking = Ranking(tuple(q.id for q in asked), rows, scores)
    yield RETRIEVED, _found(self.corpus, questions, rows, scores)
    reranked = None
    if parts.reranker is not None:
      reranked = rerank(
        parts.reranker, ranking, asked, self._evidence, sizes=self._rerank_sizes
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
      merge=self._merge,
      generator=parts.generator,
      fusion=parts.fusion,
      sizes=self._read_sizes,
    )
    yield (
      ANSWERED,
      [
        span_view(question, found, passages, i, self.corpus)
        for i, (question, (found,)) in enumerate(
          zip(questions, answers, strict=True)
        )
      ],
    )


class PackedAnswering(_Staged):
  """A system in one file."""

  def __init__(
    self,
    name: str,
    system: PackedSystem,
    *,
    k: int | None = None,
    read_k: int | None = None,
    spans: int = 10,
    merge: bool = False,
  ) -> None:
    """Puts it together; see `SpanSystem`."""
    self.name = name
    self.corpus: PassageTexts = system.texts
    networks = system.pack.about["networks"]
    self.versions: Mapping[str, str] = dict.fromkeys(networks, name)
    self.k = _possible_k(k, _FOUND, system.texts)
    _check_read_k(read_k, self.k)
    self._system, self._read_k = system, read_k
    self._spans, self._merge = spans, merge

  def search(self, questions: Sequence[str], k: int) -> list[Record]:
    """See `Answering`."""
    found = [self._system.search(question, k) for question in questions]
    scores, rows = (np.stack([f[i] for f in found]) for i in (0, 1))
    return _found(self.corpus, questions, rows, scores)

  def stages(
    self, questions: Sequence[str], k: int | None = None
  ) -> Iterator[tuple[str, list[Record]]]:
    """See `Answering`; it finds and reads at once."""
    k = self.k if k is None else k
    read_k = self._system.read_k(k)
    if self._read_k is not None:
      read_k = min(self._read_k, k)
    records = []
    for i, text in enumerate(questions):
      read = self._system.read(text, k=k, read_k=read_k, most=self._spans)
      question = Question(str(i), text, ())
      found = span_answers(
        question, read, k=read_k, most=self._spans, merge=self._merge
      )
      passages = Passages(
        read.rows[None, :read_k], {"retriever": read.scores[None, :read_k]}
      )
      records.append(span_view(text, found, passages, 0, self.corpus))
    yield ANSWERED, records


def _check_read_k(read_k: int | None, k: int) -> None:
  if read_k is not None and not 1 <= read_k <= k:
    raise ValueError(f"--read-k {read_k}: choose from 1 to --k {k}.")


def _possible_k(k: int | None, default: int, corpus: PassageTexts) -> int:
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
  corpus: PassageTexts,
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
