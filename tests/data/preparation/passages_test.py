"""A dataset folder is of one corpus, and bad input leaves nothing in it."""

import json

import pytest

from odqa_jax.data.mining.pairs import Pairs
from odqa_jax.data.prepare import prepare

GOODS = ("cheese", "bread", "iron", "glass")


def write(path, records):
  path.write_text("".join(json.dumps(record) + "\n" for record in records))
  return str(path)


def passages(texts):
  return [
    {"id": f"p{i}", "title": "", "text": text} for i, text in enumerate(texts)
  ]


@pytest.fixture
def files(tmp_path):
  texts = [f"this town makes {good}" for good in GOODS]
  asked = [{"id": f"q{i}", "question": f"who makes {g}"} for i, g in
           enumerate(GOODS)]  # fmt: skip
  return (
    write(tmp_path / "c.jsonl", passages(texts)),
    write(tmp_path / "q.jsonl", asked),
  )


def run(corpus, questions, out, **options):
  return prepare(
    corpus=[corpus],
    questions=[questions],
    out=out,
    vocabulary_size=60,
    **options,
  )


def test_judgements_become_positives(files, tmp_path, capsys):
  qrels = tmp_path / "qrels.tsv"
  rows = [f"q{i}\tp{3 - i}\t{int(i != 2)}" for i in range(4)]
  qrels.write_text("\n".join(["query-id\tcorpus-id\tscore", *rows, ""]))
  figures = run(*files, tmp_path / "out", qrels=[str(qrels)], pairs=["q"])
  assert figures["sets"]["q"]["judged"] == 4
  assert "4 questions have passages from it" in capsys.readouterr().err
  pairs = Pairs.open(tmp_path / "out" / "pairs" / "q")
  # q2 has a grade of 0 alone.
  assert pairs.manifest["count"] == 3

  qrels.write_text("query-id\tcorpus-id\tscore\nother\tp1\t1\n")
  with pytest.raises(ValueError, match=r"qrels\.tsv: none of its 1 questions"):
    run(*files, tmp_path / "new", qrels=[str(qrels)])
  assert not (tmp_path / "new").exists()


def test_another_corpus_is_refused_and_a_changed_one_told(
  files, tmp_path, capsys
):
  corpus, questions = files
  run(corpus, questions, tmp_path / "out")
  other = write(tmp_path / "other.jsonl", passages(["another one"]))
  with pytest.raises(ValueError, match=r"the corpus of c\.jsonl, and --corpus"):
    run(other, questions, tmp_path / "out")
  capsys.readouterr()
  run(corpus, questions, tmp_path / "out")
  assert "changed" not in capsys.readouterr().err
  write(tmp_path / "c.jsonl", passages(["a text", "another text"]))
  assert run(corpus, questions, tmp_path / "out")["passages"] == 2
  assert "c.jsonl changed, so that it is made anew" in capsys.readouterr().err


def test_texts_that_are_empty_are_counted(files, tmp_path, capsys):
  corpus = write(tmp_path / "e.jsonl", passages(["a text", "", " ", "b text"]))
  figures = run(corpus, files[1], tmp_path / "out")
  assert figures["passages"] == 2
  assert figures["left_out"] == {"e.jsonl": {"passages without text": 2}}
  assert "2 passages without text are left out" in capsys.readouterr().err


def test_a_broken_corpus_leaves_what_was_there(files, tmp_path):
  broken = tmp_path / "broken.jsonl"
  broken.write_text('{"id": "1", "title": "", "text": "a"}\n{broken\n')
  with pytest.raises(ValueError, match=r"broken\.jsonl:2"):
    run(str(broken), files[1], tmp_path / "new" / "out")
  assert not (tmp_path / "new").exists()
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "mine.txt").touch()
  with pytest.raises(ValueError, match=r"broken\.jsonl:2"):
    run(str(broken), files[1], tmp_path / "out")
  left = {path.name for path in (tmp_path / "out").iterdir()}
  assert "mine.txt" in left and "questions" not in left


def test_a_corpus_of_no_package_names_those_that_are(files, tmp_path):
  with pytest.raises(ValueError, match="did you mean 'vital_articles'"):
    run("vital_artcles", files[1], tmp_path / "out")
