"""Questions as records, and their storage: a TFDS dataset of ArrayRecords.

A question set is one folder that any TFDS or Grain program can read:

    write_questions(read_questions("NQ-open.dev.jsonl"), folder, "nq_dev")
    QuestionSet(folder)[0].answers
    tfds.builder_from_directory(folder).as_data_source()["questions"][0]

Its manifest has a hash of the content, by which runs and training pairs
recognise the set. TensorFlow is not needed.
"""

import dataclasses
import hashlib
import json
import operator
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, SupportsIndex

from odqa_jax.data.raw.tfds_folder import TEXT, write_dataset
from odqa_jax.runtime.artifact import existing, open_artifact, publish

SPLIT = "questions"
_READ_AHEAD = 1024
_LISTS = ("answers", "positive_ids", "negative_ids", "excluded_ids")
_TEXTS = ("id", "question", "answer_type")
FEATURES = {n: TEXT for n in _TEXTS} | {n: [TEXT] for n in _LISTS}


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
  """One question, checked when it is made.

  >>> Question("1", "who wrote Emma", ("Jane Austen",)).answers
  ('Jane Austen',)

  Attributes:
    id: its name in run files; no white space.
    question: the text.
    answers: accepted answers, the preferred first; empty where a source has
      none (positives alone can train a retriever).
    answer_type: whether `answers` are strings or regular expressions.
    positive_ids: passages known to answer the question.
    negative_ids: passages known to mislead, the hardest first.
    excluded_ids: passages that are never returned for it and never counted.

  Raises:
    ValueError: if a field breaks these rules.
  """

  id: str
  question: str
  answers: tuple[str, ...]
  answer_type: Literal["string", "regex"] = "string"
  positive_ids: tuple[str, ...] = ()
  negative_ids: tuple[str, ...] = ()
  excluded_ids: tuple[str, ...] = ()

  def __post_init__(self) -> None:
    if not self.id or any(c.isspace() for c in self.id):
      raise ValueError(
        f"the question id {self.id!r} is empty or has white space in it, at "
        "which run files are split; give it another id."
      )
    if not self.question.strip():
      raise ValueError(
        f"question {self.id} is empty; give it a text or remove it."
      )
    if any(not answer.strip() for answer in self.answers):
      raise ValueError(
        f"question {self.id} has an empty answer, which every passage would "
        f"contain: {list(self.answers)!r}; remove that answer."
      )
    if self.answer_type == "regex":
      for answer in self.answers:
        _check_pattern(answer)
    _check_encodable(self)


def _check_pattern(pattern: str) -> None:
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", FutureWarning)
      re.compile(pattern)
  except re.error as error:
    raise ValueError(
      f"the answer {pattern!r} is no valid regular expression ({error}); "
      "mend it, or read the file with a format of plain answers."
    ) from error


def _check_encodable(question: Question) -> None:
  """JSON and Python literals can spell half a surrogate pair; UTF-8 cannot."""
  texts = (question.id, question.question, *question.answers)
  ids = question.positive_ids + question.negative_ids + question.excluded_ids
  for text in texts + ids:
    if "\0" in text:
      raise ValueError(
        f"{text!r} holds a NUL character, which is no text; remove it."
      )
    try:
      text.encode()
    except UnicodeEncodeError as error:
      raise ValueError(
        f"{text!r} has half a surrogate pair at character {error.start}, "
        "which is no text; write the whole character."
      ) from error


def question_record(question: Question) -> dict[str, Any]:
  """What a set stores of a question, by `FEATURES`."""
  # Not dataclasses.asdict: it copies every tuple and string.
  return {name: getattr(question, name) for name in (*_TEXTS, *_LISTS)}


def stored_question(record: dict[str, Any]) -> Question:
  """The question of a stored record."""
  lists: dict[str, Any] = {
    name: tuple(value.decode() for value in record[name]) for name in _LISTS
  }
  return Question(
    id=record["id"].decode(),
    question=record["question"].decode(),
    answer_type=record["answer_type"].decode(),
    **lists,
  )


class _Fingerprint:
  """Hash of all questions in order; it also refuses an id used twice."""

  def __init__(self) -> None:
    self._hash = hashlib.sha256()
    self._ids: set[str] = set()

  @property
  def count(self) -> int:
    return len(self._ids)

  def add(self, question: Question) -> None:
    if question.id in self._ids:
      raise ValueError(
        f"the question id {question.id!r} is used twice, the second time by "
        f"question {self.count}; ids name the rows of run files, so make "
        "them unique."
      )
    self._ids.add(question.id)
    line = json.dumps(question_record(question), sort_keys=True)
    self._hash.update(line.encode() + b"\n")

  def hexdigest(self) -> str:
    return self._hash.hexdigest()


def write_questions(
  questions: Iterable[Question],
  directory: str | Path,
  name: str,
  *,
  progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
  """Writes a question set; the same content again leaves the folder alone.

  The questions are streamed. The folder appears, or is replaced, when it is
  complete: until then everything lies in `DIRECTORY.tmp`.

  Args:
    questions: what to write, in this order; at least one, ids unique.
    directory: the folder to make.
    name: of the set; TFDS sees it in lower case with underscores.
    progress: called with (questions so far, 0).

  Returns:
    The manifest: name, count, and the fingerprint, which is the sha256 of the
    content in order.

  Raises:
    ValueError: if there are no questions, an id occurs twice, or `directory`
      holds something else.
  """
  before = existing(directory, "questions")
  seen = _Fingerprint()
  with publish(directory, "questions", {}) as draft:
    records = map(question_record, _watched(questions, seen, progress))
    write_dataset(draft.folder, name, SPLIT, FEATURES, records)
    fingerprint = seen.hexdigest()
    draft.counts |= {"name": name, "count": seen.count}
    draft.counts["fingerprint"] = fingerprint
    draft.unchanged = bool(
      before and before.manifest["fingerprint"] == fingerprint
    )
  return draft.manifest


def _watched(
  questions: Iterable[Question],
  seen: _Fingerprint,
  progress: Callable[[int, int], None] | None,
) -> Iterator[Question]:
  """Passes questions on, adding each to `seen`."""
  for question in questions:
    seen.add(question)
    if progress is not None and seen.count % _READ_AHEAD == 0:
      progress(seen.count, 0)
    yield question
  if progress is not None:
    progress(seen.count, 0)
  if not seen.count:
    raise ValueError(
      "there are no questions to write; check that the files are not empty."
    )


class QuestionSet:
  """The questions of a folder that `write_questions` made.

  It is a random-access source for Grain, and reads records when asked.

  Attributes:
    manifest: see `write_questions`.
    fingerprint: sha256 of the content in order.
  """

  def __init__(self, directory: str | Path) -> None:
    """Opens the folder.

    Raises:
      ValueError: naming the file that is missing or damaged.
    """
    import tensorflow_datasets as tfds

    self.manifest = open_artifact(directory, "questions").manifest
    self.fingerprint: str = self.manifest["fingerprint"]
    builder = tfds.builder_from_directory(str(directory))
    self._source = builder.as_data_source()[SPLIT]

  def __len__(self) -> int:
    return int(self.manifest["count"])

  def __getitem__(self, row: SupportsIndex) -> Question:
    index = operator.index(row)
    if not -len(self) <= index < len(self):
      raise IndexError(f"row {index} of a set of {len(self)} questions.")
    return stored_question(self._source[index % len(self)])

  def __iter__(self) -> Iterator[Question]:
    for start in range(0, len(self), _READ_AHEAD):
      rows = range(start, min(start + _READ_AHEAD, len(self)))
      for record in self._source.__getitems__(list(rows)):
        yield stored_question(record)
