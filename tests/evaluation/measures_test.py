"""Run files there and back, and recall against counting by hand."""

import gzip
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from odqa_jax.data.corpus.build import build_corpus
from odqa_jax.data.corpus.corpus import Corpus, Passage
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.runs import Ranking, read_run, write_run, written_id
from odqa_jax.evaluation.measures import (
  evaluate_ranking,
  evaluate_run,
  measure_ranking,
  recall_table,
)
from odqa_jax.text.wordpiece_training import train_wordpiece

PASSAGES = [
  Passage("p 0", "Ulm", "Albert Einstein was born in Ulm."),
  Passage("p%201", "Bern", "He worked in Bern, at the patent office."),
  Passage('"p2"', "Princeton", "He died in Princeton in 1955."),
  Passage("p\u00a03", "Physics", "Relativity is a theory of physics."),
]
QUESTIONS = [
  Question("q0", "Where was he born?", ("Ulm",), positive_ids=("p 0",)),
  Question("q1", "When did he die?", (r"19\d5",), "regex"),
  Question("q2", "Where was he born?", ("nowhere",), positive_ids=('"p2"',)),
  Question("q3", "No answers here?", ()),
]
RANKING = Ranking(
  ("q0", "q1", "q2", "q3"),
  np.array([[0, 1], [1, 2], [3, 2], [0, -1]]),
  np.array(
    [[0.1, 1e-9], [7.25, -3.5], [1 / 3, 1 / 3], [1e9, -np.inf]], np.float32
  ),
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
  folder = tmp_path_factory.mktemp("evaluate") / "corpus"
  tokenizer = train_wordpiece([p.text for p in PASSAGES], 200)
  build_corpus(PASSAGES, folder, tokenizer)
  return Corpus(folder)


def _run(tmp_path: Path, text: str) -> Path:
  path = tmp_path / "run.trec"
  path.write_text(text, encoding="utf-8")
  return path


@pytest.mark.parametrize("name", ["run.trec", "run.json"])
def test_a_written_run_is_read_back_to_the_bit(
  tmp_path: Path, corpus: Corpus, name: str
) -> None:
  write_run(tmp_path / name, RANKING, QUESTIONS, corpus)
  again = read_run(tmp_path / name, QUESTIONS, corpus)
  assert again.question_ids == RANKING.question_ids
  np.testing.assert_array_equal(again.rows, RANKING.rows)
  if name.endswith(".json"):
    np.testing.assert_array_equal(again.scores, RANKING.scores)
  # Equal scores are a step apart in the file.
  np.testing.assert_array_max_ulp(again.scores, RANKING.scores, 1)
  assert [p.name for p in tmp_path.iterdir()] == [name]


def test_trec_lines_have_six_columns_whatever_the_ids(
  tmp_path: Path, corpus: Corpus
) -> None:
  path = tmp_path / "run.trec"
  write_run(path, RANKING, QUESTIONS, corpus)
  rows = [line.split() for line in path.read_text("utf-8").splitlines()]
  assert [len(row) for row in rows] == [6] * 7
  assert rows[0] == ["q0", "Q0", "p%200", "1", "0.100000001", "odqa_jax"]
  assert [row[2] for row in rows[1:6]] == [
    "p%201",
    "p%201",
    '"p2"',
    "p%C2%A03",
    '"p2"',
  ]


def test_json_has_the_fields_of_dpr(tmp_path: Path, corpus: Corpus) -> None:
  path = tmp_path / "run.json"
  write_run(path, RANKING, QUESTIONS, corpus)
  records = json.loads(path.read_text("utf-8"))
  assert [r["question"] for r in records] == [q.question for q in QUESTIONS]
  assert records[1]["answers"] == [r"19\d5"]
  assert records[1]["ctxs"][1] == {
    "id": '"p2"',
    "title": "Princeton",
    "text": "He died in Princeton in 1955.",
    "score": -3.5,
    "has_answer": True,
  }
  assert [c["has_answer"] for c in records[0]["ctxs"]] == [True, False]
  assert len(records[3]["ctxs"]) == 1


def test_a_foreign_dpr_json_is_matched_by_question_text(
  tmp_path: Path, corpus: Corpus
) -> None:
  def record(text: str, *ids: str) -> dict:
    passages = [{"id": name, "score": "1.5"} for name in ids]
    return {"question": text, "answers": [], "ctxs": passages}

  path = tmp_path / "results.gz"
  records = [
    record("Where was he born?", "p 0"),
    record("When did he die?", "p%201", '"p2"'),
    record("Where was he born?", '"p2"'),
  ]
  path.write_bytes(gzip.compress(json.dumps(records, indent=2).encode()))
  ranking = read_run(path, QUESTIONS, corpus)
  assert ranking.rows.tolist() == [[0, -1], [1, 2], [2, -1], [-1, -1]]
  assert ranking.scores[1].tolist() == [1.5, 1.5]
  path.write_text(json.dumps([record("What?", "p 0")]))
  with pytest.raises(ValueError, match=r"\[0\], passage 1: question 'What\?'"):
    read_run(path, QUESTIONS, corpus)
  path.write_text(json.dumps([*records[:2], {"question": "x"}]))
  with pytest.raises(ValueError, match=r"\[2\]: no record of a DPR run"):
    read_run(path, QUESTIONS, corpus)


@pytest.mark.parametrize(
  ("second", "message"),
  [
    ("q0 Q0 p%201 2", "is not a run line .* it has 4 columns"),
    ("q0 Q0 p%201 2 1.0", "is not a run line .* it has 5 columns"),
    ("q0 Q0 p%201 2 1.0 t extra", "is not a run line .* it has 7 columns"),
    ("q0 Q0 p%201 2 one t", "the score 'one' is no number"),
    ("q0 Q0 p%201 2 1_0 t", "the score '1_0' is no number"),
    ("q0 Q0 p%201 2 1,5 t", "the score '1,5' is no number"),
    ("q0 Q0 p%201 2 -inf t", "the score '-inf' is no number, or none that"),
    ("q0 Q0 p%201 2 1e39 t", "the score '1e39' is no number, or none that"),
    ("q9 Q0 p%201 1 1.0 t", "question 'q9' is not among the 4"),
    ("q0 Q0 wiki:1 2 1.0 t", r"'wiki:1' is not in the corpus .* like 'p 0'"),
    ("q0 Q0 p%201 2 nan t", "the score 'nan' is no number"),
    ("q0 Q0 p%200 2 1.0 t", "'p%200' comes twice for 'q0'"),
  ],
)
def test_a_bad_line_is_named(
  tmp_path: Path, corpus: Corpus, second: str, message: str
) -> None:
  path = _run(tmp_path, f"q0 Q0 p%200 1 2.0 t\n{second}\n")
  with pytest.raises(ValueError, match=f"^{re.escape(str(path))}:2: .*") as e:
    read_run(path, QUESTIONS, corpus)
  assert re.search(message, str(e.value)), e.value


def test_recall_counts_questions_with_answers_only(corpus: Corpus) -> None:
  figures = evaluate_ranking(RANKING, QUESTIONS, corpus)
  assert figures["questions"] == 4
  assert figures["k"] == 2
  # q0 at rank 1, q1 at rank 2 by its pattern, q2 never, q3 has no answers.
  assert figures["recall"] == {"1": pytest.approx(1 / 3)}
  low, high = figures["recall_95"]["1"]
  assert 0.06 < low < 1 / 3 < high < 0.8
  assert list(figures["recall"]) == ["1"], "k = 2 cannot tell recall@5"


def test_recall_at_five_looks_at_five(corpus: Corpus) -> None:
  rows = np.array([[1, 2, 3, -1, -1, 0], [3, 1, 0, -1, 2, -1]])
  ranking = Ranking(("q0", "q1"), rows, -np.arange(12.0).reshape(2, 6))
  figures = evaluate_ranking(ranking, QUESTIONS[:2], corpus)
  assert figures["recall"] == {"1": 0.0, "5": 0.5}


def test_gold_measures_equal_their_definitions(corpus: Corpus) -> None:
  figures = evaluate_ranking(RANKING, QUESTIONS, corpus)
  # q0 finds its passage at rank 1, q2 at rank 2 in spite of the equal score.
  assert figures["gold_questions"] == 2
  assert figures["gold"] == {"1": 0.5}
  assert figures["mrr@10"] == pytest.approx((1 + 1 / 2) / 2)
  assert figures["ndcg@10"] == pytest.approx((1 + 1 / math.log2(3)) / 2)


def test_a_question_missing_from_the_run_is_a_miss(
  tmp_path: Path, corpus: Corpus
) -> None:
  path = _run(tmp_path, "q0 Q0 p%200 1 2.0 t\n")
  figures = evaluate_run(path, QUESTIONS, corpus)
  assert figures["missing"] == 3
  assert figures["recall"] == {"1": pytest.approx(1 / 3)}
  assert figures["gold"] == {"1": 0.5}
  assert figures["mrr@10"] == 0.5


def test_qrels_count_instead_of_positive_ids_and_keep_their_grades(
  tmp_path: Path, corpus: Corpus
) -> None:
  qrels = tmp_path / "qrels"
  qrels.write_text('q0 0 p%201 2\nq0 0 p%200 1\nq1\t0\t"p2"\t0\nq2 0 "p2" 1\n')
  figures = evaluate_ranking(RANKING, QUESTIONS, corpus, qrels=qrels)
  # q1 was judged without a relevant passage, and counts.
  assert figures["gold_questions"] == 3
  first = (1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3))
  second = 1 / math.log2(3)
  assert figures["ndcg@10"] == pytest.approx((first + second) / 3)


def test_measures_of_a_threshold_equal_their_definitions(
  tmp_path: Path, corpus: Corpus
) -> None:
  """By loops over ranks, of rankings and grades drawn at random."""
  rng = np.random.default_rng(0)
  questions = [Question(f"q{i}", "Who?", ()) for i in range(30)]
  rows = np.stack([rng.permutation(4) for _ in questions])
  ranking = Ranking(tuple(q.id for q in questions), rows, -1.0 * rows)
  grades = rng.integers(0, 4, (30, 4))
  names = [written_id(corpus, corpus.id(row)) for row in range(4)]
  lines = [
    f"q{i} 0 {names[row]} {grade}"
    for i, each in enumerate(grades)
    for row, grade in enumerate(each)
  ]
  (tmp_path / "qrels").write_text("\n".join(lines) + "\n")
  for least in (1, 2, 3):
    figures, values = measure_ranking(
      ranking,
      questions,
      corpus,
      qrels=tmp_path / "qrels",
      cutoffs=(2, 3),
      least_grade=least,
    )
    for i in range(30):
      right = [bool(grades[i, row] >= least) for row in rows[i]]
      count = sum(right)
      precisions = [sum(right[: n + 1]) / (n + 1) for n in range(4) if right[n]]
      average = sum(precisions) / count if count else 0.0
      assert values["map"][i] == pytest.approx(average)
      first = 1 / (right.index(True) + 1) if count else 0.0
      assert values["mrr@10"][i] == pytest.approx(first)
      for k in (2, 3):
        assert values[f"gold@{k}"][i] == any(right[:k])
        share = sum(right[:k]) / count if count else 0.0
        assert values[f"gold_recall@{k}"][i] == pytest.approx(share)
    assert figures["map"] == pytest.approx(values["map"].mean())
    assert figures["gold_recall"]["2"] == values["gold_recall@2"].mean()
  with pytest.raises(ValueError, match="recall@5 cannot be measured on 2"):
    measure_ranking(RANKING, QUESTIONS, corpus, cutoffs=(5,))


def test_values_are_of_the_questions_that_count(corpus: Corpus) -> None:
  figures, values = measure_ranking(RANKING, QUESTIONS, corpus)
  recall = values["recall@1"]
  assert recall[:3].tolist() == [1, 0, 0] and np.isnan(recall[3])
  assert np.nanmean(recall) == figures["recall"]["1"]
  assert np.isnan(values["map"]).tolist() == [False, True, False, True]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("q0 0 p%200 1\nq0 0 p%200\n", ":2: 'q0 0 p%200' is no judgement"),
    ("q0 0 p%200 high\n", ":1: 'q0 0 p%200 high' is no judgement"),
    ("q7 0 p%200 1\n", "none of the judged .* 1 questions .* among the 4"),
    ("q0 0 wiki:1 1\n", "none of the judged passages"),
    ("q0 0 p%200 1\nq0 0 p%200 2\n", ":2: .* the grade 2 .* had 1 before"),
    ("query-id\tcorpus-id\tscore\nq0\tp 0\t0.5\n", "grades are integers"),
  ],
)
def test_bad_qrels_are_named(
  tmp_path: Path, corpus: Corpus, text: str, message: str
) -> None:
  qrels = tmp_path / "qrels"
  qrels.write_text(text)
  with pytest.raises(ValueError, match=message):
    evaluate_ranking(RANKING, QUESTIONS, corpus, qrels=qrels)


def test_gold_passages_of_another_corpus_are_left_out(corpus: Corpus) -> None:
  question = Question("q0", "Where?", ("Ulm",), positive_ids=("elsewhere",))
  ranking = Ranking(("q0",), RANKING.rows[:1], RANKING.scores[:1])
  figures = evaluate_ranking(ranking, [question], corpus)
  assert figures["recall"] == {"1": 1.0}
  assert "gold" not in figures


def test_a_ranking_of_other_questions_is_refused(
  tmp_path: Path, corpus: Corpus
) -> None:
  with pytest.raises(ValueError, match="4 questions does not belong to these"):
    evaluate_ranking(RANKING, QUESTIONS[::-1], corpus)
  with pytest.raises(ValueError, match="does not belong"):
    write_run(tmp_path / "run.json", RANKING, QUESTIONS[:3], corpus)
  assert not list(tmp_path.iterdir())


def test_the_table_is_aligned_and_shows_what_a_row_lacks() -> None:
  table = recall_table(
    [
      {"name": "BM25", "recall": {"1": 0.5, "5": 1.0}},
      {"name": "dense retriever", "recall": {"1": 0.254}, "gold": {"1": 0.1}},
    ]
  )
  assert table.splitlines() == [
    "                 recall@1  recall@5  gold@1",
    "───────────────  ────────  ────────  ──────",
    "BM25                 50.0     100.0       -",
    "dense retriever      25.4         -    10.0",
  ]
