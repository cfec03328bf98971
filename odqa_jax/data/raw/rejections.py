"""Bad records that are left out: so many at most, each written down."""

from pathlib import Path


class Rejections:
  """Takes bad records until there are too many.

  Attributes:
    limit: how many may be left out.
    path: where each is written, one line `FILE:LINE<TAB>reason`.
    count: how many there are.
  """

  def __init__(self, limit: int, path: str | Path) -> None:
    self.limit = limit
    self.path = Path(path)
    self.count = 0

  def add(self, place: str, reason: str) -> None:
    """Writes one down.

    Raises:
      ValueError: if it is one too many, naming it.
    """
    self.count += 1
    if self.count > self.limit:
      raise ValueError(
        f"{place}: {reason} It is bad record number {self.count}, and "
        f"--max-bad {self.limit} allows {self.limit}; the others are listed in "
        f"{self.path}."
      )
    self.path.parent.mkdir(parents=True, exist_ok=True)
    with self.path.open("w" if self.count == 1 else "a") as file:
      file.write(f"{place}\t{' '.join(reason.split())}\n")
