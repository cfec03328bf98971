"""Question files → prepared question sets, each in a folder of its own."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from odqa_jax.data.formats.files import read_questions, tell_counts
from odqa_jax.data.formats.judgements import Judged, with_positives
from odqa_jax.data.formats.tfds_sets import is_tfds, set_name
from odqa_jax.data.questions.sets import Question, write_questions
from odqa_jax.data.raw.formats import Format
from odqa_jax.data.raw.records import RawFile
from odqa_jax.data.raw.rejections import Rejections
from odqa_jax.runtime.progress import progress_bar

_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


def question_set_name(source: str) -> str:
  """Its own, if it is a folder; the file's stem, or NAME-SPLIT."""
  if is_tfds(source):
    return set_name(source)
  if Path(source).is_dir():
    return Path(source).absolute().name
  name = Path(source).name.replace(":", "-")
  for ending in _COMPRESSED:
    name = name.removesuffix(ending)
  return name.rsplit(".", 1)[0]


def question_set_names(sources: Sequence[str]) -> list[str]:
  """The folder name of every set.

  Raises:
    ValueError: two sets would have one folder, or one has no name.
  """
  names = [question_set_name(source) for source in sources]
  first: dict[str, str] = {}
  for source, name in zip(sources, names, strict=True):
    if not name:
      raise ValueError(
        f"--questions {source}: the name of the file gives the set no name; "
        "rename it."
      )
    if name in first:
      raise ValueError(
        f"--questions {first[name]} and {source} would both be the set "
        f"{name!r}, and the second would replace the first; give one of them "
        "another name (a link will do), or prepare it into another --out."
      )
    first[name] = source
  return names


def prepare_questions(
  source: str,
  format: Format | None,
  out: Path,
  rejections: Rejections,
  judged: Mapping[str, Judged] = MappingProxyType({}),
) -> dict[str, Any]:
  """Writes one question set; returns how many questions it has, of which kind.

  Args:
    source: a file, or the name of a packaged set.
    format: of the file; None for a packaged set.
    out: the folder.
    rejections: takes bad records.
    judged: question → passages that are right or wrong for it.
  """
  file = RawFile(source, rejections) if format else None
  questions = read_questions(file or source, format)
  unanswered = known = 0

  def counted() -> Iterator[Question]:
    nonlocal unanswered, known
    for question in questions:
      unanswered += not question.answers
      if question.id in judged:
        known += 1
        question = with_positives(question, judged[question.id])
      yield question

  with progress_bar(f"questions {out.name}", 0, "questions") as update:
    written = write_questions(counted(), out, out.name, progress=update)
  figures: dict[str, Any] = {"count": int(written["count"])}
  figures["without_answers"] = unanswered
  if judged:
    figures["judged"] = known
  if file is not None:
    tell_counts(file, unanswered)
    figures["left_out"] = dict(file.left_out)
  return figures


def tell_unjudged(
  judged: Mapping[str, Judged], sets: Mapping[str, Mapping[str, Any]]
) -> None:
  """Says how many judged questions are in a set.

  Raises:
    ValueError: if none is.
  """
  if not judged:
    return
  found = sum(figures["judged"] for figures in sets.values())
  name = next(iter(judged))
  if not found:
    raise ValueError(
      f"{judged[name].file.path}: none of its {len(judged)} questions is in "
      f"--questions (the first is {name!r}); give files whose ids agree."
    )
  print(
    f"{judged[name].file.path}: {found} questions have passages from it.",
    file=sys.stderr,
  )
