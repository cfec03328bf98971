"""Retrieve, rerank, read: the parts one by one, as flags, and as one system."""

import json

import pytest
from command_line import last_line, run
from scipy.special import log_softmax
from small_parts import (
  random_index,
  save_extractive_reader,
  save_reranker,
  write_random_run,
)
from small_reader import save_workdir, small_system

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.sets import QuestionSet
from odqa_jax.data.runs import read_run
from odqa_jax.reading.candidates import read_candidates
from odqa_jax.serving.system_folder import assemble

# Passages found and read of each question.
K, M = 8, 3


@pytest.fixture(scope="module")
def questions(toy_data):
  return list(QuestionSet(toy_data / "questions" / "toy"))[:5]


@pytest.fixture(scope="module")
def made(tmp_path_factory, toy_data, questions):
  """All parts with random weights, a few questions, and a run of them."""
  root = tmp_path_factory.mktemp("pipeline")
  corpus = Corpus(toy_data / "corpus")
  save_reranker(corpus, root / "reranker")
  save_extractive_reader(corpus, root / "extractive")
  system = small_system("individual", toy_data)
  save_workdir(system, root / "retriever", with_reader=False)
  random_index(system.retriever, corpus, root / "index")
  records = [
    {"id": q.id, "question": q.question, "answer": list(q.answers)}
    for q in questions
  ]
  text = "".join(json.dumps(r) + "\n" for r in records)
  (root / "q.jsonl").write_text(text)
  write_random_run(root / "run.json", questions, corpus, K)
  return root


@pytest.fixture
def ask(capsys, made, toy_data, tmp_path):
  """Runs a command with the questions; figures, records and candidates."""

  def asked(command, *flags, parts=True, questions="q.jsonl"):
    if parts:
      flags = (
        "--checkpoint", made / "extractive", "--corpus", toy_data, *flags
      )  # fmt: skip
    outputs = tmp_path / "a.jsonl", tmp_path / "c.jsonl"
    if command == "answer":
      flags = (*flags, "--out", outputs[0], "--candidates", outputs[1])
    code, out, err = run(
      capsys, command, "--questions", made / questions, *flags
    )
    assert code == 0, err
    figures = json.loads(last_line(out))
    if command != "answer":
      return figures
    lines = outputs[0].read_text().splitlines()
    return (
      figures, [json.loads(line) for line in lines], read_candidates(outputs[1])
    )  # fmt: skip

  return asked


def test_a_run_is_reranked_in_process_as_by_the_command(
  capsys, made, toy_data, tmp_path, ask, questions
):
  code, _, err = run(
    capsys, "rerank", "--checkpoint", made / "reranker", "--run",
    made / "run.json", "--questions", made / "q.jsonl", "--corpus", toy_data,
    "--k", K - 1, "--out", tmp_path / "reranked.json",
  )  # fmt: skip
  assert code == 0, err
  given = ("--run", made / "run.json")
  two = ("--reranked", tmp_path / "reranked.json", "--k", M)
  one = ("--reranker", made / "reranker", "--k", K - 1, "--read-k", M)
  _, *before = ask("answer", *given, *two)
  figures, *after = ask("answer", *given, *one)
  assert (figures["k"], figures["read_k"]) == (K - 1, M)
  assert before[0] == after[0]
  assert before[1].candidates == after[1].candidates
  corpus = Corpus(toy_data / "corpus")
  found = read_run(made / "run.json", questions, corpus)
  reranked = read_run(tmp_path / "reranked.json", questions, corpus)
  assert (reranked.rows[:, :M] != found.rows[:, :M]).any()
  for i, record in enumerate(after[0]):
    first = reranked.rows[i, :M].tolist()
    logs = {
      "reranker": log_softmax(reranked.scores[i, :M]),
      "retriever": log_softmax(
        [K - found.rows[i].tolist().index(row) for row in first]
      ),
    }
    assert len(record["spans"]) == 10
    for span in record["spans"]:
      place = first.index(corpus.find(span["passage"]))
      for name, values in logs.items():
        assert span["scores"][name] == pytest.approx(values[place], abs=1e-5)


def test_k_is_found_and_read_k_is_read(ask, made):
  given = ("--run", made / "run.json", "--reranker", made / "reranker")
  figures = ask("evaluate", *given, "--k", 5)
  assert figures["checkpoint"]["reranked"]["k"] == 5
  assert [*figures["checkpoint"]["read"]] == ["1", "5"]
  fewer = ask("evaluate", *given, "--k", 5, "--read-k", 1)["checkpoint"]
  assert fewer["read"] == {"1": figures["checkpoint"]["read"]["1"]}
  # The reranker's first of five is another one than its first of eight.
  records = [ask("answer", *given, "--k", k, "--read-k", 1)[1] for k in (5, K)]
  passages = [[r["spans"][0]["passage"] for r in some] for some in records]
  assert passages[0] != passages[1]


def test_a_system_reranks_as_its_parts_do(ask, made, toy_data, tmp_path):
  parts = {
    "retriever": made / "retriever", "index": made / "index",
    "corpus": toy_data, "reranker": made / "reranker",
    "extractive_reader": made / "extractive",
  }  # fmt: skip
  system = assemble(tmp_path / "s", parts)
  sizes = ("--k", K, "--read-k", M)
  _, *whole = ask("answer", "--system", tmp_path / "s", *sizes, parts=False)
  flags = (
    "--retriever", made / "retriever", "--index", made / "index",
    "--reranker", made / "reranker",
  )  # fmt: skip
  _, *alone = ask("answer", *flags, *sizes)
  assert whole == alone
  assert whole[1].components == dict(system.versions)
  figures = ask("evaluate", *flags, *sizes)["checkpoint"]
  again = ask("evaluate", "--system", tmp_path / "s", *sizes, parts=False)
  assert again["system"] == figures


def test_flags_that_do_not_go_together(capsys, made, toy_data, tmp_path):
  given = (
    "--checkpoint", made / "extractive", "--corpus", toy_data, "--questions",
    made / "q.jsonl", "--out", tmp_path / "a.jsonl", "--run", made / "run.json",
  )  # fmt: skip
  other = tmp_path / "other.json"
  corpus = Corpus(toy_data / "corpus")
  asked = list(QuestionSet(toy_data / "questions" / "toy"))[:5]
  write_random_run(other, asked, corpus, K + 2)
  reranker = ("--reranker", made / "reranker")
  for flags, said in [
    ((*reranker, "--reranked", other), "--reranker DIR makes what --reranked"),
    (("--reranked", other), "passage 9 from elsewhere than the run"),
    (("--read-k", 9, "--k", K), "--read-k 9: choose from 1 to --k 8"),
    (("--read-k", 0, "--k", K), "--read-k 0: choose from 1 to --k 8"),
    (("--reranker", made / "extractive"), "has no reranker but extractive"),
  ]:
    code, _, err = run(capsys, "answer", *given, *flags)
    assert code == 2 and said in last_line(err), err
  for flags, said in [
    (("--reranked", other), "--reranked FILE needs --run FILE"),
    (("--run", other), "searches for itself; leave it out"),
    (reranker, "has its own reranker"),
  ]:
    assemble(
      tmp_path / "s",
      {
        "retriever": made / "retriever",
        "index": made / "index",
        "corpus": toy_data,
        "extractive_reader": made / "extractive",
      },
    )
    code, _, err = run(
      capsys, "answer", "--system", tmp_path / "s", *given[4:-2], *flags
    )
    assert code == 2 and said in last_line(err), err
  assert not (tmp_path / "a.jsonl").exists()
