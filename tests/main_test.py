"""The command line as its user meets it: figures, messages, exit codes."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import last_line, run

from odqa_jax.data.questions.sets import QuestionSet
from odqa_jax.main import main
from odqa_jax.runtime import programs


def test_prepare_bm25_and_evaluate(capsys, tmp_path, toy_data):
  code, out, _ = run(
    capsys, "evaluate", "--bm25", "--k", 20, "--corpus", toy_data,
    "--questions", toy_data / "questions" / "toy",
  )  # fmt: skip
  assert code == 0
  figures = json.loads(last_line(out))["bm25"]
  # Every topic is unique, so BM25 finds its passage (but for a tie of words).
  assert figures["recall"]["1"] == figures["gold"]["1"] >= 0.98


@pytest.mark.slow
def test_whole_pipeline_by_commands(capsys, tmp_path, toy_data):
  config = Path(__file__).parents[1] / "configs" / "supervised.py"
  work = tmp_path / "work"
  questions = toy_data / "questions" / "toy"
  code, out, _ = run(
    capsys, "train", "--config", f"{config}:debug", "--workdir", work,
    f"--config.data.corpus={toy_data / 'corpus'}",
    f"--config.data.questions={questions}",
    f"--config.data.pairs={toy_data / 'pairs' / 'toy'}",
    f"--config.evaluate.questions={questions}",
  )  # fmt: skip
  assert code == 0 and json.loads(last_line(out))["steps"] == 10
  assert "dev/recall@20" in (work / "metrics.jsonl").read_text()

  code, out, _ = run(
    capsys, "index", "--checkpoint", work, "--corpus", toy_data,
    "--out", tmp_path / "index", "--npy", tmp_path / "rows.npy",
  )  # fmt: skip
  assert code == 0 and json.loads(last_line(out))["count"] == 200

  for name in ("run.trec", "run.json"):
    code, out, _ = run(
      capsys, "search", "--checkpoint", work, "--index", tmp_path / "index",
      "--corpus", toy_data, "--questions", questions, "--k", 20,
      "--out", tmp_path / name,
    )  # fmt: skip
    assert code == 0
  code, out, _ = run(
    capsys, "report", work, "--run", tmp_path / "run.json",
    "--out", tmp_path / "page.html",
  )  # fmt: skip
  assert code == 0 and json.loads(last_line(out))["questions"] == 100
  page = (tmp_path / "page.html").read_text()
  # The recipe said 10 steps as well; what it did not say is bold.
  assert f"<b><code>{questions}</code></b>" in page
  measured = []
  for name in ("run.trec", "run.json"):
    code, out, _ = run(
      capsys, "evaluate", "--run", tmp_path / name, "--questions", questions,
      "--corpus", toy_data,
    )  # fmt: skip
    assert code == 0
    measured.append(json.loads(last_line(out))["run"])
  assert measured[0] == measured[1]

  code, _, err = run(
    capsys, "search", "--checkpoint", work, "--index", tmp_path / "index",
    "--corpus", toy_data, "--questions", questions, "--k", 201,
    "--out", tmp_path / "all.trec",
  )  # fmt: skip
  assert code == 0 and "--k 201: the corpus has 200 passages, all" in err

  # Another checkpoint must not search this index.
  other = tmp_path / "other"
  run(
    capsys, "train", "--config", f"{config}:debug", "--workdir", other,
    f"--config.data.corpus={toy_data / 'corpus'}",
    f"--config.data.questions={questions}",
    f"--config.data.pairs={toy_data / 'pairs' / 'toy'}",
    "--config.seed=5",
  )  # fmt: skip
  code, _, err = run(
    capsys, "search", "--checkpoint", other, "--index", tmp_path / "index",
    "--corpus", toy_data, "--questions", questions, "--k", 5,
    "--out", tmp_path / "x.trec",
  )  # fmt: skip
  assert code == 2 and "its encoder is" in last_line(err)
  assert not (tmp_path / "x.trec").exists()


BAD_CORPORA = {
  "no header": ("c.tsv", "1\ta text\ta title\n", "header"),
  "short row": ("c.tsv", "id\ttext\ttitle\n1\ta text\n", "c.tsv:2"),
  "broken json": (
    "c.jsonl",
    '{"id": "1", "title": "", "text": "a b"}\n{"id": \n',
    ":2",
  ),
  "empty text": (
    "c.jsonl",
    '{"id": "1", "title": "t", "text": " "}\n',
    "no passage",
  ),
  "twice": (
    "c.jsonl",
    '{"id": "1", "title": "", "text": "a b"}\n' * 2,
    "c.jsonl:2",
  ),
  "empty": ("c.jsonl", "", "the file is empty"),
}


@pytest.mark.parametrize("name", BAD_CORPORA)
def test_bad_corpus_is_one_line_and_leaves_nothing(capsys, tmp_path, name):
  file, content, message = BAD_CORPORA[name]
  path = tmp_path / file
  path.write_text(content)
  out = tmp_path / "out"
  code, stdout, err = run(capsys, "prepare", "--corpus", path, "--out", out)
  assert code == 2
  assert message in last_line(err)
  assert not stdout
  assert not out.exists() or not any(out.rglob("*.npy"))


def test_not_utf8_names_the_line(capsys, tmp_path):
  path = tmp_path / "c.jsonl.gz"
  good = b'{"id": "1", "title": "t", "text": "a b"}\n'
  path.write_bytes(gzip.compress(good + b'{"id": "2", "text": "\xff"}\n'))
  code, _, err = run(
    capsys, "prepare", "--corpus", path, "--out", tmp_path / "o"
  )
  assert code == 2 and "c.jsonl.gz:2" in last_line(err)


def test_no_positive_for_any_question(capsys, tmp_path):
  corpus, questions = tmp_path / "c.jsonl", tmp_path / "q.jsonl"
  corpus.write_text('{"id": "1", "title": "t", "text": "a red house"}\n')
  questions.write_text('{"question": "which house", "answer": ["zebra"]}\n')
  code, _, err = run(
    capsys, "prepare", "--corpus", corpus, "--questions", questions,
    "--pairs", "q", "--out", tmp_path / "o", "--vocabulary-size", 100,
  )  # fmt: skip
  assert code == 2 and "has a positive passage" in last_line(err)


def test_typo_in_a_config_key(capsys, tmp_path):
  config = Path(__file__).parents[1] / "configs" / "ict.py"
  code, _, err = run(
    capsys, "train", "--config", config, "--workdir", tmp_path,
    "--config.optimizer.learning_rat=1",
  )  # fmt: skip
  assert code == 2 and "did you mean 'learning_rate'" in last_line(err)


def test_formats_are_told_and_can_be_forced(capsys, tmp_path):
  corpus, questions = tmp_path / "c.jsonl", tmp_path / "q.jsonl"
  corpus.write_text('{"id": "1", "title": "t", "text": "born in September"}\n')
  questions.write_text('{"question": "born", "answer": ["Sept?(ember)?"]}\n')
  prepared = tmp_path / "data"
  flags = ["prepare", "--corpus", corpus, "--questions", questions]
  flags += ["--out", prepared, "--vocabulary-size", 100]
  code, _, err = run(capsys, *flags)
  assert code == 0
  assert f"{corpus}: passages in the format passages_jsonl (JSON with" in err
  assert f"{questions}: questions in the format nq_open (JSON with" in err
  assert "1 of the first 1 answers look like" in err
  recalls = {}
  for name in ("curated_trec", "nq_open"):
    code, out, _ = run(
      capsys, "evaluate", "--bm25", "--k", 1, "--corpus", prepared,
      "--questions", questions, "--format", name,
    )  # fmt: skip
    assert code == 0
    recalls[name] = json.loads(last_line(out))["bm25"]["recall"]["1"]
  assert recalls == {"curated_trec": 1.0, "nq_open": 0.0}
  code, _, err = run(capsys, *flags, "--format", "nq_open")
  assert code == 0 and "the format nq_open (as told)" in err
  assert QuestionSet(prepared / "questions" / "q")[0].answer_type == "string"
  for flag in ("--format", "--corpus-format"):
    code, _, err = run(capsys, *flags, flag, "nq_opne")
    assert code == 2 and "did you mean 'nq_open'?" in last_line(err)


@pytest.mark.parametrize(
  "flags, message",
  [
    (["serach"], "did you mean 'search'"),
    (["demo", "--seed", "x"], "argument --seed: invalid int value: 'x'"),
    (["index", "--corpus", "c"], "--checkpoint, --out"),
    (["demo", "--config.seed=3"], "belongs to `odqa train`"),
  ],
)
def test_a_typo_in_the_flags_is_one_line(capsys, flags, message):
  with pytest.raises(SystemExit) as stopped:
    main(flags)
  err = capsys.readouterr().err
  assert stopped.value.code == 2
  assert message in err and err.count("\n") == 1


def test_help_needs_no_heavy_library():
  program = (
    "import sys; from odqa_jax.main import make_parser; make_parser();"
    "print([m for m in ('jax', 'numpy', 'grain') if m in sys.modules])"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=True
  )
  assert done.stdout == "[]\n"


def test_a_question_waits_for_no_library_that_it_does_not_need():
  """`odqa answer` imports what it uses before it looks for the checkpoint."""
  unneeded = (
    "grain", "matplotlib", "pandas", "spacy", "tensorboardX", "tensorflow",
    "tensorflow_datasets", "torch", "transformers",
  )  # fmt: skip
  program = (
    "import sys; from odqa_jax.main import main;"
    "code = main('answer --checkpoint m --index i --corpus c --question q'"
    ".split());"
    f"print(code, [m for m in {unneeded} if m in sys.modules])"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=True
  )
  assert done.stdout == "2 []\n"


def test_commands_that_compile_keep_programs(capsys, monkeypatch, tmp_path):
  told = []
  monkeypatch.setattr(programs, "keep_programs", told.append)
  config = Path(__file__).parents[1] / "configs" / "ict.py"
  run(capsys, "train", "--config", config, "--workdir", tmp_path / "w")
  run(capsys, "demo", "--preset", "none", "--workdir", tmp_path / "d")
  run(capsys, "index", "--checkpoint", "m", "--corpus", "c", "--out", "o")
  run(capsys, "inspect", tmp_path)
  assert told == [str(tmp_path / "w"), str(tmp_path / "d"), None]


@pytest.mark.parametrize(
  "args, message",
  [
    (["index", "--checkpoint", "nowhere", "--corpus", "x", "--out", "y"], "x"),
    (["demo", "--preset", "tiny"], "known: default"),
    (["evaluate", "--questions", "q", "--corpus", "c"], "--run FILE"),
  ],
)
def test_wrong_arguments(capsys, args, message, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  code, _, err = run(capsys, *args)
  assert code == 2 and message in last_line(err)


def test_distributed_flags_go_together(capsys):
  code, _, err = run(capsys, "--num-processes", "2", "demo")
  assert code == 2 and "go together" in last_line(err)


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (None, "a config is a Python file"),
    ("x = 1\ndef get_config(arg): pass\n", "returns no ConfigDict"),
    ("x = 1\n", r"defines get_config(arg)"),
    ("x = 1\ny = z\n", "recipe.py:2: NameError"),
    ("x = 1\ndef f(:\n", "recipe.py:2: SyntaxError"),
    ("def get_config(arg):\n  return {}[arg]\n", "recipe.py:2: KeyError"),
  ],
)
def test_a_broken_recipe_is_one_line(capsys, tmp_path, content, message):
  recipe = tmp_path / ("recipe.txt" if content is None else "recipe.py")
  recipe.write_text(content or "")
  code, out, err = run(
    capsys, "train", "--config", recipe, "--workdir", tmp_path / "w"
  )
  assert (code, out) == (2, "")
  assert len(err.splitlines()) == 1 and message in err
  assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
  "flags",
  [
    ["prepare", "--corpus", "p.tsv", "--out"],
    ["index", "--checkpoint", "m", "--corpus", "c", "--out"],
    ["train", "--config", "configs/ict.py", "--workdir"],
    ["demo", "--workdir"],
  ],
)
def test_a_file_where_a_folder_goes_is_told_first(capsys, tmp_path, flags):
  file = tmp_path / "notes.txt"
  file.write_text("mine")
  for out in (file, file / "below"):
    code, _, err = run(capsys, *flags, out)
    assert code == 2 and f"{file}: is a file, not a folder" in err
  assert file.read_text() == "mine"


def test_a_corpus_smaller_than_k_is_ranked_whole(capsys, toy_data):
  questions = toy_data / "questions" / "toy"
  flags = ["--corpus", toy_data, "--questions", questions]
  code, out, err = run(capsys, "evaluate", "--bm25", "--k", 500, *flags)
  assert code == 0 and "has 200 passages, all are ranked" in err
  assert json.loads(last_line(out))["bm25"]["recall"]["1"] >= 0.98
  code, _, err = run(capsys, "evaluate", "--bm25", "--k", 0, *flags)
  assert code == 2 and "--k 0: at least 1" in err


@pytest.mark.parametrize("flag", ["--beams", "--batch-size"])
def test_numbers_that_are_none_are_told_before_loading(capsys, flag):
  code, _, err = run(
    capsys, "answer", "--checkpoint", "m", "--corpus", "c",
    "--question", "who?", flag, 0,
  )  # fmt: skip
  assert code == 2 and f"{flag} 0: must be at least 1" in err


def test_settings_are_listed_and_printed(capsys):
  with pytest.raises(SystemExit) as stopped:
    main(["train", "--list-settings"])
  lines = capsys.readouterr().out.splitlines()
  assert stopped.value.code == 0
  assert "--config.steps=1000  updates" in lines
  assert all("=" in line and "  " in line for line in lines)
  config = Path(__file__).parents[1] / "configs" / "ict.py"
  code, out, _ = run(
    capsys, "train", "--config", config, "--print-config", "--config.steps=7"
  )
  assert code == 0 and json.loads(last_line(out))["steps"] == 7
  code, _, err = run(capsys, "train", "--config", config)
  assert code == 2 and "--workdir DIR is needed" in err
