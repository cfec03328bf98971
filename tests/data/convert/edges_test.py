"""Conversions at their edges: names, control characters, repetition, flags."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import last_line, run
from reading import passages_of

from odqa_jax.data.convert.content import open_content
from odqa_jax.data.convert.convert import convert
from odqa_jax.data.convert.targets import TARGETS
from odqa_jax.data.corpus.corpus import Corpus, build_corpus
from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.mining.pairs import Pairs
from odqa_jax.data.prepare import prepare
from odqa_jax.data.questions.sets import Question, QuestionSet, write_questions
from odqa_jax.data.runs import Ranking, write_run
from odqa_jax.text.wordpiece_training import train_wordpiece

PASSAGES = [
  Passage("p\r1", "A\rB", "bare\rreturn"),
  Passage("p2", "\x0b", "odd\x85line\x0bends\x0c, \x1c and \u2029."),
  Passage("p3", "", '"'),
]
QUESTIONS = [
  Question("q1", "Who  is it?", ("Ann",), positive_ids=("p2", "p\r1")),
  Question("q2", "When?", (r"19\d\d",), "regex", ("p3",), ("p2", "p3")),
  Question("q3", "Is it?", (), negative_ids=("p3",), excluded_ids=("p2",)),
]


def make_dataset(folder: Path, *names: str) -> Path:
  tokenizer = train_wordpiece([p.text for p in PASSAGES], 100)
  tokenizer.save(folder / "tokenizer")
  build_corpus(PASSAGES, folder / "corpus", tokenizer)
  for name in names:
    write_questions(QUESTIONS, folder / "questions" / name, name)
  return folder


def contents(folder: Path) -> dict[str, bytes]:
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file() and path.name != "manifest.json"
  }


def source(out: Path, name: str) -> str:
  prefix, _, path = name.rpartition(":")
  return f"{prefix}:{out / path}" if prefix else str(out / path)


@pytest.mark.parametrize("to", [t for t in TARGETS if TARGETS[t].corpus])
def test_the_second_conversion_is_the_first_to_the_byte(
  to: str, tmp_path: Path
) -> None:
  data = make_dataset(tmp_path / "data", "dev")
  convert(open_content(data, ["dev"]), to, tmp_path / "first")
  prepare(
    corpus=[source(tmp_path / "first", TARGETS[to].corpus)],
    questions=[
      source(tmp_path / "first", TARGETS[to].questions.format(name="dev"))
    ],
    out=tmp_path / "again",
    tokenizer=str(data / "tokenizer"),
  )
  (read,) = (tmp_path / "again" / "questions").iterdir()
  # BEIR's one file of queries has no name of a set.
  read.rename(read.with_name("dev"))
  convert(open_content(tmp_path / "again", ["dev"]), to, tmp_path / "second")
  first, second = contents(tmp_path / "first"), contents(tmp_path / "second")
  assert list(first) == list(second)
  assert [n for n in first if first[n] != second[n]] == []


def test_trec_files_are_the_same_once_prepared_again(tmp_path: Path) -> None:
  data = make_dataset(tmp_path / "data", "dev")
  convert(open_content(data, ["dev"]), "trec", tmp_path / "first")
  queries = tmp_path / "first" / "queries.dev.tsv"
  queries.rename(tmp_path / "first" / "dev.tsv")
  (tmp_path / "first" / "qrels.dev.tsv").rename(tmp_path / "qrels.tsv")
  content = open_content(data, [str(tmp_path / "first" / "dev.tsv")])
  convert(content, "trec", tmp_path / "second")
  again = (tmp_path / "second" / "queries.dev.tsv").read_bytes()
  assert again == (tmp_path / "first" / "dev.tsv").read_bytes()


@pytest.mark.parametrize(("one", "other"), [("dpr", "trec"), ("trec", "dpr")])
def test_a_run_of_one_layout_and_back_is_the_same(
  one: str, other: str, tmp_path: Path
) -> None:
  data = make_dataset(tmp_path / "data", "dev")
  rows = np.array([[0, 1, 2], [2, 1, -1], [-1, -1, -1]])
  scores = np.array([[3.5, 1 / 3, -1e-7], [7, 2, 0], [0, 0, 0]], np.float32)
  ranking = Ranking(tuple(q.id for q in QUESTIONS), rows, scores)
  run_file = tmp_path / TARGETS[one].run
  write_run(run_file, ranking, QUESTIONS, Corpus(data / "corpus"))
  content = open_content(data, ["dev"], run=run_file)
  convert(content, other, tmp_path / "out")
  crossed = tmp_path / "out" / TARGETS[other].run
  content = open_content(data, ["dev"], run=crossed)
  convert(content, one, tmp_path / "back")
  back = (tmp_path / "back" / TARGETS[one].run).read_bytes()
  assert back == run_file.read_bytes()
  assert back != crossed.read_bytes()


def test_sets_keep_the_dots_of_their_names(tmp_path: Path) -> None:
  names = ["NQ-open.dev", "NQ-open.train"]
  data = make_dataset(tmp_path / "data", *names)
  questions = QuestionSet(data / "questions" / names[1])
  manifest = {
    "corpus": Corpus(data / "corpus").fingerprint,
    "questions": questions.fingerprint,
    "count": 1,
  }
  none = np.array([0, 0])
  Pairs(
    np.array([0]),
    np.array([2]),
    np.array([0, 1]),
    np.array([1]),
    none,
    manifest,
  ).save(data / "pairs" / names[1])
  content = open_content(data, names)
  assert list(content.sets) == names
  assert list(content.pairs) == names[1:]
  inside = open_content(data, [f"{data}/questions/NQ-open.dev/"])
  assert list(inside.sets) == names[:1]
  (tmp_path / "other.dev").symlink_to(data / "questions" / names[0])
  linked = open_content(data, [names[0], str(tmp_path / "other.dev")])
  assert list(linked.sets) == [names[0], "other.dev"]


@pytest.mark.parametrize(
  ("to", "name"), [("flashrag", "corpus"), ("dpr", "run")]
)
def test_a_set_does_not_replace_another_file(
  to: str, name: str, tmp_path: Path
) -> None:
  data = make_dataset(tmp_path / "data", name)
  run_file = tmp_path / "found.trec"
  run_file.write_text("q1 Q0 p2 1 1.0 mine\n")
  content = open_content(
    data, [name], run=run_file if TARGETS[to].run else None
  )
  with pytest.raises(ValueError, match=rf"would be {name}\.json.*another one"):
    convert(content, to, tmp_path / "out")
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", [t for t in TARGETS if not TARGETS[t].run])
def test_a_run_is_not_left_out_silently(
  capsys, to: str, tmp_path: Path
) -> None:
  data = make_dataset(tmp_path / "data", "dev")
  (tmp_path / "found.trec").write_text("q1 Q0 p2 1 1.0 mine\n")
  flags = ["convert", "--corpus", data, "--questions", "dev", "--to", to]
  flags += ["--out", tmp_path / "out", "--run"]
  code, _, err = run(capsys, *flags, tmp_path / "found.trec")
  assert code == 2 and "write --to dpr or trec" in last_line(err)
  assert not (tmp_path / "out").exists()


def test_an_absent_run_is_named(capsys, tmp_path: Path) -> None:
  data = make_dataset(tmp_path / "data", "dev")
  flags = ["convert", "--corpus", data, "--questions", "dev", "--to", "trec"]
  flags += ["--out", tmp_path / "out", "--run", tmp_path / "absent.trec"]
  code, _, err = run(capsys, *flags)
  assert code == 2 and "absent.trec: " in last_line(err)
  assert "Errno" not in err


def test_the_figures_say_what_is_lost(capsys, tmp_path: Path) -> None:
  data = make_dataset(tmp_path / "data", "dev")
  flags = ["convert", "--corpus", data, "--questions", "dev"]
  code, out, _ = run(capsys, *flags, "--to", "dpr", "--out", tmp_path / "dpr")
  lost = json.loads(last_line(out))["lost"]
  of_passages = {"title", "text"}
  assert code == 0
  assert set(lost) - of_passages == set(TARGETS["dpr"].lost)
  assert set(lost) & of_passages == set(TARGETS["dpr"].lost_of_passages)


def test_lines_with_tabs_stay_one_row_of_dpr(tmp_path: Path) -> None:
  passages = [
    Passage("1", "a\tb", "one\ttwo\nthree\tfour"),
    Passage("2", "c\nd\te\tf", "a\ttab"),
  ]
  tokenizer = train_wordpiece([p.text for p in passages], 100)
  build_corpus(passages, tmp_path / "data" / "corpus", tokenizer)
  content = open_content(tmp_path / "data", [])
  convert(content, "dpr", tmp_path / "dpr")
  assert passages_of(tmp_path / "dpr" / "psgs.tsv") == [
    Passage("1", "a\tb", "one two\nthree four"),
    Passage("2", "c\nd e f", "a\ttab"),
  ]
  convert(content, "beir", tmp_path / "beir")
  assert passages_of(tmp_path / "beir" / "corpus.jsonl") == passages
