"""What a run reads, known by its content, so that it may move.

    contents(settings)   # {"data.corpus": "3fa9…", "init_from": "", …}

A run is resumed with what it was begun with: the same passages, questions and
first weights, wherever they lie now.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from odqa_jax.data.examples.sources import SOURCES
from odqa_jax.models.hf.minilm import resolve_folder
from odqa_jax.retrieval.retriever import is_pretrained_folder
from odqa_jax.runtime.artifact import MANIFEST, read_manifest
from odqa_jax.runtime.checkpoint import find_step
from odqa_jax.runtime.files import content_hash, file_hash, read_json
from odqa_jax.runtime.hub import origin
from odqa_jax.runtime.settings import Settings

# What a manifest counts of what people ask for.
_COUNTED = ("count", "tokens", "articles", "negatives")


def contents(settings: Settings) -> dict[str, str]:
  """Config key → fingerprint of what it names; "" where it names nothing.

  Raises:
    ValueError: if something is not there, or damaged.
  """
  data = settings.data
  read = {
    "data.corpus": _artifacts(data.corpus, "corpus"),
    "data.reader_corpus": _artifacts(data.reader_corpus, "corpus"),
    "init_from": _weights(settings.init_from),
    "reader.init_from": _weights(settings.reader.init_from),
    "unified.teacher": _teacher(settings.unified.teacher),
  }
  for key in SOURCES[data.source].reads:
    kind = key.rpartition("_")[2]
    read[f"data.{key}"] = _artifacts(getattr(data, key), kind)
  return read


def described(settings: Settings, contents: Mapping[str, str]) -> list[Any]:
  """What is read, for people: key, names, fingerprint, counts of each.

  Args:
    settings: of the run.
    contents: see `contents`.
  """
  rows = []
  for key, fingerprint in contents.items():
    block, _, leaf = key.rpartition(".")
    names = getattr(getattr(settings, block) if block else settings, leaf)
    if not fingerprint:
      continue
    counts: dict[str, int] = {}
    for name in names.split(",") if block == "data" else ():
      if (Path(name) / MANIFEST).is_file():
        for word, value in read_json(Path(name) / MANIFEST).items():
          if word in _COUNTED:
            counts[word] = counts.get(word, 0) + value
    rows.append(
      {"key": key, "names": names, "fingerprint": fingerprint, "counts": counts}
    )
  return rows


def _artifacts(names: str, kind: str) -> str:
  """One fingerprint of folders separated by commas."""
  if not names:
    return ""
  return content_hash([_artifact(name, kind) for name in names.split(",")])


def _artifact(name: str, kind: str) -> list[str]:
  """What an artifact holds, and by which tokenizer; a file has no manifest."""
  if Path(name).is_file():
    return [file_hash(Path(name)), ""]
  manifest = read_manifest(name, kind)
  # Where there is no fingerprint, the files are the content.
  files = {n: entry["sha256"] for n, entry in manifest["files"].items()}
  mine = manifest.get("fingerprint") or content_hash(files)
  return [mine, manifest["made_from"].get("tokenizer", "")]


def _weights(name: str) -> str:
  """The fingerprint of weights to begin with, by the name of a config."""
  if not name:
    return ""
  path = resolve_folder(name)
  if is_pretrained_folder(path):
    files = sorted(path.rglob("*.safetensors"))
    names = (file.relative_to(path).as_posix() for file in files)
    return content_hash(dict(zip(names, map(file_hash, files), strict=True)))
  folder, step = find_step(path)
  return str(read_manifest(folder / str(step), "checkpoint")["sha256"])


def origins(settings: Settings) -> dict[str, dict[str, Any]]:
  """Config key → `runtime.hub.origin`, where it names a model of the Hub."""
  named = {
    "init_from": settings.init_from,
    "reader.init_from": settings.reader.init_from,
    "unified.teacher": settings.unified.teacher,
  }
  known = {
    key: origin(resolve_folder(name)) for key, name in named.items() if name
  }
  return {key: found for key, found in known.items() if found}


def _teacher(name: str) -> str:
  """The fingerprint of a reader's weights, or of what was stored of one."""
  if name and (Path(name) / MANIFEST).is_file():
    manifest = read_json(Path(name) / MANIFEST)
    if manifest.get("kind") == "teacher":
      return str(manifest["sha256"])
  return _weights(name)


def check_same_contents(
  before: Mapping[str, str], now: Mapping[str, str], settings: Settings
) -> None:
  """Refuses to resume a run with other data or first weights.

  Raises:
    ValueError: naming every key that has another content now.
  """
  different = []
  for key, fingerprint in now.items():
    held = before.get(key, "")
    if held == fingerprint:
      continue
    block, _, leaf = key.rpartition(".")
    value = getattr(getattr(settings, block) if block else settings, leaf)
    different.append(
      f"config.{key}={value!r} holds {fingerprint[:12] or 'nothing'}, and held "
      f"{held[:12] or 'nothing'} then"
    )
  if different:
    raise ValueError(
      "this workdir was begun with other data: "
      + "; ".join(different)
      + ". Name what it was begun with, wherever that is now, or a new "
      "--workdir."
    )
