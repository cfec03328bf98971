"""How long the stages of a preparation took, and how much they made."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path


class Stages:
  """Seconds of every stage, and what it did in one.

  Attributes:
    figures: by stage.
  """

  def __init__(self) -> None:
    self.figures: dict[str, dict[str, float]] = {}

  @contextlib.contextmanager
  def measure(self, name: str, folder: Path) -> Iterator[dict[str, int]]:
    """Yields a dictionary for counts, each of which becomes a rate.

    Args:
      name: of the stage.
      folder: what it makes; there is no rate where nothing was to be made, or
        a part of it was there.
    """
    before = _stamp(folder)
    resumed = folder.with_name(f"{folder.name}.tmp").exists()
    counts: dict[str, int] = {}
    start = time.monotonic()
    yield counts
    seconds = time.monotonic() - start
    figures = self.figures[name] = {"seconds": round(seconds, 3)}
    if not resumed and _stamp(folder) != before:
      for unit, count in counts.items():
        figures[f"{unit}_per_s"] = round(count / seconds, 1)


def _stamp(folder: Path) -> int | None:
  """Which of several folders of one name it is; None if there is none."""
  return folder.stat().st_ino if folder.exists() else None
