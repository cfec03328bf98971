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
# Layouts in which one record gives one question or passage.
LINES = {
  "beir": "json",
  "dpr_qas": "csv",
  "entity_questions": "json",
  "flashrag": "json",
  "flashrag_corpus": "json",
  "nq_open": "json",
  "paragraph_question": "json",
  "passages_jsonl": "json",
  "passages_tsv": "csv",
  "plain_text": "text",
  "sentence_question": "json",
  "tevatron_corpus": "json",
  "webquestions": "json",
}
ODD_VALUES: list[Any] = [
  *(None, True, -1, 10**30, 1.5, "", " ", "x", "a b", "\0", "\ud800"),
  *([], [None], [["a"]], {}, {"a": {}}, [{}], "['a' 'b']", "[" * 2000),
]
ODD_BYTES = st.sampled_from(
  [
    *(bytes([code]) for code in b"\0\t\n\r\\\"{}[],:"),
    *(b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf"),
    *(b"NaN", b"1e999", b"[" * 1500, b""),
  ]
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


def _read(file: RawFile, name: str, content: str) -> list[tuple[int, Any]]:
  """(number of the line or item, question or passage)."""
  reader = getattr(FORMATS[name], content)
  file.begin()
  return [(place.number, value) for place, value in reader(file)]


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
  name: str, data: bytes, accepted: list, bad: set[int]
) -> None:
  """Compares what was read with what json, csv and split say."""
  numbers = [number for number, _ in accepted]
  lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
  if LINES[name] == "csv":
    rows = _csv_rows(data.decode("utf-8", "replace").removeprefix("\ufeff"))
    for _, value in accepted:
      texts = {value.text if isinstance(value, Passage) else value.question}
      assert any(texts <= set(row) for row in rows), (value, rows)
    return
  some = {
    n for n, line in enumerate(lines, 1)
    if not line.decode("utf-8", "replace").isspace() and line
  }  # fmt: skip
  assert set(numbers) | bad == some
  assert not set(numbers) & bad
  for number, value in accepted:
    line = lines[number - 1].decode()
    if LINES[name] == "json":
      record = json.loads(line)
      text = value.text if isinstance(value, Passage) else value.question
      held = [v for v in record.values() if isinstance(v, str)]
      assert any(text in h for h in held) or not text, (value, record)
      if isinstance(value, Question) and value.answers:
        assert set(value.answers) <= set(_strings(record))
    else:
      assert value.question == line.strip()


def _strings(value: Any) -> Iterator[str]:
  if isinstance(value, str):
    yield value
  elif isinstance(value, dict | list):
    members = value.values() if isinstance(value, dict) else value
    for member in members:
      yield from _strings(member)


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
        if getattr(format, content) is None:
          continue
        rejections = Rejections(10_000, Path(folder) / f"{content}.txt")
        file = RawFile(path, rejections)
        try:
          accepted = _read(file, name, content)
          if content == "questions":
            for question in read_questions(RawFile(path, rejections), name):
              assert isinstance(question, Question)
          else:
            for _ in PassageFile(path, format, rejections).records():
              pass
        except ValueError as error:
          assert str(path) in str(error), error
          continue
        if name in LINES and not data.lstrip().startswith(b"["):
          # Ids that are there twice are found after the reading.
          fresh = Rejections(10_000, Path(folder) / f"{content}-2.txt")
          accepted = _read(RawFile(path, fresh), name, content)
          places = fresh.path.read_text().splitlines() if fresh.count else []
          bad = {
            int(line.partition("\t")[0].rpartition(":")[2]) for line in places
          }
          check_accepted(name, data, accepted, bad)

  check()


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_damaged_files_lose_nothing_silently(name: str) -> None:
  fuzz(name, 50)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_many_damaged_files_lose_nothing_silently(name: str) -> None:
  fuzz(name, 10_000)
