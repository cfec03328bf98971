"""Names that people give, and outputs that must not be written."""

import argparse
from pathlib import Path

import pytest

from odqa_jax.main import expand_paths, main
from odqa_jax.runtime.config import base_config
from odqa_jax.runtime.paths import ANSWERS, NPY, RUN, check_output, expand_home
from odqa_jax.runtime.settings import read_settings


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
  monkeypatch.setenv("HOME", str(tmp_path))
  return tmp_path


@pytest.mark.parametrize(
  ("given", "expanded"),
  [
    ("~/d", "{}/d"),
    ("~", "{}"),
    ("~/a,b,~/c", "{}/a,b,{}/c"),
    ("dev=~/a", "dev={}/a"),
    ("a~b/~c", "a~b/~c"),
    ("vital_articles:dev", "vital_articles:dev"),
    ("", ""),
  ],
)
def test_home_is_expanded_where_a_shell_would_not(home, given, expanded):
  assert expand_home(given) == expanded.replace("{}", str(home))


def test_nobodys_home_is_refused(capsys):
  with pytest.raises(ValueError, match=r"\./~nobody-of-that-name/d"):
    expand_home("~nobody-of-that-name/d")
  with pytest.raises(SystemExit) as stop:
    main(["prepare", "--corpus", "p", "--out", "~nobody-of-that-name/d"])
  assert stop.value.code == 2
  assert len(capsys.readouterr().err.splitlines()) == 1


def test_every_flag_but_words_is_a_name(home):
  args = argparse.Namespace(
    out="~/d", question="~ 5 km?", k=3, bm25=True, rungs=["a=~/b", "c"]
  )
  expand_paths(args)
  assert args == argparse.Namespace(
    out=f"{home}/d",
    question="~ 5 km?",
    k=3,
    bm25=True,
    rungs=[f"a={home}/b", "c"],
  )


def test_configs_name_homes_as_well(home):
  config = base_config()
  config.data.corpus = "~/data/corpus"
  config.data.questions = "~/a,~/b"
  data = read_settings(config).data
  assert data.corpus == f"{home}/data/corpus"
  assert data.questions == f"{home}/a,{home}/b"


def test_prepare_writes_below_the_home(home, monkeypatch, capsys):
  (home / "p.tsv").write_text("id\ttext\ttitle\n1\tsome words here\tA\n")
  (home / "here").mkdir()
  monkeypatch.chdir(home / "here")
  flags = ["--corpus", "~/p.tsv", "--out=~/d", "--vocabulary-size=40"]
  assert main(["prepare", *flags]) == 0
  capsys.readouterr()
  assert (home / "d" / "corpus").is_dir()
  assert not any((home / "here").iterdir())


@pytest.mark.parametrize(
  ("content", "written"),
  [
    (b"q1 Q0 d1 1 0.5 odqa_jax\n", RUN),
    (b'[\n{"id": "q1", "question"', RUN),
    (b"[]\n", RUN),
    (b"", RUN),
    (b'{"id": "q1", "question"', ANSWERS),
    (b"\x93NUMPY\x01", NPY),
  ],
)
def test_what_a_command_wrote_it_may_replace(tmp_path, content, written):
  path = tmp_path / "out"
  check_output(path, [], written)
  path.write_bytes(content)
  check_output(path, [None, tmp_path / "other"], written)


def test_outputs_that_would_hurt_are_refused(tmp_path):
  (tmp_path / "notes.txt").write_text("mine\n")
  run = tmp_path / "run.trec"
  run.write_text("q1 Q0 d1 1 0.5 t\n")
  for out, inputs, message in (
    (tmp_path, [], "is a folder"),
    (tmp_path / "notes.txt" / "run.trec", [], "is a file, not a folder"),
    (tmp_path / "notes.txt", [], "not what this command writes"),
    (run, [tmp_path / "a", run], "is read by this command"),
  ):
    with pytest.raises(ValueError, match=message):
      check_output(out, inputs, RUN)
  assert (tmp_path / "notes.txt").read_text() == "mine\n"


def test_search_leaves_a_file_of_yours(tmp_path, toy_data, capsys):
  mine = tmp_path / "passages.jsonl"
  mine.write_text('{"id": "1", "text": "mine", "title": ""}\n')
  flags = ["--checkpoint", "x", "--index", "i", "--corpus", str(toy_data)]
  flags += ["--questions", str(toy_data / "questions" / "toy")]
  assert main(["search", *flags, "--out", str(mine)]) == 2
  assert "not what this command writes" in capsys.readouterr().err
  assert "mine" in mine.read_text()
