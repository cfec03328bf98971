"""Evidence passages read from files: DPR TSV, JSON lines, or another format.

Files are streamed record by record; nothing here holds more than one passage.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odqa_jax.data.raw.formats import Beginning, Format, detect, has_keys
from odqa_jax.data.raw.records import Place, RawFile, Record
from odqa_jax.runtime.artifact import file_hash

_COLUMNS = ("id", "text", "title")
_ACCEPTED = (
  "a passage file is DPR TSV (header id<TAB>text<TAB>title) or JSON lines "
  '({"id", "title", "text" or "context"}), plain or gzipped'
)


@dataclass(frozen=True, slots=True)
class Passage:
  """One piece of evidence.

  Attributes:
    id: unique within a corpus.
    title: of the article it comes from; may be empty.
    text: never empty.
  """

  id: str
  title: str
  text: str


def check_passage(passage: Passage, where: Place | str) -> Passage:
  """Returns `passage` if it can be stored.

  Args:
    passage: what was read.
    where: its place, for the error.

  Raises:
    ValueError: if a field holds NUL or a lone surrogate, or id or text is
      empty.
  """
  for name in ("id", "title", "text"):
    value = getattr(passage, name)
    if "\0" in value:
      raise ValueError(
        f"{where}: the {name} holds a NUL character; passages are plain text; "
        "remove it."
      )
    try:
      value.encode("utf-8")
    except UnicodeEncodeError as error:
      raise ValueError(
        f"{where}: the {name} holds a lone surrogate "
        f"({value[error.start]!r}); text must be valid Unicode; repair it."
      ) from error
    if name != "title" and not value.strip():
      raise ValueError(
        f"{where}: the {name} is empty; every passage needs an id and a text; "
        "fill it or remove the passage."
      )
  return passage


def _tsv_passages(file: RawFile) -> Iterator[tuple[Place, Passage]]:
  rows = file.csv_rows()
  place, header = next(rows)
  if sorted(header) != sorted(_COLUMNS):
    raise ValueError(
      f"{place}: the first line is {[cell[:40] for cell in header[:4]]}, not a "
      f"header; {_ACCEPTED}."
    )
  order = [header.index(name) for name in ("id", "title", "text")]
  for place, row in rows:
    if len(row) != len(header):
      raise ValueError(
        f"{place}: {len(row)} columns; the header names {len(header)} "
        f"({', '.join(header)}), tab-separated; mend the row."
      )
    yield place, Passage(*(row[i] for i in order))


def _json_passages(file: RawFile) -> Iterator[tuple[Place, Passage]]:
  for place, record in file.json_records():
    yield place, _from_record(record, place)


def _from_record(record: Record, place: Place) -> Passage:
  body = "text" if "text" in record else "context"
  keys = ("id", "title", body)
  missing = [key for key in keys if key not in record]
  if missing:
    raise ValueError(
      f"{place}: no {' and no '.join(missing)} among the keys "
      f"{sorted(record)}; {_ACCEPTED}."
    )
  name, title, text = (record[key] for key in keys)
  if isinstance(name, int) and not isinstance(name, bool):
    name = str(name)
  for key, value in zip(keys, (name, title, text), strict=True):
    if not isinstance(value, str):
      raise ValueError(
        f"{place}: {key} is {value!r}; it must be a string; quote it."
      )
  return Passage(name, title, text)


def _any_text(start: Beginning) -> str:
  return "" if start.keys is not None else "rows between tabs"


# Whatever is taken for a corpus, and no other format, is one of these.
PLAIN_FORMATS = (
  Format(
    "passages_jsonl",
    "JSON lines or an array of {id, title, text or context}",
    has_keys(),
    passages=_json_passages,
  ),
  Format(
    "passages_tsv",
    "DPR's TSV with the header id, text, title",
    _any_text,
    passages=_tsv_passages,
  ),
)


class PassageFile:
  """A passage file, its identity, and its records with their numbers.

  Attributes:
    path: where it is; `name` is its last part.
    size: bytes on disk.
    format: how it is read.
    sha256: hex digest of those bytes; None until `records` has ended.
  """

  def __init__(self, path: str | Path, format: Format | None = None):
    """Raises ValueError if `path` is not a file; no format: a plain one."""
    self._file = RawFile(path)
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
    for place, passage in self.format.passages(self._file):
      self._array = place.array
      yield check_passage(passage, place), place.number
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
      check_passage(passage, self.locate(number))
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
      NUL, an empty id or text.
  """
  source = PassageFile(path, format)
  return (passage for passage, _ in source.records())
