"""Files of questions and passages, read by the formats of `table.FORMATS`.

    read_questions("NQ-open.dev.jsonl.gz")            # format from content
    read_questions("train.json", format="squad")      # or forced
    read_questions("vital_articles:dev")              # packaged, by split
    read_questions("trivia_qa/rc.nocontext:train")    # prepared by TFDS

Wrong input raises ValueError with FILE:LINE (in arrays FILE:[POSITION]) and the
remedy.
"""

import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from odqa_jax.data.embedded.sets import EMBEDDED
from odqa_jax.data.formats.columns import Content, named_columns
from odqa_jax.data.formats.table import FORMATS
from odqa_jax.data.formats.tfds_sets import is_tfds, read_tfds_questions
from odqa_jax.data.formats.trec import look_like_patterns
from odqa_jax.data.questions.sets import Question, QuestionSet
from odqa_jax.data.raw.formats import Format, detect, named_format
from odqa_jax.data.raw.records import Place, RawFile

_EXAMINED = 64


def choose_format(
  path: str | Path,
  content: Content,
  name: str | None = None,
  columns: str = "",
) -> tuple[Format, str]:
  """How a file is read, and why.

  Args:
    path: the file.
    content: what is wanted of it; other formats are not considered.
    name: forces a format; None detects it.
    columns: FIELD=COLUMN[,…] of any table, in place of a format.

  Raises:
    ValueError: for an unknown name, with the nearest one; for a format that
      has not what is wanted; or if no format fits.
  """
  file = RawFile(path)
  if columns:
    if name is not None:
      raise ValueError(
        f"the format {name!r} has columns of its own: give it, or the columns "
        f"{columns!r}."
      )
    return named_columns(columns, content), "as told"
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


def tell_format(
  path: str | Path,
  content: Content,
  name: str | None = None,
  columns: str = "",
) -> Format:
  """How a file is read; says on stderr what was chosen, and why."""
  format, reason = choose_format(path, content, name, columns)
  print(
    f"{path}: {content} in the format {format.name} ({reason}): {format.about}",
    file=sys.stderr,
  )
  if content == "questions" and name is None:
    _tell_patterns(RawFile(path), format)
  return format


def _tell_patterns(file: RawFile, format: Format) -> None:
  """Says which flag reads answers as patterns, where they look like some."""
  assert format.questions is not None
  try:
    records = itertools.islice(format.questions(file), _EXAMINED)
    sample = [question for _, question in records]
  except ValueError:
    # The reading will say what is wrong, and where.
    return
  plain = [q for q in sample if q.answer_type == "string"]
  if signs := look_like_patterns(plain):
    print(
      f"{file.path}: {signs} of the first {len(plain)} answers look like "
      "regular expressions; they are read as plain words. If they are "
      "CuratedTREC's patterns, give --format curated_trec.",
      file=sys.stderr,
    )


def is_packaged(path: str | Path) -> bool:
  """Whether it names a set that is no file: of a package, or of TFDS."""
  embedded = str(path).partition(":")[0] in EMBEDDED
  return is_tfds(path) or (embedded and not Path(path).exists())


def read_questions(
  path: str | Path | RawFile, format: str | Format | None = None
) -> Iterator[Question]:
  """Streams the questions of a file or of a packaged dataset.

  Args:
    path: a file, plain or compressed, or `NAME:SPLIT` of a packaged dataset,
      such as "factbook:train", or of one that TFDS has prepared. A `RawFile`
      may leave out bad records, and has the count of those of no use.
    format: one, or a key of `FORMATS`; None to detect it.

  Raises:
    ValueError: for an unknown format, and while reading for bad records.
    ImportError: if the package of a packaged dataset is missing.
  """
  if not isinstance(path, RawFile):
    if format is None and is_tfds(path):
      return read_tfds_questions(str(path))
    if format is None and is_packaged(path):
      name, _, split = str(path).partition(":")
      return EMBEDDED[name](split)
    path = RawFile(path)
  if not isinstance(format, Format):
    format = choose_format(path.path, "questions", format)[0]
  assert format.questions is not None
  return _with_ids_once(path, format.questions(path))


def _with_ids_once(
  file: RawFile, records: Iterable[tuple[Place, Question]]
) -> Iterator[Question]:
  file.begin()
  places: dict[str, Place] = {}
  for place, question in records:
    if question.id not in places:
      places[question.id] = place
      yield question
    else:
      file.reject(
        place,
        f"the id {question.id!r} is already that of {places[question.id]}; "
        "make ids unique, or remove them all to have the questions numbered.",
      )


def tell_counts(file: RawFile, unanswered: int) -> None:
  """Says on stderr what a reading left out, and what has no answers."""
  for what, count in file.left_out.items():
    print(f"{file.path}: {count} {what} are left out.", file=sys.stderr)
  if unanswered:
    print(
      f"{file.path}: {unanswered} questions have no answers; they can be "
      "searched and answered, and no measure by answers counts them.",
      file=sys.stderr,
    )


def open_questions(
  path: str | Path, format: str | None = None, columns: str = ""
) -> list[Question]:
  """The questions of a prepared set, a raw file, or a packaged dataset.

  How a raw file is read is said on stderr.

  Raises:
    ValueError: see `read_questions`; or if a format is given for a prepared
      set, which needs none.
  """
  if not Path(path).is_dir():
    if format is None and not columns and is_packaged(path):
      return list(read_questions(path))
    file = RawFile(path)
    chosen = tell_format(path, "questions", format, columns)
    questions = list(read_questions(file, chosen))
    tell_counts(file, sum(not q.answers for q in questions))
    return questions
  if format is not None or columns:
    flag = f"--columns {columns}" if columns else f"--format {format}"
    raise ValueError(
      f"{path} is a prepared set, which has no other format: {flag} is for raw "
      "files; leave it out."
    )
  return list(QuestionSet(path))
