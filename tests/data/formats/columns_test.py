"""Any table by the names of its columns, the same from every layout."""

import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from odqa_jax.data.corpus.passages import Passage, PassageFile
from odqa_jax.data.formats.files import choose_format, open_questions
from odqa_jax.data.questions.sets import Question

ROWS = [
  {"Q": "who, then?", "Gold": ["a\tb", "c"], "Key": "1", "ok": ["p", "q"]},
  {"Q": 'said "what"', "Gold": [], "Key": "2", "ok": []},
  {"Q": "where\nto?", "Gold": ["['x']"], "Key": "3", "ok": ["7"]},
]
COLUMNS = "question=Q,answers=Gold,id=Key,positive_ids=ok"
QUESTIONS = [
  Question("1", "who, then?", ("a\tb", "c"), positive_ids=("p", "q")),
  Question("2", 'said "what"', ()),
  Question("3", "where\nto?", ("['x']",), positive_ids=("7",)),
]
each = pytest.mark.parametrize(
  "layout", ["parquet", "jsonl", "json", "csv", "tsv"]
)


def write(path: Path, layout: str, rows: list[dict]) -> Path:
  if layout == "parquet":
    pq.write_table(pa.Table.from_pylist(rows), path)
  elif layout == "jsonl":
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  elif layout == "json":
    path.write_text(json.dumps(rows))
  else:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter={"csv": ",", "tsv": "\t"}[layout])
    writer.writerow(rows[0])
    for row in rows:
      writer.writerow(
        json.dumps(cell) if isinstance(cell, list) else cell
        for cell in row.values()
      )
    path.write_text(buffer.getvalue(), newline="")
  return path


@each
def test_every_layout_gives_the_same_questions(
  tmp_path: Path, layout: str
) -> None:
  path = write(tmp_path / "table", layout, ROWS)
  assert open_questions(path, columns=COLUMNS) == QUESTIONS
  short = open_questions(path, columns="question=Q")
  assert [q.question for q in short] == [row["Q"] for row in ROWS]
  assert [(q.id, q.answers) for q in short] == [(str(n), ()) for n in range(3)]


@each
def test_every_layout_gives_the_same_passages(
  tmp_path: Path, layout: str
) -> None:
  rows = [{"pid": n, "body": f"text, {n}", "head": None} for n in range(3)]
  path = write(tmp_path / "table", layout, rows)
  for columns in ("id=pid,text=body,title=head", "text=body,id=pid"):
    format, _ = choose_format(path, "passages", None, columns)
    assert [p for p, _ in PassageFile(path, format).records()] == [
      Passage(str(n), "", f"text, {n}") for n in range(3)
    ]


@each
def test_an_unknown_column_is_refused(tmp_path: Path, layout: str) -> None:
  path = write(tmp_path / "table", layout, ROWS)
  with pytest.raises(ValueError, match=r"table: .*'Gld' for answers.*'Gold'"):
    open_questions(path, columns="question=Q,answers=Gld")
  with pytest.raises(ValueError, match=r"table:.* 'Qq' for question.*'Q'"):
    open_questions(path, columns="question=Qq,answers=Gold")


@pytest.mark.parametrize(
  ("columns", "message"),
  [
    ("answers=Gold", "name the column of question"),
    ("question=Q,anwsers=Gold", r"'anwsers' is no field .*'answers'"),
    ("question=Q,question=Gold", "'question' is named twice"),
    ("question", "'question' is not FIELD=COLUMN"),
    ("question=Q,", "'' is not FIELD=COLUMN"),
  ],
)
def test_columns_are_checked(
  tmp_path: Path, columns: str, message: str
) -> None:
  path = write(tmp_path / "table", "jsonl", ROWS)
  with pytest.raises(ValueError, match=message):
    open_questions(path, columns=columns)


def test_columns_stand_in_place_of_a_format(tmp_path: Path) -> None:
  path = write(tmp_path / "table", "jsonl", ROWS)
  with pytest.raises(ValueError, match="columns of its own"):
    open_questions(path, "nq_open", COLUMNS)
  with pytest.raises(ValueError, match=f"prepared set.*--columns {COLUMNS}"):
    open_questions(tmp_path, columns=COLUMNS)


def test_an_answer_is_one_string_or_a_list(tmp_path: Path) -> None:
  path = tmp_path / "table"
  path.write_text('q,a\nx,Paris\ny,"[""a"", ""b""]"\nz,\nw,"[\'a\', \'b\']"\n')
  questions = open_questions(path, columns="question=q,answers=a")
  answers = [question.answers for question in questions]
  assert answers == [("Paris",), ("a", "b"), (), ("a", "b")]
  path.write_text("q,a\nx,['a' 'b']\n")
  with pytest.raises(ValueError, match=r"table:2: .*no comma before"):
    open_questions(path, columns="question=q,answers=a")


@pytest.mark.parametrize(
  ("text", "questions"),
  [
    ("Q\nwho, then?\n", ["who, then?"]),
    ("Q,x\tn\nwho?,1\n", ["who?"]),
    ("x,y\tQ\n1\twho, then?\n", ["who, then?"]),
  ],
)
def test_the_header_tells_what_stands_between_columns(
  tmp_path: Path, text: str, questions: list[str]
) -> None:
  path = tmp_path / "table"
  path.write_text(text)
  read = open_questions(path, columns="question=Q")
  assert [question.question for question in read] == questions
