"""What answers: a retriever, a reader, and how its passages are gathered.

    system = load_reading_system("work/individual", corpus)

A checkpoint says of itself which networks it holds and how they read; which
task trained them does not matter here.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.reader_inputs import ReaderInputs
from odqa_jax.models.families import Components, network_from
from odqa_jax.models.hf.minilm import resolve_folder
from odqa_jax.reading.gather import PassageGatherer
from odqa_jax.reading.likelihoods import ReadingConfig
from odqa_jax.reading.predict import Predictor, make_predictor
from odqa_jax.retrieval.retriever import (
  Retriever,
  check_tokenizer,
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
    config: how is read.
    components: the networks.
    params: of all components, replicated on this process's own devices.
    retriever: the part that searches; it shares its parameters.
    gatherer: rows → the inputs of both.
    predictor: the compiled functions.
  """

  config: ReadingConfig
  components: Components
  params: Any
  retriever: Retriever
  gatherer: PassageGatherer
  predictor: Predictor

  @property
  def corpus(self) -> Corpus:
    """The evidence."""
    return self.gatherer.corpus

  @property
  def vocabulary(self) -> ReaderVocabulary:
    """What the reader reads and writes."""
    return self.gatherer.inputs.vocabulary


def make_system(
  config: ReadingConfig,
  components: Components,
  params: Any,
  gatherer: PassageGatherer,
  *,
  question_length: int,
) -> ReadingSystem:
  """Puts a system together from parts in memory (any sharding)."""
  host = to_host(params)
  retriever = make_retriever(
    components["retriever"].config,
    host["retriever"],
    gatherer.corpus.tokenizer,
    question_length=question_length,
    passage_length=gatherer.passage_length,
    title=gatherer.title,
  )
  return ReadingSystem(
    config=config,
    components=components,
    params=_with_retriever(host, retriever),
    retriever=retriever,
    gatherer=gatherer,
    predictor=make_predictor(config, components).compiled(),
  )


def with_params(system: ReadingSystem, params: Any) -> ReadingSystem:
  """The same system with other weights; nothing is compiled again."""
  host = to_host(params)
  before = system.retriever
  retriever = dataclasses.replace(
    before,
    params=_place(host["retriever"]),
    fingerprint=passage_fingerprint(
      before.encoder.config,
      host["retriever"],
      before.passage_length,
      before.title,
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
  path = resolve_folder(path)
  if is_pretrained_folder(path):
    return False
  folder, step = find_step(path)
  return read_extra(folder, step)["reading"] is not None


def load_reading_system(
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
      f"{path} holds no reader that writes answers; name the workdir of a task "
      "with one (individual, joint or fid)."
    )
  params, extra = restore_params(path, replicated(make_mesh()))
  retriever = restored_retriever(path, params, extra)
  check_tokenizer(retriever, corpus)
  config = ReadingConfig(**extra["reading"])
  described = extra["components"]
  inputs = inputs_for(
    config, described["reader"]["tokenizer"], corpus, reader_corpus
  )
  components = {name: network_from(d) for name, d in described.items()}
  gatherer = PassageGatherer(
    corpus=corpus,
    inputs=inputs,
    passage_length=retriever.passage_length,
    title=retriever.title,
    null_document=config.null_document,
    buckets=config.buckets,
  )
  return ReadingSystem(
    config=config,
    components=components,
    params=_with_retriever(to_host(params), retriever),
    retriever=retriever,
    gatherer=gatherer,
    predictor=make_predictor(config, components).compiled(),
  )


def inputs_for(
  config: ReadingConfig,
  vocabulary: str,
  corpus: Corpus,
  reader_corpus: Corpus | None = None,
) -> ReaderInputs:
  """How a trained reader's inputs are packed from a corpus.

  Args:
    config: how is read.
    vocabulary: the fingerprint of the reader's vocabulary.
    corpus: the evidence.
    reader_corpus: see `load_reading_system`.

  Raises:
    ValueError: if no passages are there in the reader's vocabulary, or those
      given are others than the evidence.
  """
  beside = corpus.directory.with_name("reader_corpus")
  others: dict[str, str] = {}
  for store in _stores(corpus, reader_corpus, beside):
    mine = reader_vocabulary(store.any_tokenizer)
    if mine.fingerprint == vocabulary:
      break
    others[str(store.directory)] = mine.fingerprint[:12]
  else:
    raise ValueError(
      f"the reader was trained with the vocabulary {vocabulary[:12]}, but the "
      f"passages are in others: {others}; make a second store of them with "
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
    length=config.input_length,
    title=config.title,
    overlap_features=config.overlap_features,
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
