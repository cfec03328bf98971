"""An index of some rows of another: embeddings are copied, not made.

cut_index("work/index", rows, "pruned/index", corpus=pruned.fingerprint)
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped

from odqa_jax.data.corpus.cut import parent_of
from odqa_jax.retrieval import storage
from odqa_jax.runtime.artifact import publish
from odqa_jax.runtime.blocks import BlockArray

# What of its parent an index keeps: what made its embeddings.
_KEPT = ("encoder", "tokenizer", "dtype", "max_length")


def cut_index(
  directory: str | Path,
  rows: Int64[np.ndarray, " n"],
  out: str | Path,
  *,
  corpus: str,
  made_from: Mapping[str, Any] | None = None,
  shard_rows: int = 65536,
) -> dict[str, Any]:
  """Writes the index of some rows of another, of any type.

  Args:
    directory: the whole.
    rows: those to keep, ascending, each once, one at least.
    out: appears whole; an index there is replaced.
    corpus: the fingerprint of the corpus of these rows.
    made_from: what the manifest says besides its parent.
    shard_rows: rows of a file.

  Returns:
    The manifest.

  Raises:
    ValueError: if a file is missing or damaged, naming it.
  """
  directory = Path(directory)
  manifest = storage.read_manifest(directory)
  origin = {name: manifest[name] for name in _KEPT}
  origin |= {"corpus": corpus, "count": len(rows)}
  origin["parent"] = parent_of(directory, manifest)
  with publish(
    out, "index", origin | dict(made_from or {}), scratch=storage.SCRATCH
  ) as draft:
    shards = 0
    for start, arrays in _shards(directory, manifest, rows, shard_rows):
      held = dict(zip(("rows", "scales", "residuals"), arrays, strict=False))
      storage.save_shard(draft.folder, shards, start, held.pop("rows"), **held)
      shards += 1
    storage.describe_shards(draft, shards)
  return draft.manifest


def _shards(
  directory: Path,
  manifest: Mapping[str, Any],
  rows: Int64[np.ndarray, " n"],
  shard_rows: int,
) -> Iterator[tuple[int, Sequence[Shaped[np.ndarray, "..."]]]]:
  """The first row of every new shard, and what it holds."""
  shards = manifest["shards"]
  ends = np.array([shard["start"] + shard["rows"] for shard in shards])

  @cache
  def opened(at: int) -> list[BlockArray]:
    return storage.shard_arrays(directory, manifest, shards[at])

  for start in range(0, len(rows), shard_rows):
    part = rows[start : start + shard_rows]
    place = np.searchsorted(ends, part, side="right")
    pieces = [
      [array[part[place == at] - shards[at]["start"]] for array in opened(at)]
      for at in np.unique(place).tolist()
    ]
    yield start, [np.concatenate(sides) for sides in zip(*pieces, strict=True)]
