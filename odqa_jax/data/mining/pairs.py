"""Positives and hard negatives of a question set, as rows of a corpus.

pairs = mine_pairs(questions, corpus, {"bm25": search}, negatives=8)
pairs.save("data/pairs/train")
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from odqa_jax.runtime.artifact import open_artifact, publish

_MADE_FROM = ("corpus", "questions")
_ARRAYS = (
  "question",
  "positive_rows",
  "positive_offsets",
  "negative_rows",
  "negative_offsets",
)


@dataclasses.dataclass(frozen=True)
class Pairs:
  """Questions with the rows of their positives and hard negatives.

  Attributes:
    question: [p] number of the question in its set.
    positive_rows: the positives of all pairs, one pair after the other.
    positive_offsets: [p+1] bounds in `positive_rows`.
    negative_rows: the hard negatives, hardest first; likewise.
    negative_offsets: [p+1].
    manifest: fingerprints of corpus and questions, the number of pairs, and
      what `mine_pairs` tells: the searches and what they were asked, and the
      `report` of what was kept and dropped.
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
    facts = dict(self.manifest)
    made_from = {name: facts.pop(name) for name in _MADE_FROM}
    with publish(directory, "pairs", made_from) as draft:
      for name in _ARRAYS:
        np.save(draft.folder / f"{name}.npy", getattr(self, name))
      draft.counts |= facts

  @classmethod
  def open(cls, directory: str | Path) -> "Pairs":
    """Memory-maps what `save` wrote.

    Raises:
      ValueError: if the folder holds no pairs of this format, or a file is
        damaged, naming it.
    """
    files = open_artifact(directory, "pairs")
    arrays = {n: np.asarray(files.array(f"{n}.npy")) for n in _ARRAYS}
    return cls(**arrays, manifest=files.manifest)
