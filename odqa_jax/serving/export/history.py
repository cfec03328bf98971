"""What a checkpoint knows of how it was trained, stage by stage."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from odqa_jax.models.hf.minilm import CACHE
from odqa_jax.retrieval.retriever import is_pretrained_folder
from odqa_jax.runtime.artifact import MANIFEST, read_manifest
from odqa_jax.runtime.checkpoint import find_step
from odqa_jax.runtime.files import Damage, read_json
from odqa_jax.runtime.hub import origin
from odqa_jax.runtime.run_record import read_record

# What "minilm" is called on the Hub.
_MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@dataclasses.dataclass(frozen=True)
class Stage:
  """One training.

  Attributes:
    name: of the workdir, as far as it may be told: its last two folders.
    step: updates made.
    made_from: what the checkpoint says of itself; see `training.train`.
    metrics: by which it was chosen, measured on the way.
    data: config key → what is known of the data it names.
    record: what run.json says; {} where there is none.
  """

  name: str
  step: int
  made_from: Mapping[str, Any]
  metrics: Mapping[str, float]
  data: Mapping[str, str]
  record: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class History:
  """How weights came to be.

  Attributes:
    stages: of training, the last one first; none for a published model.
    base: name on the Hub of what the first one began with, or was converted;
      None where it has no such name, or is not known.
    start: what that was, in words.
  """

  stages: tuple[Stage, ...]
  base: str | None
  start: str


def told(path: str | Path) -> str:
  """A path without what a card must not tell: where somebody's home is."""
  path = str(path).removeprefix(f"{Path.home()}/")
  parts = Path(path).parts
  return "/".join(parts[-2:]) if Path(path).is_absolute() else str(path)


def history_of(path: Path, role: str) -> History:
  """Follows `init_from` back as long as the checkpoints are there.

  Args:
    path: a workdir, a step, or a published folder.
    role: of the network that is asked about.
  """
  stages: list[Stage] = []
  while not is_pretrained_folder(path):
    folder, step = find_step(path)
    stage = _stage(folder, step)
    stages.append(stage)
    name, key = _initial(stage, role)
    before = _before(name, stage.made_from.get("contents", {}).get(key))
    if role == "reader" and key == "init_from":
      if before is None:
        return History(tuple(stages), *_start_of_reader(stage, name))
      made_from = read_manifest(before, "checkpoint")["made_from"]
      if "reader" not in made_from["components"]:
        return History(tuple(stages), None, "random weights")
    if before is None:
      return History(tuple(stages), *_start(stage, name, key))
    path = before
  found = origin(path)
  if found is None:
    hub = _MINILM if path == CACHE / "all-MiniLM-L6-v2" else None
    name = hub or f"`{told(path)}`"
    return History(tuple(stages), hub, f"the published model {name}")
  words = f"{found['name']} of revision {found['revision'][:12]}"
  return History(tuple(stages), found["name"], f"the published model {words}")


def _stage(folder: Path, step: int) -> Stage:
  manifest = read_manifest(folder / str(step), "checkpoint")
  made_from = manifest["made_from"]
  return Stage(
    name=told(folder.parent.absolute()),
    step=step,
    made_from=made_from,
    metrics=manifest["metrics"],
    data=_data(made_from),
    record=read_record(folder.parent),
  )


def _initial(stage: Stage, role: str) -> tuple[str, str]:
  """What the network began with, and the key of the config."""
  config = stage.made_from["config"]
  reader = config.get("reader", {}).get("init_from")
  if role == "reader" and reader:
    return reader, "reader.init_from"
  return config.get("init_from") or "", "init_from"


def _before(name: str, content: str | None) -> Path | None:
  """The workdir of the stage before, if it is what it was."""
  path = Path(name)
  if not name or not path.is_dir():
    return None
  try:
    if is_pretrained_folder(path):
      return None
    folder, step = find_step(path)
    manifest = read_manifest(folder / str(step), "checkpoint")
  except ValueError:
    return None
  return folder / str(step) if manifest["sha256"] == content else None


def _start(stage: Stage, name: str, key: str) -> tuple[str | None, str]:
  """What the first known stage began with: on the Hub, and in words."""
  found = stage.made_from.get("origins", {}).get(key)
  if found:
    words = f"{found['name']} of revision {found['revision'][:12]}"
    return found["name"], f"the published model {words}"
  if name == "minilm":
    return _MINILM, f"the published model {_MINILM}"
  if not stage.made_from["config"]:
    return None, "not stated"
  if not name:
    return None, "random weights"
  return None, f"`{told(name)}`"


def _start_of_reader(stage: Stage, name: str) -> tuple[None, str]:
  """Likewise, of a reader where `reader.init_from` names nothing.

  Then that of a workdir is taken, if it has one; an encoder has none.
  """
  known = stage.made_from.get("origins", {})
  if not name or name == "minilm" or "init_from" in known:
    return None, "random weights"
  path = Path(name)
  if path.is_dir() and is_pretrained_folder(path):
    return None, "random weights"
  return None, f"`{told(name)}`, or random weights if that had no reader"


def _data(made_from: Mapping[str, Any]) -> dict[str, str]:
  """Config key → name, count and sources of the data, as far as they are there.

  A corpus that is another one by now is not described.
  """
  known = {}
  for key, value in made_from["config"].get("data", {}).items():
    if not isinstance(value, str) or "/" not in value:
      continue
    names = []
    for name in value.split(","):
      manifest = _manifest(Path(name))
      if key == "corpus" and manifest.get("fingerprint") != made_from["corpus"]:
        manifest = {}
      sources = manifest.get("made_from", {}).get("sources") or ()
      more = [f"{manifest['count']:,} entries"] if "count" in manifest else []
      more += [told(s["name"]) for s in sources if "name" in s]
      names.append(told(name) + (f" ({', '.join(more)})" if more else ""))
    known[key] = ", ".join(names)
  return known


def _manifest(path: Path) -> dict[str, Any]:
  try:
    return read_json(path / MANIFEST)
  except (OSError, Damage):
    return {}
