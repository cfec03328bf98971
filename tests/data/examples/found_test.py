"""What is found for questions and what is not: counts, draws, and the pool."""

from collections import Counter

import numpy as np
import pytest
from six_passages import make_corpus

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.batch import FOUND, check_batch
from odqa_jax.data.examples.found import (
  NO_POOL,
  FoundExamples,
  Pool,
  answering_rows,
  positive_rows,
  times_found,
  times_seen,
  validation_pool,
)
from odqa_jax.data.examples.judged import JudgedPassages
from odqa_jax.data.examples.loader import train_batches
from odqa_jax.data.examples.retrieved import RetrievedQuestions
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.runs import Ranking
from odqa_jax.text.byte_pairs import SPECIAL_TOKENS, BytePairTokenizer


@pytest.fixture(scope="module")
def corpus(toy_data):
  return Corpus(toy_data / "corpus")


def asked(rows, corpus, answers=None, golds=()):
  """Questions with what was found for them; −1: nothing more."""
  rows = np.array(rows)
  questions = [
    Question(
      f"q{i}",
      f"who {i}",
      (answers or {}).get(i, ("nobody",)),
      positive_ids=golds[i] if i < len(golds) else (),
    )
    for i in range(len(rows))
  ]
  ids = tuple(question.id for question in questions)
  scores = np.where(rows < 0, -np.inf, 0).astype(np.float32)
  return RetrievedQuestions([(questions, Ranking(ids, rows, scores))], corpus)


# Row 7 is found by 10 of 11 questions, row 1 by 2, most others by one.
RUN = [[7, 20 + i, 1] if i < 2 else [7, 20 + i, 60 + i] for i in range(10)]
RUN += [[90, -1, -1]]


def test_how_often_a_passage_is_found(corpus):
  found = asked(RUN, corpus)
  for most in (1, 2, 3):
    known = Counter(row for rows in RUN for row in rows[:most] if row >= 0)
    counts = times_found(found, most)
    assert counts.shape == (200,)
    assert {row: n for row, n in enumerate(counts) if n} == known


@pytest.mark.parametrize("base", [2, 3, 10])
def test_how_often_it_is_seen_is_that_of_the_paper(base):
  powers = {base**i for i in range(1, 40)}
  counts = np.array([f for f in range(1, 3000) if f not in powers])
  expected = np.floor(np.log(counts.astype(np.float64)) / np.log(base) + 1)
  np.testing.assert_array_equal(times_seen(counts, base), expected)
  # At the powers a logarithm is off by a bit; not here.
  exact = np.array([base**i for i in range(8)])
  assert times_seen(exact, base).tolist() == list(range(1, 9))
  assert times_seen(exact[1:] - 1, base).tolist() == list(range(1, 8))
  assert times_seen(np.zeros(3, np.int64), base).tolist() == [0, 0, 0]


def test_the_pool_is_what_answers_and_others_that_nobody_found(corpus):
  counts = times_found(asked(RUN, corpus), 3)
  needed = np.array([7, 20, 150])
  pool = validation_pool(counts, needed, size=40, seed=0)
  assert len(pool.rows) == 40 and np.all(np.diff(pool.rows) > 0)
  assert pool.rows[pool.needed].tolist() == needed.tolist()
  assert not counts[pool.rows[~pool.needed]].any()
  again = validation_pool(counts, needed, size=40, seed=0)
  other = validation_pool(counts, needed, size=40, seed=1)
  assert np.array_equal(again.rows, pool.rows)
  assert not np.array_equal(other.rows, pool.rows)
  others = int((counts == 0).sum()) - 1
  validation_pool(counts, needed, size=2 + others, seed=0)
  for size in (3, 3 + others):
    with pytest.raises(ValueError, match=f"choose 4 to {2 + others}"):
      validation_pool(counts, needed, size=size, seed=0)
  with pytest.raises(ValueError, match="none of 200 passages is known to ans"):
    validation_pool(counts, needed[:0], size=40, seed=0)


def test_hits_are_counted_as_by_hand():
  rng = np.random.default_rng(0)
  for _ in range(50):
    needed = rng.random(12) < 0.4
    needed[3] = True
    # Few values, so that many are equal.
    scores = rng.integers(4, size=12).astype(np.float32)
    order = sorted(range(12), key=lambda i: (-scores[i], i))
    kept = order[: needed.sum()]
    share = sum(bool(needed[i]) for i in kept) / needed.sum()
    pool = Pool(np.arange(12), needed)
    assert pool.hit_ratio(scores) == pytest.approx(share, abs=1e-12)


def test_what_answers_is_named_or_found(corpus):
  words = corpus.text(20).split()
  there, nowhere = (" ".join(words[:4]),), ("nobody at all",)
  rows = [[20, 3], [3, 20], [-1, -1], [20, 5]]
  answers = {0: there, 1: there, 2: there, 3: nowhere}
  golds = [("p9", "elsewhere"), ("p4",), (), ("p9",)]
  found = asked(rows, corpus, answers, golds)
  # The first one alone, and if it holds an answer.
  assert answering_rows(found).tolist() == [20]
  assert positive_rows(found.questions, corpus).tolist() == [4, 9]


def test_half_of_a_batch_is_found_and_an_epoch_has_all(corpus):
  counts = times_found(asked(RUN, corpus), 3)
  pool = validation_pool(counts, np.array([20, 150]), size=50, seed=0)
  passages = JudgedPassages(corpus, corpus.tokenizer, length=64, title=True)
  examples = FoundExamples(counts, pool, passages, base=2)
  # Row 7 four times, row 1 twice; 20 is in the pool.
  wanted = Counter(
    {r: int(np.log2(n)) + 1 for r, n in enumerate(counts) if n and r != 20}
  )
  assert (wanted[7], wanted[1]) == (4, 2)
  assert len(examples) == wanted.total()
  assert examples.left_out == {"found, but in the validation pool": 1}
  batches = train_batches(
    examples, len(examples), seed=0, rows=slice(0, len(examples))
  )
  epochs = [next(batches) for _ in range(3)]
  negatives = []
  for batch in epochs:
    check_batch(batch, FOUND)
    assert np.all(batch["irrelevant"] == [False, True])
    rows = batch["passage_rows"]
    assert Counter(rows[:, 0].tolist()) == wanted
    assert not counts[rows[:, 1]].any()
    assert not np.isin(rows, pool.rows).any()
    ids, lengths = corpus.passage_inputs(
      rows.reshape(-1), batch["ids"].shape[2], title=True
    )
    assert np.array_equal(batch["ids"].reshape(ids.shape), ids)
    assert np.array_equal(batch["lengths"].reshape(-1), lengths)
    negatives.append(rows[:, 1].tolist())
  # They come anew, and from all over.
  assert len({tuple(n) for n in negatives}) == 3
  assert len({row for rows in negatives for row in rows}) > 40


def test_processes_share_a_batch(corpus):
  counts = times_found(asked(RUN, corpus), 3)
  passages = JudgedPassages(corpus, corpus.tokenizer, length=64, title=True)
  examples = FoundExamples(counts, NO_POOL, passages, base=10)

  def drawn(rows):
    return next(train_batches(examples, 9, seed=3, rows=rows))

  whole = drawn(slice(0, 9))
  parts = [drawn(slice(0, 5)), drawn(slice(5, 10))]
  for name, value in whole.items():
    joined = np.concatenate([part[name] for part in parts])
    assert np.array_equal(joined[:9], value), name
  assert not parts[1]["example_mask"][4]


def test_a_filter_needs_both_kinds(corpus):
  passages = JudgedPassages(corpus, corpus.tokenizer, length=64, title=True)
  for counts, said in ((np.ones, "200 were found and 0"), (np.zeros, "0 were")):
    with pytest.raises(ValueError, match=said):
      FoundExamples(counts(200, np.int64), NO_POOL, passages, base=10)


def test_all_processes_pad_to_the_longest_of_the_batch(tmp_path):
  """Whichever of them has it, and whoever makes the ids."""
  long = " ".join(["a city of many old houses"] * 12)
  corpus = make_corpus(tmp_path / "c", [("Ulm", "A city."), ("Bonn", long)])
  letters = [*SPECIAL_TOKENS, *map(chr, range(97, 123)), "Ġ", "A", "."]
  other = BytePairTokenizer({t: i for i, t in enumerate(letters)}, [])
  table, labels = np.array([[0], [1]]), np.zeros((2, 1), bool)
  for tokenizer in (corpus.tokenizer, other):
    passages = JudgedPassages(corpus, tokenizer, length=512, title=True)
    whole = passages.batch(table, labels, slice(0, 2))
    short = passages.batch(table, labels, slice(0, 1))
    assert whole["lengths"][0, 0] < 32 < whole["lengths"][1, 0]
    assert np.array_equal(short["ids"], whole["ids"][:1])
