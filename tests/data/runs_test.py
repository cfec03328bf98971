"""Run files and judgements of other tools, against ir-measures."""

import json
import math
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from ir_measures import AP, RR, R, Success, nDCG

from odqa_jax.data.corpus.corpus import Corpus, build_corpus
from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.runs import Ranking, read_run, write_run
from odqa_jax.evaluation.measures import (
  evaluate_ranking,
  evaluate_run,
)
from odqa_jax.evaluation.relevant import read_qrels
from odqa_jax.text.wordpiece_training import train_wordpiece

NAMES = ["<d:Caf%C3%A9>", "<d:Café>", "two words", "50%", "7", "b", "c"]
QUESTIONS = [
  Question(name, "Who?", ("words",)) for name in ("q0", "q%201", "q2")
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
  return make_corpus(tmp_path_factory.mktemp("runs"), NAMES)


def make_corpus(folder: Path, names: list[str]) -> Corpus:
  passages = [Passage(name, "", f"words {i}") for i, name in enumerate(names)]
  tokenizer = train_wordpiece([p.text for p in passages], 60)
  build_corpus(passages, folder / "corpus", tokenizer)
  return Corpus(folder / "corpus")


def read(path: Path, text: str, corpus: Corpus) -> list[list[int]]:
  path.write_text(text, "utf-8")
  return read_run(path, QUESTIONS, corpus).rows.tolist()


def test_ids_stand_as_they_are(tmp_path: Path, corpus: Corpus) -> None:
  lines = [f"q0 Q0 {NAMES[i]} {i} {9 - i} t" for i in (0, 1, 3)]
  lines += [f"q%201 Q0 {NAMES[1]} 1 1 t"]
  rows = read(tmp_path / "run.trec", "\n".join(lines), corpus)
  assert rows == [[0, 1, 3], [1, -1, -1], [-1, -1, -1]]


def test_ids_of_any_kind_come_back(tmp_path: Path, corpus: Corpus) -> None:
  rows = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [2, 4, -1, -1]])
  scores = -np.arange(12, dtype=np.float32).reshape(3, 4)
  ranking = Ranking(tuple(q.id for q in QUESTIONS), rows, scores)
  for name in ("run.trec", "run.json"):
    write_run(tmp_path / name, ranking, QUESTIONS, corpus)
    again = read_run(tmp_path / name, QUESTIONS, corpus)
    assert again.rows.tolist() == rows.tolist()
  written = (tmp_path / "run.trec").read_text("utf-8").split()
  assert written[2:24:6] == ["<d:Caf%C3%A9>", "<d:Café>", "two%20words", "50%"]


def test_an_id_that_would_be_another_s_is_not_written(tmp_path: Path) -> None:
  corpus = make_corpus(tmp_path, ["two words", "two%20words"])
  ranking = Ranking(("q0",), np.array([[1, 0]]), np.array([[2.0, 1.0]]))
  write_run(tmp_path / "run.json", ranking, QUESTIONS[:1], corpus)
  with pytest.raises(ValueError, match=r"another passage's id; .*\.json"):
    write_run(tmp_path / "run.trec", ranking, QUESTIONS[:1], corpus)
  assert not (tmp_path / "run.trec").exists()


def test_scores_rank_and_ties_fall_by_name(
  tmp_path: Path, corpus: Corpus
) -> None:
  text = "q0 Q0 7 0 1.5 t\nq2 Q0 7 0 1 t\nq0\tQ0\tb 0 2e0 t\nq0 Q0 c 0 1.5 t\n"
  rows = read(tmp_path / "run.trec", "\ufeff" + text, corpus)
  assert rows == [[5, 6, 4], [-1, -1, -1], [4, -1, -1]]


def test_scores_that_differ_beyond_float32_are_equal(
  tmp_path: Path, corpus: Corpus
) -> None:
  lines = ["q0 Q0 b first 0.12345678902 t", "q0 Q0 c x 0.12345678901 t"]
  rows = read(tmp_path / "run.trec", "\n".join(lines), corpus)
  assert rows[0] == [6, 5]
  run = list(ir_measures.read_trec_run(str(tmp_path / "run.trec")))
  qrels = [ir_measures.Qrel("q0", "c", 1)]
  assert ir_measures.calc_aggregate([RR], qrels, run)[RR] == 1.0


def test_space_that_is_not_ascii_s_belongs_to_an_id(tmp_path: Path) -> None:
  names = ["a\u00a0b", "c\u3000", "\u2003d"]
  corpus = make_corpus(tmp_path, names)
  text = "".join(f"q0\tQ0 {n} 1 {9 - i} t\r\n" for i, n in enumerate(names))
  assert read(tmp_path / "run.trec", text, corpus)[0] == [0, 1, 2]
  (tmp_path / "qrels").write_text(f"q0 0 {names[0]} 1\n", "utf-8")
  assert read_qrels(tmp_path / "qrels", QUESTIONS, corpus) == {
    "q0": {names[0]: 1}
  }


def test_ids_with_the_prefix_of_dpr(
  tmp_path: Path, corpus: Corpus, capsys: pytest.CaptureFixture
) -> None:
  contexts = [{"id": "wiki:7", "score": "2.5"}, {"passage_id": "b"}]
  record = {"question": "Who?", "answers": [], "ctxs": contexts}
  rows = read(tmp_path / "run.json", json.dumps([record]), corpus)
  assert rows[0] == [4, 5]
  assert "1 passages are named with 'wiki:'" in capsys.readouterr().err
  assert read(tmp_path / "r", "q2 Q0 wiki:7 1 1 t", corpus)[2] == [4]


def test_what_a_question_excludes_does_not_count(
  tmp_path: Path, corpus: Corpus
) -> None:
  question = Question("q0", "Who?", (), "string", ("7", "b"), (), ("b",))
  (tmp_path / "run").write_text("q0 Q0 b 1 2 t\nq0 Q0 7 2 1 t\n")
  ranking = read_run(tmp_path / "run", [question], corpus)
  assert ranking.rows.tolist() == [[4]]
  figures = evaluate_ranking(ranking, [question], corpus)
  assert figures["gold"] == {"1": 1.0}
  assert figures["ndcg@10"] == 1.0


def test_judgements_of_what_is_excluded_do_not_count(
  tmp_path: Path, corpus: Corpus
) -> None:
  question = Question("q0", "Who?", (), excluded_ids=("wiki:b", "gone"))
  other = Question("q2", "Who?", (), excluded_ids=("c",))
  (tmp_path / "qrels").write_text("q0 0 7 1\nq0 0 b 2\nq0 0 gone 1\nq2 0 c 1\n")
  relevant = read_qrels(tmp_path / "qrels", [question, other], corpus)
  assert relevant == {"q0": {"7": 1}}


def test_judgements_of_rounds_and_of_any_grade(
  tmp_path: Path, corpus: Corpus
) -> None:
  text = "q0 4.5 7 -1\nq0 2 b 0\nq0 Q0 c 2.0\n"
  (tmp_path / "qrels").write_text(text)
  relevant = read_qrels(tmp_path / "qrels", QUESTIONS, corpus)
  assert relevant == {"q0": {"7": -1, "b": 0, "c": 2}}


def test_passages_that_are_the_question_are_left_out_of_a_run(
  tmp_path: Path, corpus: Corpus
) -> None:
  question = Question("q0", " WORDS 4?", ("words",), positive_ids=("b",))
  (tmp_path / "run").write_text("q0 Q0 7 1 9 t\nq0 Q0 b 2 1 t\n")
  reciprocal = {
    exclude: evaluate_run(
      tmp_path / "run", [question], corpus, exclude_self=exclude
    )["mrr@10"]
    for exclude in (False, True)
  }
  assert reciprocal == {False: 0.5, True: 1.0}


def test_judgements_of_trec_and_beir_are_the_same(
  tmp_path: Path, corpus: Corpus, capsys: pytest.CaptureFixture
) -> None:
  trec, beir = tmp_path / "qrels.txt", tmp_path / "test.tsv"
  rows = [("q0", "7", 2), ("q%201", "b", 0), ("q9", "c", 1)]
  trec.write_text("".join(f"{q} 0 {p} {g}\n" for q, p, g in rows))
  body = "".join(f"{q}\t{p}\t{g}\n" for q, p, g in rows)
  beir.write_text(f"query-id\tcorpus-id\tscore\n{body}")
  wanted = {"q0": {"7": 2}, "q%201": {"b": 0}}
  for path in (trec, beir):
    assert read_qrels(path, QUESTIONS, corpus) == wanted
    assert "1 questions are not among the 3" in capsys.readouterr().err


def test_figures_are_those_of_ir_measures_on_the_files(tmp_path: Path) -> None:
  """With ties, which trec_eval breaks by name: no rank of the file counts."""
  rng = np.random.default_rng(0)
  names = [f"d{i}" for i in rng.permutation(40)]
  corpus = make_corpus(tmp_path, names)
  questions = [Question(f"q{i}", "Who?", ()) for i in range(20)]
  rows = np.array([rng.permutation(40)[:30] for _ in questions])
  scores = -np.sort(rng.integers(0, 8, rows.shape)).astype(np.float32)
  ranking = Ranking(tuple(q.id for q in questions), rows, scores)
  write_run(tmp_path / "run.trec", ranking, questions, corpus)
  with (tmp_path / "qrels").open("w") as file:
    for question in questions[:-2]:
      for row in rng.permutation(40)[:6]:
        file.write(f"{question.id} 0 {names[row]} {rng.integers(0, 3)}\n")
  cutoffs = (1, 5, 20)
  measures = [nDCG @ 10, RR @ 10, AP]
  measures += [measure @ c for c in cutoffs for measure in (Success, R)]
  qrels = list(ir_measures.read_trec_qrels(str(tmp_path / "qrels")))
  run = list(ir_measures.read_trec_run(str(tmp_path / "run.trec")))
  theirs = ir_measures.calc_aggregate(measures, qrels, run)

  def check(ranking: Ranking, theirs: dict) -> None:
    figures = evaluate_ranking(
      ranking, questions, corpus, qrels=tmp_path / "qrels"
    )
    ours = {nDCG @ 10: figures["ndcg@10"], RR @ 10: figures["mrr@10"]}
    ours[AP] = figures["map"]
    for c in cutoffs:
      ours[Success @ c] = figures["gold"][str(c)]
      ours[R @ c] = figures["gold_recall"][str(c)]
    assert {m: ours[m] for m in theirs} == pytest.approx(theirs, rel=1e-12)

  check(ranking, theirs)
  check(read_run(tmp_path / "run.trec", questions, corpus), theirs)
  # A foreign file, in no order and with ties as they are.
  lines = [
    f"{q.id} Q0 {names[row]} 0 {scores[i, n]:g} x\n"
    for i, q in enumerate(questions)
    for n, row in enumerate(rows[i])
  ]
  (tmp_path / "foreign").write_text("".join(rng.permutation(lines)))
  foreign = read_run(tmp_path / "foreign", questions, corpus)
  run = list(ir_measures.read_trec_run(str(tmp_path / "foreign")))
  # Not RR@10: what computes that breaks ties in another way than trec_eval.
  measures.remove(RR @ 10)
  check(foreign, ir_measures.calc_aggregate(measures, qrels, run))


def test_scores_of_a_run_are_a_step_apart(
  tmp_path: Path, corpus: Corpus
) -> None:
  ranking = Ranking(("q0",), np.array([[4, 5, 6]]), np.array([[1.0, 1.0, 1.0]]))
  write_run(tmp_path / "run.trec", ranking, QUESTIONS[:1], corpus)
  scores = read_run(tmp_path / "run.trec", QUESTIONS[:1], corpus).scores[0]
  assert scores[0] == 1.0
  assert (np.diff(scores) < 0).all()
  assert math.isclose(scores[2], 1.0, rel_tol=1e-6)
