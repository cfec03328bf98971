"""Any table of records, by the names that its user gives its columns.

    named_columns("question=Query,answers=Gold", "questions")   # a Format

The file may be Parquet, JSON lines, a JSON array, or CSV or TSV under a header:
the character between columns is that of the two which gives the header all of
the named columns.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.formats import fields
from odqa_jax.data.formats.joined import joined_corpus, joined_questions
from odqa_jax.data.formats.literals import list_of_strings
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.raw.formats import Format, beginning
from odqa_jax.data.raw.records import Place, RawFile, Record
from odqa_jax.runtime.settings import nearest

Content = Literal["questions", "passages"]

_FLAGS = {"questions": "--columns", "passages": "--corpus-columns"}
_ID_LISTS = ("positive_ids", "negative_ids", "excluded_ids")
# Of each content: what must be named, and what may be.
_NEEDED = {"questions": ("question",), "passages": ("id", "text")}
_FIELDS = {
  "questions": ("question", "answers", "id", *_ID_LISTS),
  "passages": ("id", "text", "title"),
}


def parse_columns(text: str, content: Content) -> dict[str, str]:
  """From a field to the name of its column.

  Args:
    text: FIELD=COLUMN[,FIELD=COLUMN…].
    content: of which the fields are.

  Raises:
    ValueError: for an unknown field, with the nearest one, or if one is named
      twice or is missing.
  """
  flag, columns = _FLAGS[content], {}
  for part in text.split(","):
    field, equals, column = part.partition("=")
    if not equals or not column:
      raise ValueError(f"{flag} {text}: {part!r} is not FIELD=COLUMN.")
    if field not in _FIELDS[content]:
      raise ValueError(
        f"{flag} {text}: {field!r} is no field of {content}; "
        f"{nearest(field, _FIELDS[content])}"
      )
    if field in columns:
      raise ValueError(f"{flag} {text}: {field!r} is named twice.")
    columns[field] = column
  for field in _NEEDED[content]:
    if field not in columns:
      raise ValueError(f"{flag} {text}: name the column of {field}: {field}=….")
  return columns


def named_columns(text: str, content: Content) -> Format:
  """A format of records with these columns; see `parse_columns`."""
  columns = parse_columns(text, content)
  needed = [f for f in columns if f in (*_NEEDED[content], "id")]

  def records(file: RawFile) -> Iterator[tuple[Place, Record]]:
    named, known = set(columns.values()), set[str]()
    unseen = set(named)
    for place, record in _table(file, columns):
      if unseen:
        unseen -= record.keys()
        known |= record.keys()
      missing = next((f for f in needed if columns[f] not in record), None)
      if missing is not None:
        keys = sorted(record)
        file.attempt(place, _check_known, columns[missing], missing, keys)
        continue
      yield place, {f: record.get(c) for f, c in columns.items()}
    if known:
      # A record of JSON may lack what another has; not all of them.
      _check_all_known(file, columns, sorted(known))

  about = ", ".join(
    f"{field} from {column!r}" for field, column in columns.items()
  )
  if content == "questions":
    read = joined_questions(records, _question)
    return Format("columns", about, _never, questions=read)
  return Format(
    "columns", about, _never, passages=joined_corpus(_passage, records)
  )


def _never(start: Any) -> str:
  """The user alone can tell."""
  del start
  return ""


def _table(
  file: RawFile, columns: Mapping[str, str]
) -> Iterator[tuple[Place, Record]]:
  """Records of the file.

  Raises:
    ValueError: if it has not the columns, naming the nearest.
  """
  start = beginning(file)
  if start.keys is not None:
    if start.kind == "Parquet":
      _check_all_known(file, columns, list(start.keys))
    return file.records()
  headers = {d: _header(file, d) for d in ("\t", ",")}
  for delimiter, header in headers.items():
    if set(columns.values()) <= set(header):
      return file.table_rows(delimiter)
  _check_all_known(file, columns, max(headers.values(), key=len))
  raise AssertionError("one of the columns is unknown")


def _header(file: RawFile, delimiter: str) -> list[str]:
  try:
    _, header = next(RawFile(file.path).csv_rows(delimiter), (None, []))
  except ValueError:
    # By the other delimiter it may be a header.
    return []
  return header


def _check_all_known(
  file: RawFile, columns: Mapping[str, str], known: list[str]
) -> None:
  for field, column in columns.items():
    try:
      _check_known(column, field, known)
    except ValueError as error:
      raise ValueError(f"{file.path}: {error}") from error


def _check_known(column: str, field: str, known: list[str]) -> None:
  if column not in known:
    raise ValueError(
      f"there is no column {column!r} for {field}; {nearest(column, known)}"
    )


def _question(record: Record, n: int) -> Question:
  positive_ids, negative_ids, excluded_ids = (
    _ids(record.get(name), name) for name in _ID_LISTS
  )
  return Question(
    id=fields.identifier(record.get("id", n)),
    question=fields.text(record, "question"),
    answers=fields.answer_strings(record.get("answers") or None, "answers"),
    positive_ids=positive_ids,
    negative_ids=negative_ids,
    excluded_ids=excluded_ids,
  )


def _ids(value: Any, name: str) -> tuple[str, ...]:
  """Passage ids: a list, the text of a list, or one id; nothing is none."""
  if value is None or value == "":
    return ()
  if isinstance(value, str) and value.lstrip().startswith("["):
    value = list_of_strings(value)
  elif not isinstance(value, list):
    value = [value]
  return fields.ids({name: value}, name)


def _passage(record: Record) -> Passage:
  title = record.get("title")
  return Passage(
    fields.identifier(record["id"]),
    "" if title is None else fields.text(record, "title"),
    fields.text(record, "text"),
  )
