"""A file's layout joined with what one of its records means.

    joined_questions(RawFile.records, nq_open)   # a reader of questions

Errors of a record gain its place; a file that may hold some bad records leaves
them out (`RawFile.attempt`).
"""

from collections.abc import Callable, Iterator
from typing import Any

from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.raw.formats import Reader
from odqa_jax.data.raw.records import Place, RawFile

Layout = Callable[[RawFile], Iterator[tuple[Place, Any]]]


def joined_questions(
  layout: Layout, question_of: Callable[[Any, int], Question]
) -> Reader:
  """A reader of questions; `question_of` takes a record and its number."""

  def read(file: RawFile) -> Iterator[tuple[Place, Question]]:
    for n, (place, record) in enumerate(layout(file)):
      question = file.attempt(place, question_of, record, n)
      if question is not None:
        yield place, question

  return read


def joined_passages(
  passages_of: Callable[[Any], list[Passage]],
  layout: Layout = RawFile.records,
) -> Reader:
  """A reader of passages, each id once (the ids are held in memory)."""

  def read(file: RawFile) -> Iterator[tuple[Place, Passage]]:
    seen: set[str] = set()
    for place, record in layout(file):
      for passage in file.attempt(place, passages_of, record) or ():
        if passage.id not in seen:
          seen.add(passage.id)
          yield place, passage

  return read


def joined_corpus(
  passage_of: Callable[[Any], Passage | list[Passage]],
  layout: Layout = RawFile.records,
) -> Reader:
  """A reader of a corpus, which should name each passage once.

  Nothing is left out or remembered: a repeated id is for the corpus to refuse.
  """

  def read(file: RawFile) -> Iterator[tuple[Place, Passage]]:
    for place, record in layout(file):
      found = file.attempt(place, passage_of, record)
      for passage in [found] if isinstance(found, Passage) else found or ():
        yield place, passage

  return read
