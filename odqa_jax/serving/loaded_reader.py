"""A reader for programs: questions and passages in, answers out.

    reader = load_reader("work/fid")
    (answer,) = reader.read(
      ["who wrote Emma"], [["Emma is a novel by Jane Austen."]]
    )
    answer.text, answer.confidence

Where the passages come from is the program's affair; `load_system` finds them
by itself.
"""

import abc
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from odqa_jax.data.corpus.build import build_corpus
from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.passages import Passage, PassageList, check_passage
from odqa_jax.data.examples.pair_inputs import PairInputs
from odqa_jax.data.questions.sets import Question
from odqa_jax.reading.answer import (
  default_batch_size,
  encode_request,
  read_batches,
)
from odqa_jax.reading.extract import (
  SpanReader,
  holds_span_reader,
  load_span_reader,
)
from odqa_jax.reading.span_answers import Passages, answer_with_spans
from odqa_jax.reading.system import (
  ReadingSystem,
  holds_reader,
  inputs_for,
  load_reading_system,
)
from odqa_jax.reading.unified import holds_unified, load_unified
from odqa_jax.retrieval.division import steady_sizes
from odqa_jax.retrieval.embed import bulk_tokens
from odqa_jax.runtime.checkpoint import find_step
from odqa_jax.serving.loaded_system import SystemAnswer
from odqa_jax.serving.questions import check_texts
from odqa_jax.serving.views import Record, span_view, written_view
from odqa_jax.text.sentencepiece import load_any_tokenizer
from odqa_jax.text.tokenizer import load_tokenizer

_STORE, _READER_STORE = "corpus", "reader_corpus"


class Reader(abc.ABC):
  """What `load_reader` gives."""

  def read(
    self,
    questions: Sequence[str],
    passages: Sequence[Sequence[str | Passage]],
  ) -> list[SystemAnswer]:
    """Answers every question from its own passages.

    Args:
      questions: their texts.
      passages: of each question, one or more; mere texts are called by their
        number among them, from 0, and untitled.

    Raises:
      ValueError: for one text in place of a list, a blank question, one
        without passages, or a passage that is empty.
    """
    check_texts(questions)
    if len(passages) != len(questions):
      raise ValueError(
        f"{len(passages)} lists of passages do not belong to "
        f"{len(questions)} questions."
      )
    given = [
      _as_passages(question, some)
      for question, some in zip(questions, passages, strict=True)
    ]
    answers: dict[int, SystemAnswer] = {}
    # Those with equally many share the shapes that are compiled.
    for count in sorted({len(some) for some in given}):
      chosen = [i for i, some in enumerate(given) if len(some) == count]
      records = self._read([questions[i] for i in chosen],
                           [given[i] for i in chosen])  # fmt: skip
      for i, record in zip(chosen, records, strict=True):
        answers[i] = _answer(record, given[i])
    return [answers[i] for i in range(len(given))]

  @abc.abstractmethod
  def _read(
    self, questions: Sequence[str], passages: Sequence[Sequence[Passage]]
  ) -> list[Record]:
    """A record for each; every question has as many passages.

    The id of a passage in it is its row among all of them.
    """


def _as_passages(
  question: str, passages: Sequence[str | Passage]
) -> list[Passage]:
  check_texts(passages)
  if not question.strip():
    raise ValueError("a question is empty; ask something.")
  if not passages:
    raise ValueError(f"{question!r} has no passages; give some to read.")
  return [
    check_passage(Passage(str(i), "", each) if isinstance(each, str) else each)
    for i, each in enumerate(passages)
  ]


def _answer(record: Record, passages: Sequence[Passage]) -> SystemAnswer:
  """With the passages' own ids."""
  answer = SystemAnswer.of(record)
  named = [
    dataclasses.replace(p, id=passages[int(p.id) % len(passages)].id)
    for p in answer.passages
  ]
  return dataclasses.replace(answer, passages=tuple(named))


def _rows(passages: Sequence[Sequence[Passage]]) -> np.ndarray:
  shape = len(passages), len(passages[0])
  return np.arange(shape[0] * shape[1], dtype=np.int32).reshape(shape)


class _Spans(Reader):
  """An extractive reader, which reads texts."""

  def __init__(self, reader: SpanReader, most: int) -> None:
    self._reader, self._most = reader, most

  def _read(
    self, questions: Sequence[str], passages: Sequence[Sequence[Passage]]
  ) -> list[Record]:
    texts = PassageList([each for some in passages for each in some])
    before = self._reader.inputs
    inputs = PairInputs(
      before.vocabulary, texts, length=before.length, title=before.title
    )
    asked = [Question(str(i), text, ()) for i, text in enumerate(questions)]
    read = Passages(_rows(passages), {})
    devices = jax.local_device_count()
    found = answer_with_spans(
      dataclasses.replace(self._reader, inputs=inputs),
      asked,
      read,
      most=self._most,
      sizes=steady_sizes(
        inputs.length,
        bulk_tokens(jax.default_backend(), devices),
        rows=read.rows.shape[1],
        devices=devices,
      ),
    )
    return [
      span_view(question, each, read, i, texts)
      for i, (question, (each,)) in enumerate(
        zip(questions, found, strict=True)
      )
    ]


class _Writing(Reader):
  """A reader that writes, with the retriever that it was trained with."""

  def __init__(self, path: str | Path, beams: int) -> None:
    self._path, self._beams = path, beams
    folder = find_step(Path(path))[0].parent
    self._tokenizer = load_tokenizer(folder / "tokenizer")
    own = folder / "reader_tokenizer"
    self._own = load_any_tokenizer(own) if own.is_dir() else None
    self._system: ReadingSystem | None = None

  def _read(
    self, questions: Sequence[str], passages: Sequence[Sequence[Passage]]
  ) -> list[Record]:
    with tempfile.TemporaryDirectory(prefix="odqa-read-") as folder:
      rows = [each for some in passages for each in some]
      stored = [
        Passage(str(i), each.title, each.text) for i, each in enumerate(rows)
      ]
      for name, tokenizer in (
        (_STORE, self._tokenizer),
        (_READER_STORE, self._own),
      ):
        if tokenizer is not None:
          build_corpus(stored, Path(folder) / name, tokenizer)
      system = self._over(Corpus(Path(folder) / _STORE))
      batches = read_batches(
        system,
        encode_request(system, questions),
        _rows(passages),
        batch_size=default_batch_size(system, len(passages[0])),
      )
      answers = [
        answer
        for batch in batches
        for answer in batch.answers(
          max_tokens=system.config.answer_length, beams=self._beams
        )
      ]
      return [
        written_view(question, answer, system.corpus)
        for question, answer in zip(questions, answers, strict=True)
      ]

  def _over(self, corpus: Corpus) -> ReadingSystem:
    """The system with these passages for its evidence, loaded once."""
    if self._system is None:
      self._system = load_reading_system(self._path, corpus)
    before = self._system.gatherer
    inputs = inputs_for(
      self._system.config, before.inputs.vocabulary.fingerprint, corpus
    )
    gatherer = dataclasses.replace(before, corpus=corpus, inputs=inputs)
    return dataclasses.replace(self._system, gatherer=gatherer)


def load_reader(path: str | Path, *, spans: int = 10, beams: int = 1) -> Reader:
  """Loads what reads: a reader that extracts spans, or one that writes.

  >>> reader = load_reader("work/reader")
  >>> (answer,) = reader.read(
  ...   ["who wrote Emma"], [["Emma is a novel by Jane Austen."]]
  ... )
  >>> answer.text in "Emma is a novel by Jane Austen."
  True

  Args:
    path: a training workdir, one step of it, or a published model for question
      answering.
    spans: that an extractive reader compares.
    beams: hypotheses of one that writes; 1 is greedy.

  Raises:
    ValueError: if the checkpoint holds no reader.
  """
  for name, value in {"spans": spans, "beams": beams}.items():
    if value < 1:
      raise ValueError(f"{name}={value} is below 1.")
  if not holds_span_reader(path):
    if not holds_reader(path):
      raise ValueError(f"{path} holds no reader; name one that was trained.")
    return _Writing(path, beams)
  nothing = PassageList([])
  if holds_unified(path):
    return _Spans(load_unified(path, nothing).reader, spans)
  return _Spans(load_span_reader(path, nothing), spans)
