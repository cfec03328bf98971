"""Passages of a run of which one holds the answer."""

import numpy as np
import pytest
from unified import write_toy_run

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples import unified
from odqa_jax.data.examples.batch import UNIFIED, check_batch
from odqa_jax.data.examples.retrieved import RetrievedQuestions
from odqa_jax.data.examples.unified import UnifiedExamples
from odqa_jax.data.questions.sets import QuestionSet
from odqa_jax.data.runs import Ranking, read_run
from odqa_jax.text.answers import has_answer
from odqa_jax.text.pairs import PairVocabulary
from odqa_jax.text.wordpiece_training import train_wordpiece

SETTINGS = {
  "passages": 4,
  "candidates": 200,
  "question_length": 24,
  "passage_length": 48,
  "length": 64,
  "title": True,
  "span_length": 8,
  "occurrences": 3,
}


@pytest.fixture(scope="module")
def corpus(toy_data):
  return Corpus(toy_data / "corpus")


@pytest.fixture(scope="module")
def questions(toy_data):
  return list(QuestionSet(toy_data / "questions" / "toy"))


@pytest.fixture(scope="module")
def run(toy_data, tmp_path_factory, questions, corpus):
  path = tmp_path_factory.mktemp("run") / "run.json"
  write_toy_run(toy_data, path, others=8)
  return read_run(path, questions, corpus)


def made(questions, run, corpus, **changes):
  found = RetrievedQuestions([(questions, run)], corpus)
  vocabulary = changes.pop("vocabulary", PairVocabulary(corpus.tokenizer))
  return UnifiedExamples(found, vocabulary, **SETTINGS | changes)


def drawn(examples, indices, seed=0, rows=slice(None)):
  rng = np.random.default_rng(seed)
  return examples.batch(np.array(indices), rng, rows)


def test_the_first_passage_alone_holds_an_answer(questions, run, corpus):
  examples = made(questions, run, corpus)
  batch = drawn(examples, range(20))
  check_batch(batch, UNIFIED)
  for i in range(20):
    question = questions[examples.numbers[i]]
    held = [
      has_answer(corpus.text(row), question.answers)
      for row in batch["passage_rows"][i].tolist()
    ]
    assert held == [True, False, False, False]
    assert len(set(batch["passage_rows"][i].tolist())) == 4
    place = np.flatnonzero(batch["answer_starts"][i, 0] >= 0)
    assert len(place) and (batch["answer_starts"][i, 1:] == -1).all()
    first, last = (
      batch[f"answer_{side}"][i, 0, place[0]] for side in ("starts", "ends")
    )
    tokens = batch["ids"][i, 0, first : last + 1]
    answer = corpus.tokenizer.decode(tokens.tolist())
    assert answer.strip().lower() == question.answers[0].lower()


def test_passages_stand_alone_as_an_index_has_them(questions, run, corpus):
  examples = made(questions, run, corpus)
  batch = drawn(examples, [3, 5])
  rows = batch["passage_rows"].reshape(-1)
  width = batch["passage_ids"].shape[2]
  ids, lengths = corpus.passage_inputs(rows, width, title=True)
  np.testing.assert_array_equal(batch["passage_ids"].reshape(8, -1), ids)
  np.testing.assert_array_equal(batch["passage_lengths"].reshape(-1), lengths)
  asked = batch["question_ids"][0, 1 : batch["question_lengths"][0] - 1]
  expected = questions[examples.numbers[3]].question
  assert asked.tolist() == corpus.tokenizer.encode_batch([expected])[0]


def test_scores_of_the_run_follow_their_passages(questions, run, corpus):
  examples = made(questions, run, corpus)
  batch = drawn(examples, range(6))
  for i in range(6):
    number = examples.numbers[i]
    known = dict(
      zip(run.rows[number].tolist(), run.scores[number].tolist(), strict=True)
    )
    assert batch["run_scores"][i].tolist() == [
      known[row] for row in batch["passage_rows"][i].tolist()
    ]


def test_what_is_drawn_follows_from_the_seed_on_any_process(
  questions, run, corpus, monkeypatch
):
  # As if there were a bucket for every length.
  monkeypatch.setattr(
    unified, "bucket_length", lambda lengths, longest: int(np.max(lengths))
  )
  examples = made(questions, run, corpus)
  whole = drawn(examples, range(8))
  other = drawn(examples, range(8), seed=1)
  assert (whole["passage_rows"] != other["passage_rows"]).any()
  for rows in (slice(0, 1), slice(1, 2), slice(2, 8)):
    part = drawn(examples, range(8), rows=rows)
    for name, x in part.items():
      np.testing.assert_array_equal(x, whole[name][rows], err_msg=name)


def test_questions_without_such_passages_are_counted(questions, run, corpus):
  some = questions[:6]
  rows = run.rows[:6].copy()
  gold = rows[0, 1]
  # No hit; one hit behind the candidates; too few others.
  rows[1, 1] = gold
  rows[2, 1], rows[2, 8] = rows[2, 8], rows[2, 1]
  rows[3, 2:] = -1
  ranking = Ranking(tuple(q.id for q in some), rows, run.scores[:6])
  examples = made(some, ranking, corpus, candidates=8)
  assert examples.left_out == {
    "without an answer in the candidates": 2,
    "with answers that are cut off or too long alone": 0,
    "with too few candidates without an answer": 1,
  }
  assert examples.numbers == [0, 4, 5]
  with pytest.raises(ValueError, match=f"question {some[1].id} is without an"):
    made(some, ranking, corpus, candidates=8, strict=True)


def test_answers_that_are_no_spans_leave_nothing(questions, run, corpus):
  with pytest.raises(ValueError, match="cut off or too long alone': 100"):
    made(questions, run, corpus, span_length=1)


def test_other_tokens_than_the_corpus_has_are_refused(questions, run, corpus):
  other = train_wordpiece(["a few other words"], 60)
  with pytest.raises(ValueError, match="prepare the corpus with the tokenizer"):
    made(questions, run, corpus, vocabulary=PairVocabulary(other))


def test_pairs_are_in_the_order_that_is_asked_for(questions, run, corpus):
  batch = drawn(made(questions, run, corpus, passage_first=False), [2])
  asked = batch["question_ids"][0, : batch["question_lengths"][0]]
  np.testing.assert_array_equal(batch["ids"][0, 0, : len(asked)], asked)
  assert (batch["context_starts"][0] >= len(asked)).all()
  assert (drawn(made(questions, run, corpus), [2])["context_starts"] == 1).all()
