"""A system as one folder: which parts answer, and that they are the same still.

    assemble("system", {"retriever": "work/individual", "index": "work/index",
                        "corpus": "data/corpus"})
    system = open_system("system")
    system.paths["index"]

`system.json` names every part by its path from the folder and by its hash. What
a part may be, and what it must agree with, is checked here, when a system is
assembled and whenever it is opened.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.models.hf.minilm import resolve_folder
from odqa_jax.models.roles import roles
from odqa_jax.reading.answer_scoring import load_scoring
from odqa_jax.reading.candidates import COMPONENTS, RUN
from odqa_jax.reading.fusion import load_fusion
from odqa_jax.reading.system import ReadingConfig, holds_reader, inputs_for
from odqa_jax.reading.trained_component import load_component
from odqa_jax.reading.unified import holds_unified
from odqa_jax.retrieval import storage
from odqa_jax.retrieval.retriever import (
  Retriever,
  check_tokenizer,
  fit_to_index,
  is_pretrained_folder,
  load_retriever,
)
from odqa_jax.runtime.artifact import MANIFEST
from odqa_jax.runtime.checkpoint import find_step, read_extra
from odqa_jax.runtime.files import (
  Damage,
  content_hash,
  file_hash,
  read_json,
  write_json,
)
from odqa_jax.runtime.hub import in_cache, model_files, origin
from odqa_jax.runtime.mesh import to_host

SYSTEM = "system.json"
_FORMAT = 1
_NEEDED = ("corpus", "index", "retriever")
# Networks that may be published folders, as the retriever may.
_PUBLISHED = ("reranker", "extractive_reader")
# All parts; the components in the order in which they work.
PARTS = (
  "corpus", "index", "reader_corpus", *COMPONENTS, "fusion", "scoring"
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SystemFolder:
  """A system whose parts are what they were when it was assembled.

  Attributes:
    directory: where its `system.json` is.
    paths: of its parts, names of `PARTS`.
    hashes: of these.
  """

  directory: Path
  paths: Mapping[str, Path]
  hashes: Mapping[str, str]

  @property
  def versions(self) -> dict[str, str]:
    """The components and what a fusion knows them by."""
    return {n: self.hashes[n] for n in COMPONENTS if n in self.hashes}


def part_hash(path: Path) -> str:
  """What a part is recognised by: its manifest, or the bytes of its files."""
  if path.is_file():
    return file_hash(path)
  if (path / MANIFEST).is_file():
    # It holds the checksums of all that it describes, and its own.
    return str(read_json(path / MANIFEST).get("sha256"))
  # In the Hub's cache, more files of a model may come to lie beside them.
  files = sorted(
    model_files(path)
    if in_cache(path)
    else (p for p in path.rglob("*") if p.is_file())
  )
  return content_hash(
    {p.relative_to(path).as_posix(): file_hash(p) for p in files}
  )


def assemble(out: str | Path, parts: Mapping[str, str | Path]) -> SystemFolder:
  """Writes a system folder, once all parts are known to fit.

  Args:
    out: the folder; a system there is replaced.
    parts: paths by the names of `PARTS`. Training workdirs stand for their
      best or last step, and it is the step that is kept. Where neither
      `reader` nor `extractive_reader` is named, that of the retriever's
      checkpoint is taken, if it has one.

  Raises:
    ValueError: naming the part that is missing or does not fit the others.
  """
  out = Path(out)
  _refuse_foreign(out)
  unknown = [name for name in parts if name not in PARTS]
  missing = [name for name in _NEEDED if name not in parts]
  if unknown or missing:
    raise ValueError(
      f"a system has the parts {', '.join(PARTS)}; "
      + (
        f"{unknown[0]!r} is none." if unknown else f"{missing[0]!r} is needed."
      )
    )
  paths = {n: _resolved(n, parts[n]) for n in PARTS if n in parts}
  named = "reader" in paths or "extractive_reader" in paths
  if not named and holds_reader(paths["retriever"]):
    paths["reader"] = paths["retriever"]
  elif not named and holds_unified(paths["retriever"]):
    paths["extractive_reader"] = paths["retriever"]
  hashes = {name: part_hash(path) for name, path in paths.items()}
  system = SystemFolder(out, paths, hashes)
  corpus = _check_parts(system)
  _check_weights(system, corpus)
  described = {
    name: {"path": _relative(path, out), "sha256": hashes[name]}
    | ({"origin": found} if (found := origin(path)) else {})
    for name, path in paths.items()
  }
  content = {"kind": "system", "format": _FORMAT, "parts": described}
  out.mkdir(parents=True, exist_ok=True)
  write_json(out / SYSTEM, content | {"sha256": content_hash(content)})
  return system


def open_system(directory: str | Path) -> SystemFolder:
  """Opens a system folder.

  Raises:
    ValueError: naming the part that is not there, has changed, or does not fit
      the others; `Damage` if `system.json` is not what was written.
  """
  directory = Path(directory)
  path = directory / SYSTEM
  if not path.is_file():
    raise ValueError(
      f"{directory}: holds no {SYSTEM}; make one with `odqa assemble`."
    )
  content = read_json(path)
  if (content.get("kind"), content.get("format")) != ("system", _FORMAT):
    raise ValueError(
      f"{path}: is no system of this version of odqa_jax; make one with `odqa "
      "assemble`."
    )
  if content.pop("sha256", None) != content_hash(content):
    raise Damage(
      f"{path}: does not match its checksum; make it again with `odqa "
      "assemble`."
    )
  paths, hashes = {}, {}
  for name, part in content["parts"].items():
    paths[name] = Path(os.path.normpath(directory / part["path"]))
    hashes[name] = part["sha256"]
    _check_same(path, name, paths[name], hashes[name])
  system = SystemFolder(directory, paths, hashes)
  _check_parts(system)
  return system


def open_for_answering(directory: str | Path) -> SystemFolder:
  """`open_system`, of parts that all take part in an answer.

  Raises:
    ValueError: likewise; or for a part that answering would leave out.
  """
  system = open_system(directory)
  paths = system.paths
  used = {"corpus", "index", "retriever", "reader"}
  if "reader" in paths:
    used |= {"reader_corpus"}
  if "extractive_reader" in paths:
    used |= {"reranker", "extractive_reader", "fusion", "scoring"}
  for name in paths:
    if name not in used:
      raise ValueError(
        f"{directory}: has the part {name}, which answering does not use; "
        "assemble a system without it."
      )
  return system


def component_version(path: str | Path) -> str:
  """What a fusion knows a component by: its step, or a run of it."""
  path = Path(path)
  if path.is_file():
    return RUN + file_hash(path)
  return part_hash(_resolved("retriever", path))


def _refuse_foreign(out: Path) -> None:
  if out.exists() and not (out / SYSTEM).is_file():
    if not out.is_dir() or any(out.iterdir()):
      raise ValueError(
        f"{out}: exists and is no system folder, so it is not replaced; name "
        "another folder, or remove this one."
      )


def _relative(path: Path, out: Path) -> str:
  return Path(os.path.relpath(path.absolute(), out.absolute())).as_posix()


def _check_same(system: Path, name: str, path: Path, wanted: str) -> None:
  """Raises a ValueError unless a part is what it was."""
  if not path.exists():
    raise ValueError(
      f"{system}: its {name} {path} is not there; move it back, or make the "
      "system again with `odqa assemble`."
    )
  found = part_hash(path)
  if found != wanted:
    raise ValueError(
      f"{system}: its {name} {path} is another one ({found[:12]}) than it was "
      f"assembled with ({wanted[:12]}); restore that, or make the system again "
      "with `odqa assemble`."
    )


def _resolved(name: str, path: str | Path) -> Path:
  """The folder itself: the corpus of a dataset, the step of a workdir."""
  path = resolve_folder(path) if name in COMPONENTS else Path(path)
  if not path.exists():
    raise ValueError(f"{name}: {path} is not there; check the path.")
  if name in ("corpus", "reader_corpus"):
    nested = path / name
    return nested if nested.is_dir() else path
  if name in COMPONENTS and not is_pretrained_folder(path):
    folder, step = find_step(path)
    return folder / str(step)
  return path


def _described(path: Path) -> dict[str, Mapping[str, Any]]:
  """The components of a training step; none of a published folder."""
  if is_pretrained_folder(path):
    return {}
  folder, step = find_step(path)
  return roles(read_extra(folder, step)["components"])


def _check_parts(system: SystemFolder) -> Corpus:
  """Compares what the parts say of themselves; returns the corpus."""
  paths = system.paths
  corpus = Corpus(paths["corpus"])
  _check_index(paths["index"], corpus)
  stores = [corpus]
  if "reader_corpus" in paths:
    stores.append(Corpus(paths["reader_corpus"]))
    if stores[1].fingerprint != corpus.fingerprint:
      raise ValueError(
        f"reader_corpus: {paths['reader_corpus']} holds other passages than "
        f"{corpus.directory}; prepare both from the same files."
      )
  for name in COMPONENTS:
    if name in paths:
      _check_component(name, paths[name], corpus)
  if "fusion" in paths:
    load_fusion(paths["fusion"], system.versions)
  if "scoring" in paths:
    load_scoring(paths["scoring"], system.versions.get("extractive_reader", ""))
  return corpus


def _check_index(path: Path, corpus: Corpus) -> None:
  manifest = storage.read_manifest(path)
  mine = {"corpus": corpus.fingerprint}
  mine["tokenizer"] = corpus.manifest["tokenizer"]
  for name, value in mine.items():
    if manifest[name] != value:
      raise ValueError(
        f"index: {path} is that of another {name} ({manifest[name][:12]}) than "
        f"{corpus.directory} has ({value[:12]}); name the index of this corpus."
      )


def _check_component(name: str, path: Path, corpus: Corpus) -> None:
  """Raises a ValueError for a checkpoint that lacks it, or of other tokens.

  A reader may have a vocabulary and a token store of its own, which is looked
  for when it is loaded.
  """
  components = _described(path)
  # Published folders have no description; `_check_weights` loads them.
  if not components and name in ("retriever", *_PUBLISHED):
    return
  if name not in components:
    holds = ", ".join(components) or "a published encoder"
    raise ValueError(
      f"{name}: {path} has no {name}, but {holds}; name a checkpoint that was "
      "trained as one."
    )
  # A generative reader brings a retriever, which reads the corpus as well.
  theirs = components["retriever" if name == "reader" else name]["tokenizer"]
  tokens = name in ("retriever", "reader")
  if tokens and theirs != corpus.manifest["tokenizer"]:
    raise ValueError(
      f"{name}: {path} was trained with another tokenizer ({theirs[:12]}) than "
      f"{corpus.directory} has ({corpus.manifest['tokenizer'][:12]}); prepare "
      "the corpus with --tokenizer CHECKPOINT."
    )


def _check_weights(system: SystemFolder, corpus: Corpus) -> None:
  """Compares weights, which hashes stand for from then on."""
  paths = system.paths
  retriever = load_retriever(paths["retriever"])
  check_tokenizer(retriever, corpus)
  fit_to_index(retriever, corpus, storage.read_manifest(paths["index"]))
  for name in _PUBLISHED:
    if name in paths and is_pretrained_folder(paths[name]):
      load_component(paths[name], name)
  reader = paths.get("reader", paths["retriever"])
  if holds_reader(reader):
    _check_store(reader, corpus, paths.get("reader_corpus"))
  # Beside an extractive reader it reads what the system's retriever finds, and
  # searches nothing.
  if "extractive_reader" not in paths and reader != paths["retriever"]:
    if not _same(retriever, load_retriever(reader)):
      raise ValueError(
        f"reader: {reader} was trained with another retriever than "
        f"{paths['retriever']}; name the one that it was trained with, or the "
        "same checkpoint for both."
      )


def _check_store(reader: Path, corpus: Corpus, store: Path | None) -> None:
  """Raises ValueError unless passages are there in a reader's vocabulary."""
  extra = read_extra(*find_step(reader))
  inputs_for(
    ReadingConfig(**extra["reading"]),
    extra["components"]["reader"]["tokenizer"],
    corpus,
    Corpus(store) if store else None,
  )


def _same(one: Retriever, other: Retriever) -> bool:
  """Whether two retrievers are the same on both sides."""
  if one.fingerprint != other.fingerprint:
    return False
  # Equal fingerprints: the same leaves, of which the questions' may differ.
  sides = (jax.tree.leaves(to_host(r.params)) for r in (one, other))
  return all(map(np.array_equal, *sides))
