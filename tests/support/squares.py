"""A stage for the tests of the parts; workers import it."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from odqa_jax.data.parts.files import Arrays, Part


@dataclass(frozen=True)
class Squares:
  """Squares numbers; notes which it was asked for, and fails at one."""

  notes: Path
  fail_at: int = -1
  kill_at: int = -1

  def __call__(self, arrays: Arrays) -> Arrays:
    numbers = arrays["numbers"]
    with self.notes.open("a") as file:
      file.write(f"{numbers[0]}\n")
    if self.fail_at in numbers:
      raise ValueError(f"{self.fail_at}: has no square today; ask later.")
    if self.kill_at in numbers:
      os.kill(os.getpid(), 9)
    return {"squares": numbers**2, "sum": np.array([numbers.sum()])}

  def asked(self) -> list[int]:
    """The first numbers of the parts so far; forgets them."""
    if not self.notes.exists():
      return []
    lines = self.notes.read_text().split()
    self.notes.unlink()
    return sorted(map(int, lines))


def parts_of_numbers(count: int, size: int) -> list[Part]:
  """The numbers below `count`."""
  numbers = np.array_split(np.arange(count), range(size, count, size))
  return [Part(str(n.tolist()), len(n), {"numbers": n}) for n in numbers]
