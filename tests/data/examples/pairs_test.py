"""Pairs of a question and its passages, as they lie on the disk."""

import numpy as np

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.pairs import PairExamples
from odqa_jax.data.mining.pairs import Pairs
from odqa_jax.data.questions.sets import QuestionSet


def test_a_question_without_hard_negatives_gets_one_by_chance(
  toy_data, tmp_path
):
  """Also where there is none in the whole file, which is mapped read-only."""
  pairs = Pairs.open(toy_data / "pairs" / "toy")
  Pairs(
    pairs.question,
    pairs.positive_rows,
    pairs.positive_offsets,
    pairs.negative_rows[:0],
    np.zeros_like(pairs.negative_offsets),
    pairs.manifest,
  ).save(tmp_path / "pairs")
  examples = PairExamples(
    [(list(QuestionSet(toy_data / "questions" / "toy")),
      Pairs.open(tmp_path / "pairs"))],
    Corpus(toy_data / "corpus"),
    question_length=16,
    passage_length=16,
    hard_negatives=1,
    title=True,
  )  # fmt: skip
  rng = np.random.default_rng(0)
  rows = examples.batch(np.arange(8), rng, slice(0, 8))["passage_rows"]
  assert rows.shape == (8, 2)
  assert (rows[:, 0] != rows[:, 1]).all()
