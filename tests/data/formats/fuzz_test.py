"""Damaged files of every format: only ValueError, no hang, no silent loss.

Each example is changed by bytes, by lines, and by the keys and values of its
records. What is accepted must be what json or csv reads there, and each record
must be accepted, left out, or written down as rejected.
"""

import csv
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from format_examples import EXAMPLES
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from odqa_jax.data.corpus.passages import Passage, PassageFile
from odqa_jax.data.formats.files import FORMATS, read_questions
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.raw.records import RawFile
from odqa_jax.data.raw.rejections import Rejections

FORMAT_NAMES = sorted(FORMATS)
# Layouts in which one record gives one of what it is read for.
LINES = {
  "dpr_qas": ("questions", "csv"),
  "entity_questions": ("questions", "json"),
  "flashrag": ("questions", "json"),
  "flashrag_corpus": ("passages", "json"),
  "nq_open": ("questions", "json"),
  "paragraph_question": ("questions", "json"),
  "passages_jsonl": ("passages", "json"),
  "passages_tsv": ("passages", "csv"),
  "plain_text": ("questions", "text"),
  "sentence_question": ("questions", "json"),
  "tevatron_corpus": ("passages", "json"),
  "webquestions": ("questions", "json"),
}
ODD_VALUES: list[Any] = [
  *(None, True, -1, 10**30, 1.5, "", " ", "x", "a b", "\0", "\ud800"),
  *([], [None], [["a"]], {}, {"a": {}}, [{}], "['a' 'b']", "[" * 2000),
]
ODD_BYTES = st.sampled_from(
  [b"\0", b"\xff", b"\xed\xa0\x80", b"NaN", b"1e999", b"\xef\xbb\xbf"]
  + [bytes([char]) for char in b'"\t\n\r\\{[]},:']
  + [b"[" * 1500, b""]
)


def _nodes(value: Any, at: tuple = ()) -> Iterator[tuple]:
  """Where dicts and lists stand in a value, and where their members do."""
  items = value.items() if isinstance(value, dict) else enumerate(value)
  for key, member in items:
    yield (*at, key)
    if isinstance(member, dict | list):
      yield from _nodes(member, (*at, key))


def _changed_record(draw: st.DrawFn, text: bytes) -> bytes:
  """JSON with a member dropped or replaced."""
  value = json.loads(text)
  if not isinstance(value, dict | list) or not value:
    return text
  *path, last = draw(st.sampled_from(list(_nodes(value))))
  parent = value
  for key in path:
    parent = parent[key]
  if draw(st.booleans()):
    parent[last] = draw(st.sampled_from(ODD_VALUES))
  elif isinstance(parent, dict) and draw(st.booleans()):
    parent[draw(st.sampled_from(["", "id", "text", "x"]))] = parent.pop(last)
  else:
    del parent[last]
  return json.dumps(value).encode()


@st.composite
def damaged(draw: st.DrawFn, example: bytes) -> bytes:
  """A file of one to three copies of an example, changed once to thrice."""
  lines = example.splitlines(keepends=True) * draw(st.integers(1, 2))
  for _ in range(draw(st.integers(1, 3))):
    at = draw(st.integers(0, len(lines) - 1))
    line = lines[at]
    kind = draw(st.sampled_from(["record", "bytes", "drop", "repeat", "cut"]))
    if kind == "record":
      try:
        lines[at] = _changed_record(draw, line) + b"\n"
        continue
      except (ValueError, RecursionError):
        kind = "bytes"
    if kind == "bytes":
      start = draw(st.integers(0, len(line)))
      end = start + draw(st.integers(0, 3))
      lines[at] = line[:start] + draw(ODD_BYTES) + line[end:]
    elif kind == "cut":
      lines[at] = line[: draw(st.integers(0, len(line)))]
    elif kind == "repeat":
      lines.insert(draw(st.integers(0, len(lines))), line)
    elif len(lines) > 1:
      del lines[at]
  return b"".join(lines)


def _csv_rows(text: str) -> set[tuple[str, ...]]:
  """All that csv can read, from whichever line one begins."""
  lines = io.StringIO(text, newline="").readlines()
  rows = set()
  for first in range(len(lines)):
    for row in csv.reader(lines[first:], delimiter="\t"):
      rows.add(tuple(row))
      break
  return rows


def check_accepted(
  name: str, data: bytes, accepted: dict[int, Any], bad: set[int]
) -> None:
  """Compares what was read, by line, with what json, csv and split say."""
  text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
  if LINES[name][1] == "csv":
    rows = _csv_rows(text)
    for value in accepted.values():
      read = value.text if isinstance(value, Passage) else value.question
      assert any(read in row for row in rows), (value, rows)
    return
  lines = dict(enumerate(text.split("\n"), 1))
  records = {n for n, line in lines.items() if line and not line.isspace()}
  assert accepted.keys() | bad == records
  assert not accepted.keys() & bad
  for number, value in accepted.items():
    read = value.text if isinstance(value, Passage) else value.question
    if LINES[name][1] == "text":
      assert read == lines[number].strip()
      continue
    held = set(_strings(json.loads(lines[number])))
    assert any(read in string for string in held), (value, held)
    if isinstance(value, Question):
      assert held.issuperset(value.answers)


def _strings(value: Any) -> Iterator[str]:
  if isinstance(value, str):
    yield value
  elif isinstance(value, dict | list):
    members = value.values() if isinstance(value, dict) else value
    for member in members:
      yield from _strings(member)


def _read_and_check(path: Path, name: str, content: str) -> None:
  """Reads a file as users do, and again to compare line by line.

  An id that is there twice is found after a format's reading.
  """
  everything = Rejections(10_000, path.with_name(f"all-{content}.txt"))
  if content == "questions":
    list(read_questions(RawFile(path, everything), name))
  else:
    list(PassageFile(path, FORMATS[name], everything).records())
  if LINES.get(name, ("",))[0] == content:
    rejections = Rejections(10_000, path.with_name(f"{content}.txt"))
    reader = getattr(FORMATS[name], content)
    records = reader(RawFile(path, rejections))
    accepted = {place.number: value for place, value in records}
    if path.read_bytes().lstrip()[:1] != b"[":
      log = rejections.path
      bad = log.read_text().splitlines() if rejections.count else []
      at = {int(line.partition("\t")[0].rpartition(":")[2]) for line in bad}
      check_accepted(name, path.read_bytes(), accepted, at)


def _goes_on(name: str, content: str, data: bytes) -> bool:
  """Whether whatever is bad in a file is one of its lines.

  An array that breaks is broken for good, and so is a table's header.
  """
  if LINES.get(name, ("",))[0] != content or name == "passages_tsv":
    return False
  first = data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
  return first not in (b"", b"[")


def fuzz(name: str, cases: int) -> None:
  format = FORMATS[name]

  @settings(
    max_examples=cases,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
  )
  @given(damaged(EXAMPLES[name]))
  def check(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
      path = Path(folder) / "f"
      path.write_bytes(data)
      for content in ("questions", "passages"):
        if getattr(format, content) is not None:
          try:
            _read_and_check(path, name, content)
          except ValueError as error:
            assert str(path) in str(error), error
            assert not _goes_on(name, content, data), error

  check()


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_damaged_files_lose_nothing_silently(name: str) -> None:
  fuzz(name, 50)


@pytest.mark.fuzz
@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_many_damaged_files_lose_nothing_silently(name: str) -> None:
  fuzz(name, 10_000)
