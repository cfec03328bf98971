"""What an index was made of, so that nobody must say it again.

    write_source("index", checkpoint="work/sup", corpus="data/corpus")
    read_source("index").checkpoint

`source.json` in the folder names both, by their paths from there. It is for
finding them alone: that they are the right ones, the manifest says.
"""

import os
from pathlib import Path
from typing import NamedTuple

from odqa_jax.runtime.files import read_json, write_json

_FILE = "source.json"


class IndexSource(NamedTuple):
  """What an index was made of.

  Attributes:
    checkpoint: a folder, or a known name.
    corpus: a folder.
    title: whether titles were read against the checkpoint's own habit.
    named: whether the checkpoint is a name, and no folder.
  """

  checkpoint: str
  corpus: str
  title: bool
  named: bool = False


def write_source(
  directory: str | Path,
  *,
  checkpoint: str | Path,
  corpus: str | Path,
  title: bool = False,
) -> None:
  """Notes in an index what it was made of."""
  directory = Path(directory)
  named = {"checkpoint": checkpoint, "corpus": corpus}
  record = {name: _noted(path, directory) for name, path in named.items()}
  write_json(directory / _FILE, record | {"title": title})


def read_source(directory: str | Path) -> IndexSource | None:
  """What an index was made of; None where it does not say."""
  directory = Path(directory)
  if not (directory / _FILE).is_file():
    return None
  record = read_json(directory / _FILE)
  checkpoint, corpus = (
    str(directory / record[name]["path"])
    if "path" in record[name]
    else str(record[name]["name"])
    for name in ("checkpoint", "corpus")
  )
  return IndexSource(
    checkpoint
    if "name" in record["checkpoint"]
    else os.path.normpath(checkpoint),
    os.path.normpath(corpus),
    bool(record["title"]),
    named="name" in record["checkpoint"],
  )


def given_source(
  directory: str, checkpoint: str | None, corpus: str | None
) -> IndexSource:
  """What an index was made of, where a command does not say otherwise.

  Raises:
    ValueError: naming what must be said.
  """
  known = read_source(directory)
  found = IndexSource(
    checkpoint or (known.checkpoint if known else ""),
    corpus or (known.corpus if known else ""),
    known is not None and known.title,
  )
  given = {"checkpoint": checkpoint, "corpus": corpus}
  for name, said in given.items():
    value = getattr(found, name)
    if not value and not Path(directory).exists():
      raise ValueError(
        f"{directory}: no such index; make one with `odqa index`."
      )
    if not value:
      raise ValueError(
        f"{directory} does not say its {name}; give --{name} DIR."
      )
    named = name == "checkpoint" and known is not None and known.named
    if not said and not named and not Path(value).exists():
      raise ValueError(
        f"{directory} was made with the {name} {value}, which is not there; "
        f"give --{name} DIR, where it is now."
      )
  return found


def _noted(path: str | Path, directory: Path) -> dict[str, str]:
  if not Path(path).exists():
    return {"name": str(path)}
  return {"path": os.path.relpath(Path(path).absolute(), directory.absolute())}
