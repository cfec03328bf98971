"""Systems that stay open answer as the commands do."""

import io
import json
import sys

import pytest
from command_line import last_line, run
from small_parts import save_parts

from odqa_jax.serving.answering import ANSWERED, RERANKED, RETRIEVED
from odqa_jax.serving.opening import open_answering, warm_up
from odqa_jax.serving.pack import PackOptions, pack_system
from odqa_jax.serving.system_folder import assemble

# Several networks are compiled.
pytestmark = pytest.mark.slow

QUESTIONS = ["what is the first thing", "who", "where was the last of them"]


@pytest.fixture(scope="module")
def made(tmp_path_factory, toy_data):
  """A system with a reranker, one without, and that in one file."""
  root = tmp_path_factory.mktemp("answering")
  parts = save_parts(toy_data, root)
  assemble(root / "plain", parts)
  assemble(root / "reranked", parts | {"reranker": root / "reranker"})
  pack_system(root / "plain", root / "plain.odqa", PackOptions())
  return root


def same_spans(got, wanted):
  assert got["answer"] == wanted["answer"]
  for mine, theirs in zip(got["spans"], wanted["spans"], strict=True):
    for name in ("text", "passage", "start", "end"):
      assert mine[name] == theirs[name]
    for kind in ("scores", "parts"):
      # Float32 in batches of other shapes.
      assert mine[kind] == pytest.approx(theirs[kind], abs=1e-4)


@pytest.mark.parametrize("name", ["plain", "reranked", "plain.odqa"])
def test_answers_are_those_of_the_command(capsys, made, tmp_path, name):
  asked = [{"id": str(i), "question": q} for i, q in enumerate(QUESTIONS)]
  path = tmp_path / "q.jsonl"
  path.write_text("".join(json.dumps(q | {"answer": []}) + "\n" for q in asked))
  sizes = ("--k", 9, "--read-k", 4)
  code, _, err = run(
    capsys, "answer", "--system", made / name, "--questions", path,
    "--out", tmp_path / "a.jsonl", *sizes,
  )  # fmt: skip
  assert code == 0, err
  lines = (tmp_path / "a.jsonl").read_text().splitlines()
  system = open_answering(made / name, k=9, read_k=4)
  warm_up(system, 2)
  *before, (last, records) = system.stages(QUESTIONS)
  assert last == ANSWERED
  for record, line in zip(records, lines, strict=True):
    same_spans(record, json.loads(line))
    check_record(record, system)
  # Alone, as together.
  for question, record in zip(QUESTIONS, records, strict=True):
    same_spans(system.answer([question])[0], record)
  stages = {stage: found for stage, found in before}
  if name == "reranked":
    assert [*stages] == [RETRIEVED, RERANKED]
    ids = [[p["id"] for p in r["passages"]] for r in stages[RERANKED]]
    assert [i[:4] for i in ids] == [
      [p["id"] for p in r["passages"]] for r in records
    ]
  for found, record in zip(
    system.search(QUESTIONS, 9), stages.get(RETRIEVED, []), strict=False
  ):
    assert found == record


def check_record(record, system):
  """Passages, highlights and marks of a record agree with each other."""
  assert record["decided_by"] == "extractive_reader"
  assert 0 < record["confidence"] <= 1
  assert [p["n"] for p in record["passages"]] == [1, 2, 3, 4]
  spans = {(s["passage"], s["start"], s["end"]) for s in record["spans"]}
  for passage in record["passages"]:
    row = system.corpus.find(passage["id"])
    assert passage["text"] == system.corpus.text(row)
    end = 0
    for place in passage["highlights"]:
      assert end <= place["start"] < place["end"]
      assert (passage["id"], place["start"], place["end"]) in spans
      end = place["end"]
  best = record["spans"][0]
  (first,) = (p for p in record["passages"] if p["id"] == best["passage"])
  assert first["n"] in record["marks"]
  marked = [
    first["text"][h["start"] : h["end"]]
    for h in first["highlights"]
    if h["answer"]
  ]
  assert record["answer"] in marked


@pytest.mark.parametrize("name", ["plain", "plain.odqa"])
def test_the_command_answers_a_pipe(capsys, made, monkeypatch, name):
  monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(QUESTIONS)))
  code, out, err = run(
    capsys, "answer", "--system", made / name, "--k", 5, "--json"
  )
  assert code == 0, err
  records = [json.loads(line) for line in out.splitlines()]
  assert [r["question"] for r in records] == QUESTIONS
  code, out, err = run(
    capsys, "answer", "--system", made / name, "--k", 5,
    "--question", QUESTIONS[1],
  )  # fmt: skip
  assert code == 0, err
  same_spans(json.loads(last_line(out)), records[1])


def test_a_k_that_the_corpus_does_not_have(made):
  for name in ("plain", "plain.odqa"):
    with pytest.raises(ValueError, match="--k 1000000000: the corpus has"):
      open_answering(made / name, k=10**9)
    with pytest.raises(ValueError, match="--read-k 6: choose from 1 to"):
      open_answering(made / name, k=5, read_k=6)
