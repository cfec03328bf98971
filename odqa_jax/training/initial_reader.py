"""The models that a training stage begins with, reader included.

A reader is random; a Hugging Face T5 folder; or another stage's workdir.
"""

import dataclasses
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.reader_inputs import FLAGS, ReaderInputs
from odqa_jax.models.components import Models
from odqa_jax.models.hf.t5 import load_t5
from odqa_jax.models.t5 import PRESETS, T5, T5Config
from odqa_jax.reading.likelihoods import READER_TASKS
from odqa_jax.retrieval.retriever import is_pretrained_folder
from odqa_jax.runtime.checkpoint import find_step, read_extra, restore_params
from odqa_jax.runtime.mesh import replicated
from odqa_jax.text.reader_vocabulary import ReaderIds, reader_vocabulary
from odqa_jax.training.initial import initial_model

# How the same function is computed, which a new stage may change.
_RUN_SETTINGS = ("dropout", "dtype", "remat", "scan")


@dataclasses.dataclass(frozen=True)
class InitialReader:
  """A reader and, unless they are random, its first parameters.

  Attributes:
    reader: the model.
    params: parameters to begin from; None for random ones.
    inputs: how its inputs are packed, and in which vocabulary.
    loaded_from: one line that says what was loaded.
  """

  reader: T5
  params: Any
  inputs: ReaderInputs
  loaded_from: str


@dataclasses.dataclass(frozen=True)
class Initial:
  """What a stage begins with.

  Attributes:
    models: the networks of the task.
    params: the subtrees of the task's parameters that are not random.
    inputs: how the reader's inputs are packed; None without a reader.
    loaded_from: lines that say what was loaded.
  """

  models: Models
  params: dict[str, Any]
  inputs: ReaderInputs | None
  loaded_from: str


def initial_models(config: ConfigDict, corpus: Corpus, mesh: Mesh) -> Initial:
  """Retriever and, where the task has one, reader of a training config.

  Raises:
    ValueError: if vocabulary or sizes do not fit, naming both sides.
  """
  retriever = initial_model(config, corpus, mesh)
  if config.task not in READER_TASKS:
    return Initial(
      Models(retriever.encoder),
      retriever.params or {},
      None,
      retriever.loaded_from,
    )
  reader = initial_reader(config, corpus, mesh)
  params = {"retriever": retriever.params, "reader": reader.params}
  return Initial(
    Models(retriever.encoder, reader.reader),
    {name: tree for name, tree in params.items() if tree is not None},
    reader.inputs,
    f"{retriever.loaded_from}\n{reader.loaded_from}",
  )


def reader_config(reader: ConfigDict, vocabulary: ReaderIds) -> T5Config:
  """The T5 that `config.reader` describes.

  Raises:
    ValueError: for an unknown preset, listing the known ones.
  """
  if reader.preset not in PRESETS:
    raise ValueError(
      f"config.reader.preset={reader.preset!r}; known: {sorted(PRESETS)}, or "
      "init for the sizes of the weights that are loaded."
    )
  return T5Config(
    **(
      PRESETS[reader.preset]
      | {
        "vocab_size": vocabulary.size,
        "pad_id": vocabulary.pad_id,
        "eos_id": vocabulary.eos_id,
        "start_id": vocabulary.start_id,
        "depthwise_convolution": reader.mixing,
        "mimetic": reader.mimetic,
        "overlap_features": FLAGS if reader.flags else 0,
        "span_head": bool(reader.span_loss),
      }
      | {name: reader[name] for name in _RUN_SETTINGS}
    )
  )


def reader_inputs(config: ConfigDict, corpus: Corpus) -> ReaderInputs:
  """How questions and passages become the reader's inputs.

  Raises:
    ValueError: if `config.data.reader_corpus` holds other passages.
  """
  store = corpus
  if config.data.reader_corpus:
    store = Corpus(config.data.reader_corpus)
    if store.fingerprint != corpus.fingerprint:
      raise ValueError(
        f"config.data.reader_corpus={config.data.reader_corpus} holds other "
        f"passages ({store.fingerprint[:12]}) than config.data.corpus="
        f"{config.data.corpus} ({corpus.fingerprint[:12]}); prepare both from "
        "the same files."
      )
  return ReaderInputs(
    reader_vocabulary(store.any_tokenizer),
    store,
    length=config.data.reader_length,
    title=config.data.reader_title,
    flags=config.reader.flags,
  )


def initial_reader(
  config: ConfigDict, corpus: Corpus, mesh: Mesh
) -> InitialReader:
  """The reader that `config.reader` and the `init_from` keys describe.

  `config.reader.init_from` decides; without it a reader in the workdir
  `config.init_from` is taken; without that the reader is random.

  Raises:
    ValueError: if vocabulary or sizes do not fit, naming both sides.
  """
  inputs = reader_inputs(config, corpus)
  path = config.reader.init_from or config.init_from
  if path and is_pretrained_folder(path):
    if config.reader.init_from:
      return _from_folder(config, Path(path), inputs)
  elif path and Path(path).is_dir():
    folder, step = find_step(Path(path))
    extra = read_extra(folder, step)
    if extra.get("reader") is not None:
      return _from_workdir(config, Path(path), step, mesh, inputs)
  if config.reader.init_from:
    raise ValueError(
      f"config.reader.init_from={path} holds no reader; name a T5 folder or "
      "the workdir of a task with a reader."
    )
  reader = T5(reader_config(config.reader, inputs.vocabulary))
  return InitialReader(reader, None, inputs, "initial reader: random")


def _from_folder(
  config: ConfigDict, path: Path, inputs: ReaderInputs
) -> InitialReader:
  theirs, params = load_t5(path, scan=config.reader.scan)
  ours = (inputs.vocabulary.size, inputs.vocabulary.eos_id)
  # Published tables have rows that no token uses.
  if theirs.vocab_size < ours[0] or theirs.eos_id != ours[1]:
    raise ValueError(
      f"config.reader.init_from={path} has {theirs.vocab_size} word pieces and "
      f"ends answers with id {theirs.eos_id}; the passages that the reader "
      f"gets are in a vocabulary of {ours[0]} whose end is {ours[1]}. Set "
      "config.data.reader_corpus to passages tokenised with the folder's own "
      "vocabulary: odqa prepare --reader-tokenizer FOLDER."
    )
  run = {name: config.reader[name] for name in _RUN_SETTINGS}
  reader = T5(dataclasses.replace(theirs, **run))
  return InitialReader(
    reader, params, inputs, f"initial reader: published folder {path}"
  )


def _from_workdir(
  config: ConfigDict, path: Path, step: int, mesh: Mesh, inputs: ReaderInputs
) -> InitialReader:
  params, extra = restore_params(path, replicated(mesh))
  vocabulary = inputs.vocabulary.fingerprint
  if extra["reader_vocabulary"] != vocabulary:
    raise ValueError(
      f"the reader of {path} was trained with the vocabulary "
      f"{extra['reader_vocabulary'][:12]}, its passages here are in "
      f"{vocabulary[:12]}; set config.data.reader_corpus to passages in the "
      "reader's vocabulary."
    )
  theirs = T5Config(**extra["reader"])
  run = {name: config.reader[name] for name in _RUN_SETTINGS}
  mine = dataclasses.replace(theirs, **run)
  if config.reader.preset != "init":
    mine = reader_config(config.reader, inputs.vocabulary)
    # A new stage may drop the span head, or the initialisation's name.
    mine = dataclasses.replace(
      mine, mimetic=theirs.mimetic, span_head=theirs.span_head
    )
    _check_same_reader(path, theirs, mine)
  return InitialReader(
    T5(mine), params["reader"], inputs, f"initial reader: step {step} of {path}"
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
