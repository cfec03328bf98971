"""`~` in the names that people give, and outputs that would hurt something.

Every flag passes through `expand_home` once, in `main`, and every value of a
config in `settings`: the shell does not expand `--out=~/data`, and a folder
called `~` is never meant.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path


def expand_home(text: str) -> str:
  """`~` and `~user` at the head of each comma-separated name, expanded.

  Raises:
    ValueError: if there is no such user.
  """
  if not re.search(r"(^|,|=)~", text):
    return text
  return ",".join(map(_expand, text.split(",")))


def _expand(name: str) -> str:
  # `train=~/nq.jsonl` names a path as well.
  key, equals, value = name.partition("=")
  if equals and value.startswith("~"):
    return key + equals + _expand(value)
  if not name.startswith("~"):
    return name
  expanded = os.path.expanduser(name)
  if expanded == name:
    raise ValueError(
      f"{name}: there is no such user's home; for a file of that name write "
      f"./{name}."
    )
  return expanded


# How files begin that a command may replace: what it has written before.
RUN = rb"\S+ Q0 \S+ \d+ |\[\s*(\]|\{\s*\"(id|question)\")"
ANSWERS = rb"\{\"(id|question)\""
PNG = rb"\x89PNG"
REPORT = rb"\{\s*\"rows\""
NPY = rb"\x93NUMPY"
CANDIDATES = rb"\{\"components\""
SCORING = rb"\{\s*\"kind\": \"scoring\""
COMPARISON = rb"\{\s*\"runs\""
HTML = rb"<!DOCTYPE html><!-- odqa report -->"
CARD = rb"\{\s*\"kind\": \"evaluation card\""
CARD_PAGE = rb"# Evaluation card"
FUSION = rb"\{\s*\"kind\": \"fusion\""


def check_output(
  out: str | Path, inputs: Iterable[str | Path | None], written: bytes
) -> None:
  """Refuses, before any work, a file that cannot or must not be written.

  Args:
    out: the file.
    inputs: what the command reads; None where it reads nothing.
    written: matches the beginning of what the command writes; anything else
      of that name is somebody's, and stays.

  Raises:
    ValueError: naming the path.
  """
  out = Path(out)
  if out.is_dir():
    raise ValueError(f"{out}: is a folder; name a file in it.")
  check_folder(out.absolute().parent)
  if out.exists() and not _begins(out, written):
    raise ValueError(
      f"{out}: exists and is not what this command writes, so it is not "
      "replaced; name another file, or remove this one."
    )
  for path in inputs:
    if path and out.exists() and Path(path).exists() and out.samefile(path):
      raise ValueError(
        f"{out}: is read by this command, and would be overwritten; name "
        "another file to write."
      )


def check_folder(folder: str | Path) -> None:
  """Refuses, before any work, a folder that cannot be there.

  Raises:
    ValueError: if it, or what it would lie in, is a file.
  """
  folder = Path(folder).absolute()
  for path in (folder, *folder.parents):
    if path.exists() and not path.is_dir():
      raise ValueError(f"{path}: is a file, not a folder; name another path.")


@contextlib.contextmanager
def leaving_no_empty_folder(folder: str | Path) -> Iterator[None]:
  """Removes folders that an error leaves empty and that were not there."""
  folder = Path(folder).absolute()
  new = [path for path in (folder, *folder.parents) if not path.exists()]
  try:
    yield
  except BaseException:
    for path in new:
      # It holds something, or was never made.
      with contextlib.suppress(OSError):
        path.rmdir()
    raise


def _begins(path: Path, pattern: bytes) -> bool:
  """Whether a file is empty or begins so; only such files are replaced."""
  with path.open("rb") as file:
    start = file.read(1024)
  return not start or re.match(pattern, start) is not None
