"""Preparing a folder: checks before the work, runners, stages."""

import json
from pathlib import Path

import pytest

from odqa_jax.data import prepare as prepare_module
from odqa_jax.data.prepare import prepare


@pytest.fixture
def corpus(tmp_path: Path) -> str:
  path = tmp_path / "p.jsonl"
  rows = [
    {"id": str(i), "title": f"T {i // 3}", "text": f"Fox {i} ran. It was red."}
    for i in range(9000)
  ]
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return str(path)


@pytest.fixture
def questions(tmp_path: Path) -> str:
  path = tmp_path / "q.jsonl"
  path.write_text('{"question": "who ran", "answer": ["Fox 5"]}\n')
  return str(path)


def contents(folder: Path) -> dict[str, bytes]:
  files = (p for p in folder.rglob("*") if p.is_file())
  return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.mark.slow
def test_runners_give_the_same_folder(tmp_path, corpus):
  made = {}
  for runner in ("local:1", "local:2"):
    out = tmp_path / runner
    prepare(corpus=[corpus], questions=[], out=out, runner=runner)
    made[runner] = contents(out)
  assert made["local:1"] == made["local:2"]
  pytest.importorskip("apache_beam")
  out = tmp_path / "beam"
  prepare(corpus=[corpus], questions=[], out=out, runner="beam")
  assert contents(out) == made["local:1"]


def test_stages_are_timed_where_they_did_something(
  tmp_path, corpus, questions, monkeypatch
):
  def run(pairs=()):
    return prepare(
      corpus=[corpus],
      questions=[questions],
      out=tmp_path / "o",
      runner="local:1",
      pairs=pairs,
    )["stages"]

  stages = run()
  assert set(stages) == {"tokenizer", "corpus", "questions"}
  made = stages["corpus"]
  assert made["passages_per_s"] == pytest.approx(9000 / made["seconds"], 0.1)
  assert made["tokens_per_s"] > made["passages_per_s"]
  stages = run(["q"])
  assert set(stages["corpus"]) == {"seconds"}
  assert set(stages) == {"tokenizer", "corpus", "questions", "pairs"}


@pytest.mark.parametrize(
  "flags, message",
  [
    ({"runner": "locl"}, "--runner 'locl': it is local"),
    (
      {"tokenizer": "TOK", "vocabulary_size": 90},
      "--vocabulary-size 90: --tokenizer TOK has a vocabulary",
    ),
    ({"spans": ["GPEE"]}, "--spans GPEE: no type of"),
    ({"questions": ["none.jsonl"]}, "none.jsonl: no such file"),
  ],
)
def test_flags_are_checked_before_the_work(
  tmp_path, corpus, flags, message, monkeypatch
):
  if "spans" in flags:
    pytest.importorskip("spacy")
  monkeypatch.setattr(
    prepare_module, "prepare_tokenizer", lambda *_: pytest.fail("worked")
  )
  with pytest.raises(ValueError, match=message):
    prepare(**{"corpus": [corpus], "questions": [], "out": tmp_path} | flags)


@pytest.mark.parametrize(
  "folder", ["corpus", "reader_corpus", "spans", "questions/q", "pairs/q"]
)
def test_foreign_folders_are_found_before_the_work(
  tmp_path, corpus, questions, folder, monkeypatch
):
  monkeypatch.setattr(
    prepare_module, "prepare_tokenizer", lambda *_: pytest.fail("worked")
  )
  (tmp_path / folder).mkdir(parents=True)
  (tmp_path / folder / "thesis.txt").write_text("text")
  with pytest.raises(ValueError, match=f"{folder}: exists and is no"):
    prepare(corpus=[corpus], questions=[questions], out=tmp_path)
