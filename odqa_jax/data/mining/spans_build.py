"""Builds the folder of salient spans: every passage is read once.

The work is cut into parts of some thousand passages, which several processes
can make and an interrupted build keeps.
"""

import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt64

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.mining.entities import TYPES, EntityFinder, check_types
from odqa_jax.data.mining.found_spans import REASONS, FoundSpans
from odqa_jax.runtime.artifact import (
  content_hash,
  describe_file,
  existing,
  publish,
  replacing,
)

_BATCH_ROWS = 64

Progress = Callable[[int, int], None]


def build_spans(
  corpus: Corpus,
  out: str | Path,
  finder: EntityFinder,
  *,
  types: Sequence[str] = TYPES,
  part_rows: int = 2048,
  processes: int = 1,
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
    processes: how many work, each with its own copy of the finder.
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
  artifact = existing(out, "spans")
  if artifact is not None and artifact.manifest["made_from"] == made_from:
    return artifact.manifest
  with publish(
    out,
    "spans",
    made_from,
    identity=made_from | {"part_rows": part_rows},
    scratch=["part-*.npz"],
  ) as draft:
    build = _Build(corpus, finder, made_from["types"], draft.folder, part_rows)
    build.run(processes, progress)
    counts = _join(build)
    for path in draft.folder.glob("*.npy"):
      draft.files[path.name] = describe_file(path)
    draft.counts |= {
      "fingerprint": content_hash([made_from, draft.files]),
      "software": finder.software,
      **counts,
    }
  return draft.manifest


@dataclass(frozen=True)
class _Build:
  """One build; what the processes share."""

  corpus: Corpus
  finder: EntityFinder
  types: list[str]
  folder: Path
  part_rows: int

  def parts(self) -> range:
    """First rows of the parts."""
    return range(0, len(self.corpus), self.part_rows)

  def path(self, first: int) -> Path:
    """The file of the part that begins with a row."""
    return self.folder / f"part-{first:010}.npz"

  def run(self, processes: int, progress: Progress | None) -> None:
    """Makes the parts that are not there yet."""
    total = len(self.corpus)
    missing = [first for first in self.parts() if not self.path(first).exists()]
    done = total - sum(min(self.part_rows, total - first) for first in missing)

    def count(rows: int) -> None:
      nonlocal done
      done += rows
      if progress:
        progress(done, total)

    if processes == 1 or len(missing) < 2:
      for first in missing:
        self.make_part(first, count)
      return
    job = self.finder, self.types, self.folder, self.part_rows
    # Not forked: JAX has threads, whose locks a child would never see open.
    with ProcessPoolExecutor(
      min(processes, len(missing)),
      multiprocessing.get_context("spawn"),
      _start_worker,
      (self.corpus.directory, *job),
    ) as pool:
      futures = [pool.submit(_work, first) for first in missing]
      try:
        for future in as_completed(futures):
          count(future.result())
      finally:
        # After an error the other parts are not begun.
        pool.shutdown(cancel_futures=True)

  def make_part(self, first: int, count: Callable[[int], None]) -> int:
    """Writes one part; returns its rows."""
    end = min(first + self.part_rows, len(self.corpus))
    spans = FoundSpans(self.corpus, self.types)
    for start in range(first, end, _BATCH_ROWS):
      rows = range(start, min(start + _BATCH_ROWS, end))
      texts = [self.corpus.text(row) for row in rows]
      spans.add(rows, texts, list(self.finder.find(texts)))
      count(len(rows))
    with replacing(self.path(first)) as temporary, temporary.open("wb") as file:
      np.savez(file, allow_pickle=False, **spans.arrays())
    return end - first


_worker: _Build


def _start_worker(directory: Path, *rest: Any) -> None:
  global _worker
  # Ctrl-C reaches every process; this one ends without a traceback.
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  threading.Thread(target=_end_with_parent, daemon=True).start()
  _worker = _Build(Corpus(directory), *rest)


def _end_with_parent() -> None:
  """A worker whose parent was killed would wait for work for ever."""
  parent = multiprocessing.parent_process()
  if parent is not None:
    parent.join()
    os._exit(1)


def _work(first: int) -> int:
  return _worker.make_part(first, lambda rows: None)


def _join(build: _Build) -> dict[str, Any]:
  """Writes the arrays of all parts; returns the counts.

  Raises:
    ValueError: if there is no entity.
  """
  files = [build.path(first) for first in build.parts()]
  found = np.zeros(len(build.types), np.int64)
  dropped = np.zeros(len(REASONS), np.int64)
  sizes, hashes, counts = [], [], []
  for file in files:
    with np.load(file) as part:
      found, dropped = found + part["found"], dropped + part["dropped"]
      sizes.append((len(part["sentences"]), len(part["entities"])))
      hashes.append(part["hashes"])
      counts.append(part["counts"])
  totals = dict(zip(build.types, found.tolist(), strict=True))
  reasons = dict(zip(REASONS, dropped.tolist(), strict=True))
  sentences, entities = np.sum(sizes, axis=0).tolist()
  if not sentences:
    shutil.rmtree(build.folder)
    raise ValueError(
      f"{build.corpus.directory}: no entity to mask in {len(build.corpus)} "
      f"passages (found {totals}; left out {reasons}); choose other types, or "
      "a corpus of running text."
    )
  for i, (name, size) in enumerate(
    (("sentences", sentences), ("entities", entities))
  ):
    array = np.lib.format.open_memmap(
      build.folder / f"{name}.npy", "w+", np.int32, (size, 5)
    )
    ends = np.cumsum([pair[i] for pair in sizes])
    for file, end in zip(files, ends, strict=True):
      with np.load(file) as part:
        array[end - len(part[name]) : end] = part[name]
    array.flush()
  offsets = np.cumsum(np.concatenate([[0], *counts]), dtype=np.int64)
  np.save(build.folder / "entity_offsets.npy", offsets)
  rows, bounds = _copies(np.concatenate(hashes))
  np.save(build.folder / "copy_rows.npy", rows)
  np.save(build.folder / "copy_offsets.npy", bounds)
  return {
    "sentences": sentences,
    "entities": entities,
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
