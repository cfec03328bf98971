"""Growing arrays against what NumPy writes."""

import numpy as np
import pytest

from odqa_jax.data.parts.growing import GrowingArray


@pytest.mark.parametrize("sizes", [[], [0], [3, 0, 5]], ids=str)
@pytest.mark.parametrize("shape", [(), (5,)])
def test_it_is_the_file_that_numpy_writes(tmp_path, sizes, shape):
  rng = np.random.default_rng(0)
  parts = [rng.integers(0, 100, (size, *shape)) for size in sizes]
  with GrowingArray(tmp_path / "a.npy", np.int32, shape) as array:
    for part in parts:
      array.append(part)
  whole = np.concatenate([np.zeros((0, *shape), int), *parts])
  assert len(array) == len(whole)
  np.save(tmp_path / "b.npy", whole.astype(np.int32))
  written = (tmp_path / "a.npy").read_bytes()
  assert written == (tmp_path / "b.npy").read_bytes()
  with GrowingArray(tmp_path / "a.bin", np.int32, shape) as array:
    for part in parts:
      array.append(part)
  assert (tmp_path / "a.bin").read_bytes() == whole.astype(np.int32).tobytes()
