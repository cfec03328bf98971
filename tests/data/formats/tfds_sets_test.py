"""Datasets as TFDS prepares them, with the features of the real ones."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tfds_datasets as prepared

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.formats.files import open_questions, read_questions
from odqa_jax.data.formats.tfds_sets import (
  is_tfds,
  read_tfds_passages,
  set_name,
)
from odqa_jax.data.prepare import prepare
from odqa_jax.data.questions.sets import QuestionSet


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
  folder = tmp_path / "tfds"
  monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
  return folder


def test_natural_questions_open(data_dir: Path) -> None:
  records = [
    {"question": f"who is é {i}", "answer": [f"a{i}", "b", "b"]}
    for i in range(6)
  ]
  splits = {"train": records[:4], "validation": records[4:]}
  prepared.prepare(data_dir, "natural_questions_open", prepared.NQ_OPEN, splits)
  for name in ("tfds:natural_questions_open", "natural_questions_open"):
    read = open_questions(f"{name}:train")
    assert [q.id for q in read] == ["0", "1", "2", "3"]
    # TFDS shuffles.
    assert {q.question: q.answers for q in read} == {
      r["question"]: (r["answer"][0], "b") for r in records[:4]
    }
    with pytest.raises(ValueError, match=r"name one of its splits.*validation"):
      list(read_questions(name))
    with pytest.raises(ValueError, match="no split 'dev'; it has train, valid"):
      list(read_questions(f"{name}:dev"))


def test_trivia_qa(data_dir: Path, capsys: pytest.CaptureFixture) -> None:
  records = [
    prepared.trivia_record("tc_1", "Who?", "David Seville", "Ross", "Ross "),
    # The web part of `rc` has questions of its Wikipedia part.
    prepared.trivia_record("tc_1", "Who?", "David Seville", "Ross"),
    prepared.trivia_record("tc_2", "Where?", "<unk>"),
  ]
  for config in ("rc", "rc.nocontext"):
    prepared.prepare(
      data_dir,
      "trivia_qa",
      prepared.TRIVIA_QA,
      {"train": records},
      config=config,
      default="rc",
      version="1.1.0",
    )
  read = {q.id: q for q in read_questions("trivia_qa/rc.nocontext:train")}
  assert read["tc_1"].answers[:2] == ("David Seville", "Ross")
  assert read["tc_2"].answers == ()
  assert "1 questions that come again are left out" in capsys.readouterr().err
  (data_dir / "trivia_qa" / ".config" / "metadata.json").unlink()
  with pytest.raises(ValueError, match=r"trivia_qa/rc, trivia_qa/rc.nocontext"):
    list(read_questions("trivia_qa:train"))


def test_without_a_configuration_it_is_the_default_one(data_dir: Path) -> None:
  def prepare_squad(config: str, version: str = "3.0.0") -> None:
    question = prepared.squad_record(f"{config}-{version}", "T", "It is.", "is")
    features = prepared.SQUAD
    if config == "v2.0":
      features = prepared.SQUAD_2
      question |= {"plausible_answers": [], "is_impossible": False}
    prepared.prepare(
      data_dir,
      "squad",
      features,
      {"validation": [question]},
      config=config,
      default="v1.1",
      version=version,
    )

  # TFDS would not take another for it either.
  prepare_squad("v2.0")
  with pytest.raises(
    ValueError, match=r"none is the default; .* squad/v2\.0\."
  ):
    list(read_questions("tfds:squad:validation"))
  prepare_squad("v1.1", "2.0.0")
  prepare_squad("v1.1")
  for name in ("squad:validation", "squad/v1.1", "squad/v1.1/3.0.0"):
    (question,) = read_questions(f"tfds:{name}")
    assert question.id == "v1.1-3.0.0"
  folder = data_dir / "squad" / "v1.1" / "3.0.0"
  assert set_name(f"tfds:{folder}:validation") == "squad-v1.1-validation"
  (question,) = read_questions("tfds:squad/v2.0:validation")
  assert question.id == "v2.0-3.0.0"


def test_web_questions(data_dir: Path) -> None:
  records = [
    {"url": f"http://{i}", "question": f"who is {i}", "answers": ["é", "b"]}
    for i in range(2)
  ]
  prepared.prepare(
    data_dir, "web_questions", prepared.WEB_QUESTIONS, {"test": records}
  )
  read = list(read_questions("tfds:web_questions:test"))
  assert [q.id for q in read] == ["0", "1"]
  assert {q.question for q in read} == {"who is 0", "who is 1"}
  assert {q.answers for q in read} == {("é", "b")}


@pytest.mark.parametrize(
  ("name", "command"),
  [
    ("tfds:squad:train", "tfds build squad"),
    ("tfds:squad/v1.1:train", "tfds build squad --config=v1.1"),
    ("tfds:squad/v1.1/3.0.0:train", "tfds build squad:3.0.0 --config=v1.1"),
    ("natural_questions_open/1.0.0", "tfds build natural_questions_open:1.0.0"),
  ],
)
def test_the_command_is_one_that_tfds_takes(
  data_dir: Path, name: str, command: str
) -> None:
  wanted = re.escape(f"`{command} --file_format=array_record`")
  with pytest.raises(ValueError, match=wanted):
    list(read_questions(name))


def test_the_home_folder(
  data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  records = [{"question": "who", "answer": ["a"]}]
  folder = prepared.prepare(
    data_dir, "natural_questions_open", prepared.NQ_OPEN, {"train": records}
  )
  monkeypatch.setenv("HOME", str(folder.parent))
  (question,) = read_questions(f"tfds:~/{folder.name}:train")
  assert question.question == "who"


def test_squad_is_questions_and_passages(
  data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
  records = [
    prepared.squad_record("a", "New_York", "It is big. It is old.", "big"),
    prepared.squad_record(
      "b", "New_York", "It is big. It is old.", "old", "old"
    ),
    prepared.squad_record("c", "Rome", "It is older.", "older"),
  ]
  prepared.prepare(
    data_dir,
    "squad",
    prepared.SQUAD,
    {"train": records},
    config="v1.1",
    version="3.0.0",
  )
  passages = list(read_tfds_passages("squad:train"))
  assert {(p.title, p.text) for p in passages} == {
    ("New York", "It is big. It is old."),
    ("Rome", "It is older."),
  }
  prepare(
    corpus=["tfds:squad/v1.1:train"],
    questions=["squad:train"],
    out=tmp_path / "data",
    vocabulary_size=100,
  )
  corpus = Corpus(tmp_path / "data" / "corpus")
  stored = {
    q.id: q for q in QuestionSet(tmp_path / "data/questions/squad-train")
  }
  assert len(corpus) == 2 and set(stored) == {"a", "b", "c"}
  assert stored["b"].answers == ("old",)
  (gold,) = stored["b"].positive_ids
  assert corpus.text(corpus.row_of(gold)) == "It is big. It is old."
  impossible = records[0] | {"plausible_answers": [], "is_impossible": True}
  others = [
    r | {"plausible_answers": [], "is_impossible": False} for r in records[1:]
  ]
  prepared.prepare(
    data_dir,
    "squad",
    prepared.SQUAD_2,
    {"validation": [impossible, *others]},
    config="v2.0",
    version="3.0.0",
  )
  capsys.readouterr()
  read = list(read_questions("squad/v2.0:validation"))
  assert {q.id for q in read} == {"b", "c"}
  assert "1 questions marked as impossible" in capsys.readouterr().err


def test_the_newest_version_counts(data_dir: Path) -> None:
  for version in ("1.0.0", "10.0.0", "2.0.0"):
    records = [{"question": f"version {version}", "answer": ["a"]}]
    folder = prepared.prepare(
      data_dir,
      "natural_questions_open",
      prepared.NQ_OPEN,
      {"train": records},
      version=version,
    )
    assert set_name(f"tfds:{folder}") == "natural_questions_open"
    (alone,) = read_questions(f"tfds:{folder}")
    assert alone.question == f"version {version}"
  (question,) = read_questions("natural_questions_open")
  assert question.question == "version 10.0.0"


def test_what_is_not_prepared_names_the_command(
  data_dir: Path, tmp_path: Path
) -> None:
  with pytest.raises(
    ValueError,
    match=r"`tfds build trivia_qa --config=rc.nocontext --file_format=",
  ):
    list(read_questions("trivia_qa/rc.nocontext:train"))
  records = [{"question": "who", "answer": ["a"]}]
  folder = prepared.prepare(
    data_dir, "natural_questions_open", prepared.NQ_OPEN, {"train": records}
  )
  with pytest.raises(ValueError, match="are those of no passage"):
    list(read_tfds_passages(f"tfds:{folder}"))
  info = folder / "dataset_info.json"
  content = json.loads(info.read_text())
  info.write_text(json.dumps(content | {"fileFormat": "tfrecord"}))
  with pytest.raises(ValueError, match="of the kind tfrecord, which needs"):
    list(read_questions(f"tfds:{folder}"))
  info.write_text("{")
  with pytest.raises(ValueError, match=r"dataset_info\.json: not JSON"):
    list(read_questions(f"tfds:{folder}"))


def test_names() -> None:
  assert set_name("tfds:squad/v1.1:train") == "squad-v1.1-train"
  assert set_name("natural_questions_open") == "natural_questions_open"
  assert is_tfds("squad:train") and is_tfds("trivia_qa/rc:test")
  assert not is_tfds("squads:train") and not is_tfds("dev.jsonl")


def test_a_file_of_that_name_is_a_file(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.chdir(tmp_path)
  Path("squad").write_text('{"question": "who?", "answer": ["a"]}\n')
  assert not is_tfds("squad")
  assert [q.question for q in read_questions("squad")] == ["who?"]


def test_tensorflow_is_not_needed(data_dir: Path) -> None:
  records = [{"question": "who", "answer": ["a"]}]
  prepared.prepare(
    data_dir, "natural_questions_open", prepared.NQ_OPEN, {"train": records}
  )
  program = (
    "import sys;"
    "from odqa_jax.data.formats.files import read_questions;"
    "print(next(read_questions('natural_questions_open')).answers,"
    "'tensorflow' in sys.modules)"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=True
  )
  assert done.stdout == "('a',) False\n"
