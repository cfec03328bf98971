"""Raw files: their places, their bounds, and what a format is told by."""

import gzip
import hashlib
import tracemalloc
from pathlib import Path

import pytest

from odqa_jax.data.raw.formats import beginning
from odqa_jax.data.raw.records import RawFile


def raw_file(root: Path, content: bytes) -> RawFile:
  (root / "file").write_bytes(content)
  return RawFile(root / "file")


def test_places_are_lines_and_positions(tmp_path: Path) -> None:
  lines = raw_file(tmp_path, b'{"a": 1}\n\n{"a": 2}\n')
  assert [str(place)[-6:] for place, _ in lines.json_records()] == [
    "file:1",
    "file:3",
  ]
  array = raw_file(tmp_path, b' [{"a": 1},\n{"a": 2}]')
  places = [place for place, _ in array.json_records()]
  assert str(places[1]).endswith("file:[1]")
  nested = raw_file(tmp_path, b'{"data": [{}, {}]}')
  *_, (place, _) = nested.array("data")
  assert str(place._replace(inside=".x[2]")).endswith("file:data[1].x[2]")


def test_a_row_over_several_lines_stands_where_it_begins(
  tmp_path: Path,
) -> None:
  file = raw_file(tmp_path, b'a\tb\n\n1\t"x\n\ny"\n \n2\tz\n')
  assert [(place.number, row) for place, row in file.csv_rows()] == [
    (1, ["a", "b"]),
    (3, ["1", "x\n\ny"]),
    (7, ["2", "z"]),
  ]


def test_a_well_closed_quote_may_end_the_file(tmp_path: Path) -> None:
  for content in (b'1\t"x"', b'1\t"x"\n', b'1\t"x\ny"', b'1\tsaid "x"'):
    ((_, row),) = raw_file(tmp_path, content).csv_rows()
    assert row[0] == "1"


@pytest.mark.parametrize("compress", [False, True])
def test_the_hash_is_that_of_the_bytes_on_disk(
  tmp_path: Path, compress: bool
) -> None:
  content = b"\xef\xbb\xbfa\tb\n" * 5000
  content = gzip.compress(content) if compress else content
  file = raw_file(tmp_path, content)
  for _ in range(2):
    assert next(file.lines())[1] == "a\tb"
    for _ in file.csv_rows():
      pass
    assert file.digest.hexdigest() == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("content", ["array", "lines", "one line", "blank"])
def test_memory_does_not_grow_with_the_file(
  tmp_path: Path, content: str, compress: bool
) -> None:
  record = b'{"question": "' + b"w" * 1000 + b'"}'
  size = 16_000
  data = {
    "array": b"[" + b",".join([record] * size) + b"]",
    "lines": (record + b"\n") * size,
    "one line": b"x" * 16_000_000,
    "blank": b" " * 16_000_000 + record,
  }[content]
  file = raw_file(tmp_path, gzip.compress(data, 1) if compress else data)
  count = len(data)
  del data
  tracemalloc.start()
  try:
    if content == "one line":
      with pytest.raises(ValueError, match="no line end in the first"):
        beginning(file)
    else:
      assert beginning(file).keys == {"question"}
      if content != "blank":
        assert sum(1 for _ in file.json_records()) == size
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert peak < count / 2


def test_an_endless_line_is_refused(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr("odqa_jax.data.raw.records._LONGEST_LINE", 1000)
  file = raw_file(tmp_path, b"short\n" + b"x" * 2000)
  with pytest.raises(ValueError, match="file:2: the line is longer than 1,000"):
    list(file.lines())


def test_folders_and_missing_files_are_told_apart(tmp_path: Path) -> None:
  with pytest.raises(ValueError, match="a folder, not a file"):
    RawFile(tmp_path)
  with pytest.raises(ValueError, match="no such file"):
    RawFile(tmp_path / "none")
