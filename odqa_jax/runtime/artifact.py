"""How every persistent thing is kept: a folder with a manifest.

`manifest.json` holds format and kind, counts, what the artifact was made from,
and for every file its size and the sha256 of each of its blocks. The folder
appears whole, under a lock, and a byte that has changed since is found before
it is used: when the folder is opened, or, where reading all of it would take
long, when its block is first touched.

    with publish("pairs", "pairs", {"corpus": corpus.fingerprint}) as draft:
      np.save(draft.folder / "rows.npy", rows)
      draft.counts["count"] = len(rows)
    rows = open_artifact("pairs", "pairs").array("rows.npy")
"""

import contextlib
import dataclasses
import fcntl
import functools
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from odqa_jax.runtime import blocks
from odqa_jax.runtime.blocks import BlockArray, block_hashes
from odqa_jax.runtime.files import (
  Damage,
  content_hash,
  read_json,
  saying_what_is_full,
  write_json,
)

FORMAT = 3
MANIFEST = "manifest.json"
_IDENTITY = "identity.json"
# How each kind is made, for messages.
MADE_BY = {
  "corpus": "odqa prepare --corpus",
  "questions": "odqa prepare --questions",
  "pairs": "odqa prepare --pairs",
  "spans": "odqa prepare --spans",
  "bm25": "odqa prepare --pairs",
  "leaks": "odqa prepare",
  "converted": "odqa convert",
  "index": "odqa index",
  "pruned": "odqa prune",
  "scann": "odqa search --backend scann",
  "checkpoint": "odqa train",
  "teacher": "odqa teach",
}


def describe_file(path: Path) -> dict[str, Any]:
  """What a manifest says of a file: its bytes, and the sha256 of each block."""
  size = path.stat().st_size
  count = -(-size // blocks.BLOCK_BYTES)
  return {"bytes": size, "sha256": block_hashes(path, range(count))}


# ---- Writing ----


@contextlib.contextmanager
def lock(directory: Path) -> Iterator[None]:
  """Holds the right to write a folder; that of a dead process is free.

  Raises:
    ValueError: if another process holds it, naming that.
  """
  path = directory.with_name(f"{directory.name}.lock")
  path.parent.mkdir(parents=True, exist_ok=True)
  while True:
    file = path.open("a+")
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      file.seek(0)
      holder = file.read() or "another process"
      file.close()
      raise ValueError(
        f"{directory}: {holder} is writing it; wait until that ends, or name "
        "another folder."
      ) from error
    # Its last holder may have removed the file after we opened it.
    with contextlib.suppress(FileNotFoundError):
      if os.path.samestat(os.fstat(file.fileno()), path.stat()):
        break
    file.close()
  try:
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    yield
  finally:
    path.unlink(missing_ok=True)
    file.close()


@dataclasses.dataclass
class Draft:
  """An artifact in the making.

  Attributes:
    folder: where its files are written.
    counts: what the manifest says besides.
    files: descriptions of files that need not be read again for it.
    unchanged: whether what has the name already is the same, and stays.
    manifest: the manifest, once the artifact is published.
  """

  folder: Path
  counts: dict[str, Any] = dataclasses.field(default_factory=dict)
  files: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
  unchanged: bool = False
  manifest: dict[str, Any] = dataclasses.field(default_factory=dict)


@contextlib.contextmanager
def publish(
  directory: str | Path,
  kind: str,
  made_from: Mapping[str, Any],
  *,
  identity: Mapping[str, Any] | None = None,
  scratch: Sequence[str] = (),
) -> Iterator[Draft]:
  """A folder to fill, which gets its name and its manifest at the end.

  Args:
    directory: the name; an artifact of this kind there is replaced.
    kind: of the artifact.
    made_from: what it depends on.
    identity: what a build that was interrupted must agree in to be gone on
      with; None begins anew, and keeps nothing after an error.
    scratch: patterns of files that serve the build alone.

  Raises:
    ValueError: if something else lies there, or another process writes it.
  """
  directory = Path(directory)
  folder = directory.with_name(f"{directory.name}.tmp")
  refuse_foreign(directory, kind)
  with lock(directory):
    known = folder / _IDENTITY
    if not known.is_file() or identity != read_json(known):
      shutil.rmtree(folder, ignore_errors=True)
      folder.mkdir(parents=True)
    if identity is not None:
      write_json(known, identity)
    draft = Draft(folder)
    try:
      with saying_what_is_full(folder):
        yield draft
        if draft.unchanged:
          draft.manifest = read_manifest(directory, kind)
        else:
          draft.manifest = seal(draft, directory, kind, made_from, scratch)
    finally:
      if identity is None:
        shutil.rmtree(folder, ignore_errors=True)


def seal(
  draft: Draft,
  directory: Path,
  kind: str,
  made_from: Mapping[str, Any],
  scratch: Sequence[str] = (),
) -> dict[str, Any]:
  """Gives a folder that is complete its manifest and its name."""
  spare = _scratch(draft.folder, scratch)
  files = dict(draft.files)
  for path in sorted(draft.folder.rglob("*")):
    name = path.relative_to(draft.folder).as_posix()
    if path.is_file() and path not in spare and name not in (*files, MANIFEST):
      files[name] = describe_file(path)
  content = {"format": FORMAT, "kind": kind, **draft.counts}
  content |= {"made_from": made_from, "files": dict(sorted(files.items()))}
  write_manifest(draft.folder, content)
  old = directory.with_name(f"{directory.name}.old")
  shutil.rmtree(old, ignore_errors=True)
  if directory.exists():
    os.replace(directory, old)
  os.replace(draft.folder, directory)
  shutil.rmtree(old, ignore_errors=True)
  _remove_scratch(directory, scratch)
  return read_manifest(directory, kind)


def _scratch(folder: Path, scratch: Sequence[str]) -> set[Path]:
  """What serves a build alone."""
  patterns = (*scratch, _IDENTITY, "*.tmp")
  return {path for p in patterns for path in folder.glob(p)}


def _remove_scratch(folder: Path, scratch: Sequence[str]) -> None:
  for path in _scratch(folder, scratch):
    path.unlink(missing_ok=True)


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
  """Writes a manifest with its own checksum."""
  plain = json.loads(json.dumps(dict(content)))
  plain.pop("sha256", None)
  write_json(folder / MANIFEST, plain | {"sha256": content_hash(plain)})


# ---- Reading ----


def refuse_foreign(directory: Path, kind: str) -> None:
  """Raises a ValueError for what is no artifact of a kind, whole or damaged."""
  if not directory.exists():
    return
  try:
    found = read_json(directory / MANIFEST).get("kind")
  except (OSError, Damage):
    found = None
  if found != kind and not (directory.is_dir() and _is_empty(directory)):
    raise ValueError(
      f"{directory}: exists and is no {kind} folder, so it is not replaced; "
      "name another folder, or remove this one."
    )


def _is_empty(directory: Path) -> bool:
  return not any(directory.iterdir())


def read_manifest(directory: str | Path, kind: str) -> dict[str, Any]:
  """The manifest of an artifact whose files have their sizes.

  Returns:
    What the manifest holds, and beside it each key of its `made_from`.

  Raises:
    ValueError: naming the file, if it is of another kind or format.
    Damage: likewise, if it is damaged, absent or of another size.
  """
  directory = Path(directory)
  path = directory / MANIFEST
  remedy = f"make one with `{MADE_BY[kind]}`"
  if not path.is_file():
    raise ValueError(f"{directory} holds no {kind} ({MANIFEST}); {remedy}.")
  content = read_json(path)
  found = content.get("kind"), content.get("format")
  body = {k: v for k, v in content.items() if k != "sha256"}
  sealed = content.get("sha256") == content_hash(body)
  if found != (kind, FORMAT) and (sealed or "sha256" not in content):
    raise ValueError(
      f"{path}: kind {found[0]!r} of format {found[1]!r}, and this version of "
      f"odqa_jax reads kind {kind!r} of format {FORMAT}; {remedy}."
    )
  remedy = f"delete {directory} and make it again with `{MADE_BY[kind]}`"
  written = json.dumps(content, indent=2).encode() + b"\n"
  if not sealed or path.read_bytes() != written:
    raise Damage(f"{path}: does not match its checksum; {remedy}.")
  for name, entry in content["files"].items():
    file = directory / name
    if not file.resolve().is_relative_to(directory.resolve()):
      raise Damage(f"{path}: the file {name!r} lies elsewhere; {remedy}.")
    size = file.stat().st_size if file.is_file() else None
    if size != entry["bytes"]:
      state = "missing" if size is None else f"{size} bytes"
      raise Damage(
        f"{file}: {state}, and the manifest says {entry['bytes']} bytes; "
        f"{remedy}."
      )
  return content["made_from"] | content


class Artifact:
  """An artifact that was opened.

  Attributes:
    directory: where it is.
    manifest: from `read_manifest`.
  """

  def __init__(self, directory: Path, manifest: Mapping[str, Any]) -> None:
    self.directory = directory
    self.manifest = dict(manifest)
    # By file: the blocks that were found to be what was written.
    self._sound = {
      name: np.zeros(len(entry["sha256"]), bool)
      for name, entry in manifest["files"].items()
    }

  def check(self, *names: str) -> None:
    """Compares whole files, all by default, with the manifest.

    Raises:
      Damage: naming the first that differs.
    """
    for name in names or self.manifest["files"]:
      self.check_blocks(name, range(len(self._sound[name])))

  def check_blocks(self, name: str, numbers: Sequence[int]) -> None:
    """Compares some blocks of a file; raises as `check` does."""
    entry = self.manifest["files"][name]
    found = block_hashes(self.directory / name, numbers)
    for number, digest in zip(numbers, found, strict=True):
      if digest != entry["sha256"][number]:
        start = number * blocks.BLOCK_BYTES
        end = min(start + blocks.BLOCK_BYTES, entry["bytes"])
        raise Damage(
          f"{self.directory / name}: bytes {start} to {end} do not match their "
          "checksum; delete "
          f"{self.directory} and make it again with "
          f"`{MADE_BY[self.manifest['kind']]}`."
        )
      self._sound[name][number] = True

  def check_small(self) -> None:
    """Compares the files that are one block; the others wait for their use."""
    for name, sound in self._sound.items():
      if len(sound) == 1:
        self.check(name)

  def array(self, name: str, dtype: Any = None) -> BlockArray:
    """Maps a file: .npy, or plain bytes.

    Args:
      name: of the file.
      dtype: what to take the elements for; by default what the file says.
    """
    path, sound = self.directory / name, self._sound[name]
    check = functools.partial(self.check_blocks, name)
    if path.suffix != ".npy":
      # An empty file cannot be mapped.
      empty = np.zeros(0, np.uint8)
      values = np.memmap(path, np.uint8, "r") if len(sound) else empty
      return BlockArray(values, 0, sound, check)
    # The header says what the rest is.
    if not sound[0]:
      check([0])
    values = np.load(path, mmap_mode="r", allow_pickle=False)
    offset = path.stat().st_size - values.nbytes
    values = values if dtype is None else values.view(dtype)
    return BlockArray(values, offset, sound, check)


def open_artifact(
  directory: str | Path, kind: str, *, lazy: bool = False
) -> Artifact:
  """Opens an artifact after its files were compared with its manifest.

  Args:
    directory: where it is.
    kind: what it must be.
    lazy: leave files of several blocks to their first use.

  Raises:
    ValueError: naming the file, for another kind or format; `Damage` where a
      file is not what was written.
  """
  files = Artifact(Path(directory), read_manifest(directory, kind))
  files.check_small() if lazy else files.check()
  return files


def existing(
  directory: str | Path, kind: str, scratch: Sequence[str] = ()
) -> Artifact | None:
  """What a build would replace; None if nothing there can be used.

  Args:
    directory: where it is.
    kind: of the artifact.
    scratch: as for `publish`; a build that was killed after its folder got its
      name may have left such files, which are removed.

  Raises:
    ValueError: if something else lies there.
  """
  directory = Path(directory)
  refuse_foreign(directory, kind)
  try:
    artifact = open_artifact(directory, kind)
  except ValueError:
    return None
  _remove_scratch(directory, scratch)
  return artifact
