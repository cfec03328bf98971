"""Evidence passages read from files: DPR TSV, JSON lines, or another format.

Files are streamed record by record; nothing here holds more than one passage.
"""

import hashlib
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from odqa_jax.data.raw.formats import (
  Beginning,
  Format,
  Reader,
  detect,
  has_keys,
)
from odqa_jax.data.raw.records import Place, RawFile, Record, Row
from odqa_jax.data.raw.rejections import Rejections
from odqa_jax.runtime.files import file_hash

_COLUMNS = ("id", "text", "title")
# What a passage's fields are called in files of records; the first counts.
_KEYS = {
  "id": ("id", "_id", "docid", "doc_id", "passage_id", "psg_id", "pid"),
  "title": ("title",),
  "text": ("text", "context", "contents"),
}
_ACCEPTED = (
  "a passage file is DPR TSV (header id<TAB>text<TAB>title) or JSON lines "
  '({"id", "title", "text" or "context"}), plain or compressed'
)


@dataclass(frozen=True, slots=True)
class Passage:
  """One piece of evidence.

  >>> Passage("austen", "Emma", "A novel by Jane Austen.").title
  'Emma'

  Attributes:
    id: unique within a corpus.
    title: of the article it comes from; may be empty.
    text: never empty.
  """

  id: str
  title: str
  text: str


@runtime_checkable
class PassageTexts(Protocol):
  """What can be asked of passages by row: a corpus, or part of one."""

  def __len__(self) -> int:
    """How many passages."""

  def id(self, row: int) -> str:
    """Id of the passage in a row."""

  def title(self, row: int) -> str:
    """Its title."""

  def text(self, row: int) -> str:
    """Its text."""

  def find(self, passage_id: str) -> int | None:
    """Row of the passage with an id; None if there is none."""


class PassageList:
  """Passages in memory; the id of each is the number of its row."""

  def __init__(self, passages: Sequence[Passage]) -> None:
    self._passages = passages

  def __len__(self) -> int:
    return len(self._passages)

  def id(self, row: int) -> str:
    """Id of the passage in a row."""
    return str(row)

  def title(self, row: int) -> str:
    """Its title."""
    return self._passages[row].title

  def text(self, row: int) -> str:
    """Its text."""
    return self._passages[row].text

  def find(self, passage_id: str) -> int | None:
    """Row of the passage with an id; None if there is none."""
    row = int(passage_id) if passage_id.isdecimal() else -1
    return row if 0 <= row < len(self) else None


def check_passage(passage: Passage) -> Passage:
  """Returns `passage` if it can be stored.

  Raises:
    ValueError: if a field holds NUL or a lone surrogate, or id or text is
      empty.
  """
  for name in ("id", "title", "text"):
    value = getattr(passage, name)
    if "\0" in value:
      raise ValueError(
        f"the {name} holds a NUL character; passages are plain text; remove it."
      )
    try:
      value.encode("utf-8")
    except UnicodeEncodeError as error:
      raise ValueError(
        f"the {name} holds a lone surrogate "
        f"({value[error.start]!r}); text must be valid Unicode; repair it."
      ) from error
    if name != "title" and not value.strip():
      raise ValueError(
        f"the {name} is empty; every passage needs an id and a text; "
        "fill it or remove the passage."
      )
  return passage


def _tsv_passages(
  layout: Callable[[RawFile], Iterator[tuple[Place, Row]]],
) -> Reader:
  """A reader of rows under a header."""

  def read(file: RawFile) -> Iterator[tuple[Place, Passage]]:
    rows = layout(file)
    place, header = next(rows, (Place(file.path, 1), []))
    if sorted(header) != sorted(_COLUMNS):
      raise ValueError(
        f"{place}: the first line is {[cell[:40] for cell in header[:4]]}, not "
        f"a header; {_ACCEPTED}."
      )
    order = [header.index(name) for name in ("id", "title", "text")]
    for place, row in rows:
      if len(row) == len(header):
        yield place, Passage(*(row[i] for i in order))
      else:
        file.reject(
          place,
          f"{len(row)} columns; the header names {len(header)} "
          f"({', '.join(header)}), tab-separated; mend the row.",
        )

  return read


def _json_passages(file: RawFile) -> Iterator[tuple[Place, Passage]]:
  for place, record in file.records():
    passage = file.attempt(place, passage_of, record)
    if passage is not None:
      yield place, passage


def passage_of(record: Record) -> Passage:
  """The passage of a record, whichever of the known keys it has.

  Raises:
    ValueError: if it has no id or no text, or they are of other types.
  """
  found = {}
  for name, aliases in _KEYS.items():
    key = next((k for k in aliases if k in record), None)
    if key is None and name != "title":
      raise ValueError(
        f"no {name} (nor {', '.join(aliases[1:])}) among the keys "
        f"{sorted(record)[:12]}; {_ACCEPTED}."
      )
    value = record[key] if key is not None else None
    if name == "title" and value is None:
      value = ""
    elif name == "id" and type(value) is int:
      value = str(value)
    if not isinstance(value, str):
      raise ValueError(
        f"{key} is {reprlib.repr(value)}, not a string; give it one."
      )
    found[name] = value
  return Passage(**found)


def _any_text(start: Beginning) -> str:
  return "rows between tabs" if start.kind == "text" else ""


# Whatever is taken for a corpus, and no other format, is one of these.
PLAIN_FORMATS = (
  Format(
    "passages_jsonl",
    "JSON lines, an array or Parquet of {id, title, text or context}",
    has_keys(),
    passages=_json_passages,
  ),
  Format(
    "passages_tsv",
    "DPR's TSV with the header id, text, title",
    _any_text,
    passages=_tsv_passages(RawFile.csv_rows),
  ),
  Format(
    "passages_tsv_unquoted",
    "TSV with the header id, text, title in which quotes mean nothing",
    lambda start: "",
    passages=_tsv_passages(RawFile.tab_rows),
  ),
)


def _check_new(
  passage: Passage, place: Place, places: dict[str, Place] | None
) -> Passage:
  """Checks a passage, and that its id is new where `places` are remembered."""
  check_passage(passage)
  if places is not None and places.setdefault(passage.id, place) != place:
    raise ValueError(
      f"the id {passage.id!r} is already that of {places[passage.id]}."
    )
  return passage


class PassageFile:
  """A passage file, its identity, and its records with their numbers.

  Attributes:
    path: where it is; `name` is its last part.
    size: bytes on disk.
    format: how it is read.
    sha256: hex digest of those bytes; None until `records` has ended.
  """

  def __init__(
    self,
    path: str | Path,
    format: Format | None = None,
    rejections: Rejections | None = None,
  ):
    """Raises ValueError if `path` is not a file; no format: a plain one."""
    self._file = RawFile(path, rejections)
    self.path = self._file.path
    self.name = self.path.name
    self.size = self.path.stat().st_size
    self.format = format or detect(self._file, PLAIN_FORMATS)[0]
    self._array: str | None = None
    self.sha256: str | None = None

  def describe(self) -> dict[str, Any]:
    """What a manifest keeps of this file; `records` must have ended."""
    return {
      "name": self.name,
      "format": self.format.name,
      "size": self.size,
      "sha256": self.sha256,
    }

  def matches(self, entry: Mapping[str, Any]) -> bool:
    """Whether this file has the bytes that `entry` describes, read alike.

    Neither name nor time of writing says that; so all bytes are hashed, which
    takes a second or two for a gigabyte, unless there are more or fewer.
    """
    mine = {"size": self.size, "format": self.format.name}
    if any(entry.get(key) != value for key, value in mine.items()):
      return False
    return entry.get("sha256") == file_hash(self.path)

  @property
  def left_out(self) -> dict[str, int]:
    """How many sound records the last reading had no use for, by reason."""
    return dict(sorted(self._file.left_out.items()))

  def locate(self, number: int) -> str:
    """`FILE:LINE` or `FILE:KEY[POSITION]` for messages."""
    return str(Place(self.path, number, self._array))

  def records(self) -> Iterator[tuple[Passage, int]]:
    """Yields every passage with the number of its line or array item."""
    if self.format.passages is None:
      raise ValueError(
        f"{self.path}: files of the format {self.format.name!r} hold no "
        f"passages; {_ACCEPTED}."
      )
    self._file.begin()
    # The corpus refuses an id that is there twice, and needs no memory for it.
    places: dict[str, Place] | None = {} if self._file.may_reject else None
    for place, passage in self.format.passages(self._file):
      self._array = place.array
      if passage.id and not passage.text.strip():
        self._file.leave_out("passages without text")
        continue
      if self._file.attempt(place, _check_new, passage, place, places):
        yield passage, place.number
    self.sha256 = self._file.digest.hexdigest()


class MemoryPassages:
  """Passages that a program yields, with the interface of `PassageFile`."""

  def __init__(
    self,
    passages: Iterable[Passage] | Callable[[], Iterator[Passage]],
    name: str,
  ):
    """Takes what can be started again, or an iterator, which is copied."""
    if isinstance(passages, Iterator):
      passages = list(passages)
    self._passages = passages
    self.name = name
    self.left_out: dict[str, int] = {}
    self.size = 0
    self.sha256: str | None = None

  def locate(self, line: int) -> str:
    """`NAME:NUMBER` for messages."""
    return f"{self.name}:{line}"

  def describe(self) -> dict[str, Any]:
    """What a manifest keeps; size and hash are of the passages' text."""
    return {"name": self.name, "size": self.size, "sha256": self.sha256}

  def matches(self, entry: Mapping[str, Any]) -> bool:
    """Whether `entry` describes these passages; reads them all."""
    for _ in self.records():
      pass
    return entry.get("sha256") == self.sha256

  def records(self) -> Iterator[tuple[Passage, int]]:
    """Yields every passage with its number, from 1."""
    digest, size = hashlib.sha256(), 0
    again = self._passages
    passages = again() if callable(again) else again
    for number, passage in enumerate(passages, 1):
      try:
        check_passage(passage)
      except ValueError as error:
        raise ValueError(f"{self.locate(number)}: {error}") from error
      content = passage_bytes(passage)
      digest.update(content)
      size += len(content)
      yield passage, number
    self.sha256, self.size = digest.hexdigest(), size


def passage_bytes(passage: Passage) -> bytes:
  """An unambiguous serialisation, for content hashes."""
  fields = [f.encode() for f in (passage.id, passage.title, passage.text)]
  lengths = b"%d %d %d\n" % tuple(len(field) for field in fields)
  return lengths + b"".join(fields)


Source = PassageFile | MemoryPassages


def open_sources(
  sources: str | Path | Sequence[str | Path | Source] | Iterable[Passage],
  name: str,
) -> list[Source]:
  """What a corpus is built from: files, in order, or passages called `name`."""
  if isinstance(sources, str | Path):
    sources = [sources]
  items: Any = sources
  given = isinstance(sources, Sequence) and sources[:1]
  if not given or isinstance(given[0], Passage):
    return [MemoryPassages(items, name)]
  return [
    PassageFile(item) if isinstance(item, str | Path) else item
    for item in items
  ]


def read_passages(
  path: str | Path, format: Format | None = None
) -> Iterator[Passage]:
  """Streams the passages of one file.

  Args:
    path: the file, plain or compressed.
    format: how it is read; None: one of `PLAIN_FORMATS`.

  Raises:
    ValueError: naming file and line, for anything that is not such a file:
      no header, a short or long row, broken JSON, bytes that are not UTF-8,
      NUL, an empty id. Passages without text are left out.
  """
  source = PassageFile(path, format)
  return (passage for passage, _ in source.records())
