"""The reader that a training stage begins with.

Random; a Hugging Face T5 folder; or another stage's workdir.
"""

import dataclasses
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.reader_inputs import OVERLAP_FEATURES, ReaderInputs
from odqa_jax.models.families import InitialNetwork, network_from
from odqa_jax.models.hf.minilm import resolve_folder
from odqa_jax.models.hf.t5 import load_t5
from odqa_jax.models.t5 import PRESETS, T5, T5Config
from odqa_jax.retrieval.retriever import is_pretrained_folder
from odqa_jax.runtime.checkpoint import find_step, read_extra, restore_params
from odqa_jax.runtime.mesh import replicated
from odqa_jax.runtime.settings import ReaderSettings, Settings
from odqa_jax.text.reader_vocabulary import (
  ReaderIds,
  ReaderVocabulary,
  reader_vocabulary,
)
from odqa_jax.training.layer_runs import layer_run

# How the same function is computed, which a new stage may change.
_RUN_SETTINGS = ("dropout", "dtype", "attention")


def reader_config(
  reader: ReaderSettings, vocabulary: ReaderIds, platform: str = ""
) -> T5Config:
  """The T5 that `config.reader` describes, for a platform."""
  return T5Config(
    **(
      PRESETS[reader.preset]
      | {
        "vocab_size": vocabulary.size,
        "pad_id": vocabulary.pad_id,
        "eos_id": vocabulary.eos_id,
        "start_id": vocabulary.start_id,
        "depthwise_convolution": reader.depthwise_convolution,
        "mimetic": reader.mimetic,
        "overlap_features": (
          OVERLAP_FEATURES if reader.overlap_features else 0
        ),
        "span_head": bool(reader.span_loss),
      }
      | _run_settings(reader, platform)
    )
  )


def _run_settings(reader: ReaderSettings, platform: str = "") -> dict[str, Any]:
  given = {name: getattr(reader, name) for name in _RUN_SETTINGS}
  return given | layer_run(reader, platform)


def reader_inputs(settings: Settings, corpus: Corpus) -> ReaderInputs:
  """How questions and passages become the reader's inputs.

  Raises:
    ValueError: if `config.data.reader_corpus` holds other passages.
  """
  data, store = settings.data, corpus
  if data.reader_corpus:
    store = Corpus(data.reader_corpus)
    if store.fingerprint != corpus.fingerprint:
      raise ValueError(
        f"config.data.reader_corpus={data.reader_corpus} holds other passages "
        f"({store.fingerprint[:12]}) than config.data.corpus={data.corpus} "
        f"({corpus.fingerprint[:12]}); prepare both from the same files."
      )
  return ReaderInputs(
    reader_vocabulary(store.any_tokenizer),
    store,
    length=data.reader_length,
    title=data.reader_title,
    overlap_features=settings.reader.overlap_features,
  )


def initial_reader(
  settings: Settings, vocabulary: ReaderVocabulary, mesh: Mesh
) -> InitialNetwork:
  """The reader that `config.reader` and the `init_from` keys describe.

  `config.reader.init_from` decides; without it a reader in the workdir
  `config.init_from` is taken; without that the reader is random.

  Args:
    settings: of the run.
    vocabulary: what it reads and writes.
    mesh: its parameters are replicated there.

  Raises:
    ValueError: if vocabulary or sizes do not fit, naming both sides.
  """
  reader = settings.reader
  name = reader.init_from or settings.init_from
  named = reader.init_from or (name and Path(name).is_dir())
  path = resolve_folder(name) if named else Path(name)
  if named and is_pretrained_folder(path):
    if reader.init_from:
      return _from_folder(reader, path, vocabulary)
  elif named:
    folder, step = find_step(path)
    if "reader" in read_extra(folder, step)["components"]:
      return _from_workdir(reader, path, step, mesh, vocabulary)
  if reader.init_from:
    raise ValueError(
      f"config.reader.init_from={name} holds no reader; name a T5 folder or "
      "the workdir of a task with a reader."
    )
  if reader.preset == "init":
    raise ValueError(
      "config.reader.preset=init takes the sizes of weights, and neither "
      "config.reader.init_from nor config.init_from has a reader; set one."
    )
  network = T5(reader_config(reader, vocabulary))
  return InitialNetwork(network, None, "initial reader: random")


def _from_folder(
  reader: ReaderSettings, path: Path, vocabulary: ReaderVocabulary
) -> InitialNetwork:
  theirs, params = load_t5(path)
  ours = (vocabulary.size, vocabulary.eos_id)
  # Published tables have rows that no token uses.
  if theirs.vocab_size < ours[0] or theirs.eos_id != ours[1]:
    raise ValueError(
      f"config.reader.init_from={path} has {theirs.vocab_size} word pieces and "
      f"ends answers with id {theirs.eos_id}; the passages that the reader "
      f"gets are in a vocabulary of {ours[0]} whose end is {ours[1]}. Set "
      "config.data.reader_corpus to passages tokenised with the folder's own "
      "vocabulary: odqa prepare --reader-tokenizer FOLDER."
    )
  network = T5(dataclasses.replace(theirs, **_run_settings(reader)))
  return InitialNetwork(
    network, params, f"initial reader: published folder {path}"
  )


def _from_workdir(
  reader: ReaderSettings,
  path: Path,
  step: int,
  mesh: Mesh,
  vocabulary: ReaderVocabulary,
) -> InitialNetwork:
  params, extra = restore_params(path, replicated(mesh))
  description = extra["components"]["reader"]
  if description["tokenizer"] != vocabulary.fingerprint:
    raise ValueError(
      f"the reader of {path} was trained with the vocabulary "
      f"{description['tokenizer'][:12]}, its passages here are in "
      f"{vocabulary.fingerprint[:12]}; set config.data.reader_corpus to "
      "passages in the reader's vocabulary."
    )
  theirs: T5Config = network_from(description).config
  mine = dataclasses.replace(theirs, **_run_settings(reader))
  if reader.preset != "init":
    mine = reader_config(reader, vocabulary)
    # A new stage may drop the span head, or the initialisation's name.
    mine = dataclasses.replace(
      mine, mimetic=theirs.mimetic, span_head=theirs.span_head
    )
    _check_same_reader(path, theirs, mine)
  return InitialNetwork(
    T5(mine), params["reader"], f"initial reader: step {step} of {path}"
  )


def _check_same_reader(path: Path, theirs: T5Config, mine: T5Config) -> None:
  a, b = dataclasses.asdict(theirs), dataclasses.asdict(mine)
  different = [
    f"{name} is {a[name]!r} there and {b[name]!r} here"
    for name in a
    if a[name] != b[name] and name not in _RUN_SETTINGS
  ]
  if different:
    raise ValueError(
      f"the reader of {path} is another model: {'; '.join(different)}. Mend "
      "config.reader, or set config.reader.preset=init to take its sizes."
    )
