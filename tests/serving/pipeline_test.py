"""Retrieve, rerank, read: the parts one by one, as flags, and as one system."""

import dataclasses
import json

import numpy as np
import pytest
from command_line import last_line, run
from scipy.special import log_softmax
from small_parts import (
  random_index,
  random_system,
  save_parts,
  write_random_run,
)
from small_reader import save_workdir

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.sets import QuestionSet
from odqa_jax.data.runs import read_run
from odqa_jax.evaluation.tables import rounded
from odqa_jax.models.hf import minilm
from odqa_jax.models.hf.heads import save_network
from odqa_jax.reading import span_answers
from odqa_jax.reading.answer import Answer
from odqa_jax.reading.candidates import COMPONENTS, read_candidates
from odqa_jax.reading.fusion import Fusion, load_fusion, save_fusion
from odqa_jax.reading.span_answers import Passages
from odqa_jax.reading.span_likelihoods import Written
from odqa_jax.reading.trained_scorer import load_trained_scorer
from odqa_jax.retrieval.retriever import load_retriever
from odqa_jax.serving.extraction import (
  Sources,
  measure_spans,
  open_extraction,
)
from odqa_jax.serving.opening import open_answering
from odqa_jax.serving.system_folder import (
  assemble,
  component_version,
  open_for_answering,
)
from odqa_jax.text.answers import exact_match

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
  save_parts(toy_data, root)
  # The reader was trained with a retriever of its own.
  save_workdir(random_system("joint", toy_data, 1), root / "reader")
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


def test_k_is_found_and_reranked(ask, made):
  given = ("--run", made / "run.json", "--reranker", made / "reranker")
  figures = ask("evaluate", *given, "--k", 5)
  assert figures["checkpoint"]["reranked"]["k"] == 5
  assert [*figures["checkpoint"]["read"]] == ["1", "5"]


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


@pytest.mark.slow
def test_all_parts_answer_and_are_fused(
  capsys, made, toy_data, tmp_path, ask, questions
):
  """From flags to a fusion, and back in a system of the same parts."""
  flags = (
    "--retriever", made / "retriever", "--index", made / "index",
    "--reranker", made / "reranker", "--reader", made / "reader",
  )  # fmt: skip
  sizes = ("--k", K, "--read-k", M, "--spans", 4)
  figures, records, candidates = ask("answer", *flags, *sizes)
  assert [*candidates.components] == [*COMPONENTS]
  for record, found in zip(records, candidates.candidates, strict=True):
    # Without a fusion the extractive reader decides.
    assert record["answer"] == record["spans"][0]["text"]
    assert (record["extractive"], record["margin"]) == (True, None)
    assert record["generated"] == dataclasses.asdict(found.generated)
    assert all({*s["scores"]} == {*COMPONENTS} for s in record["spans"])
  assert figures["extractive"] == 1 and "em" in figures["generated"]

  # Of two questions the second span is right, of others what was written.
  asked = [
    {
      "id": q.id, "question": q.question,
      "answer": [r["spans"][1]["text"] if i < 2 else r["generated"]["text"]],
    }
    for i, (q, r) in enumerate(zip(questions, records, strict=True))
  ]  # fmt: skip
  dev = made / "dev.jsonl"
  dev.write_text("".join(json.dumps(r) + "\n" for r in asked))
  code, out, err = run(
    capsys, "fuse", "--candidates", tmp_path / "c.jsonl", "--questions", dev,
    "--out", tmp_path / "fusion.json",
  )  # fmt: skip
  assert code == 0, err
  # All subsets, and what was written alone.
  assert len(json.loads(last_line(out))["rows"]) == 17
  parts = {
    "retriever": made / "retriever", "index": made / "index",
    "corpus": toy_data, "reranker": made / "reranker",
    "extractive_reader": made / "extractive", "reader": made / "reader",
    "fusion": tmp_path / "fusion.json",
  }  # fmt: skip
  assemble(tmp_path / "s", parts)
  # The sizes are those that the fusion was tuned with.
  system = ("--system", tmp_path / "s")
  figures, fused, again = ask("answer", *system, parts=False, questions=dev)
  assert again == candidates
  assert again.sizes == {"k": K, "read_k": M, "spans": 4}
  opened = open_answering(tmp_path / "s")
  assert opened.k == K
  (first,) = opened.answer([questions[0].question])
  assert (len(first["passages"]), first["answer"]) == (M, fused[0]["answer"])
  fusion = load_fusion(tmp_path / "fusion.json")
  answers = []
  for record, found, plain in zip(
    fused, again.candidates, records, strict=True
  ):
    decision = fusion.answer(found)
    assert record["answer"] == decision.text
    assert record["margin"] == pytest.approx(decision.margin)
    assert record["extractive"] == decision.extractive
    first = record["spans"][0]
    assert first["fused"] == decision.score
    assert first["text"] == decision.span.text
    values = [s["fused"] for s in record["spans"]]
    assert values == sorted(values, reverse=True)
    for span in record["spans"]:
      span.pop("fused")
      assert span in plain["spans"]
    answers.append(decision.extractive)
  assert len({*answers}) == 2
  assert figures["extractive"] == np.mean(answers)
  right = [
    exact_match(r["generated"]["text"], q["answer"])
    for r, q in zip(fused, asked, strict=True)
  ]
  assert sum(right) >= 3 and figures["generated"]["em"] == np.mean(right)
  measured = ask("evaluate", *system, parts=False, questions=dev)["system"]
  # `odqa evaluate` rounds.
  assert rounded(figures, 6).items() >= measured["read"][str(M)].items()
  assert [*measured["read"]] == [str(M)]

  code, out, err = run(
    capsys, "answer", *system, "--question", questions[0].question,
    "--batch-size", 1,
  )  # fmt: skip
  assert code == 0, err
  record = json.loads(last_line(out))
  written = record["generated"]
  assert f"= {record['answer']}   (" in out
  assert f"written: {written['text']}   (log-probability " in out


@pytest.fixture(scope="module")
def extraction(made, toy_data, questions):
  """All parts, with a run for the retriever."""
  sources = Sources(
    str(made / "extractive"),
    run=str(made / "run.json"),
    reranker=str(made / "reranker"),
    reader=str(made / "reader"),
  )
  corpus = Corpus(toy_data / "corpus")
  options = {"k": K, "read_k": M, "batch_size": 3, "beams": 2}
  opened = open_extraction(sources, questions, corpus, **options)
  assert (opened.generator.batch_size, opened.generator.beams) == (3, 2)
  return opened


@pytest.fixture(scope="module")
def plain(extraction, questions):
  return [found for (found,) in extraction.answers(questions, most=5)]


def test_order_and_padding_do_not_matter(extraction, plain, questions):
  def turned(x, fill):
    return np.pad(x, ((0, 0), (0, 2)), constant_values=fill)[::-1]

  passages = extraction.passages
  scores = {n: turned(x, -np.inf) for n, x in passages.scores.items()}
  changed = dataclasses.replace(
    extraction,
    passages=Passages(turned(passages.rows, -1), scores),
    generator=dataclasses.replace(extraction.generator, batch_size=2),
  )
  others = [found for (found,) in changed.answers(questions[::-1], most=5)]
  for one, other in zip(plain, others[::-1], strict=True):
    assert one.generated.text == other.generated.text
    assert one.generated.score == pytest.approx(other.generated.score, abs=1e-4)
    assert len(one.answers) == len(other.answers) == 5
    for a, b in zip(one.answers, other.answers, strict=True):
      assert dataclasses.replace(a.span, scores={}) == dataclasses.replace(
        b.span, scores={}
      )
      assert a.scores == pytest.approx(dict(b.scores), abs=1e-4)


def weighing(**weights):
  return Fusion({n: "" for n in weights}, weights, None, {}, 1e-3)


def test_without_other_weights_the_extractive_reader_decides(
  extraction, plain, questions
):
  fusion = weighing(
    retriever=0.0, reranker=0.0, extractive_reader=2.0, reader=0.0
  )
  fused = dataclasses.replace(extraction, fusion=fusion)
  for one, (other,) in zip(
    plain, fused.answers(questions, most=5), strict=True
  ):
    assert [a.span for a in one.answers] == [a.span for a in other.answers]
    assert one.text == other.text and other.extractive
  # It is not the order of another component.
  fused = dataclasses.replace(extraction, fusion=weighing(reader=1.0))
  moved = [
    [a.span for a in one.answers] != [a.span for a in other.answers]
    for one, (other,) in zip(
      plain, fused.answers(questions, most=5), strict=True
    )
  ]
  assert any(moved)


def test_weights_of_a_reader_that_is_not_there(
  extraction, questions, made, toy_data, tmp_path
):
  fusion = weighing(extractive_reader=1.0, reader=1.0)
  without = dataclasses.replace(extraction, generator=None, fusion=fusion)
  said = "the fusion weighs reader, and spans have the scores of retriever, "
  with pytest.raises(ValueError, match=said):
    next(without.answers(questions, most=5))
  # Before anything is loaded.
  save_fusion(tmp_path / "fusion.json", fusion)
  sources = Sources(
    str(made / "extractive"),
    run=str(made / "run.json"),
    fusion=str(tmp_path / "fusion.json"),
  )
  with pytest.raises(ValueError, match=said):
    open_extraction(sources, questions, Corpus(toy_data / "corpus"), k=K)


def test_a_generative_reader_reads_at_one_cutoff(
  extraction, questions, monkeypatch
):
  with pytest.raises(ValueError, match=r"at the cutoffs \(1, 3\); choose one"):
    next(extraction.answers(questions, most=5, cutoffs=(1, 3)))
  measured = measure_spans(extraction, questions, most=5).figures
  assert [*measured] == [str(M)]
  assert measured[str(M)]["extractive"] == 1
  assert {"em", "f1"} <= {*measured[str(M)]["generated"]}
  answer, rows = Answer("", 0.0, (), ()), []

  def note(generator, asked):
    for each in asked:
      rows.append(each.rows.tolist())
      yield Written(answer, [-float(i) for i, _ in enumerate(each.texts)])

  monkeypatch.setattr(span_answers, "read_and_score", note)
  for (found,) in extraction.answers(questions, most=5, cutoffs=(2,)):
    given = [answer.scores["reader"] for answer in found.answers]
    assert given == [0, -1, -2, -3, -4]
  assert rows == extraction.passages.rows[:, :2].tolist()


def test_what_answering_uses(made, toy_data, tmp_path):
  parts = {
    "retriever": made / "reader", "index": made / "other_index",
    "corpus": toy_data,
  }  # fmt: skip
  corpus = Corpus(toy_data / "corpus")
  random_index(load_retriever(made / "reader"), corpus, made / "other_index")
  # Its own reader is a part unless another kind of reader is named.
  assert "reader" in assemble(tmp_path / "a", parts).paths
  extractive = parts | {"extractive_reader": made / "extractive"}
  assert "reader" not in assemble(tmp_path / "b", extractive).paths
  store = {"reader_corpus": toy_data / "corpus"}
  for others, said in [
    ({"reranker": made / "reranker"}, "has the part reranker, which"),
    (store, None),
    ({"extractive_reader": made / "extractive", **store}, "part reader_corpus"),
    ({**extractive, "reader": made / "reader", **store}, None),
  ]:
    assemble(tmp_path / "s", parts | others)
    if said is None:
      open_for_answering(tmp_path / "s")
    else:
      with pytest.raises(ValueError, match=said):
        open_for_answering(tmp_path / "s")


def test_a_published_reranker_is_a_part(made, toy_data, tmp_path):
  scorer = load_trained_scorer(made / "reranker", "reranker")
  folder = tmp_path / "published"
  save_network(folder, scorer.network, scorer.params, scorer.tokenizer)
  parts = {
    "retriever": made / "retriever", "index": made / "index",
    "corpus": toy_data, "extractive_reader": made / "extractive",
  }  # fmt: skip
  assemble(tmp_path / "s", parts | {"reranker": folder})
  system = open_for_answering(tmp_path / "s")
  assert system.versions["reranker"] == component_version(folder)
  with pytest.raises(ValueError, match="published"):
    assemble(tmp_path / "t", parts | {"extractive_reader": folder})
  assert not (tmp_path / "t").exists()


def test_a_retriever_may_be_a_name(made, monkeypatch):
  folder = made / "retriever"
  monkeypatch.setattr(minilm, "fetch_minilm", lambda cache: folder)
  reader = str(made / "extractive")
  sources = Sources(reader, retriever="minilm", index="index")
  version = component_version(made / "retriever")
  assert sources.versions()["retriever"] == version


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
    (("--reader-corpus", toy_data), "is for a reader that writes; give --read"),
    (("--reader", made / "retriever"), "no reader that writes"),
    (("--exclude-self",), "give the flag to odqa search"),
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
  code, _, err = run(
    capsys, "evaluate", *given[:6], *given[8:], "--k", K, "--read-k", 9
  )
  assert code == 2 and "--read-k 9: choose from 1 to --k 8" in err
