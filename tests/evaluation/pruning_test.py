"""The curve against pruning for real and searching again."""

import json

import numpy as np
import pytest
from command_line import last_line, run
from six_passages import make_corpus

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.cut import cut_corpus
from odqa_jax.data.corpus.kept import choose_rows
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.runs import Ranking, read_run, write_run
from odqa_jax.evaluation.measures import evaluate_ranking
from odqa_jax.evaluation.pruning import (
  curve_table,
  frequency_scores,
  prune_ranking,
  pruning_curve,
  random_scores,
)
from odqa_jax.reading.candidates import (
  Candidates,
  CandidateSet,
  Span,
  write_candidates,
)

COUNT, WIDTH = 120, 8


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """A corpus, embeddings of it, questions with answers, and a deep ranking."""
  rng = np.random.default_rng(0)
  words = [f"word{i}" for i in range(30)]
  texts = [
    (f"t{i}", " ".join(rng.choice(words, 4, replace=False)))
    for i in range(COUNT)
  ]
  corpus = make_corpus(tmp_path_factory.mktemp("curve") / "corpus", texts)
  questions = [Question(f"q{i}", "?", (words[i],)) for i in range(25)]
  questions += [Question("unanswered", "?", ())]
  passages = rng.normal(size=(COUNT, WIDTH))
  asked = rng.normal(size=(len(questions), WIDTH))
  return corpus, questions, passages, asked


def search(corpus_rows, passages, asked, questions, k):
  """Exact search by NumPy among some rows; rows are those of the part."""
  scores = asked @ passages[corpus_rows].T
  rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
  found = np.take_along_axis(scores, rows, 1).astype(np.float32)
  return Ranking(tuple(q.id for q in questions), rows, found)


def test_a_pruned_ranking_is_that_of_the_pruned_corpus(made, tmp_path):
  corpus, questions, passages, asked = made
  kept = choose_rows(random_scores(COUNT, 3), keep=30)
  whole = search(np.arange(COUNT), passages, asked, questions, COUNT)
  pruned = prune_ranking(whole, kept)
  wanted = search(kept, passages, asked, questions, 30)
  np.testing.assert_array_equal(pruned.rows[:, :30], wanted.rows)
  np.testing.assert_allclose(pruned.scores[:, :30], wanted.scores, rtol=1e-6)
  assert (pruned.rows[:, 30:] == -1).all()
  assert np.isneginf(pruned.scores[:, 30:]).all()
  # A run file goes the same way by ids.
  cut_corpus(corpus, kept, tmp_path / "cut", {})
  cut = Corpus(tmp_path / "cut")
  write_run(tmp_path / "cut.trec", pruned, questions, cut)
  read = read_run(tmp_path / "cut.trec", questions, cut)
  np.testing.assert_array_equal(read.rows, wanted.rows)


def test_the_curve_is_what_pruning_and_searching_again_gives(made, tmp_path):
  corpus, questions, passages, asked = made
  whole = search(np.arange(COUNT), passages, asked, questions, COUNT)
  orders = {name: random_scores(COUNT, i) for i, name in enumerate("ab")}
  gold = np.array([7, 90])
  rows = pruning_curve(
    whole, questions, corpus, orders, shares=(1.0, 0.5, 0.2), gold=gold
  )
  assert [(r["name"], r["share"]) for r in rows] == [
    (name, share) for name in "ab" for share in (1.0, 0.5, 0.2)
  ]
  for row in rows:
    keep = round(row["share"] * COUNT)
    kept = choose_rows(orders[row["name"]], keep=keep, gold=gold)
    assert row["kept"] == len(kept)
    folder = tmp_path / f"{row['name']}{keep}"
    cut_corpus(corpus, kept, folder, {})
    again = search(kept, passages, asked, questions, 100)
    figures = evaluate_ranking(again, questions, Corpus(folder))
    for cutoff, recall in figures["recall"].items():
      assert row["recall"][cutoff] == recall
    assert row["short"] == float(len(kept) < 100)


def test_a_shallow_run_says_so(made):
  corpus, questions, passages, asked = made
  whole = search(np.arange(COUNT), passages, asked, questions, 20)
  row = pruning_curve(
    whole, questions, corpus, {"any": random_scores(COUNT, 0)}, shares=(0.1,)
  )[0]
  assert set(row["recall"]) == {"1", "5", "20"} and row["short"] == 1.0


def test_frequency_keeps_what_is_found_most_often():
  rows = np.array([[4, 2, -1], [4, 1, 2], [4, 0, -1]])
  found = Ranking(("a", "b", "c"), rows, rows.astype(np.float32))
  scores = frequency_scores(found, 6, 0)
  assert choose_rows(scores, keep=2).tolist() == [2, 4]
  assert choose_rows(scores, keep=4).tolist() == [0, 1, 2, 4]
  # What nobody has found is kept in no order of the corpus.
  first = [
    frequency_scores(found, 6, seed)[[3, 5]].argmin() for seed in range(9)
  ]
  assert set(first) == {0, 1}


def spans_of(questions, corpus):
  """Three spans a question: the best is wrong, the second right."""
  found = []
  for i, q in enumerate(questions[:20]):
    spans = [
      Span(text, corpus.id((3 * i + j) % COUNT), 0, 5,
           {"extractive_reader": -float(j)})
      for j, text in enumerate(("wrong", q.answers[0], "worse"))
    ]  # fmt: skip
    found.append(Candidates(q.id, tuple(spans)))
  return CandidateSet({"extractive_reader": "1"}, tuple(found))


def test_exact_match_is_of_the_best_span_that_is_left(made):
  corpus, questions, passages, asked = made
  whole = search(np.arange(COUNT), passages, asked, questions, 20)
  candidates = spans_of(questions, corpus)
  scores = random_scores(COUNT, 5)
  rows = pruning_curve(
    whole, questions, corpus, {"x": scores}, candidates=candidates
  )
  # With all passages the first span, which is wrong.
  assert rows[0]["share"] == 1.0 and rows[0]["em"] == 0.0
  for row in rows:
    kept = set(choose_rows(scores, keep=row["kept"]).tolist())
    right = [
      (3 * i) % COUNT not in kept and (3 * i + 1) % COUNT in kept
      for i in range(20)
    ]
    # Five more questions have no candidates, and are missed.
    assert row["em"] == sum(right) / 25
    gone = [
      not kept & {(3 * i + j) % COUNT for j in range(3)} for i in range(20)
    ]
    assert row["unread"] == (sum(gone) + 5) / 25
  assert rows[1]["em"] > 0
  assert rows[-1]["unread"] > rows[0]["unread"]
  assert "  EM  unread" in curve_table(rows).splitlines()[0]


def test_candidates_without_the_reader_or_of_another_corpus(made):
  corpus, questions, passages, asked = made
  whole = search(np.arange(COUNT), passages, asked, questions, 20)
  orders = {"x": random_scores(COUNT, 5)}
  span = Span("a", "nowhere", 0, 1, {"extractive_reader": 0.0})
  other = CandidateSet({"extractive_reader": "1"}, (Candidates("q0", (span,)),))
  with pytest.raises(ValueError, match="'nowhere', which the corpus lacks"):
    pruning_curve(whole, questions, corpus, orders, candidates=other)
  with pytest.raises(ValueError, match="no scores of the component"):
    pruning_curve(
      whole, questions, corpus, orders, candidates=CandidateSet({}, ())
    )
  with pytest.raises(ValueError, match="no question has answers"):
    pruning_curve(
      Ranking(("unanswered",), whole.rows[:1], whole.scores[:1]),
      questions[-1:],
      corpus,
      orders,
    )


def test_the_command(made, tmp_path, capsys):
  corpus, questions, passages, asked = made
  whole = search(np.arange(COUNT), passages, asked, questions, COUNT)
  write_run(tmp_path / "run.trec", whole, questions, corpus)
  lines = [
    json.dumps({"id": q.id, "question": q.question, "answer": [*q.answers]})
    for q in questions
  ]
  (tmp_path / "asked.jsonl").write_text("\n".join(lines))
  write_candidates(tmp_path / "c.jsonl", spans_of(questions, corpus))
  scores = random_scores(COUNT, 1)
  np.save(tmp_path / "scores.npy", scores)
  common = (
    "prune", "--corpus", corpus.directory, "--scores", tmp_path / "scores.npy"
  )  # fmt: skip
  curve = (
    "--curve", tmp_path / "curve.png", "--run", tmp_path / "run.trec",
    "--questions", tmp_path / "asked.jsonl",
  )  # fmt: skip
  code, out, err = run(
    capsys, *common, *curve, "--candidates", tmp_path / "c.jsonl",
    "--frequency-run", tmp_path / "run.trec",
    "--frequency-questions", tmp_path / "asked.jsonl",
    "--out", tmp_path / "out", "--keep", 30,
  )  # fmt: skip
  assert code == 0, err
  figures = json.loads(last_line(out))
  assert figures["kept"] == len(Corpus(tmp_path / "out" / "corpus")) == 30
  names = [row["name"] for row in figures["curve"]]
  assert names == ["scores"] * 5 + ["random"] * 5 + ["frequency"] * 5
  wanted = pruning_curve(whole, questions, corpus, {"scores": scores})
  for row, known in zip(figures["curve"][:5], wanted, strict=True):
    assert row["recall"] == known["recall"]
  assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
  assert "recall@20" in err
  # It may be drawn again; and what does not go together is told.
  assert run(capsys, *common, *curve)[0] == 0
  for flags, said in (
    ((), "give --out DIR to prune, or --curve"),
    (curve[:2], "--curve needs --run FILE and --questions"),
    ((*curve, "--frequency-run", "x"), "go together"),
    (("--out", tmp_path / "o", "--keep", 3, "--run", "x"), "is for --curve"),
  ):
    code, _, err = run(capsys, *common, *flags)
    assert code == 2 and said in last_line(err), err
