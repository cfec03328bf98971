"""Scores of all passages: from a file, or from a classifier, block by block.

    scores = read_scores("scores.npy", corpus)
    scores = score_passages(scorer, len(corpus), folder, progress=update)

A score says how irrelevant a passage is: the lowest are kept. What a passage
filter says is negated.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float, Float32

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.parts.growing import GrowingArray
from odqa_jax.retrieval.embed import Progress
from odqa_jax.runtime.artifact import MANIFEST, read_manifest
from odqa_jax.runtime.files import replacing
from odqa_jax.runtime.mesh import is_primary, sync

SCORES = "scores.npy"
_BLOCKS = "scores-*.npy"
# Passages that are scored between two files: a minute or a few.
BLOCK_ROWS = 65536


@runtime_checkable
class Scorer(Protocol):
  """What scores passages: a network with its passages.

  Attributes:
    fingerprint: of all that a score depends on, besides the corpus.
  """

  fingerprint: str

  def __call__(
    self, rows: range, progress: Callable[[int], Any] = ...
  ) -> Float32[np.ndarray, " n"]:
    """The scores of consecutive rows, on this process's own devices.

    Args:
      rows: of the corpus.
      progress: called with how many of them are done.
    """


def read_scores(path: str | Path, corpus: Corpus) -> Float[np.ndarray, " n"]:
  """One score for every row of a corpus, from a .npy file.

  Raises:
    ValueError: naming the file, if it is none, or of another length or type.
  """
  try:
    scores = np.load(path, mmap_mode="r", allow_pickle=False)
  except (ValueError, EOFError) as error:
    raise ValueError(
      f"{path}: no .npy file of numbers ({error}); write the scores with "
      "numpy.save."
    ) from error
  shape = getattr(scores, "shape", None)
  if shape != (len(corpus),) or scores.dtype.kind != "f":
    raise ValueError(
      f"{path}: holds {getattr(scores, 'dtype', 'several arrays')} of the "
      f"shape {shape}, and {corpus.directory} has {len(corpus)} passages; one "
      "floating-point score is needed for each, in the order of the rows."
    )
  return np.asarray(scores)


def is_leaky(path: str | Path) -> bool:
  """Whether questions that are measured on have led to scores.

  Args:
    path: the file in a pruned folder, whose manifest knows; of a file elsewhere
      nothing is known.
  """
  folder = Path(path).parent
  if not (folder / MANIFEST).is_file():
    return False
  return bool(read_manifest(folder, "pruned").get("leaky"))


def score_passages(
  scorer: Scorer,
  count: int,
  folder: Path,
  *,
  block_rows: int | None = None,
  progress: Progress | None = None,
) -> Float32[np.ndarray, " n"]:
  """Scores all passages; what an interrupted run has done is kept.

  The processes take blocks of rows in turn. Every block is a file that
  appears whole, and all of them become `scores.npy` in the end.

  Args:
    scorer: see `Scorer`.
    count: passages.
    folder: of this scorer and corpus alone, and the same for all processes.
    block_rows: passages of a block; `BLOCK_ROWS` by default.
    progress: called with this process's passages done and in all.

  Raises:
    ValueError: if a score is not finite, naming its row, or scores are missing.
  """
  size = block_rows or BLOCK_ROWS
  blocks = [range(count)[i : i + size] for i in range(0, count, size)]
  if not (folder / SCORES).exists():
    mine = blocks[jax.process_index() :: jax.process_count()]
    total, done = sum(map(len, mine)), 0

    def scored(passages: int) -> None:
      if progress:
        progress(done + passages, total)

    for rows in mine:
      if _read_block(folder, rows) is None:
        _write_block(folder, rows, scorer(rows, scored))
      done += len(rows)
      scored(0)
    sync("scores: blocks")
    if is_primary():
      _join(folder, blocks)
  sync("scores: joined")
  return np.load(folder / SCORES, mmap_mode="r", allow_pickle=False)


def _block(folder: Path, rows: range) -> Path:
  return folder / f"scores-{rows.start:010d}.npy"


def _read_block(folder: Path, rows: range) -> Float32[np.ndarray, " n"] | None:
  """What was scored before; None if nothing, or other rows."""
  try:
    scores = np.load(_block(folder, rows), allow_pickle=False)
  except (OSError, ValueError, EOFError):
    return None
  return scores if scores.shape == (len(rows),) else None


def _write_block(
  folder: Path, rows: range, scores: Float32[np.ndarray, " n"]
) -> None:
  if scores.shape != (len(rows),):
    raise ValueError(
      f"rows {rows.start} to {rows.stop}: the classifier gave "
      f"{scores.shape} scores for {len(rows)} passages."
    )
  finite = np.isfinite(scores)
  if not finite.all():
    raise ValueError(
      f"the score of row {rows.start + int(np.argmin(finite))} is not finite; "
      "look at the classifier's weights."
    )
  with replacing(_block(folder, rows)) as temporary:
    with temporary.open("wb") as file:
      np.save(file, scores.astype(np.float32), allow_pickle=False)


def _join(folder: Path, blocks: list[range]) -> None:
  """All blocks, in order, as one file; then they are removed."""
  with replacing(folder / SCORES) as temporary:
    # The growing file tells its format by its suffix.
    whole = temporary.with_name("joining.npy")
    with GrowingArray(whole, np.float32) as scores:
      for rows in blocks:
        part = _read_block(folder, rows)
        if part is None:
          raise ValueError(
            f"{_block(folder, rows)}: is missing or damaged; the same command "
            "scores its rows again."
          )
        scores.append(part)
    whole.replace(temporary)
  for path in folder.glob(_BLOCKS):
    path.unlink()
