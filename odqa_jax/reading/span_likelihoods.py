"""What a generative reader says of spans, and what it writes itself.

    system = load_reading_system("work/fid", corpus)
    reader = GenerativeReader(system, batch_size=8)
    for said in read_and_score(reader, asked):
      said.answer.text, said.log_probs

R2-D2 (Fajcik et al. 2021) lets a reader that writes score the spans which an
extractive reader has found, from passages that both have read.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from odqa_jax.data.examples.batch import ANSWER_BUCKETS, bucket_length
from odqa_jax.reading.answer import (
  Answer,
  ReadBatch,
  Request,
  encode_request,
  read_batches,
)
from odqa_jax.reading.system import ReadingSystem


@dataclasses.dataclass(frozen=True)
class GenerativeReader:
  """A reader that writes, and how it is used.

  Attributes:
    system: the reader with the retriever of its training, which weighs the
      passages but does not search.
    batch_size: questions at a time.
    beams: hypotheses of the beam search; 1 is greedy.
  """

  system: ReadingSystem
  batch_size: int
  beams: int = 1


class Asked(NamedTuple):
  """What is asked of a generative reader.

  Attributes:
    question: its text.
    rows: passages, the best first; −1: no passage, left out.
    texts: answers of others, to be scored.
  """

  question: str
  rows: Int[np.ndarray, " k"]
  texts: Sequence[str]


class Written(NamedTuple):
  """What it says.

  Attributes:
    answer: its own.
    log_probs: log p(a | q) of each text and its end, as the task trains it.
  """

  answer: Answer
  log_probs: list[float]


def read_and_score(
  reader: GenerativeReader, asked: Iterable[Asked]
) -> Iterator[Written]:
  """Reads, writes an answer and scores those of others, in order.

  Of the passages the first are read, as many as in training at most; a
  question without any is read alone, or with the null document. Its answer and
  the texts get their log-probability from the same function. A text is scored
  whole, however many tokens it has: cut to the reader's answer length it would
  be compared by fewer factors than the others.

  Questions come in batches, so memory does not grow with their number.

  Args:
    reader: what reads.
    asked: questions, passages and texts.

  Raises:
    ValueError: for an empty question.
  """
  remaining = iter(asked)
  while some := list(islice(remaining, reader.batch_size)):
    yield from _read(reader, some)


def _read(
  reader: GenerativeReader, asked: Sequence[Asked]
) -> Iterator[Written]:
  """A few questions; those with equally many passages share a batch."""
  system = reader.system
  request = encode_request(system, [each.question for each in asked])
  rows = [each.rows[each.rows >= 0][: system.config.k] for each in asked]
  counts = np.array([len(some) for some in rows])
  said: dict[int, Written] = {}
  for count in np.unique(counts):
    places = np.flatnonzero(counts == count)
    together = Request(
      tuple(request.texts[i] for i in places),
      [request.reader_tokens[i] for i in places],
      request.embeddings[places],
    )
    for batch in read_batches(
      system,
      together,
      np.stack([rows[i] for i in places]),
      batch_size=reader.batch_size,
    ):
      mine = places[batch.start : batch.stop].tolist()
      answers = batch.answers(
        max_tokens=system.config.answer_length, beams=reader.beams
      )
      scores = _log_probs(system, batch, [asked[i].texts for i in mine])
      said |= zip(mine, map(Written, answers, scores), strict=True)
  return (said[i] for i in range(len(asked)))


def _log_probs(
  system: ReadingSystem, batch: ReadBatch, texts: Sequence[Sequence[str]]
) -> list[list[float]]:
  """Log-probabilities of any number of texts for every question of a batch.

  Equal ones are scored once. One text of every question is computed at a time,
  from the shortest on, so that those of about the same length meet.
  """
  end = system.vocabulary.eos_id
  tokens = [
    [(*ids, end) for ids in system.vocabulary.encode_batch(some)]
    for some in texts
  ]
  different = [sorted(set(some), key=lambda t: (len(t), t)) for some in tokens]
  known: list[dict[tuple[int, ...], float]] = [{} for _ in texts]
  for j in range(max(map(len, different))):
    column = [some[j] if j < len(some) else (end,) for some in different]
    values = batch.log_probs(column, _padded(max(map(len, column))))
    for i, value in enumerate(values.tolist()):
      known[i][column[i]] = value
  return [
    [known[i][target] for target in some] for i, some in enumerate(tokens)
  ]


def _padded(longest: int) -> int:
  """Tokens to pad to: a few lengths, each of which is compiled once."""
  step = ANSWER_BUCKETS[-1]
  return bucket_length(
    np.array([longest]), -(-longest // step) * step, ANSWER_BUCKETS
  )
