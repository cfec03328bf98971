"""Files that appear whole or not at all, and hashes of what is in them.

with replacing("run.trec") as temporary:
temporary.write_text(run)
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# No room on the disk, in a quota, or under a limit on the size of files.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CUT_SHORT = re.compile(r"\d+ requested and \d+ written")


class Damage(ValueError):
  """A file is not what was written."""


class FullDisk(OSError):
  """There is no room for a file."""


@contextlib.contextmanager
def saying_what_is_full(path: Path) -> Iterator[None]:
  """Makes a sentence of the error of a disk without room.

  Args:
    path: the file that is written, or a folder: then its newest file is named,
      if the error does not name one.

  Raises:
    FullDisk: naming the file, and how much is free.
  """
  try:
    yield
  except FullDisk:
    raise
  # Libraries in C++ raise these with the system's words in them.
  except (OSError, RuntimeError, ValueError) as error:
    reason = _why_full(error)
    if not reason:
      raise
    name = getattr(error, "filename", None)
    file = Path(name) if name else _newest(path)
    folder = next(p for p in (file, *file.parents) if p.is_dir())
    free = shutil.disk_usage(folder).free
    raise FullDisk(
      f"{file}: not written whole ({reason}); {free / 1e6:,.1f} MB are free "
      "there; make room, or name a folder on another disk. The same command "
      "goes on from what is complete."
    ) from error


def _why_full(error: Exception) -> str:
  """What the system says of a disk that is full; "" for another error."""
  # NumPy says how many elements it wrote, and not why there are no more.
  if _CUT_SHORT.fullmatch(str(error)):
    return os.strerror(errno.ENOSPC)
  reasons = (os.strerror(code) for code in _FULL)
  return next((reason for reason in reasons if reason in str(error)), "")


def _newest(path: Path) -> Path:
  """The file that was written last."""
  files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else []
  return max(files, key=lambda p: p.stat().st_mtime_ns, default=path)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
  """A temporary name beside `path`, renamed to it once it is written."""
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f"{path.name}.tmp")
  with saying_what_is_full(path):
    try:
      yield temporary
      os.replace(temporary, path)
    finally:
      temporary.unlink(missing_ok=True)


def replace_file(path: str | Path, content: bytes) -> None:
  """Writes a file that appears whole or not at all."""
  with replacing(path) as temporary, temporary.open("wb") as file:
    file.write(content)
    file.flush()
    # Or the name might survive a power cut, and the content not.
    os.fsync(file.fileno())


def write_json(path: str | Path, value: Any) -> None:
  """Writes JSON that appears whole or not at all."""
  replace_file(path, json.dumps(value, indent=2).encode() + b"\n")


def read_json(path: Path) -> dict[str, Any]:
  """Reads a JSON object; `Damage` for anything else, naming the file."""
  try:
    value = json.loads(path.read_bytes())
  # Brackets nested too deep are a RecursionError.
  except (ValueError, RecursionError) as error:
    raise Damage(
      f"{path}: not JSON ({error}); restore it, or make it anew."
    ) from error
  if not isinstance(value, dict):
    raise Damage(f"{path}: not a JSON object; restore it, or make it anew.")
  return value


def file_hash(path: Path) -> str:
  """The sha256 (hex) of a file."""
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def content_hash(content: Any) -> str:
  """The sha256 (hex) of a JSON value, whatever the order of its keys."""
  text = json.dumps(content, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()
