"""A trained retriever and reader, with all that decides what they answer.

    system = load_system("work/individual", corpus)

`answer.py` puts it to work.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.reader_inputs import ReaderInputs
from odqa_jax.models.components import Models
from odqa_jax.models.dual_encoder import DualEncoder
from odqa_jax.models.t5 import T5, T5Config
from odqa_jax.reading.gather import Lookup
from odqa_jax.reading.programs import ReaderPrograms
from odqa_jax.retrieval.retriever import (
  Retriever,
  check_tokenizer,
  encoder_config_from_dict,
  is_pretrained_folder,
  make_retriever,
  passage_fingerprint,
  restored_retriever,
)
from odqa_jax.runtime.checkpoint import find_step, read_extra, restore_params
from odqa_jax.runtime.mesh import make_mesh, replicated, to_host
from odqa_jax.text.reader_vocabulary import ReaderVocabulary, reader_vocabulary


@dataclasses.dataclass(frozen=True)
class ReadingSystem:
  """A retriever and a reader with all that decides what they answer.

  Attributes:
    config: of the training run.
    models: the networks.
    params: their parameters, replicated on this process's own devices.
    retriever: the part that searches; it shares its parameters.
    inputs: how the reader's inputs are packed.
    corpus: the evidence.
    programs: the compiled functions.
    with_passages: gathers the tokens of passages.
    closed_book: gathers the null document alone.
  """

  config: ConfigDict
  models: Models
  params: Any
  retriever: Retriever
  inputs: ReaderInputs
  corpus: Corpus
  programs: ReaderPrograms
  with_passages: Lookup
  closed_book: Lookup

  @property
  def vocabulary(self) -> ReaderVocabulary:
    """What the reader reads and writes."""
    return self.inputs.vocabulary


def make_system(
  config: ConfigDict,
  models: Models,
  params: Any,
  corpus: Corpus,
  inputs: ReaderInputs,
) -> ReadingSystem:
  """Puts a system together from parts in memory (any sharding).

  Raises:
    ValueError: if the task has no reader.
  """
  host = to_host(params)
  retriever = make_retriever(
    models.encoder.config,
    host["retriever"],
    corpus.tokenizer,
    question_length=config.data.question_length,
    passage_length=config.data.passage_length,
    title=config.data.title,
  )
  return _assemble(config, models, host, retriever, corpus, inputs)


def _assemble(
  config: ConfigDict,
  models: Models,
  host: Any,
  retriever: Retriever,
  corpus: Corpus,
  inputs: ReaderInputs,
) -> ReadingSystem:
  """Adds programs and the rest of the parameters to a retriever."""
  mesh = make_mesh(devices=jax.local_devices())
  # Gathering tokens does not depend on the number of passages.
  with_passages, closed_book = (
    Lookup(config, models.encoder, corpus, inputs, mesh, k=k) for k in (1, 0)
  )
  return ReadingSystem(
    config=config,
    models=models,
    params=_with_retriever(host, retriever),
    retriever=retriever,
    inputs=inputs,
    corpus=corpus,
    programs=ReaderPrograms(config, models),
    with_passages=with_passages,
    closed_book=closed_book,
  )


def with_params(system: ReadingSystem, params: Any) -> ReadingSystem:
  """The same system with other weights; nothing is compiled again."""
  host = to_host(params)
  old = system.retriever
  retriever = dataclasses.replace(
    old,
    params=_place(host["retriever"]),
    fingerprint=passage_fingerprint(
      old.encoder.config, host["retriever"], old.passage_length, old.title
    ),
  )
  return dataclasses.replace(
    system, params=_with_retriever(host, retriever), retriever=retriever
  )


def without_params(system: ReadingSystem) -> ReadingSystem:
  """The same system for `with_params`, holding nothing on the devices."""
  retriever = dataclasses.replace(system.retriever, params=None)
  return dataclasses.replace(system, params=None, retriever=retriever)


def _place(host: Any) -> Any:
  """Host arrays → replicated over this process's devices."""
  local = replicated(make_mesh(devices=jax.local_devices()))
  return jax.device_put(host, local)


def _with_retriever(host: Any, retriever: Retriever) -> Any:
  """All parameters on the devices; those of the retriever are there already."""
  rest = {name: x for name, x in host.items() if name != "retriever"}
  return _place(rest) | {"retriever": retriever.params}


def holds_reader(path: str | Path) -> bool:
  """Whether a checkpoint is a training workdir, or a step, with a reader.

  Raises:
    ValueError: if it is no checkpoint at all.
  """
  if is_pretrained_folder(path):
    return False
  folder, step = find_step(Path(path))
  return read_extra(folder, step).get("reader") is not None


def load_system(
  path: str | Path, corpus: Corpus, reader_corpus: Corpus | None = None
) -> ReadingSystem:
  """Loads what end-to-end training saved, for any corpus of its tokenizer.

  Args:
    path: a training workdir, or one step of it.
    corpus: the evidence.
    reader_corpus: the same passages in the reader's own vocabulary. None: the
      corpus itself where it has that vocabulary, else `reader_corpus` beside
      it.

  Raises:
    ValueError: if the checkpoint has no reader, or was trained with other
      tokens than a corpus has.
  """
  path = Path(path)
  if not holds_reader(path):
    raise ValueError(
      f"{path} holds a retriever without a reader, which finds passages but "
      "answers nothing; name the workdir of a task with a reader (individual, "
      "joint or fid)."
    )
  params, extra = restore_params(path, replicated(make_mesh()))
  retriever = restored_retriever(path, params, extra)
  check_tokenizer(retriever, corpus)
  config = ConfigDict(extra["config"])
  inputs = inputs_for(config, extra["reader_vocabulary"], corpus, reader_corpus)
  models = Models(
    DualEncoder(encoder_config_from_dict(extra["encoder"])),
    T5(T5Config(**extra["reader"])),
  )
  return _assemble(config, models, to_host(params), retriever, corpus, inputs)


def inputs_for(
  config: ConfigDict,
  vocabulary: str,
  corpus: Corpus,
  reader_corpus: Corpus | None = None,
) -> ReaderInputs:
  """How a trained reader's inputs are packed from a corpus.

  Args:
    config: of the training run.
    vocabulary: the fingerprint of the reader's vocabulary.
    corpus: the evidence.
    reader_corpus: see `load_system`.

  Raises:
    ValueError: if no passages are there in the reader's vocabulary, or those
      given are others than the evidence.
  """
  beside = corpus.directory.with_name("reader_corpus")
  found: dict[str, str] = {}
  for store in _stores(corpus, reader_corpus, beside):
    mine = reader_vocabulary(store.any_tokenizer)
    if mine.fingerprint == vocabulary:
      break
    found[str(store.directory)] = mine.fingerprint[:12]
  else:
    raise ValueError(
      f"the reader was trained with the vocabulary {vocabulary[:12]}, but the "
      f"passages are in others: {found}; make a second store of them with "
      "odqa prepare --reader-tokenizer WORKDIR/reader_tokenizer, and give it "
      "with --reader-corpus."
    )
  if store.fingerprint != corpus.fingerprint:
    raise ValueError(
      f"{store.directory} holds other passages ({store.fingerprint[:12]}) than "
      f"{corpus.directory} ({corpus.fingerprint[:12]}); prepare both from the "
      "same files."
    )
  return ReaderInputs(
    mine,
    store,
    length=config.data.reader_length,
    title=config.data.reader_title,
    flags=config.reader.flags,
  )


def _stores(
  corpus: Corpus, given: Corpus | None, beside: Path
) -> Iterator[Corpus]:
  """Where passages in the reader's vocabulary may be, in order."""
  if given is not None:
    yield given
    return
  yield corpus
  if beside.is_dir():
    yield Corpus(beside)
