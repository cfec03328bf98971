"""Files of questions and passages, read by the formats of `table.FORMATS`.

    read_questions("NQ-open.dev.jsonl.gz")            # format from content
    read_questions("train.json", format="squad")      # or forced
    read_questions("vital_articles:dev")              # packaged, by split

Wrong input raises ValueError with FILE:LINE (in arrays FILE:[POSITION]) and the
remedy.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from odqa_jax.data.embedded.sets import EMBEDDED
from odqa_jax.data.formats.table import FORMATS
from odqa_jax.data.questions.sets import Question, QuestionSet
from odqa_jax.data.raw.formats import Format, detect, named_format
from odqa_jax.data.raw.records import Place, RawFile

Content = Literal["questions", "passages"]


def choose_format(
  path: str | Path, content: Content, name: str | None = None
) -> tuple[Format, str]:
  """How a file is read, and why.

  Args:
    path: the file.
    content: what is wanted of it; other formats are not considered.
    name: forces a format; None detects it.

  Raises:
    ValueError: for an unknown name, with the nearest one; for a format that
      has not what is wanted; or if no format fits.
  """
  file = RawFile(path)
  if name is None:
    return detect(file, [f for f in FORMATS.values() if getattr(f, content)])
  format = named_format(name, FORMATS)
  if getattr(format, content) is None:
    known = [f.name for f in FORMATS.values() if getattr(f, content)]
    raise ValueError(
      f"{path}: files of the format {name!r} hold no {content}; formats that "
      f"do: {', '.join(known)}."
    )
  return format, "as told"


def is_packaged(path: str | Path) -> bool:
  """Whether it names a packaged question set, such as "factbook:train"."""
  return str(path).partition(":")[0] in EMBEDDED and not Path(path).exists()


def read_questions(
  path: str | Path, format: str | None = None
) -> Iterator[Question]:
  """Streams the questions of a file or of a packaged dataset.

  Args:
    path: a file, plain or compressed, or `NAME:SPLIT` of a packaged dataset,
      such as "factbook:train".
    format: a key of `FORMATS`; None to detect it.

  Raises:
    ValueError: for an unknown format, and while reading for bad records.
    ImportError: if the package of a packaged dataset is missing.
  """
  if format is None and is_packaged(path):
    name, _, split = str(path).partition(":")
    return EMBEDDED[name](split)
  reader = choose_format(path, "questions", format)[0].questions
  assert reader is not None
  return _with_ids_once(reader(RawFile(path)))


def _with_ids_once(
  records: Iterable[tuple[Place, Question]],
) -> Iterator[Question]:
  places: dict[str, Place] = {}
  for place, question in records:
    if question.id in places:
      raise ValueError(
        f"{place}: the id {question.id!r} is already that of "
        f"{places[question.id]}; make ids unique, or remove them all to have "
        "the questions numbered."
      )
    places[question.id] = place
    yield question


def open_questions(
  path: str | Path, format: str | None = None
) -> list[Question]:
  """The questions of a prepared set, a raw file, or a packaged dataset.

  Raises:
    ValueError: see `read_questions`; or if a format is given for a prepared
      set, which needs none.
  """
  if not Path(path).is_dir():
    return list(read_questions(path, format))
  if format is not None:
    raise ValueError(
      f"{path} is a prepared set, which has no other format: --format "
      f"{format} is for raw files; leave it out."
    )
  return list(QuestionSet(path))
