"""Whether what an artifact was made from is still there, and the same.

A manifest names its parents by fingerprint, not by path. They are looked for
where the commands put them: in the same dataset folder, and beside it.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from odqa_jax.inspection.page import Parent
from odqa_jax.runtime.artifact import MANIFEST, Artifact

# Folders looked at around an artifact.
_LOOKED_AT = 400


def manifest_of(folder: Path) -> dict[str, Any]:
  """The manifest in a folder as it stands, unchecked; {} if there is none."""
  try:
    content = json.loads((folder / MANIFEST).read_bytes())
  except (OSError, ValueError):
    return {}
  return content if isinstance(content, dict) else {}


def _neighbours(path: Path) -> Iterator[Path]:
  """Folders in which a parent of `path` may lie, the nearest first."""
  seen = set()
  for above in list(path.absolute().parents)[:3]:
    below = (p for p in sorted(above.iterdir()) if p.is_dir())
    for folder in itertools.chain([above], below):
      deeper = ("corpus", "questions", "reader_corpus", "data/corpus")
      inner = [folder / name for name in deeper]
      sets = folder / "questions"
      if sets.is_dir():
        inner += [p for p in sorted(sets.iterdir()) if p.is_dir()]
      for candidate in (folder, *inner):
        if candidate not in seen and candidate != path.absolute():
          seen.add(candidate)
          yield candidate


def find_parent(
  path: Path, kind: str, fingerprint: str, expected: Path | None = None
) -> Parent:
  """Looks for the artifact that a fingerprint names.

  Args:
    path: what was made from it.
    kind: of the parent, a kind of artifact.
    fingerprint: of the parent, as the manifest at `path` has it.
    expected: where the commands put it; if other content lies there now, that
      is told.
  """
  other = ""
  if expected is not None:
    manifest = manifest_of(expected)
    if manifest.get("fingerprint") == fingerprint:
      return Parent(kind, fingerprint, "same", str(expected))
    other = str(expected) if manifest.get("kind") == kind else ""
  for folder in itertools.islice(_neighbours(path), _LOOKED_AT):
    manifest = manifest_of(folder)
    if manifest.get("kind") != kind:
      continue
    if manifest.get("fingerprint") == fingerprint:
      return Parent(kind, fingerprint, "same", str(folder))
  state = "other" if other else "not found"
  return Parent(kind, fingerprint, state, other)


def found(parents: list[Parent], name: str) -> Path | None:
  """Where a parent is, if it is the same still."""
  for parent in parents:
    if parent.name == name and parent.state == "same":
      return Path(parent.where)
  return None


def counts_of(files: Artifact, parents: Sequence[str]) -> dict[str, Any]:
  """Whatever a manifest counts, besides its parents."""
  skipped = {"files", "sha256", "made_from", "kind", "format", "count"}
  skipped |= {*files.manifest["made_from"], *parents}
  return {k: v for k, v in files.manifest.items() if k not in skipped}
