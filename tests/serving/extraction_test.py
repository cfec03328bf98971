"""An extractive reader behind the commands: trained, asked, measured, fused."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import last_line, run
from small_reader import save_workdir, small_system

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.sets import QuestionSet
from odqa_jax.data.runs import Ranking, write_run
from odqa_jax.evaluation.tables import rounded
from odqa_jax.reading.candidates import read_candidates
from odqa_jax.serving.system_folder import assemble
from odqa_jax.text.wordpiece_training import train_wordpiece

# A reader is trained, which takes half a minute to compile.
pytestmark = pytest.mark.slow

CONFIG = Path(__file__).parents[2] / "configs" / "extractive.py"


@pytest.fixture(scope="module")
def made(tmp_path_factory, toy_data):
  """A trained extractive reader, a retriever beside it, and a run.

  The run has the gold passage of every question at a rank of its own.
  """
  from odqa_jax.main import main

  root = tmp_path_factory.mktemp("extraction")
  corpus = Corpus(toy_data / "corpus")
  questions = list(QuestionSet(toy_data / "questions" / "toy"))
  rng = np.random.default_rng(0)
  rows = np.stack(
    [rng.choice(len(corpus), 8, replace=False) for _ in questions]
  )
  for i, question in enumerate(questions):
    gold = corpus.find(question.positive_ids[0])
    if gold not in rows[i]:
      rows[i, i % 8] = gold
  scores = np.tile(np.arange(8, 0, -1.0, dtype=np.float32), (len(rows), 1))
  ranking = Ranking(tuple(q.id for q in questions), rows, scores)
  write_run(root / "run.json", ranking, questions, corpus)
  code = main(
    [
      "train", "--config", f"{CONFIG}:debug", "--workdir", str(root / "work"),
      f"--config.data.corpus={toy_data / 'corpus'}",
      f"--config.data.questions={toy_data / 'questions' / 'toy'}",
      f"--config.data.run={root / 'run.json'}",
    ]
  )  # fmt: skip
  assert code == 0
  save_workdir(small_system("individual", toy_data), root / "retriever")
  return root


def read(made, toy_data, *more):
  return (
    "--checkpoint", made / "work", "--corpus", toy_data,
    "--questions", toy_data / "questions" / "toy", *more,
  )  # fmt: skip


def lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_is_read_measured_and_fused(capsys, made, toy_data, tmp_path):
  given = read(made, toy_data, "--run", made / "run.json")
  code, out, err = run(capsys, "evaluate", *given, "--k", 8)
  assert code == 0, err
  figures = json.loads(last_line(out))
  assert figures["run"]["recall"]["5"] > 0
  measured = figures["checkpoint"]["read"]
  assert [*measured] == ["1", "5", "8"]

  outputs = tmp_path / "a.jsonl", tmp_path / "c.jsonl"
  code, out, err = run(
    capsys, "answer", *given, "--k", 5, "--spans", 7,
    "--out", outputs[0], "--candidates", outputs[1],
  )  # fmt: skip
  assert code == 0, err
  # As many passages, the same answers, by another command.
  figures = rounded(json.loads(last_line(out)), 6)
  assert figures.items() >= measured["5"].items()
  corpus = Corpus(toy_data / "corpus")
  questions = list(QuestionSet(toy_data / "questions" / "toy"))
  records = lines(outputs[0])
  candidates = read_candidates(outputs[1])
  assert len(records) == len(questions)
  assert [*candidates.components] == ["retriever", "extractive_reader"]
  for record, found in zip(records, candidates.of(questions), strict=True):
    assert len(record["spans"]) == 7
    assert record["answer"] == record["spans"][0]["text"]
    for span in record["spans"]:
      row = corpus.find(span["passage"])
      assert corpus.text(row)[span["start"] : span["end"]] == span["text"]
      total = sum(span["parts"].values())
      assert span["scores"]["extractive_reader"] == pytest.approx(total)
    # Scores of 8 to 4, as a softmax over the five that were read.
    logs = np.arange(5) - np.log(np.exp(np.arange(5)).sum())
    for span in found.spans:
      assert np.isclose(span.scores["retriever"], logs, atol=1e-6).any()
    assert {(s.passage, s.start, s.end) for s in found.spans} == {
      (s["passage"], s["start"], s["end"]) for s in record["spans"]
    }


def test_a_system_searches_reads_and_fuses(capsys, made, toy_data, tmp_path):
  index = tmp_path / "index"
  searched = read(
    made, toy_data, "--retriever", made / "retriever", "--index", index
  )
  outputs = tmp_path / "a.jsonl", tmp_path / "c.jsonl"
  code, out, err = run(
    capsys, "answer", *searched, "--k", 20, "--spans", 40,
    "--out", outputs[0], "--candidates", outputs[1],
  )  # fmt: skip
  assert code == 0, err
  alone = json.loads(last_line(out))
  questions = toy_data / "questions" / "toy"
  code, _, err = run(
    capsys, "fuse", "--candidates", outputs[1], "--questions", questions,
    "--out", tmp_path / "fusion.json",
  )  # fmt: skip
  assert code == 0, err

  parts = {
    "retriever": made / "retriever", "index": index, "corpus": toy_data,
    "extractive_reader": made / "work",
  }  # fmt: skip
  assemble(tmp_path / "plain", parts)
  fusion = tmp_path / "fusion.json"
  assemble(tmp_path / "fused", parts | {"fusion": fusion})
  asked = ("--questions", questions, "--k", 20, "--read-k", 20)
  code, out, err = run(
    capsys, "evaluate", "--system", tmp_path / "plain", *asked
  )
  assert code == 0, err
  figures = json.loads(last_line(out))["system"]
  assert figures["read"]["20"]["em"] == alone["em"]
  assert "20" in figures["recall"]

  code, out, err = run(
    capsys, "answer", "--system", tmp_path / "fused", "--k", 20,
    "--spans", 40, "--questions", questions, "--out", tmp_path / "f.jsonl",
  )  # fmt: skip
  assert code == 0, err
  weights = json.loads(fusion.read_text())["weights"]
  moved = 0
  for record, plain in zip(
    lines(tmp_path / "f.jsonl"), lines(outputs[0]), strict=True
  ):
    moved += record["answer"] != plain["answer"]
    for span in record["spans"]:
      wanted = sum(weights[n] * span["scores"][n] for n in weights)
      assert span["fused"] == pytest.approx(wanted, abs=1e-6)
    fused = [span["fused"] for span in record["spans"]]
    assert fused == sorted(fused, reverse=True)
  assert moved

  code, out, err = run(
    capsys, "answer", "--system", tmp_path / "plain", "--question", "who?"
  )
  assert code == 0, err
  record = json.loads(last_line(out))
  assert record["k"] == 100 and len(record["spans"]) == 10
  assert f"= {record['answer']}" in out


def test_what_does_not_fit_is_told(capsys, made, toy_data, tmp_path):
  fits = read(made, toy_data)
  out = ("--out", tmp_path / "a.jsonl")
  lacks = read(made, toy_data)[2:]
  text = (made / "run.json").read_text()
  other = tmp_path / "other.json"
  other.write_text(re.sub(r'"text": "', '"text": "else ', text))
  broken = tmp_path / "broken"
  shutil.copytree(made / "work", broken)
  shutil.rmtree(broken / "tokenizer")
  train_wordpiece(["other words"], 60).save(broken / "tokenizer")
  for flags, said in [
    ((*fits, *out), "give --retriever DIR with --index DIR, or --run FILE"),
    ((*fits, *out, "--retriever", made / "retriever"), "go together"),
    ((*fits, *out, "--run", other), "the run is of another corpus"),
    (
      ("--checkpoint", made / "retriever", *lacks, *out, "--merge"),
      "--merge is for an extractive reader",
    ),
    (
      (*fits, *out, "--run", made / "run.json", "--beams", 2),
      "--beams is for a reader that writes",
    ),
    (
      (*fits, *out, "--run", made / "run.json", "--spans", 0),
      "--spans 0: at least 1",
    ),
    (
      ("--checkpoint", broken, *lacks, *out, "--run", made / "run.json"),
      "is not the tokenizer that",
    ),
  ]:
    code, _, err = run(capsys, "answer", *flags)
    assert code == 2 and said in last_line(err), err
  assert not (tmp_path / "a.jsonl").exists()
