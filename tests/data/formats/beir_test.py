"""BEIR's folders, MTEB's Parquet: which judgements belong to which queries."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.formats.beir import BEIR
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.raw.records import RawFile
from odqa_jax.data.raw.rejections import Rejections
from tests.support.format_examples import (
  BEIR_CORPUS,
  BEIR_QUERIES,
  json_lines,
)
from tests.support.reading import parquet, passages_of, questions_of, written

TEST = (
  "query-id\tcorpus-id\tscore\n"
  "q2\t<dbpedia:Caf%C3%A9>\t2\n"
  "q1\td1\t1\n"
  "q1\td3\t0\n"
  "q2\td1\t-1\n"
)


def folder(path: Path, **qrels: str) -> Path:
  written(path / "corpus.jsonl", json_lines(*BEIR_CORPUS))
  written(path / "queries.jsonl", json_lines(*BEIR_QUERIES))
  for split, content in qrels.items():
    written(path / "qrels" / f"{split}.tsv", content)
  return path


Q1 = Question("q1", "What is the capital of Aruba?", (), positive_ids=("d1",))
Q2 = Question(
  "q2", "What sells coffee?", (), positive_ids=("<dbpedia:Caf%C3%A9>",)
)
Q3 = Question("q3", "Who is not judged?", ())


def test_titles_are_optional_and_stand_in_for_an_empty_text(
  tmp_path: Path,
) -> None:
  assert passages_of(folder(tmp_path) / "corpus.jsonl") == [
    Passage("d1", "Aruba", "Its capital is Oranjestad."),
    Passage("<dbpedia:Caf%C3%A9>", "", "A café sells coffee."),
    Passage("d3", "", "A title alone"),
  ]


def test_queries_take_the_one_split_beside_them(tmp_path: Path) -> None:
  path = folder(tmp_path, test=TEST)
  assert questions_of(path / "queries.jsonl") == [Q1, Q2, Q3]


def test_queries_without_judgements_are_questions(tmp_path: Path) -> None:
  # A folder qrels elsewhere is none of theirs.
  written(tmp_path / "qrels" / "test.tsv", TEST)
  path = folder(tmp_path / "set")
  found = questions_of(path / "queries.jsonl")
  assert [q.id for q in found] == ["q1", "q2", "q3"]
  assert not any(q.positive_ids for q in found)


def test_one_of_several_splits_must_be_named(tmp_path: Path) -> None:
  path = folder(tmp_path, test=TEST, train=TEST.replace("q2", "q3"))
  with pytest.raises(ValueError, match=r"\['test', 'train'\].*qrels/test.tsv"):
    questions_of(path / "queries.jsonl")
  assert questions_of(path / "qrels" / "test.tsv") == [Q1, Q2]
  assert [q.id for q in questions_of(path / "qrels" / "train.tsv")] == [
    "q1",
    "q3",
  ]


def test_a_relative_path_finds_the_queries(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.chdir(folder(tmp_path, test=TEST) / "qrels")
  assert questions_of(Path("test.tsv")) == [Q1, Q2]


def test_names_with_a_prefix_belong_together(tmp_path: Path) -> None:
  queries = written(tmp_path / "go-queries.jsonl", json_lines(*BEIR_QUERIES))
  named = written(tmp_path / "go-qrels" / "test.tsv", TEST)
  written(tmp_path / "queries.jsonl", json_lines({"_id": "x", "text": "y"}))
  assert questions_of(queries) == [Q1, Q2, Q3]
  assert questions_of(named) == [Q1, Q2]


def test_split_in_two_layouts_is_one_split(tmp_path: Path) -> None:
  path = folder(tmp_path, test=TEST)
  written(
    path / "qrels" / "test.jsonl",
    json_lines({"query-id": "q1", "corpus-id": "d1", "score": 2}),
  )
  assert questions_of(path / "queries.jsonl")[0] == Q1
  assert questions_of(path / "qrels" / "test.jsonl") == [Q1]


def test_trec_judgements_are_read_too(tmp_path: Path) -> None:
  path = folder(tmp_path, test="q1 0 d1 1\nq1 0 d3 0\nq2 0 d1 0\n")
  assert [q.positive_ids for q in questions_of(path / "queries.jsonl")] == [
    ("d1",),
    (),
    (),
  ]


def test_parquet_of_several_shards(tmp_path: Path) -> None:
  name = "NanoX-0000{}-of-00002.parquet"
  for i, query in enumerate(BEIR_QUERIES[:2]):
    parquet(tmp_path / "queries" / name.format(i), {**query, "metadata": None})
  # A second data set of the same repository.
  parquet(
    tmp_path / "queries" / "NanoY-00000-of-00001.parquet", BEIR_QUERIES[2]
  )
  parquet(
    tmp_path / "qrels" / "NanoY-00000-of-00001.parquet",
    {"query-id": "q3", "corpus-id": "d9"},
  )
  first = parquet(
    tmp_path / "qrels" / name.format(0), {"query-id": "q1", "corpus-id": "d1"}
  )
  parquet(
    tmp_path / "qrels" / name.format(1),
    {"query-id": "q2", "corpus-id": "<dbpedia:Caf%C3%A9>"},
  )
  assert questions_of(first) == [Q1, Q2]
  assert questions_of(tmp_path / "queries" / name.format(1)) == [Q2]


def test_parquet_says_what_pyarrow_reads(tmp_path: Path) -> None:
  corpus = parquet(
    tmp_path / "corpus" / "train-00000-of-00001.parquet",
    *({"_id": d["_id"], "text": d["text"] or "x"} for d in BEIR_CORPUS),
  )
  assert passages_of(corpus) == [
    Passage(row["_id"], "", row["text"])
    for row in pq.read_table(corpus).to_pylist()
  ]
  queries = parquet(
    tmp_path / "queries" / "queries-00000-of-00001.parquet",
    *({"_id": q["_id"], "text": q["text"]} for q in BEIR_QUERIES),
  )
  qrels = parquet(
    tmp_path / "data" / "test-00000-of-00001.parquet",
    {"query-id": "q1", "corpus-id": "d1", "score": 1.0},
    {"query-id": "q1", "corpus-id": "d2", "score": 0.0},
  )
  assert questions_of(qrels) == [Q1]
  assert len(questions_of(queries)) == 3


@pytest.mark.parametrize(
  ("rows", "message"),
  [
    ("q1\td1\n", r"test.tsv:2: 2 columns; the header has 3"),
    ("q1\td1\tgood\n", r"test.tsv:2: 'score' is 'good', not a number"),
    ("q1\td1\tnan\n", r"test.tsv:2: 'score' is 'nan'"),
    ("q1\td1\t1\nq1\td1\t2\n", r"test.tsv:3: 'd1' has the grade 2 .* had 1"),
    ("q1\td1\t1\nq9\td1\t1\n", r"test.tsv:3: the query 'q9' is judged here"),
  ],
)
def test_bad_judgements_name_the_line(
  tmp_path: Path, rows: str, message: str
) -> None:
  path = folder(tmp_path, test="query-id\tcorpus-id\tscore\n" + rows)
  with pytest.raises(ValueError, match=message):
    questions_of(path / "qrels" / "test.tsv")


def test_bad_judgements_and_queries_are_counted_together(
  tmp_path: Path,
) -> None:
  path = folder(tmp_path, test=TEST + "q1\td2\tgood\nq9\td1\t1\n")
  written(
    path / "queries.jsonl", json_lines(*BEIR_QUERIES) + b'{"_id": "q5"}\n'
  )
  rejections = Rejections(3, tmp_path / "rejected.tsv")
  assert BEIR.questions
  file = RawFile(path / "qrels" / "test.tsv", rejections)
  assert [q for _, q in BEIR.questions(file)] == [Q1, Q2]
  assert rejections.by_file() == {
    str(path / "qrels" / "test.tsv"): 2,
    str(path / "queries.jsonl"): 1,
  }


def test_what_is_not_beside_is_missed(tmp_path: Path) -> None:
  lonely = written(tmp_path / "set" / "qrels" / "test.tsv", TEST)
  with pytest.raises(ValueError, match=r"need the queries beside them.*none"):
    questions_of(lonely)
  with pytest.raises(ValueError, match=r"corpus.jsonl:1: .*is a passage"):
    questions_of(folder(tmp_path / "set") / "corpus.jsonl")


def test_ids_that_are_numbers_meet_ids_that_are_text(tmp_path: Path) -> None:
  queries = written(
    tmp_path / "queries.jsonl", json_lines({"_id": 7, "text": "seven?"})
  )
  written(tmp_path / "qrels" / "test.tsv", TEST.splitlines()[0] + "\n7\t8\t1\n")
  assert questions_of(queries) == [
    Question("7", "seven?", (), positive_ids=("8",))
  ]


def test_white_space_in_a_query_id_is_refused_with_the_remedy(
  tmp_path: Path,
) -> None:
  path = written(
    tmp_path / "queries.jsonl", json.dumps({"_id": "a b", "text": "q"})
  )
  with pytest.raises(ValueError, match=r"queries.jsonl:1: .*another id"):
    questions_of(path)
