"""Gold passages and random others: sizes, draws, and the parts of a set."""

import dataclasses

import numpy as np
import pytest

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.batch import JUDGED, check_batch
from odqa_jax.data.examples.golden import (
  GoldenExamples,
  golden_passages,
  split_by_gold,
)
from odqa_jax.data.examples.judged import JudgedPassages
from odqa_jax.data.examples.loader import train_batches
from odqa_jax.data.examples.sources import load_examples
from odqa_jax.data.questions.sets import Question, QuestionSet
from odqa_jax.runtime.settings import DataSettings
from odqa_jax.text.byte_pairs import SPECIAL_TOKENS, BytePairTokenizer


@pytest.fixture
def corpus(toy_data):
  return Corpus(toy_data / "corpus")


@pytest.fixture
def questions(toy_data):
  return list(QuestionSet(toy_data / "questions" / "toy"))


def asked(*golds):
  return [
    Question(f"q{i}", "who", ("x",), positive_ids=names)
    for i, names in enumerate(golds)
  ]


def test_every_gold_passage_has_its_negatives(corpus, questions):
  golden = golden_passages(questions, corpus, negatives=2, seed=0)
  assert len(golden.rows) == 3 * len(questions) == 300
  groups = golden.rows.reshape(-1, 3)
  assert groups[:, 0].tolist() == list(range(0, 200, 2))
  labels = golden.irrelevant.reshape(-1, 3)
  assert np.all(labels == [False, True, True])
  # Rows of even number are gold; the others are drawn from all over.
  assert np.all(groups[:, 1:] % 2 == 1)
  assert len(np.unique(groups[:, 1:])) > 70
  again = golden_passages(questions, corpus, negatives=2, seed=0)
  other = golden_passages(questions, corpus, negatives=2, seed=1)
  assert np.array_equal(golden.rows, again.rows)
  assert not np.array_equal(golden.rows, other.rows)


def test_questions_without_gold_are_counted(corpus):
  golden = golden_passages(
    asked(("p4", "p7"), (), ("elsewhere",), ("elsewhere", "p9")),
    corpus,
    negatives=1,
    seed=0,
  )
  assert golden.rows[::2].tolist() == [4, 9]
  assert golden.left_out == {
    "without a gold passage": 1,
    "with gold not in the corpus": 1,
  }


def test_parts_of_a_set_share_no_gold_passage(corpus):
  golds = [(f"p{i % 60}",) for i in range(90)] + [()] * 5
  questions = asked(*golds)
  first, rest = split_by_gold(questions, corpus, 30, seed=3)
  assert (len(first), len(rest)) == (30, 60)
  assert {q.positive_ids for q in first}.isdisjoint(
    q.positive_ids for q in rest
  )
  assert len({q.id for q in first + rest}) == 90
  assert split_by_gold(questions, corpus, 30, seed=3) == (first, rest)
  assert split_by_gold(questions, corpus, 30, seed=4) != (first, rest)


def test_parts_have_the_sizes_of_the_source():
  """DPR's dev has 6,515 questions with a passage, in parts of 1 to 2."""

  class Ids:
    """Ids that are rows, of passages without a text."""

    def __len__(self):
      return 20_000

    def id(self, row):
      return str(row)

    title = text = id

    def find(self, passage_id):
      return int(passage_id)

  rng = np.random.default_rng(0)
  questions = asked(*((str(row),) for row in rng.integers(0, 20_000, 6515)))
  first, rest = split_by_gold(questions, Ids(), 2166, seed=1234)
  assert (2 * len(first), 2 * len(rest)) == (4332, 8698)


def test_batches_are_the_passages_of_the_corpus(corpus, questions):
  golden = golden_passages(questions, corpus, negatives=2, seed=0)
  passages = JudgedPassages(corpus, corpus.tokenizer, length=64, title=True)
  examples = GoldenExamples(golden, passages)
  batches = train_batches(examples, 12, seed=0, rows=slice(0, 12))
  seen = []
  for _ in range(25):
    batch = next(batches)
    check_batch(batch, JUDGED)
    rows = batch["passage_rows"][:, 0]
    assert np.array_equal(batch["irrelevant"][:, 0], rows % 2 == 1)
    pad = batch["ids"].shape[2]
    ids, lengths = corpus.passage_inputs(rows, pad, title=True)
    assert np.array_equal(batch["ids"][:, 0], ids)
    assert np.array_equal(batch["lengths"][:, 0], lengths)
    seen += rows.tolist()
  assert sorted(seen) == sorted(golden.rows.tolist())
  # Gold passages and others come mixed.
  assert 0 < batch["irrelevant"].sum() < 12


def test_the_source_golden(toy_data, corpus):
  data = DataSettings(
    source="golden",
    corpus=str(toy_data / "corpus"),
    questions=str(toy_data / "questions" / "toy"),
  )
  assert len(load_examples(data, corpus)) == 300
  more = dataclasses.replace(data, random_negatives=4)
  assert len(load_examples(more, corpus)) == 500


def test_a_network_of_another_vocabulary_reads_the_texts(corpus, questions):
  golden = golden_passages(questions, corpus, negatives=2, seed=0)
  letters = [*SPECIAL_TOKENS, *map(chr, range(97, 123)), "Ġ", "A", "T", "."]
  letters += [str(i) for i in range(10)]
  other = BytePairTokenizer({t: i for i, t in enumerate(letters)}, [])
  passages = JudgedPassages(corpus, other, length=48, title=True)
  batch = GoldenExamples(golden, passages).batch(
    np.arange(6), np.random.default_rng(0), slice(2, 5)
  )
  check_batch(batch, JUDGED)
  rows = golden.rows[2:5]
  assert batch["passage_rows"][:, 0].tolist() == rows.tolist()
  for i, row in enumerate(rows.tolist()):
    title, text = other.encode_batch([corpus.title(row), corpus.text(row)])
    ids = [other.cls_id, *title, other.sep_id, other.sep_id, *text]
    ids = [*ids[:47], other.sep_id]
    assert batch["lengths"][i, 0] == len(ids) == 48
    assert batch["ids"][i, 0].tolist() == ids
  bare = JudgedPassages(corpus, other, length=300, title=False)
  batch = GoldenExamples(golden, bare).batch(
    np.arange(3), np.random.default_rng(0), slice(0, 1)
  )
  (text,) = other.encode_batch([corpus.text(int(golden.rows[0]))])
  ids = [other.cls_id, *text, other.sep_id]
  assert batch["ids"][0, 0, : len(ids)].tolist() == ids
  assert np.all(batch["ids"][0, 0, len(ids) :] == other.pad_id)


def test_what_cannot_be_drawn_is_refused(corpus):
  with pytest.raises(ValueError, match="none of 2 questions has a gold"):
    golden_passages(asked((), ("x",)), corpus, negatives=2, seed=0)
  everything = asked(tuple(f"p{i}" for i in range(200)))
  with pytest.raises(ValueError, match="all 200 passages are gold"):
    golden_passages(everything, corpus, negatives=2, seed=0)
  same = asked(*[("p1",)] * 5, ("p2",))
  with pytest.raises(ValueError, match="3 of 6 questions"):
    split_by_gold(same, corpus, 3, seed=0)
