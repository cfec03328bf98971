"""Bad records that are left out: so many at most, each written down."""

from collections import Counter
from pathlib import Path


class Rejections:
  """Takes bad records until there are too many.

  Files are read more than once, and some not at all when nothing has changed:
  a record counts once, and what an earlier run has written of a file stays
  until that file is read again.

  Attributes:
    limit: how many may be left out.
    path: where each is written, one line `FILE:LINE<TAB>reason`.
  """

  def __init__(self, limit: int, path: str | Path) -> None:
    """Takes over what is in the file.

    Raises:
      ValueError: if the limit is negative.
    """
    if limit < 0:
      raise ValueError(f"--max-bad {limit}: 0 or more records are left out.")
    self.limit = limit
    self.path = Path(path)
    self._begun: set[Path] = set()
    # From the place to (file, reason).
    self._bad: dict[str, tuple[str, str]] = {}
    if self.path.is_file():
      for line in self.path.read_text("utf-8").splitlines():
        place, _, reason = line.partition("\t")
        file, _, _ = place.rpartition(":")
        self._bad[place] = file, reason

  @property
  def count(self) -> int:
    """How many records are left out."""
    return len(self._bad)

  def by_file(self) -> dict[str, int]:
    """How many records of which file are left out."""
    return dict(Counter(file for file, _ in self._bad.values()))

  def begin(self, file: Path) -> None:
    """Forgets what an earlier run has found in a file that is read now."""
    if file in self._begun:
      return
    self._begun.add(file)
    kept = {p: bad for p, bad in self._bad.items() if bad[0] != str(file)}
    if len(kept) < len(self._bad):
      self._bad = kept
      self.path.unlink()
      for place, (_, reason) in kept.items():
        self._write(place, reason)

  def add(self, file: Path, place: str, reason: str) -> None:
    """Writes one down, unless it is.

    Raises:
      ValueError: if it is one too many, naming it.
    """
    if place in self._bad:
      return
    if self.count >= self.limit:
      raise ValueError(f"{place}: {reason}{self._too_many()}")
    reason = " ".join(reason.split())
    self._bad[place] = str(file), reason
    self._write(place, reason)

  def _too_many(self) -> str:
    if not self.limit:
      return ""
    return (
      f" It is bad record number {self.count + 1}, and --max-bad {self.limit} "
      f"allows {self.limit}; the others are listed in {self.path}."
    )

  def _write(self, place: str, reason: str) -> None:
    self.path.parent.mkdir(parents=True, exist_ok=True)
    # A reason may quote half a surrogate pair, which UTF-8 has not.
    with self.path.open("a", encoding="utf-8", errors="backslashreplace") as f:
      f.write(f"{place}\t{reason}\n")
