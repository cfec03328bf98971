"""Positives and hard negatives of a question set, as rows of a corpus.

pairs = mine_pairs(questions, corpus, bm25, negatives=8)
pairs.save("data/pairs/train")
"""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Pairs:
  """Questions with the rows of their positives and hard negatives.

  Attributes:
    question: [p] number of the question in its set.
    positive_rows: the positives of all pairs, one pair after the other.
    positive_offsets: [p+1] bounds in `positive_rows`.
    negative_rows: the hard negatives, hardest first; likewise.
    negative_offsets: [p+1].
    manifest: fingerprints of corpus and questions, and counts: of pairs, of
      positives from distant supervision, of questions left out and the first
      of their ids.
  """

  question: Int[np.ndarray, " p"]
  positive_rows: Int[np.ndarray, " _"]
  positive_offsets: Int[np.ndarray, " _"]
  negative_rows: Int[np.ndarray, " _"]
  negative_offsets: Int[np.ndarray, " _"]
  manifest: dict[str, Any]

  def __len__(self) -> int:
    return len(self.question)

  def positive(self, i: int) -> Int[np.ndarray, " _"]:
    """Rows of the positives of pair i; at least one."""
    start, end = self.positive_offsets[i : i + 2]
    return self.positive_rows[start:end]

  def negatives(self, i: int) -> Int[np.ndarray, " _"]:
    """Rows of the hard negatives of pair i, hardest first; may be none."""
    start, end = self.negative_offsets[i : i + 2]
    return self.negative_rows[start:end]

  def save(self, directory: str | Path) -> None:
    """Writes a folder that appears whole or not at all."""
    directory = Path(directory)
    temporary = directory.with_name(f"{directory.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name in _ARRAYS:
      np.save(temporary / f"{name}.npy", getattr(self, name))
    text = json.dumps(self.manifest, indent=2, sort_keys=True)
    (temporary / "manifest.json").write_text(text + "\n")
    shutil.rmtree(directory, ignore_errors=True)
    os.replace(temporary, directory)

  @classmethod
  def open(cls, directory: str | Path) -> "Pairs":
    """Memory-maps what `save` wrote.

    Raises:
      ValueError: if the folder holds no pairs of this format.
    """
    directory = Path(directory)
    path = directory / "manifest.json"
    if not path.is_file():
      raise ValueError(
        f"{directory} holds no pairs (no manifest.json); make them with "
        "`odqa prepare --pairs`."
      )
    manifest = json.loads(path.read_text())
    if manifest.get("kind") != "pairs" or manifest.get("format") != FORMAT:
      raise ValueError(f"{path}: not pairs of format {FORMAT}; prepare again.")
    arrays = {name: _load(directory / f"{name}.npy") for name in _ARRAYS}
    pairs = cls(**arrays, manifest=manifest)
    for name in ("positive", "negative"):
      offsets, rows = arrays[f"{name}_offsets"], arrays[f"{name}_rows"]
      if (
        len(offsets) != manifest["count"] + 1
        or len(pairs) != manifest["count"]
        or offsets[-1] != len(rows)
      ):
        raise ValueError(
          f"{directory / name}_offsets.npy: does not fit the "
          f"{manifest['count']} pairs of manifest.json; prepare again."
        )
    return pairs


def _load(path: Path) -> np.ndarray:
  try:
    return np.load(path, mmap_mode="r", allow_pickle=False)
  except (OSError, ValueError) as error:
    raise ValueError(
      f"{path}: missing or cut short ({error}); prepare again."
    ) from error


_ARRAYS = (
  "question",
  "positive_rows",
  "positive_offsets",
  "negative_rows",
  "negative_offsets",
)
