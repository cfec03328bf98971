"""An index of several corpora in a row, of the indexes of each.

join_indexes(["index/articles", "index/facts"], "index/all",
             corpus=both.fingerprint)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from odqa_jax.retrieval import storage
from odqa_jax.runtime.artifact import MANIFEST, publish

# What made embeddings, in which all must agree.
_SAME = ("encoder", "tokenizer", "dtype", "max_length")


def join_indexes(
  parts: Sequence[str | Path], out: str | Path, *, corpus: str
) -> dict[str, Any]:
  """Writes the rows of indexes one after the other; nothing is encoded.

  Args:
    parts: folders, in the order of their passages in the corpus.
    out: appears whole; the same index that is there stays as it is.
    corpus: the fingerprint of the corpus of all.

  Returns:
    The manifest.

  Raises:
    ValueError: if they were not made alike, or `out` is another index.
  """
  folders = [Path(part) for part in parts]
  manifests = [storage.read_manifest(folder) for folder in folders]
  origin = {name: manifests[0][name] for name in _SAME}
  for folder, manifest in zip(folders, manifests, strict=True):
    for name, value in origin.items():
      if manifest[name] != value:
        raise ValueError(
          f"{folder}: its {name} is {manifest[name]}, that of {folders[0]} is "
          f"{value}; indexes are joined that one encoder made in one way."
        )
  count = sum(manifest["count"] for manifest in manifests)
  origin |= {"corpus": corpus, "count": count}
  if (Path(out) / MANIFEST).exists():
    before = storage.read_manifest(Path(out))
    if all(before.get(name) == value for name, value in origin.items()):
      return before
    raise ValueError(
      f"{out} is another index; choose another folder, or remove it."
    )
  with publish(out, "index", origin, scratch=storage.SCRATCH) as draft:
    start = shards = 0
    for folder, manifest in zip(folders, manifests, strict=True):
      for shard in manifest["shards"]:
        arrays = storage.shard_arrays(folder, manifest, shard)
        rows, *sides = (np.asarray(array) for array in arrays)
        held = dict(zip(("scales", "residuals"), sides, strict=False))
        storage.save_shard(draft.folder, shards, start, rows, **held)
        start, shards = start + len(rows), shards + 1
    storage.describe_shards(draft, shards)
  return draft.manifest
