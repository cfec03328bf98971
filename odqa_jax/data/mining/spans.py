"""Salient spans: the named entities in the sentences of a corpus, found once.

    build_spans(corpus, "data/spans", SpacyFinder())  # data/spans_build.py
    spans = Spans.open("data/spans")

Entities are kept as ranges of the tokens of a passage, so that masking one
costs nothing. "End-to-End Training of Neural Retrievers", Sec. 2.2.2 and A.2.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

from odqa_jax.runtime.artifact import open_artifact

ARRAYS = (
  "sentences",
  "entities",
  "entity_offsets",
  "copy_rows",
  "copy_offsets",
)


@dataclass(frozen=True)
class Spans:
  """The sentences with entities of one corpus, in the order of its rows.

  Attributes:
    sentences: [s, 5] row; first and end token, first and end character, both
      counted from the start of the row's text.
    entities: [e, 5] first and end token, first and end character, counted
      likewise; number of the type in `manifest["types"]`. In order and without
      overlaps.
    entity_offsets: [s+1] bounds in `entities`; every sentence has one or more.
    copy_rows: [c] rows whose text some other row has too, group after group.
    copy_offsets: [g+1] bounds of the groups.
    manifest: its `fingerprint`, those of corpus and tokenizer, the model, the
      types, and how many entities were found and left out.
  """

  sentences: Int32[np.ndarray, "s 5"]
  entities: Int32[np.ndarray, "e 5"]
  entity_offsets: Int64[np.ndarray, " _"]
  copy_rows: Int64[np.ndarray, " c"]
  copy_offsets: Int64[np.ndarray, " _"]
  manifest: dict[str, Any]

  def __len__(self) -> int:
    return len(self.sentences)

  @classmethod
  def open(cls, directory: str | Path) -> "Spans":
    """Memory-maps what `build_spans` wrote.

    Raises:
      ValueError: if the folder holds no spans of this format, or a file is
        damaged, naming it.
    """
    files = open_artifact(directory, "spans")
    arrays: dict[str, Any] = {
      name: np.asarray(files.array(f"{name}.npy")) for name in ARRAYS
    }
    return cls(**arrays, manifest=files.manifest)
