"""A unified checkpoint behind the commands: it searches, reads and is tuned."""

import dataclasses
import json
from pathlib import Path

import pytest
from command_line import last_line, run
from small_parts import (
  random_index,
  save_extractive_reader,
  save_unified_reader,
)
from small_reader import one_device, use_one_device

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.sets import QuestionSet
from odqa_jax.evaluation.measures import answer_measures
from odqa_jax.reading import extract
from odqa_jax.reading.answer_scoring import (
  AnswerScoring,
  load_scoring,
  save_scoring,
)
from odqa_jax.retrieval.retriever import load_retriever
from odqa_jax.runtime.files import Damage, read_json
from odqa_jax.serving.extraction import Sources, open_extraction
from odqa_jax.serving.system_folder import assemble, open_system
from odqa_jax.serving.tuning import CUTOFFS, SPANS, WEIGHTS, tune_scoring


@pytest.fixture(autouse=True)
def on_one_device(monkeypatch):
  use_one_device(monkeypatch)
  monkeypatch.setattr(extract, "make_mesh", lambda **_: one_device())


@pytest.fixture(scope="module")
def made(tmp_path_factory, toy_data) -> Path:
  """A unified reader with its index."""
  root = tmp_path_factory.mktemp("unified")
  corpus = Corpus(toy_data / "corpus")
  save_unified_reader(corpus, root / "work")
  random_index(load_retriever(root / "work"), corpus, root / "index")
  return root


def given(made, toy_data, *more):
  return (
    "--checkpoint", made / "work", "--index", made / "index",
    "--corpus", toy_data, "--questions", toy_data / "questions" / "toy",
    "--k", 12, *more,
  )  # fmt: skip


def lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_a_checkpoint_searches_for_what_it_reads(
  capsys, made, toy_data, tmp_path
):
  code, out, err = run(
    capsys, "search", *given(made, toy_data), "--out", tmp_path / "run.json"
  )
  assert code == 0, err
  code, out, err = run(
    capsys, "answer", *given(made, toy_data), "--out", tmp_path / "a.jsonl"
  )
  assert code == 0, err
  assert json.loads(last_line(out))["k"] == 12
  # Another retriever's run is read instead, where one is given.
  index = next(i for i, x in enumerate(given(made, toy_data)) if x == "--index")
  rest = given(made, toy_data)[:index] + given(made, toy_data)[index + 2 :]
  code, out, err = run(
    capsys, "answer", *rest, "--run", tmp_path / "run.json",
    "--out", tmp_path / "b.jsonl",
  )  # fmt: skip
  assert code == 0, err
  assert [a["answer"] for a in lines(tmp_path / "a.jsonl")] == [
    b["answer"] for b in lines(tmp_path / "b.jsonl")
  ]


def test_the_best_scoring_of_dev_is_kept_by_a_system(
  capsys, made, toy_data, tmp_path
):
  file = tmp_path / "scoring.json"
  code, out, err = run(
    capsys, "evaluate", *given(made, toy_data), "--tune-scoring", file
  )
  assert code == 0, err
  tuned = json.loads(last_line(out))["checkpoint"]["tuned"]
  assert list(tuned["by_k"]) == ["1", "10", "12"]
  scoring = load_scoring(file)
  assert scoring.em == tuned["em"] >= scoring.em_of_rule
  code, out, err = run(
    capsys, "evaluate", *given(made, toy_data), "--scoring", file
  )
  assert code == 0, err
  read = json.loads(last_line(out))["checkpoint"]["read"]
  assert list(read) == [str(scoring.read_k)]
  assert read[str(scoring.read_k)]["em"] == scoring.em
  parts = {
    "retriever": made / "work",
    "index": made / "index",
    "corpus": toy_data / "corpus",
    "scoring": file,
  }
  system = assemble(tmp_path / "system", parts)
  assert system.paths["extractive_reader"] == system.paths["retriever"]
  asked = [
    "--questions", toy_data / "questions" / "toy", "--k", 12
  ]  # fmt: skip
  code, out, err = run(
    capsys, "evaluate", "--system", tmp_path / "system", *asked
  )
  assert code == 0, err
  assert json.loads(last_line(out))["system"]["read"] == read
  # A scoring that has changed is another part.
  save_scoring(file, AnswerScoring(0.5, 3, 0.0, 0.0, 1, scoring.reader))
  with pytest.raises(ValueError, match=r"its scoring .* is another one"):
    open_system(tmp_path / "system")


@pytest.mark.slow
def test_every_weight_and_number_is_measured(made, toy_data):
  corpus = Corpus(toy_data / "corpus")
  questions = list(QuestionSet(toy_data / "questions" / "toy"))[:16]
  sources = Sources(str(made / "work"), str(made / "work"), str(made / "index"))
  extraction = open_extraction(sources, questions, corpus, k=12)
  scoring, told = tune_scoring(extraction, questions, version="v")
  assert 0.8 in WEIGHTS and SPANS == 5 and CUTOFFS[:3] == (1, 10, 20)
  best = {}
  for weight in (None, *WEIGHTS):
    reader = extract.with_rank_weight(extraction.reader, weight)
    opened = dataclasses.replace(extraction, reader=reader)
    found = [*opened.answers(questions, most=SPANS, cutoffs=(1, 10, 12))]
    for i, k in enumerate((1, 10, 12)):
      answers = [each[i] for each in found]
      best[k, weight] = answer_measures(answers, questions)["em"]
  assert scoring.em == max(best.values())
  assert best[scoring.read_k, scoring.rank_weight] == scoring.em
  fewer = [em for (k, _), em in best.items() if k < scoring.read_k]
  assert all(em < scoring.em for em in fewer)
  for k, figures in told["by_k"].items():
    assert figures["rule"] == best[int(k), None]
    weighed = [best[int(k), w] for w in WEIGHTS]
    assert figures["weighed"] == max(weighed)


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--rank-weight", "1.2"], "--rank-weight 1.2: a share, 0 to 1."),
    (["--rank-weight", "0.5", "--merge"], "--merge adds up probabilities"),
    (["--rank-weight", "0.5", "--tune-scoring", "s.json"], "--rank-weight giv"),
  ],
)
def test_flags_that_do_not_go_together(capsys, made, toy_data, flags, message):
  code, _, err = run(capsys, "evaluate", *given(made, toy_data, *flags))
  assert code == 2 and message in err


def test_scorings_are_of_one_reader_and_whole(capsys, made, toy_data, tmp_path):
  file = tmp_path / "scoring.json"
  save_scoring(file, AnswerScoring(0.8, 10, 0.5, 0.4, 100, "another"))
  given_file = given(made, toy_data, "--scoring", file)
  code, _, err = run(capsys, "evaluate", *given_file)
  assert code == 2 and "was tuned for another extractive reader" in err
  code, _, err = run(capsys, "evaluate", *given_file, "--rank-weight", "0.1")
  assert code == 2 and "has its own rank-weight" in err
  content = read_json(file)
  file.write_text(json.dumps(content | {"rank_weight": 0.7}))
  with pytest.raises(Damage, match="does not match its checksum"):
    load_scoring(file)
  file.write_text("{}")
  with pytest.raises(ValueError, match="is no scoring of this version"):
    load_scoring(file)
  corpus = Corpus(toy_data / "corpus")
  other = save_extractive_reader(corpus, tmp_path / "other")
  code, _, err = run(
    capsys, "evaluate", "--checkpoint", other, "--retriever", made / "work",
    *given(made, toy_data)[2:], "--rank-weight", "0.5",
  )  # fmt: skip
  assert code == 2 and "by the objective 'independent'" in err
