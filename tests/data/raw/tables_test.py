"""Separated values: csv's rules, rows that a quote would join, bad rows."""

import csv
import io
import random
from pathlib import Path

import pytest

from odqa_jax.data.corpus.passages import read_passages
from odqa_jax.data.formats.files import read_questions
from odqa_jax.data.raw.records import RawFile
from odqa_jax.data.raw.rejections import Rejections

HEADER = "id\ttext\ttitle\n"


def raw_file(root: Path, text: str, limit: int = 0) -> RawFile:
  (root / "t.tsv").write_bytes(text.encode())
  return RawFile(root / "t.tsv", Rejections(limit, root / "rejected.txt"))


@pytest.mark.parametrize("delimiter", ["\t", ","])
@pytest.mark.parametrize("seed", range(40))
def test_rows_are_those_of_the_csv_module(
  tmp_path: Path, seed: int, delimiter: str
) -> None:
  rng = random.Random(seed)
  pieces = ["a", "é", '"', '""', "\n", "\r\n", " ", ",", "'", "b c", "\u2028"]
  pieces += ["\t"] * (delimiter == ",")
  rows = [
    [str(i), *("".join(rng.choices(pieces, k=4)) + "." for _ in range(3))]
    for i in range(20)
  ]
  buffer = io.StringIO(newline="")
  writer = csv.writer(buffer, delimiter=delimiter, lineterminator="\n")
  writer.writerows(rows)
  text = buffer.getvalue()
  oracle = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
  file = raw_file(tmp_path, text)
  assert [row for _, row in file.csv_rows(delimiter)] == rows == oracle


JOINED = {
  "of four rows": '1\t"To be\tHamlet\n2\tAruba\tA\n3\tthat"\tHamlet\n4\tz\tD\n',
  "of two rows": '1\t"To be\tHamlet\n2\tthat"\tHamlet\n',
  "of the last column": '1\tx\t"To be\n2\tAruba\tthat"\n',
  "of the first column": 'x\ty\tz\n"1\ta\tb\n2"\tc\td\n',
  "with CRLF": '1\t"To be\tHamlet\r\n2\tthat"\tHamlet\r\n',
}


@pytest.mark.parametrize("name", JOINED)
def test_rows_that_a_quote_would_join_are_refused(
  tmp_path: Path, name: str
) -> None:
  file = raw_file(tmp_path, HEADER + JOINED[name])
  with pytest.raises(ValueError, match=r"t.tsv:[23]: this line and line [34]"):
    list(file.csv_rows())


def test_questions_that_a_quote_would_join_are_refused(tmp_path: Path) -> None:
  text = "who is it?\t['x']\n\"What?\t['a']\nWhy?\"\t['b']\n"
  file = raw_file(tmp_path, text)
  with pytest.raises(ValueError, match=r"t.tsv:2: this line and line 3"):
    list(read_questions(file.path))


def test_a_text_over_several_lines_may_hold_tabs(tmp_path: Path) -> None:
  text = 'a table:\nx\ty\n1\t2\n"said" she'
  quoted = text.replace('"', '""')
  file = raw_file(tmp_path, f'{HEADER}1\t"{quoted}"\tT\n2\tb\tU\n')
  assert [p.text for p in read_passages(file.path)] == [text, "b"]


def test_no_row_is_lost_with_a_bad_one(tmp_path: Path) -> None:
  good = "".join(f"{i}\ttext {i}\tT\n" for i in range(9))
  bad = '10\t"open\tT\n', '11\t"a" b\tT\n', '12\t"never\n', "13\ta\rb\tT\n"
  text = HEADER + good + bad[0] + good + bad[1] + good + bad[2] + good + bad[3]
  file = raw_file(tmp_path, text + good, limit=9)
  read = [row for _, row in file.csv_rows()]
  assert read == [
    HEADER.split(),
    *[[str(i), f"text {i}", "T"] for i in range(9)] * 5,
  ]
  rejected = (tmp_path / "rejected.txt").read_text().splitlines()
  at = [line.partition("\t")[0].rpartition(":")[2] for line in rejected]
  assert at == ["11", "21", "31", "41"]
  assert "carriage return" in rejected[3]


def test_a_bad_line_inside_a_quoted_field(tmp_path: Path) -> None:
  (tmp_path / "t.tsv").write_bytes(b'a\tb\n1\t"x\n\xff\ny"\n2\tz\n')
  rejections = Rejections(3, tmp_path / "rejected.txt")
  file = RawFile(tmp_path / "t.tsv", rejections)
  rows = [row for _, row in file.csv_rows()]
  # What stood after the bad line is read as it stands.
  assert rows == [["a", "b"], ['y"'], ["2", "z"]]
  assert rejections.count == 2


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_field_may_be_as_long_as_a_line(tmp_path: Path, quote: str) -> None:
  text = "word " * 100_000 + "."
  file = raw_file(tmp_path, f"{HEADER}1\t{quote}{text}{quote}\tT\n")
  (passage,) = read_passages(file.path)
  assert passage.text == text


def test_a_row_is_bounded(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr("odqa_jax.data.raw.records._LONGEST_LINE", 1000)
  file = raw_file(tmp_path, 'a\tb\n1\t"x' + "\nline" * 10_000)
  with pytest.raises(ValueError, match=r"t.tsv:2: a quote opens here and has"):
    list(file.csv_rows())


def test_a_table_has_a_header(tmp_path: Path) -> None:
  file = raw_file(tmp_path, 'q,a\n"x, ""y""",1\nz\n', limit=1)
  assert [record for _, record in file.table_rows(",")] == [
    {"q": 'x, "y"', "a": "1"}
  ]
  assert "t.tsv:3\t1 columns" in (tmp_path / "rejected.txt").read_text()
  twice = raw_file(tmp_path, "q,q\n")
  with pytest.raises(ValueError, match=r"t.tsv:1: .*'q' more than once"):
    list(twice.table_rows(","))
