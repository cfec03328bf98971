"""Two systems timed in turns: A B A B …, so that both meet the same noise."""

import json
import statistics
from collections.abc import Callable

# A rate, in items per second, of one run.
Run = Callable[[], float]
# On a busy machine the peer collapses first, which flatters us: pairs in which
# it is below this share of its best are left out.
QUIET = 0.8


def quiet_pairs(pairs: list[tuple[float, float]]) -> list[tuple[float, float]]:
  """Pairs of (our rate, the peer's) in which the peer was not held up."""
  best = max(theirs for _, theirs in pairs)
  return [pair for pair in pairs if pair[1] >= QUIET * best]


def compare(what: str, ours: Run, theirs: Run, pairs: int) -> dict[str, object]:
  """Our rate over the peer's in the same pair; printed as a line of JSON.

  Args:
    what: name of the comparison.
    ours: runs our side once.
    theirs: runs the peer once.
    pairs: how many, after one of each that does not count.

  Returns:
    Both median rates, the ratio's median and range, and how many pairs were
    left out.
  """
  ours(), theirs()
  rows = [(ours(), theirs()) for _ in range(pairs)]
  quiet = quiet_pairs(rows)
  ratios = [a / b for a, b in quiet]
  result = {
    "what": what,
    "ours_per_s": round(statistics.median(a for a, _ in quiet), 2),
    "theirs_per_s": round(statistics.median(b for _, b in quiet), 2),
    "ratio_median": round(statistics.median(ratios), 3),
    "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
    "pairs": len(quiet),
    "left_out": len(rows) - len(quiet),
  }
  print(json.dumps(result), flush=True)
  return result
