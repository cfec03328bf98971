"""Evidence passages read from files: DPR TSV or JSON lines, plain or gzipped.

The format is told by the content, never by the name. Files are streamed line
by line; nothing here holds more than one passage.
"""

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from odqa_jax.runtime.artifact import file_hash

_COLUMNS = ("id", "text", "title")
_ACCEPTED = (
  "a passage file is DPR TSV (header id<TAB>text<TAB>title) or JSON lines "
  '({"id", "title", "text" or "context"}), plain or gzipped'
)
# A header line is short; a longer first line is another kind of file.
_HEADER_BYTES = 1 << 16


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


def read_passages(path: str | Path) -> Iterator[Passage]:
  """Streams the passages of one file.

  Args:
    path: DPR TSV (`id`, `text`, `title`; the csv module's default quoting) or
      JSON lines (`id`, `title`, `text` or `context`), plain or gzipped.

  Raises:
    ValueError: naming file and line, for anything that is not such a file:
      no header, a short or long row, broken JSON, bytes that are not UTF-8,
      NUL, an empty id or text.
  """
  source = PassageFile(path)
  return (passage for passage, _ in source.records())


def check_passage(passage: Passage, where: str) -> Passage:
  """Returns `passage` if it can be stored.

  Args:
    passage: what was read.
    where: `FILE:LINE` for the error.

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


class _HashedFile(io.RawIOBase):
  """A file that hashes its bytes as they are read."""

  def __init__(self, path: Path):
    self._file = path.open("rb", buffering=0)
    self.sha256 = hashlib.sha256()
    self.size = 0

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: Any) -> int:
    count = self._file.readinto(buffer) or 0
    self.sha256.update(memoryview(buffer)[:count])
    self.size += count
    return count

  def close(self) -> None:
    self._file.close()
    super().close()


class PassageFile:
  """A passage file, its identity, and its records with line numbers.

  Attributes:
    path: where it is; `name` is its last part.
    size: bytes on disk.
    mtime_ns: when it was last written, as the file system says.
    sha256: hex digest of those bytes; None until `records` has ended.
  """

  def __init__(self, path: str | Path):
    """Raises ValueError if `path` is not a file."""
    self.path = Path(path)
    self.name = self.path.name
    if not self.path.is_file():
      raise ValueError(
        f"{self.path}: no such file; check the path of the corpus."
      )
    status = self.path.stat()
    self.size, self.mtime_ns = status.st_size, status.st_mtime_ns
    self.sha256: str | None = None

  def describe(self) -> dict[str, Any]:
    """What a manifest keeps of this file; `records` must have ended."""
    return {
      "name": self.name,
      "size": self.size,
      "sha256": self.sha256,
      "mtime_ns": self.mtime_ns,
    }

  def matches(self, entry: Mapping[str, Any]) -> bool:
    """Whether this is the file that `entry` describes.

    The modification time decides if it agrees; else the bytes are hashed.
    """
    if (entry.get("name"), entry.get("size")) != (self.name, self.size):
      return False
    if entry.get("mtime_ns") == self.mtime_ns:
      return True
    return entry.get("sha256") == file_hash(self.path)

  def locate(self, line: int) -> str:
    """`FILE:LINE` for messages."""
    return f"{self.path}:{line}"

  def records(self) -> Iterator[tuple[Passage, int]]:
    """Yields every passage with the line (from 1) at which it starts."""
    raw = _HashedFile(self.path)
    with raw, io.BufferedReader(raw, 1 << 20) as buffered:
      stream: io.BufferedIOBase = buffered
      if buffered.peek(2)[:2] == b"\x1f\x8b":
        # GzipFile.readline is Python; a C buffer above it is not.
        stream = io.BufferedReader(gzip.GzipFile(fileobj=buffered), 1 << 20)
      lines = self._lines(stream)
      head: list[str] = []
      while not head or head[-1].isspace():
        head.append(next(lines, ""))
      if not head[-1]:
        raise ValueError(f"{self.path}: the file is empty; {_ACCEPTED}.")
      parse = _read_json if head[-1].lstrip().startswith("{") else _read_tsv
      for passage, line in parse(self.path, chain(head, lines)):
        yield check_passage(passage, self.locate(line)), line
      self.sha256, self.size = raw.sha256.hexdigest(), raw.size

  def _lines(self, stream: io.BufferedIOBase) -> Iterator[str]:
    """Decodes line by line, so that an error knows its line."""
    number = 1
    try:
      # Limited, or a binary file without line ends would fill the memory.
      raw = stream.readline(_HEADER_BYTES).removeprefix(b"\xef\xbb\xbf")
      if not raw.endswith(b"\n"):
        if raw.lstrip().startswith(b"{"):
          raw += stream.readline()
        elif len(raw) > _HEADER_BYTES - 4:
          raise ValueError(f"{self.path}:1: no header line; {_ACCEPTED}.")
      while raw:
        yield raw.decode("utf-8")
        raw = stream.readline()
        number += 1
    except UnicodeDecodeError as error:
      raise ValueError(
        f"{self.path}:{number}: byte {error.start + 1} of the line "
        f"(0x{error.object[error.start]:02x}) is not UTF-8; convert the file "
        "to UTF-8."
      ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
      raise ValueError(
        f"{self.path}:{number}: damaged gzip data ({error}); get the file "
        "again."
      ) from error


class MemoryPassages:
  """Passages that a program yields, with the interface of `PassageFile`."""

  def __init__(self, passages: Iterable[Passage], name: str):
    """Takes passages that can be iterated again; an iterator is copied."""
    once = iter(passages) is passages
    self._passages = list(passages) if once else passages
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
    if entry.get("name") != self.name:
      return False
    for _ in self.records():
      pass
    return dict(entry) == self.describe()

  def records(self) -> Iterator[tuple[Passage, int]]:
    """Yields every passage with its number, from 1."""
    digest, size = hashlib.sha256(), 0
    for number, passage in enumerate(self._passages, 1):
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


def _read_json(
  path: Path, lines: Iterator[str]
) -> Iterator[tuple[Passage, int]]:
  for number, line in enumerate(lines, 1):
    if line.isspace():
      continue
    try:
      record = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
      raise ValueError(
        f"{path}:{number}: broken JSON ({error}); every line must be one JSON "
        "object; mend or remove the line."
      ) from error
    yield _from_record(record, f"{path}:{number}"), number


def _from_record(record: Any, where: str) -> Passage:
  if not isinstance(record, dict):
    raise ValueError(
      f"{where}: a {type(record).__name__}, not an object; {_ACCEPTED}."
    )
  body = "text" if "text" in record else "context"
  missing = [key for key in ("id", "title", body) if key not in record]
  if missing:
    raise ValueError(
      f"{where}: no {' and no '.join(missing)} among the keys "
      f"{sorted(record)}; {_ACCEPTED}."
    )
  values = {key: record[key] for key in ("id", "title", body)}
  if isinstance(values["id"], int) and not isinstance(values["id"], bool):
    values["id"] = str(values["id"])
  for key, value in values.items():
    if not isinstance(value, str):
      raise ValueError(
        f"{where}: {key} is {value!r}; it must be a string; quote it."
      )
  return Passage(values["id"], values["title"], values[body])


def _read_tsv(
  path: Path, lines: Iterator[str]
) -> Iterator[tuple[Passage, int]]:
  pending: list[str] = []

  def remembered() -> Iterator[str]:
    for line in lines:
      pending.append(line)
      yield line

  reader = csv.reader(remembered(), delimiter="\t")
  header: list[str] | None = None
  start = 1
  try:
    for row in reader:
      where = f"{path}:{start}"
      if len(pending) > 1:
        _check_quotes(pending, where)
      if header is None and row:
        header = _check_header(row, where)
        order = [header.index(name) for name in ("id", "title", "text")]
      elif header and row:
        if len(row) != len(header):
          raise ValueError(
            f"{where}: {len(row)} columns; the header names {len(header)} "
            f"({', '.join(header)}), tab-separated; mend the row."
          )
        yield Passage(*(row[i] for i in order)), start
      start = reader.line_num + 1
      pending.clear()
  except csv.Error as error:
    raise ValueError(
      f"{path}:{start}: {error}; rows follow the csv module's double-quote "
      "rules; look for a quote that is left open."
    ) from error


def _check_header(row: list[str], where: str) -> list[str]:
  if sorted(row) != sorted(_COLUMNS):
    raise ValueError(
      f"{where}: the first line is {[cell[:40] for cell in row[:4]]}, not a "
      f"header; {_ACCEPTED}."
    )
  return row


def _check_quotes(lines: list[str], where: str) -> None:
  """Refuses a row over several lines unless its quotes are well formed.

  The default rules let a quote that was never closed swallow the rows after
  it, without a word.
  """
  try:
    list(csv.reader(lines, delimiter="\t", strict=True))
  except csv.Error as error:
    raise ValueError(
      f"{where}: a quoted field runs over {len(lines)} lines and is not "
      f"closed properly ({error}); double the quotes inside it, or close it."
    ) from error
