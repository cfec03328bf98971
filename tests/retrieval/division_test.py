"""Batches of few shapes: how much is padding, and that no row is left out."""

import itertools

import numpy as np
import pytest

from odqa_jax.retrieval.division import (
  STEP,
  batch_sizes,
  divide,
  padded_lengths,
)
from odqa_jax.retrieval.embed import program_worth


def padded_tokens(lengths: np.ndarray, chosen: list[int]) -> int:
  """Every row padded to the next of the chosen lengths."""
  return int(np.array(chosen)[np.searchsorted(chosen, lengths)].sum())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("worth", [0, 300, 10**6])
def test_lengths_are_the_best_of_all_choices(seed: int, worth: int):
  """Against all subsets of the multiples of 16, and the longest itself."""
  rng = np.random.default_rng(seed)
  lengths = rng.integers(1, rng.integers(9, 101), 200)
  chosen = padded_lengths(lengths, 100, worth=worth)
  steps = [*range(STEP, 100, STEP), 100]
  last = next(n for n in steps if n >= lengths.max())
  assert chosen[-1] == last and chosen == sorted(set(chosen))
  below = steps[: steps.index(last)]
  least = min(
    padded_tokens(lengths, [*some, last]) + worth * (len(some) + 1)
    for n in range(len(below) + 1)
    for some in itertools.combinations(below, n)
  )
  assert padded_tokens(lengths, chosen) + worth * len(chosen) == least


def test_no_more_than_eight_programs():
  lengths = np.arange(1, 513)
  assert padded_lengths(lengths, 512, worth=0) == [64 * i for i in range(1, 9)]


def test_batch_sizes():
  lengths = np.array([30] * 900 + [250] * 900)
  assert batch_sizes(lengths, 256, 10**6, rows=10**6, devices=8) == {256: 3904}
  assert batch_sizes(lengths, 256, 16384, rows=10**6, devices=8) == {
    32: 512,
    256: 64,
  }
  assert batch_sizes(lengths, 256, 10**6, rows=9, devices=8) == {256: 16}
  assert batch_sizes(lengths[:9], 30, 10, rows=10**6, devices=8) == {30: 8}


def test_a_small_job_on_an_accelerator_is_one_program():
  lengths = np.array([30] * 900 + [250] * 900)
  limits = {"rows": 10**6, "devices": 1}

  def found(platform: str, copies: int) -> list[int]:
    worth = program_worth(platform, 16384)
    many = np.tile(lengths, copies)
    return [*batch_sizes(many, 256, 16384, worth=worth, **limits)]

  assert found("cpu", 1) == [32, 256]
  # 900 rows save 201,600 tokens, and a program is worth 128 batches of 16,384.
  assert found("gpu", 1) == found("tpu", 10) == [256]
  assert found("gpu", 11) == [32, 256]


@pytest.mark.parametrize("seed", range(5))
def test_batches_are_full_and_have_every_row_once(seed: int):
  rng = np.random.default_rng(seed)
  ordered = np.sort(rng.integers(0, 101, rng.integers(1, 500)))
  sizes = {32: 12, 64: 6, 100: 4}
  pieces = divide(ordered, sizes)
  places = [i for p in pieces for i in range(p.first, p.stop)]
  assert places == list(range(int((ordered == 0).sum()), len(ordered)))
  for piece in pieces:
    assert piece.size == sizes[piece.length]
    assert ordered[piece.stop - 1] <= piece.length
  assert all(p.stop - p.first == p.size for p in pieces[1:])


def test_without_rows_there_are_no_batches():
  assert divide(np.zeros(3, int), {32: 4}) == []
