"""Question sets get folders of their own, or nothing is begun."""

from pathlib import Path

import pytest

from odqa_jax.data.preparation.question_sets import question_set_names
from odqa_jax.data.prepare import prepare


@pytest.mark.parametrize(
  ("source", "name"),
  [
    ("nq/dev.jsonl", "dev"),
    ("dev.jsonl.gz", "dev"),
    ("dev.jsonl.zst", "dev"),
    ("dev.tsv.bz2", "dev"),
    ("dev.xz", "dev"),
    ("train.v1.json", "train.v1"),
    ("factbook:train", "factbook-train"),
  ],
)
def test_the_stem_is_the_name(source, name):
  assert question_set_names([source]) == [name]


@pytest.mark.parametrize(
  "sources",
  [
    ["nq/dev.jsonl", "tqa/dev.jsonl"],
    ["a.jsonl", "train.v1", "train.v2"],
    ["dev.jsonl", "dev.json.gz"],
  ],
)
def test_two_files_of_one_stem_are_refused(tmp_path, sources):
  with pytest.raises(ValueError, match="would replace the first") as error:
    prepare(corpus=["nothing"], questions=sources, out=tmp_path / "d")
  assert all(name in str(error.value) for name in sources[-2:])
  assert not (tmp_path / "d").exists()


def test_a_name_of_nothing_is_refused():
  with pytest.raises(ValueError, match="no name; rename"):
    question_set_names([".jsonl"])


def test_a_set_to_mine_is_suggested(tmp_path):
  with pytest.raises(ValueError, match="did you mean 'dev'"):
    prepare(
      corpus=["nothing"], questions=["dev.jsonl"], out=tmp_path, pairs=["dve"]
    )


def test_missing_questions_are_told_before_the_corpus_is_read(tmp_path):
  corpus = tmp_path / "p.tsv"
  corpus.write_text("id\ttext\ttitle\n1\twords\tA\n")
  missing = str(tmp_path / "nope.jsonl")
  with pytest.raises(ValueError, match="no such file") as error:
    prepare(corpus=[str(corpus)], questions=[missing], out=tmp_path / "d")
  assert missing in str(error.value)
  assert not Path(tmp_path / "d").exists()
