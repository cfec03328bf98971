"""A share of the examples: which, in which order, and how often."""

import grain
import numpy as np
import pytest

from odqa_jax.data.examples.loader import chosen_examples, train_batches


class Numbers:
  """Examples that are their own numbers."""

  def __init__(self, count):
    self.count = count
    self.left_out = {}

  def __len__(self):
    return self.count

  def batch(self, indices, rng, rows):
    del rng
    return {"numbers": np.asarray(indices)[rows]}


def numbers(count, batches, *, size=10, seed=0, **fraction):
  made = train_batches(
    Numbers(count), size, seed=seed, rows=slice(0, size), **fraction
  )
  return [next(made)["numbers"].tolist() for _ in range(batches)]


def test_a_share_is_drawn_without_repeats_and_by_the_seed():
  one, same, other = (
    chosen_examples(1000, 0.1, seed=seed).tolist() for seed in (1, 1, 2)
  )
  assert one == same != other
  assert len(set(one)) == 100 and one == sorted(one)
  # From everywhere, not the head of the file.
  assert one[0] < 100 and one[-1] > 900


@pytest.mark.parametrize(
  ("count", "fraction", "size"),
  [(10, 0.25, 2), (10, 0.01, 1), (3, 0.5, 2), (100, 0.999, 100), (7, 1.0, 7)],
)
def test_the_size_of_a_share(count, fraction, size):
  assert len(chosen_examples(count, fraction, seed=0)) == size


def test_all_of_the_examples_are_loaded_as_without_a_share():
  assert chosen_examples(5, 1.0, seed=3).tolist() == [0, 1, 2, 3, 4]
  # The order that a resumed run of an older version had.
  plain = grain.MapDataset.range(40).seed(0).shuffle().repeat().batch(10)
  assert numbers(40, 8, fraction=1.0) == [plain[i].tolist() for i in range(8)]


def test_a_share_is_used_equally_often_and_nothing_else():
  chosen = chosen_examples(100, 0.3, seed=0).tolist()
  batches = numbers(100, 9, fraction=0.3)
  epochs = np.array(batches).reshape(3, 30).tolist()
  assert [sorted(epoch) for epoch in epochs] == [chosen] * 3
  assert epochs[0] != epochs[1] != epochs[2]
  assert batches == numbers(100, 9, fraction=0.3)
  assert batches != numbers(100, 9, fraction=0.3, seed=1)


def test_hosts_share_the_batches_of_a_share():
  def rows(start, stop):
    made = train_batches(
      Numbers(100), 10, seed=0, rows=slice(start, stop), fraction=0.2
    )
    return [next(made)["numbers"].tolist() for _ in range(4)]

  halves = zip(rows(0, 5), rows(5, 10), strict=True)
  assert [a + b for a, b in halves] == rows(0, 10)
