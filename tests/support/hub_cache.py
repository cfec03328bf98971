"""A cache of the Hugging Face Hub as its own tool writes it.

`models--OWNER--NAME/` with `blobs/` (large files under their sha256, small ones
under git's sha1), `refs/BRANCH` and `snapshots/COMMIT/` of links into blobs.
"""

import hashlib
from pathlib import Path

COMMIT = "a" * 40


def cache_model(
  cache: Path, name: str, folder: Path, *, commit: str = COMMIT
) -> Path:
  """Puts the files of a folder there as a model; returns its snapshot."""
  repository = cache / ("models--" + name.replace("/", "--"))
  snapshot = repository / "snapshots" / commit
  (repository / "blobs").mkdir(parents=True, exist_ok=True)
  (repository / "refs").mkdir(exist_ok=True)
  (repository / "refs" / "main").write_text(commit)
  for file in sorted(p for p in folder.rglob("*") if p.is_file()):
    content = file.read_bytes()
    if file.suffix == ".safetensors":
      digest = hashlib.sha256(content).hexdigest()
    else:
      head = f"blob {len(content)}\0".encode()
      digest = hashlib.sha1(head + content).hexdigest()
    (repository / "blobs" / digest).write_bytes(content)
    link = snapshot / file.relative_to(folder)
    link.parent.mkdir(parents=True, exist_ok=True)
    up = Path(*[".."] * (len(link.relative_to(repository).parts) - 1))
    link.symlink_to(up / "blobs" / digest)
  return snapshot
