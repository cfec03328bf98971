"""Builds the folder of salient spans: every passage is read once.

The work is cut into parts, which several processes or Apache Beam can make and
an interrupted build keeps.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt64

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.mining.entities import TYPES, EntityFinder, check_types
from odqa_jax.data.mining.found_spans import REASONS, FoundSpans
from odqa_jax.data.parts.files import SCRATCH, Arrays, Part, read_part
from odqa_jax.data.parts.growing import GrowingArray
from odqa_jax.data.parts.run import Progress, Runner, make_parts
from odqa_jax.runtime.artifact import describe_file, existing, publish
from odqa_jax.runtime.files import content_hash

_BATCH_ROWS = 64


def build_spans(
  corpus: Corpus,
  out: str | Path,
  finder: EntityFinder,
  *,
  types: Sequence[str] = TYPES,
  part_rows: int = 1024,
  runner: Runner | None = None,
  progress: Progress | None = None,
) -> dict[str, Any]:
  """Finds the entities of a corpus, or does nothing if that is done already.

  An interrupted build goes on after the parts that are complete.

  Args:
    corpus: the evidence.
    out: the folder to write; it appears whole or not at all.
    finder: finds the entities.
    types: the types to keep.
    part_rows: passages whose entities are written at once.
    runner: makes the parts, each worker with its own copy of the finder;
      None: this process alone.
    progress: called as `progress(passages done, passages)`.

  Returns:
    The manifest.

  Raises:
    ValueError: if a type is unknown, `out` holds something else, or the corpus
      has no entity of these types.
  """
  out = Path(out)
  check_types(finder, types)
  made_from: dict[str, Any] = {
    "corpus": corpus.fingerprint,
    "tokenizer": corpus.tokenizer.fingerprint,
    "model": finder.model,
    "types": sorted(set(types)),
  }
  artifact = existing(out, "spans", SCRATCH)
  if artifact is not None and artifact.manifest["made_from"] == made_from:
    return artifact.manifest
  with publish(
    out,
    "spans",
    made_from,
    identity=made_from | {"part_rows": part_rows},
    scratch=SCRATCH,
  ) as draft:
    stage = _FindSpans(corpus, finder, made_from["types"])
    parts = _parts(len(corpus), part_rows)
    files = make_parts(
      stage, parts, draft.folder, runner or Runner(), progress, len(corpus)
    )
    counts = _join(stage, files, draft.folder)
    for path in draft.folder.glob("*.npy"):
      draft.files[path.name] = describe_file(path)
    draft.counts |= {
      "fingerprint": content_hash([made_from, draft.files]),
      "software": finder.software,
      **counts,
    }
  return draft.manifest


@dataclass(frozen=True)
class _FindSpans:
  """The stage: the passages of a range of rows → their spans.

  It is sent to other processes as the folder of its corpus.
  """

  corpus: Corpus
  finder: EntityFinder
  types: list[str]

  def __reduce__(self) -> tuple[Any, ...]:
    return _open_stage, (self.corpus.directory, self.finder, self.types)

  def __call__(self, arrays: Arrays) -> Arrays:
    first, end = arrays["rows"].tolist()
    spans = FoundSpans(self.corpus, self.types)
    for start in range(first, end, _BATCH_ROWS):
      rows = range(start, min(start + _BATCH_ROWS, end))
      texts = [self.corpus.text(row) for row in rows]
      spans.add(rows, texts, list(self.finder.find(texts)))
    return spans.arrays()


def _open_stage(
  directory: Path, finder: EntityFinder, types: list[str]
) -> _FindSpans:
  return _FindSpans(Corpus(directory), finder, types)


def _parts(rows: int, part_rows: int) -> Iterator[Part]:
  for first in range(0, rows, part_rows):
    end = min(first + part_rows, rows)
    # The folder's identity says which corpus this is.
    yield Part(
      f"rows {first} to {end}", end - first, {"rows": np.array([first, end])}
    )


def _join(
  stage: _FindSpans, files: Sequence[Path], folder: Path
) -> dict[str, Any]:
  """Writes the arrays of all parts; returns the counts.

  Raises:
    ValueError: if there is no entity.
  """
  found = np.zeros(len(stage.types), np.int64)
  dropped = np.zeros(len(REASONS), np.int64)
  hashes, counts = [], []
  with (
    GrowingArray(folder / "sentences.npy", np.int32, (5,)) as sentences,
    GrowingArray(folder / "entities.npy", np.int32, (5,)) as entities,
  ):
    for file in files:
      part = read_part(file)
      found, dropped = found + part["found"], dropped + part["dropped"]
      sentences.append(part["sentences"])
      entities.append(part["entities"])
      hashes.append(part["hashes"])
      counts.append(part["counts"])
  totals = dict(zip(stage.types, found.tolist(), strict=True))
  reasons = dict(zip(REASONS, dropped.tolist(), strict=True))
  if not len(sentences):
    shutil.rmtree(folder)
    raise ValueError(
      f"{stage.corpus.directory}: no entity to mask in {len(stage.corpus)} "
      f"passages (found {totals}; left out {reasons}); choose other types, or "
      "a corpus of running text."
    )
  offsets = np.cumsum(np.concatenate([[0], *counts]), dtype=np.int64)
  np.save(folder / "entity_offsets.npy", offsets)
  rows, bounds = _copies(np.concatenate(hashes))
  np.save(folder / "copy_rows.npy", rows)
  np.save(folder / "copy_offsets.npy", bounds)
  return {
    "sentences": len(sentences),
    "entities": len(entities),
    "copies": len(rows),
    "found": totals,
    "left_out": reasons,
  }


def _copies(
  hashes: UInt64[np.ndarray, " n"],
) -> tuple[Int64[np.ndarray, " c"], Int64[np.ndarray, " _"]]:
  """Rows that share their hash, group by group, and the groups' bounds."""
  order = np.argsort(hashes, kind="stable")
  _, sizes = np.unique(hashes, return_counts=True)
  rows = order[np.repeat(sizes > 1, sizes)]
  bounds = np.cumsum(np.append(0, sizes[sizes > 1]))
  return rows.astype(np.int64), bounds.astype(np.int64)
