"""Parquet files: their rows, their places, and damage."""

import datetime
import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from odqa_jax.data.corpus.passages import PassageFile, read_passages
from odqa_jax.data.formats.files import choose_format, read_questions
from odqa_jax.data.raw.formats import beginning
from odqa_jax.data.raw.records import RawFile


def parquet_file(root: Path, columns: dict, **options: object) -> Path:
  path = root / "file"
  pq.write_table(pa.table(columns), path, **options)
  return path


def test_rows_are_those_of_the_columns(tmp_path: Path) -> None:
  path = parquet_file(
    tmp_path,
    {
      "id": list(range(1000)),
      "answers": [[f"a{i}", "b"] * (i % 3) for i in range(1000)],
      "nested": [{"x": i, "y": [str(i)]} for i in range(1000)],
      "day": [datetime.date(2020, 1, 1)] * 1000,
      "null": [None, "x"] * 500,
    },
    row_group_size=300,
  )
  read = list(RawFile(path).records())
  columns = pq.read_table(path).to_pydict()
  assert [str(place).removeprefix(str(path)) for place, _ in read[:2]] == [
    ":row 0",
    ":row 1",
  ]
  for name, values in columns.items():
    assert [record[name] for _, record in read] == values
  assert read[7][1]["nested"] == {"x": 7, "y": ["7"]}
  assert read[7][1]["null"] == "x" and read[8][1]["null"] is None


def test_the_hash_is_that_of_the_whole_file(tmp_path: Path) -> None:
  path = parquet_file(tmp_path, {"id": ["1"], "text": ["words"]})
  source = PassageFile(path)
  assert [p.text for p, _ in source.records()] == ["words"]
  assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_plain_columns_are_detected(tmp_path: Path) -> None:
  path = parquet_file(
    tmp_path, {"question": ["q", "r"], "answers": [["a"], []]}
  )
  assert str(beginning(RawFile(path))) == (
    "Parquet with the columns ['answers', 'question']"
  )
  format, reason = choose_format(path, "questions")
  assert (format.name, reason) == (
    "nq_open",
    "Parquet with the columns question",
  )
  assert [q.answers for q in read_questions(path)] == [("a",), ()]


def test_a_bad_row_is_named(tmp_path: Path) -> None:
  path = parquet_file(tmp_path, {"id": ["1", "2"], "text": ["words", "a\0"]})
  with pytest.raises(ValueError, match="file:row 1: the text holds a NUL"):
    list(read_passages(path))


@pytest.mark.parametrize("damage", ["cut", "footer", "page"])
def test_damage_is_named(tmp_path: Path, damage: str) -> None:
  path = parquet_file(
    tmp_path,
    {"question": [hashlib.sha256(b"%d" % i).hexdigest() for i in range(99)]},
    write_page_checksum=True,
  )
  data = bytearray(path.read_bytes())
  if damage == "cut":
    del data[-100:]
  else:
    data[-6 if damage == "footer" else 500] ^= 255
  path.write_bytes(data)
  with pytest.raises(ValueError, match="file: no whole Parquet file"):
    list(RawFile(path).records())


def test_a_column_name_stands_once(tmp_path: Path) -> None:
  table = pa.Table.from_arrays([pa.array(["x"])] * 2, names=["a", "a"])
  pq.write_table(table, tmp_path / "file")
  with pytest.raises(ValueError, match="column 'a' is there more than once"):
    list(RawFile(tmp_path / "file").records())
