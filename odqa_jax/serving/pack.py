"""A system in one file, which answers without this package's libraries.

    pack_system("system", "small.odqa", PackOptions(text="tokens"))
    contents("small.odqa")  # {"runtime": 0, "models": …, "index": …, …}

What may be lost on the way, and what it saves, is what `PackOptions` names:
"Designing a Minimal Retrieve-and-Read System for Open-Domain Question
Answering" (Yang and Seo 2021), Sec. 2.3. `packed/` reads what is written here.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.reading.answer_scoring import load_scoring
from odqa_jax.reading.trained_component import load_component
from odqa_jax.retrieval import storage
from odqa_jax.retrieval.backends.codes import quantize
from odqa_jax.retrieval.retriever import fit_to_index, load_retriever
from odqa_jax.runtime.progress import progress_bar
from odqa_jax.serving.pack_parts import (
  WEIGHTS,
  add_networks,
  add_rows,
  add_tokenizer,
)
from odqa_jax.serving.pack_texts import add_texts, add_tokens
from odqa_jax.serving.packed import container
from odqa_jax.serving.packed.container import PackWriter
from odqa_jax.serving.packed.system import READER, RETRIEVER
from odqa_jax.serving.system_folder import SystemFolder, open_for_answering

# What each part may be packed as, the exact one first.
CHOICES = {
  "index": ("f32", "int8"),
  "weights": WEIGHTS,
  "text": ("exact", "tokens"),
}
_NEEDED = ("corpus", "index", RETRIEVER, READER)
_PACKED = (*_NEEDED, "scoring")
# Of how answers are scored.
_CHOSEN = ("rank_weight", "read_k", "chosen_on")


@dataclasses.dataclass(frozen=True)
class PackOptions:
  """How a system is packed.

  Attributes:
    index: "f32"; or "int8", codes of 8 bits with a scale for every row.
    weights: "f32"; "f16", rounded to half precision; or "int8", codes of 8
      bits with a scale for every row. Computed with in float32.
    text: "exact"; or "tokens", ids of word pieces: answers lose capitals, and
      passages their ids, which are then their rows.
    compress: whether weights are compressed too: nothing is lost, and opening
      takes longer.
  """

  index: str = "f32"
  weights: str = "f32"
  text: str = "exact"
  compress: bool = False

  def __post_init__(self) -> None:
    for name, choices in CHOICES.items():
      if getattr(self, name) not in choices:
        raise ValueError(
          f"--{name} {getattr(self, name)}: choose of {', '.join(choices)}."
        )


def contents(path: str | Path) -> dict[str, int]:
  """Bytes by part of a system in one file.

  Args:
    path: of the pack.

  Returns:
    runtime (0: it is beside the file, see `launch/minimal.py`), models, index,
    text, tokenizer, other → bytes; together they are the file.

  Raises:
    ValueError: if it is no pack, or damaged.
  """
  return {"runtime": 0} | container.contents(path)


def pack_system(
  directory: str | Path, out: str | Path, options: PackOptions
) -> dict[str, Any]:
  """Writes a system into one file, which appears whole or not at all.

  Args:
    directory: from `odqa assemble`: a retriever, its index and corpus, and an
      extractive reader, of one tokenizer.
    out: the file; a pack there is replaced.
    options: what is lost for the sake of its size.

  Returns:
    `passages`, and `bytes` by part.

  Raises:
    ValueError: if the system has a part that is not packed, lacks one, or they
      do not fit.
  """
  container.refuse_foreign(Path(out))
  system = open_for_answering(directory)
  _check_parts(system)
  corpus = Corpus(system.paths["corpus"])
  made_from = {n: x for n, x in system.hashes.items() if n in _PACKED}
  about = {
    "made_from": made_from,
    "options": dataclasses.asdict(options),
    "count": len(corpus),
    "corpus": corpus.fingerprint,
    "leaky": corpus.leaky,
    "tokenizer": corpus.tokenizer.fingerprint,
    "networks": {},
  }
  with PackWriter(out, about) as writer:
    memory = _add_networks(
      writer, system, corpus, options.weights, compress=options.compress
    )
    memory += _add_index(writer, system.paths["index"], options)
    with progress_bar("pack", len(corpus), "passages") as update:
      add = add_texts if options.text == "exact" else add_tokens
      memory += add(writer, corpus, update)
    add_tokenizer(writer, corpus.directory / "tokenizer" / "tokenizer.json")
    writer.about["memory"] = memory
  return {"passages": len(corpus), "bytes": contents(out)}


def _check_parts(system: SystemFolder) -> None:
  for name in system.paths:
    if name not in _PACKED:
      raise ValueError(
        f"{system.directory}: has the part {name}, and a pack has a retriever, "
        "its index and corpus, and an extractive reader; assemble a system of "
        "these."
      )
  for name in _NEEDED:
    if name not in system.paths:
      raise ValueError(
        f"{system.directory}: has no {name}, which a pack needs; assemble a "
        "system with one."
      )


def _add_networks(
  writer: PackWriter,
  system: SystemFolder,
  corpus: Corpus,
  weights: str,
  *,
  compress: bool,
) -> int:
  """Adds what encodes questions and what reads; returns its bytes unpacked."""
  manifest = storage.read_manifest(system.paths["index"])
  retriever = load_retriever(system.paths[RETRIEVER])
  retriever = fit_to_index(retriever, corpus, manifest)
  config = retriever.encoder.config
  described = dataclasses.asdict(config) | {
    "output_dim": config.output_dim,
    "question_length": retriever.question_length,
  }
  side = "shared" if config.shared else "question"
  reader = load_component(system.paths[READER], READER)
  theirs = reader.tokenizer.fingerprint
  if theirs != corpus.tokenizer.fingerprint:
    raise ValueError(
      f"{system.paths[READER]}: reads with the tokenizer {theirs[:12]}, and "
      f"{corpus.directory} was made with {corpus.tokenizer.fingerprint[:12]}; "
      "a pack has one for both."
    )
  networks = {
    RETRIEVER: (described, retriever.params[side]),
    READER: (_reading(reader.description, system), reader.params),
  }
  return add_networks(writer, networks, weights, compress=compress)


def _reading(
  description: Mapping[str, Any], system: SystemFolder
) -> dict[str, Any]:
  """What a reader is, how its inputs are made, and how it chooses."""
  chosen: dict[str, Any] = dict.fromkeys(_CHOSEN)
  if "scoring" in system.paths:
    scoring = dataclasses.asdict(load_scoring(system.paths["scoring"]))
    chosen = {name: scoring[name] for name in _CHOSEN}
  names = ("question_length", "pair_length", "span_length", "title")
  return {
    **description["config"],
    **{name: description[name] for name in names},
    "passage_first": description.get("passage_first", True),
    "objective": description.get("objective", "independent"),
    **chosen,
  }


def _add_index(writer: PackWriter, path: Path, options: PackOptions) -> int:
  """Adds the rows; returns the bytes that a search of them holds."""
  manifest = storage.read_manifest(path)
  count, width = manifest["count"], manifest["width"]
  narrow = options.index == "int8"
  rows = np.empty((count, width), np.int8 if narrow else np.float32)
  scales = np.empty(count, np.float32)
  for shard in manifest["shards"]:
    here = slice(shard["start"], shard["start"] + shard["rows"])
    if not narrow:
      rows[here] = storage.float_rows(path, manifest, shard)
    elif manifest["dtype"] == "int8":
      arrays = storage.shard_arrays(path, manifest, shard)
      rows[here], scales[here] = map(np.asarray, arrays[:2])
    else:
      floats = storage.float_rows(path, manifest, shard)
      rows[here], scales[here], _ = quantize(floats)
  return add_rows(writer, rows, scales if narrow else None)
