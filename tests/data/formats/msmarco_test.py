"""MS MARCO's rows: told from DPR's, and joined with their judgements."""

import gzip
from pathlib import Path

import pytest

from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.formats.files import choose_format
from odqa_jax.data.questions.sets import Question
from tests.support.reading import passages_of, questions_of, written

QUERIES = '1048585\t"paula deen"s brother\n2\t androgen receptor define\n'
QRELS = "1048585\t0\t7187158\t1\n1048585\t0\t7\t0\n2\t0\t4339068\t1\n"
FIRST = Question(
  "1048585", '"paula deen"s brother', (), positive_ids=("7187158",)
)
SECOND = Question(
  "2", " androgen receptor define", (), positive_ids=("4339068",)
)


def test_queries_take_the_judgements_of_their_name(tmp_path: Path) -> None:
  queries = written(tmp_path / "queries.dev.small.tsv", QUERIES)
  qrels = written(tmp_path / "qrels.dev.small.tsv", QRELS)
  written(tmp_path / "qrels.train.tsv", "2\t0\t1\t1\n")
  assert questions_of(queries) == [FIRST, SECOND]
  assert questions_of(qrels) == [FIRST, SECOND]
  qrels.write_text(QRELS.splitlines()[0].replace("\t", " ") + "\n")
  assert questions_of(qrels) == [FIRST]


def test_either_may_be_compressed(tmp_path: Path) -> None:
  name = "msmarco-doctrain-{}.tsv.gz"
  queries = written(
    tmp_path / name.format("queries"), gzip.compress(QUERIES.encode())
  )
  written(tmp_path / "msmarco-doctrain-qrels.tsv", QRELS)
  assert questions_of(queries) == [FIRST, SECOND]


def test_quotes_mean_nothing_in_the_collection(tmp_path: Path) -> None:
  path = written(
    tmp_path / "collection.tsv",
    '0\tThe "presence" of\n1\t"An open quote\n2\t[1] A reference\n',
  )
  assert passages_of(path) == [
    Passage("0", "", 'The "presence" of'),
    Passage("1", "", '"An open quote'),
    Passage("2", "", "[1] A reference"),
  ]


@pytest.mark.parametrize(
  ("content", "wanted"),
  [
    ("1\twho is it\n", "msmarco"),
    ("q-1\twho is it\n", "msmarco"),
    ("who is it?\t['she']\n", "dpr_qas"),
    ("who?\t['she']\n", "dpr_qas"),
    ("007?\t['Bond']\n", "dpr_qas"),
    ("007\t['Bond']\n", "dpr_qas"),
    ('007\t"[\'Bond\', ""b""]"\n', "dpr_qas"),
    ('who?\t"[\'a\', ""b""]"\n', "dpr_qas"),
    ("1\tfactoid\twho?\t(a|b)\n", "curated_trec"),
  ],
)
def test_two_columns_are_told_by_both(
  tmp_path: Path, content: str, wanted: str
) -> None:
  path = written(tmp_path / "file", content)
  assert choose_format(path, "questions")[0].name == wanted


@pytest.mark.parametrize(
  "content",
  [
    "1185869\t8182161\twho is it\tShe is it.\n" * 2,
    "who is it\tShe is it.\tHe is not.\n",
    "1\t2\t3\n",
  ],
  ids=["top1000", "triples", "qidpidtriples"],
)
def test_triples_and_the_top_1000_are_known_and_refused(
  tmp_path: Path, content: str
) -> None:
  path = written(tmp_path / "file.tsv", content)
  with pytest.raises(ValueError, match=r"file.tsv:1: .*Triples and the top"):
    questions_of(path)


def test_pairs_of_ids_are_no_queries(tmp_path: Path) -> None:
  path = written(tmp_path / "pairs.tsv", "1\t17\n2\t19\n")
  with pytest.raises(ValueError, match=r"pairs.tsv:1: .*not a list"):
    questions_of(path)


def test_a_lost_tab_names_the_line(tmp_path: Path) -> None:
  path = written(tmp_path / "queries.tsv", "1\twho is it\n2 where is it\n")
  with pytest.raises(ValueError, match=r"queries.tsv:2: 1 columns"):
    questions_of(path)
  with pytest.raises(ValueError, match=r"queries.tsv:2: 1 columns"):
    passages_of(path)


def test_judgements_alone_ask_for_the_queries(tmp_path: Path) -> None:
  path = written(tmp_path / "qrels.dev.tsv", QRELS)
  with pytest.raises(ValueError, match="'queries' in place of 'qrels'"):
    questions_of(path)
