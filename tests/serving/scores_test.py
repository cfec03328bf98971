"""Scores from files and from a classifier, which may be interrupted."""

import numpy as np
import pytest
from six_passages import make_corpus

from odqa_jax.serving.scores import read_scores, score_passages

COUNT = 50
SCORES = np.random.default_rng(0).normal(size=COUNT).astype(np.float32)


class Table:
  """Gives the scores of a table; remembers what it was asked; may fail."""

  fingerprint = "table"

  def __init__(self, scores=SCORES, fail_at=None):
    self.scores, self.fail_at, self.asked = scores, fail_at, []

  def __call__(self, rows, progress=None):
    if rows.start == self.fail_at:
      raise InterruptedError
    self.asked.append(rows.start)
    progress(len(rows) // 2)
    return self.scores[rows.start : rows.stop]


def test_blocks_make_one_file_of_all_scores(tmp_path):
  told = []
  scores = score_passages(
    Table(), COUNT, tmp_path, block_rows=8, progress=lambda *n: told.append(n)
  )
  np.testing.assert_array_equal(scores, SCORES)
  assert [p.name for p in tmp_path.iterdir()] == ["scores.npy"]
  # Within a block as well: one of 65,536 passages takes a minute or more.
  assert told[:3] == [(4, COUNT), (8, COUNT), (12, COUNT)]
  assert told[-1] == (COUNT, COUNT)


def test_an_interrupted_run_goes_on_and_ends_the_same(tmp_path):
  with pytest.raises(InterruptedError):
    score_passages(Table(fail_at=24), COUNT, tmp_path, block_rows=8)
  damaged = tmp_path / "scores-0000000008.npy"
  damaged.write_bytes(damaged.read_bytes()[:20])
  second = Table()
  scores = score_passages(second, COUNT, tmp_path, block_rows=8)
  assert second.asked == [8, 24, 32, 40, 48]
  np.testing.assert_array_equal(scores, SCORES)
  third = Table()
  np.testing.assert_array_equal(
    score_passages(third, COUNT, tmp_path, block_rows=8), SCORES
  )
  assert third.asked == []


def test_blocks_of_another_size_are_not_taken_for_these(tmp_path):
  with pytest.raises(InterruptedError):
    score_passages(Table(fail_at=24), COUNT, tmp_path, block_rows=8)
  scores = score_passages(Table(), COUNT, tmp_path, block_rows=12)
  np.testing.assert_array_equal(scores, SCORES)


def test_a_score_that_is_not_finite_is_named(tmp_path):
  scores = SCORES.copy()
  scores[19] = np.nan
  with pytest.raises(ValueError, match="score of row 19 is not finite"):
    score_passages(Table(scores), COUNT, tmp_path, block_rows=8)


def test_too_few_scores_are_named(tmp_path):
  with pytest.raises(ValueError, match=r"rows 48 to 50: .* for 2 passages"):
    score_passages(Table(SCORES[:49]), COUNT, tmp_path, block_rows=8)


def test_a_file_of_scores(tmp_path):
  corpus = make_corpus(tmp_path / "corpus")
  path = tmp_path / "scores.npy"
  for dtype in (np.float16, np.float32, np.float64):
    np.save(path, np.arange(6, dtype=dtype))
    np.testing.assert_array_equal(read_scores(path, corpus), np.arange(6))


@pytest.mark.parametrize(
  ("values", "said"),
  [
    (np.zeros(5, np.float32), r"shape \(5,\), and .* has 6 passages"),
    (np.zeros((6, 1), np.float32), r"shape \(6, 1\)"),
    (np.zeros(6, np.int64), "int64"),
    (np.array([None] * 6), r"no \.npy file of numbers"),
  ],
)
def test_other_files_are_refused(tmp_path, values, said):
  corpus = make_corpus(tmp_path / "corpus")
  np.save(tmp_path / "scores.npy", values, allow_pickle=True)
  with pytest.raises(ValueError, match=rf"scores\.npy: .*{said}"):
    read_scores(tmp_path / "scores.npy", corpus)


def test_a_file_of_text_is_refused(tmp_path):
  corpus = make_corpus(tmp_path / "corpus")
  (tmp_path / "scores.npy").write_text("0.5\n")
  with pytest.raises(ValueError, match=r"no \.npy file of numbers"):
    read_scores(tmp_path / "scores.npy", corpus)
