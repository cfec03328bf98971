"""The stages of a demo: how long they took, and how long the rest may take.

stages = Stages({"prepare": 15, "train": 60})
with stages("prepare"):
  …
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

# A factor between machines is believed once it was measured over so long.
_MEASURED_S = 5.0


class Stages:
  """Wall time per stage, printed as it passes, with the time that is left.

  Attributes:
    seconds: stage → how long it took.
  """

  def __init__(
    self,
    expected: Mapping[str, float] | None = None,
    *,
    clock: Callable[[], float] = time.monotonic,
  ) -> None:
    """Begins.

    Args:
      expected: seconds of all stages in order, on some machine; how much
        slower this one is, the stages that are over tell. None: not known.
      clock: the time in seconds.
    """
    self.seconds: dict[str, float] = {}
    self._expected = dict(expected or {})
    self._clock = clock

  def left(self) -> float:
    """Seconds until the end, by what was measured so far; 0 if not known."""
    over = [name for name in self._expected if name in self.seconds]
    planned = sum(self._expected[name] for name in over)
    took = sum(self.seconds[name] for name in over)
    factor = took / planned if took >= _MEASURED_S and planned else 1.0
    rest = (s for name, s in self._expected.items() if name not in self.seconds)
    return factor * sum(rest)

  @contextmanager
  def __call__(self, name: str) -> Iterator[None]:
    """Times one stage."""
    place = left = ""
    if name in self._expected:
      number = list(self._expected).index(name) + 1
      place = f"{number}/{len(self._expected)} "
      minutes, seconds = divmod(round(self.left()), 60)
      left = f"   (about {minutes}:{seconds:02} left)"
    print(f"— {place}{name}{left}", file=sys.stderr, flush=True)
    start = self._clock()
    yield
    self.seconds[name] = round(self._clock() - start, 1)
