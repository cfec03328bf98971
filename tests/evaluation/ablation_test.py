"""The table of all subsets, by command and by hand."""

import dataclasses
import json

import numpy as np
import pytest
from candidate_sets import make_set
from command_line import last_line, run

from odqa_jax.evaluation.ablation import (
  GENERATED,
  Measured,
  ablate,
  ablation_table,
)
from odqa_jax.reading.candidates import COMPONENTS, write_candidates
from odqa_jax.reading.fusion import load_fusion, tune


def test_every_subset_is_there_once_and_measured():
  dev, test = Measured(*make_set(60, 0)), Measured(*make_set(50, 1))
  rows = {row["name"]: row for row in ablate(dev, test)}
  assert len(rows) == 2**4 + 1
  assert [*rows][:2] == [GENERATED, "(nothing)"]
  whole = rows[" + ".join(COMPONENTS)]
  assert list(rows.values())[-1] is whole
  assert whole["p"] == 1.0 and whole["only_here"] == whole["only_all"] == 0
  for subset in (("retriever",), ("retriever", "reader"), COMPONENTS):
    fusion = tune(dev.candidates, dev.questions, components=subset)
    found = [fusion.answer(c) for c in test.candidates.candidates]
    right = np.array([a.text.lower() == "answer" for a in found])
    row = rows[" + ".join(subset)]
    assert row["em"] == right.mean() and row["questions"] == 50
    assert row["extractive"] == np.mean([a.extractive for a in found])
    assert row["em_95"][0] < row["em"] < row["em_95"][1]
  # A wrong answer shares no word with the right one.
  assert all(row["f1"] == row["em"] for row in rows.values())
  written = [c.generated.text == "answer" for c in test.candidates.candidates]
  assert rows[GENERATED]["em"] == np.mean(written)
  assert rows[GENERATED]["extractive"] == 0.0


def test_a_question_without_candidates_is_a_miss():
  candidates, questions = make_set(60, 0)
  _, asked = make_set(90, 0)
  rows = ablate(Measured(candidates, questions), Measured(candidates, asked))
  fewer = ablate(Measured(candidates, questions))
  for a, b in zip(rows, fewer, strict=True):
    np.testing.assert_allclose(a["em"], b["em"] * 60 / 90)


def test_sets_of_other_components_are_refused():
  dev = Measured(*make_set(20, 0))
  test = Measured(*make_set(20, 1, COMPONENTS[:3]))
  with pytest.raises(ValueError, match="make both with the same"):
    ablate(dev, test)


def test_each_set_has_runs_of_its_own():
  def measured(seed, retriever):
    candidates, questions = make_set(20, seed, COMPONENTS[:3])
    components = dict(candidates.components) | {"retriever": retriever}
    made = dataclasses.replace(candidates, components=components)
    return Measured(made, questions)

  rows = ablate(measured(0, "run:01"), measured(1, "run:23"))
  assert rows[-1]["questions"] == 20
  with pytest.raises(ValueError, match="make both with the same"):
    ablate(measured(0, "run:01"), measured(1, "23"))


def test_the_table():
  text = ablation_table(ablate(Measured(*make_set(30, 0, COMPONENTS[:2]))))
  lines = text.splitlines()
  assert len(lines) == 2 + 4
  assert lines[0].split() == ["components", "EM", "95", "%", "F1", "95", "%",
                              "spans", "p"]  # fmt: skip
  assert lines[-1].startswith("retriever + reranker")
  assert lines[-1].endswith("1")


def write(folder, name, seed, count=60):
  candidates, questions = make_set(count, seed)
  write_candidates(folder / f"{name}.jsonl", candidates)
  lines = [
    json.dumps({"id": q.id, "question": q.question, "answer": [*q.answers]})
    for q in questions
  ]
  (folder / f"{name}.questions.jsonl").write_text("\n".join(lines))
  return candidates, questions


def test_the_command(tmp_path, capsys):
  candidates, questions = write(tmp_path, "dev", 0)
  write(tmp_path, "test", 1)
  out = tmp_path / "fusion.json"
  common = (
    "fuse", "--candidates", tmp_path / "dev.jsonl",
    "--questions", tmp_path / "dev.questions.jsonl", "--out", out,
  )  # fmt: skip
  code, said, err = run(
    capsys, *common, "--test-candidates", tmp_path / "test.jsonl",
    "--test-questions", tmp_path / "test.questions.jsonl",
  )  # fmt: skip
  assert code == 0, err
  figures = json.loads(last_line(said))
  assert figures["measured_on"] == "test" and len(figures["rows"]) == 17
  fusion = dataclasses.replace(
    tune(candidates, questions), chosen_on="dev.questions.jsonl"
  )
  assert load_fusion(out) == fusion
  assert figures["weights"] == dict(load_fusion(out).weights)
  assert "retriever + reranker + extractive_reader + reader" in err
  # The same again replaces it; a subset may be chosen.
  code, said, _ = run(capsys, *common, "--components", "retriever,reader")
  assert code == 0 and list(load_fusion(out).weights) == ["retriever", "reader"]
  assert json.loads(last_line(said))["measured_on"] == "dev"
  for flags, message in (
    (("--components", "ranker"), "component 'ranker' has scored none"),
    (("--test-candidates", "x"), "go together"),
    (("--l2", "0"), "--l2 0.0: must be above 0"),
  ):
    code, _, err = run(capsys, *common, *flags)
    assert code == 2 and message in last_line(err), err
