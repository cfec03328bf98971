"""`odqa evaluate` as a user types it: runs side by side, and the card."""

import json
import re

import numpy as np
import pytest
from command_line import last_line, run

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.sets import QuestionSet
from odqa_jax.data.runs import Ranking, read_run, write_run
from odqa_jax.evaluation.systems import rank_bm25


@pytest.fixture(scope="module")
def corpus(toy_data):
  return Corpus(toy_data / "corpus")


@pytest.fixture(scope="module")
def questions(toy_data):
  return list(QuestionSet(toy_data / "questions" / "toy"))


@pytest.fixture(scope="module")
def runs(toy_data, corpus, questions, tmp_path_factory):
  """One that is good, and one in which every other question fails."""
  folder = tmp_path_factory.mktemp("runs")
  good = rank_bm25(questions, corpus, k=12)
  rows = good.rows.copy()
  rows[::2] = np.roll(rows[::2], 6, axis=1)
  for name, ranks in {"good": good.rows, "bad": rows}.items():
    ranking = Ranking(good.question_ids, ranks, -np.arange(12.0) + 0 * ranks)
    write_run(folder / f"{name}.trec", ranking, questions, corpus)
  return folder


@pytest.fixture
def evaluate(capsys, toy_data):
  def call(*flags, given=None):
    given = given or toy_data / "questions" / "toy"
    code, out, err = run(
      capsys, "evaluate", "--corpus", toy_data, "--questions", given, *flags
    )
    return code, json.loads(last_line(out)) if code == 0 else None, err

  return call


def test_runs_stand_side_by_side(evaluate, runs):
  code, figures, err = evaluate(
    "--run", f"ours={runs / 'good.trec'}", "--run", runs / "bad.trec",
    "--cutoffs", "1,3,12",
  )  # fmt: skip
  assert code == 0, err
  assert list(figures["ours"]["recall"]) == ["1", "3", "12"]
  assert figures["ours"]["recall"]["1"] >= 0.98
  assert figures["bad"]["recall"]["3"] == pytest.approx(0.5, abs=0.02)
  (line,) = (x for x in err.splitlines() if x.strip().startswith("recall@3"))
  _, first, _, second, _, less, p = line.split()
  assert (first, second, less, p) == ("100.0", "50.0", "-50.0", "<0.001")
  found = {d["measure"]: d for d in figures["differences"]}["recall@3"]
  assert found["mcnemar"] < 1e-10 and found["difference"] == 0.5
  low, high = figures["bad"]["intervals"]["recall@3"]
  assert 0.38 < low < 0.42 and 0.58 < high < 0.62
  # No figure has more digits than tell questions apart.
  digits = re.findall(r"0\.(\d+)", str(figures["ours"]))
  assert digits and max(map(len, digits)) <= 6


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--run", "a=RUN", "--run", "a=RUN"], "a name of its own"),
    (["--run", "bm25=RUN", "--bm25"], "'bm25' names other figures here"),
    (["--run", "card=RUN", "--run", "RUN"], "'card' names other figures here"),
    (["--run", "RUN", "--cutoffs", "1,x"], "--cutoffs 1,x: numbers"),
    (["--run", "RUN", "--cutoffs", "1,50"], "recall@50 cannot be measured on"),
    (["--run", "RUN", "--relevant", "2"], "a grade of --qrels"),
    (["--run", "RUN", "--save-run", "x.trec"], "does not search here"),
    (["--run", "RUN", "--card", "card.md"], "ends in .json"),
    (["--run", "RUN", "--choose-on-test"], "is for --tune-scoring"),
    (["--bm25", "--save-run", "toy=x.trec"], "'toy' does not search here"),
  ],
)
def test_flags_that_cannot_be(evaluate, runs, flags, message):
  filled = [f.replace("RUN", str(runs / "good.trec")) for f in flags]
  code, _, err = evaluate(*filled)
  assert code == 2 and message in last_line(err)


def test_the_run_of_bm25_is_kept(evaluate, tmp_path, corpus, questions):
  code, figures, _ = evaluate(
    "--bm25", "--k", 12, "--save-run", tmp_path / "bm25.trec"
  )
  assert code == 0
  kept = read_run(tmp_path / "bm25.trec", questions, corpus)
  wanted = rank_bm25(questions, corpus, k=12)
  np.testing.assert_array_equal(kept.rows, wanted.rows)
  code, again, _ = evaluate("--run", tmp_path / "bm25.trec")
  for name in ("recall", "gold", "ndcg@10", "map"):
    assert again["run"][name] == figures["bm25"][name]


def test_measures_of_graded_judgements_equal_ir_measures(
  evaluate, runs, questions, corpus, tmp_path
):
  """Those of another caller of the library, from files alone."""
  import ir_measures

  rng = np.random.default_rng(0)
  lines = [
    f"{q.id} 0 {corpus.id(int(row))} {grade}"
    for q in questions
    for row, grade in zip(
      rng.choice(len(corpus), 20, replace=False),
      rng.integers(0, 4, 20),
      strict=True,
    )
  ]
  # Of a question that is not asked.
  lines.append("q1 0 p0 2")
  (tmp_path / "qrels").write_text("\n".join(lines) + "\n")
  for least in (1, 2, 3):
    code, figures, err = evaluate(
      "--run", runs / "bad.trec", "--qrels", tmp_path / "qrels",
      "--relevant", least, "--cutoffs", "3,10",
    )  # fmt: skip
    assert code == 0 and "1 questions are not among the 100" in err
    wanted = {
      f"R(rel={least})@3": figures["run"]["gold_recall"]["3"],
      f"R(rel={least})@10": figures["run"]["gold_recall"]["10"],
      f"Success(rel={least})@3": figures["run"]["gold"]["3"],
      f"RR(rel={least})@10": figures["run"]["mrr@10"],
      f"AP(rel={least})": figures["run"]["map"],
      "nDCG@10": figures["run"]["ndcg@10"],
    }
    judged = [
      q for q in ir_measures.read_trec_qrels(str(tmp_path / "qrels"))
      if q.query_id != "q1"
    ]  # fmt: skip
    found = ir_measures.calc_aggregate(
      [*map(ir_measures.parse_measure, wanted)],
      judged,
      ir_measures.read_trec_run(str(runs / "bad.trec")),
    )
    ours = {ir_measures.parse_measure(n): v for n, v in wanted.items()}
    assert found == pytest.approx(ours, abs=1e-6)
    assert 0 < figures["run"]["map"] < 1


def test_no_recall_without_answers(evaluate, runs, questions, tmp_path):
  path = tmp_path / "unanswered.jsonl"
  path.write_text(
    "".join(
      json.dumps({"id": q.id, "question": q.question, "answer": []}) + "\n"
      for q in questions
    )
  )
  code, figures, err = evaluate("--run", runs / "good.trec", given=path)
  assert code == 0, err
  assert "recall" not in figures["run"] and "recall@" not in err
  assert ("nothing can be measured" in err) == ("mrr@10" not in err)
  assert "0 with answers" in err


def test_the_card_says_what_stands_behind_the_figures(
  evaluate, runs, tmp_path, corpus, toy_data
):
  card = tmp_path / "card.json"
  code, figures, err = evaluate(
    "--run", f"ours={runs / 'good.trec'}", "--bm25", "--k", 12, "--card", card,
    "--exclude-self", "--seed", 5,
  )  # fmt: skip
  assert code == 0 and figures["card"] == str(card)
  told = json.loads(card.read_text())
  assert told["questions"]["name"] == "toy"
  assert told["questions"]["questions"] == 100
  assert told["questions"]["split"] == "not said"
  assert told["corpus"]["fingerprint"] == corpus.fingerprint
  assert "the question itself" in told["excluded"]
  assert told["interval"] == {
    "level": 0.95, "samples": 2000, "seed": 5,
    "method": "percentiles of the bootstrap over questions",
  }  # fmt: skip
  ours = told["systems"]["ours"]
  assert ours["missing"] == 0 and len(ours["run"]["sha256"]) == 64
  recall = figures["ours"]["recall"]
  assert ours["figures"]["recall@1"] == pytest.approx(recall["1"], abs=1e-6)
  assert told["systems"]["bm25"]["k"] == 12
  assert told["normaliser"].startswith("nq") and told["versions"]["odqa_jax"]
  assert told["hardware"]["cores"] and told["date"] and told["command"]
  page = card.with_suffix(".md").read_text()
  share = f"{100 * recall['1']:.1f}"
  assert f"| recall@1 | {share} (" in page and "## System ours" in page
  assert "100 questions of toy (split: not said)" in err
  # A card replaces a card, and nothing else.
  assert evaluate("--bm25", "--card", card)[0] == 0
  card.with_suffix(".md").write_text("mine")
  code, _, err = evaluate("--bm25", "--card", card)
  assert code == 2 and "is not what this command writes" in last_line(err)


def test_nothing_is_tuned_on_a_test_set(capsys, toy_data, tmp_path):
  for flags in (
    ["evaluate", "--bm25", "--corpus", toy_data, "--tune-scoring", "s.json"],
    ["fuse", "--candidates", "c.jsonl", "--out", tmp_path / "f.json"],
    ["prune", "--corpus", toy_data, "--scores", "s.npy", "--run", "r.trec",
     "--curve", tmp_path / "curve.png"],
  ):  # fmt: skip
    code, _, err = run(capsys, *flags, "--questions", "nq-test.jsonl")
    assert code == 2 and "nq-test.jsonl: is a test set" in last_line(err), err
    assert "--choose-on-test" in last_line(err)
    code, _, err = run(
      capsys, *flags, "--questions", "nq-test.jsonl", "--choose-on-test"
    )
    assert code == 2 and "is a test set" not in err
