"""Salient spans: the named entities in the sentences of a corpus, found once.

    build_spans(corpus, "data/spans", SpacyFinder())  # data/spans_build.py
    spans = Spans.open("data/spans")

Entities are kept as ranges of the tokens of a passage, so that masking one
costs nothing. "End-to-End Training of Neural Retrievers", Sec. 2.2.2 and A.2.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

FORMAT = 1
MANIFEST = "manifest.json"
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
      types, how many entities were found and left out, sizes and hashes.
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
      ValueError: if the folder holds no spans of this format, or a file does
        not fit the manifest.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    if manifest is None:
      raise ValueError(
        f"{directory}: no salient spans ({MANIFEST} is absent or of another "
        "kind); make them with `odqa prepare --spans`."
      )
    if manifest["format"] != FORMAT:
      raise ValueError(
        f"{directory / MANIFEST}: format {manifest['format']}, this version "
        f"reads {FORMAT}; prepare the spans again."
      )
    arrays: dict[str, Any] = {}
    for name in ARRAYS:
      path = directory / f"{name}.npy"
      size = path.stat().st_size if path.is_file() else None
      said = manifest["files"][path.name]["size"]
      if size != said:
        raise ValueError(
          f"{path}: {'absent' if size is None else f'{size} bytes'}; the "
          f"manifest says {said} bytes; prepare the spans again."
        )
      # An array without elements cannot be mapped.
      empty = name == "copy_rows" and not manifest["copies"]
      arrays[name] = np.load(path, mmap_mode=None if empty else "r")
    return cls(**arrays, manifest=manifest)


def read_manifest(directory: Path) -> dict[str, Any] | None:
  """The manifest of a folder of spans; None for anything else."""
  try:
    manifest = json.loads((directory / MANIFEST).read_text("utf-8"))
  except (OSError, ValueError):
    return None
  spans = isinstance(manifest, dict) and manifest.get("kind") == "spans"
  return manifest if spans else None
