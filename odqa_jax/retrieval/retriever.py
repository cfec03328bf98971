"""A trained retriever at work: encode, index, search.

    retriever = load_retriever("work/supervised")
    embeddings = retriever.encode(["who wrote emma"])
    index = index_corpus(retriever, corpus, "work/index", mesh=mesh)
    scores, rows = search_questions(
      retriever, index, corpus, questions, k=100
    )

A checkpoint is a training workdir, one step of it, or a Hugging Face or
sentence-transformers folder. `search_questions` makes sure that the index
belongs to the retriever; whoever knows, as training does, can go without:

    embeddings = encode_questions(retriever, questions)
    scores, rows = search_embeddings(index, embeddings, k=100)
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32, Int32

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.views import PassageSample, UntitledPassages
from odqa_jax.data.exclusions import Exclusions
from odqa_jax.models.dual_encoder import DualEncoder, EncoderConfig
from odqa_jax.models.families import network_from
from odqa_jax.models.hf.encoder import load_encoder
from odqa_jax.models.hf.minilm import resolve_folder
from odqa_jax.models.hf.tensors import other_weights
from odqa_jax.models.roles import described_role, role_params
from odqa_jax.retrieval.backends.table import open_index
from odqa_jax.retrieval.embed import Progress, bulk_tokens
from odqa_jax.retrieval.encoding import (
  Retriever,
  compiled_encoders,
  encode_questions,
)
from odqa_jax.retrieval.index import build_index, check_index
from odqa_jax.retrieval.searchable import Searchable, search_embeddings
from odqa_jax.runtime.checkpoint import find_step, restore_params
from odqa_jax.runtime.hub import origin
from odqa_jax.runtime.mesh import (
  make_mesh,
  path_name,
  replicated,
  to_host,
)
from odqa_jax.runtime.pickles import refuse_pickle
from odqa_jax.text.tokenizer import Tokenizer, load_tokenizer

# How texts become inputs.
_READING = ("question_length", "passage_length", "title")
_CONVERT = (
  "weights are read from safetensors alone; load them once where you trust "
  "them, and AutoModel…save_pretrained(DIR) of transformers writes "
  "model.safetensors"
)


def passage_fingerprint(
  config: EncoderConfig, params: Any, passage_length: int, title: bool
) -> str:
  """Hash of all that an embedding of a passage depends on, besides its ids.

  `params` are host arrays.
  """
  side = params["shared" if config.shared else "passage"]
  digest = hashlib.sha256()
  settings = dataclasses.asdict(config)
  # How the same function is computed does not change the function, and an
  # encoder that answered for both sides keeps its index when it is doubled.
  settings.pop("shared")
  settings["passage_type"] = config.passage_token_type
  run = ("dropout", "attention_dropout", "remat", "scan")
  for name in (*run, "attention", "platform"):
    settings["bert"].pop(name)
  # Those of BERT itself are left out: its indexes are older than its variants.
  for name, plain in (("variant", "bert"), ("embedding_width", None)):
    if settings["bert"][name] == plain:
      settings["bert"].pop(name)
  digest.update(repr((settings, passage_length, title)).encode())
  for path, leaf in jax.tree_util.tree_flatten_with_path(side)[0]:
    digest.update(path_name(path).encode())
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()


def make_retriever(
  config: EncoderConfig,
  params: Any,
  tokenizer: Tokenizer,
  *,
  question_length: int,
  passage_length: int,
  title: bool,
) -> Retriever:
  """Puts a retriever together from parts in memory (any sharding)."""
  params = to_host(params)
  local = replicated(make_mesh(devices=jax.local_devices()))
  return Retriever(
    encoder=DualEncoder(config),
    params=jax.device_put(params, local),
    tokenizer=tokenizer,
    question_length=question_length,
    passage_length=passage_length,
    title=title,
    fingerprint=passage_fingerprint(config, params, passage_length, title),
  )


def is_pretrained_folder(path: str | Path) -> bool:
  """Whether a folder is in a published format rather than a training workdir.

  Both may hold a `config.json`; only a workdir holds checkpoints.

  Raises:
    ValueError: if there is no folder, but a file, a pickle perhaps; or weights
      that are not read.
  """
  path = Path(path)
  if not path.is_dir():
    _refuse_file(path)
  published = ("modules.json", "model.safetensors", "question/config.json")
  sharded = "model.safetensors.index.json"
  known = any((path / name).is_file() for name in (*published, sharded))
  if not known and (other := other_weights(path)):
    raise ValueError(f"{other}: {_CONVERT}.")
  return known


def _refuse_file(path: Path) -> None:
  if not path.exists():
    raise ValueError(
      f"{path}: no such folder; name a training workdir, a step of it, or a "
      "folder with config.json and model.safetensors."
    )
  refuse_pickle(path, _CONVERT)
  raise ValueError(f"{path}: a file; name the folder of the model.")


def folder_tokenizer(path: Path, vocab_size: int | None = None) -> Tokenizer:
  """The tokenizer of a published folder.

  Args:
    path: the folder.
    vocab_size: rows of the embedding table; None where they are not known yet.

  Raises:
    ValueError: if it has ids that the embedding table has not, or the two
      folders of a pair have other tokenizers of their own.
  """
  tokenizer = load_tokenizer(path)
  if vocab_size is not None and tokenizer.vocab_size > vocab_size:
    raise ValueError(
      f"{path}: the tokenizer has {tokenizer.vocab_size} ids, the embedding "
      f"table {vocab_size} rows; tokens without a row would get that of "
      "another. Put the tokenizer there that the weights were trained with."
    )
  for side in ("question", "passage"):
    names = ("tokenizer.json", "vocab.txt")
    if not any((path / side / name).is_file() for name in names):
      continue
    theirs = load_tokenizer(path / side)
    if theirs.fingerprint != tokenizer.fingerprint:
      raise ValueError(
        f"{path / side}: its tokenizer is another ({theirs.fingerprint[:12]}) "
        f"than that of {path} ({tokenizer.fingerprint[:12]}); questions and "
        "passages are read with one; keep the right one in both."
      )
  return tokenizer


def load_retriever(path: str | Path, *, dtype: str = "float32") -> Retriever:
  """Loads a training workdir, one step of it, or a published folder.

  >>> retriever = load_retriever("minilm")
  >>> retriever.passage_length
  256

  Args:
    path: the folder, or a name that `resolve_folder` knows.
    dtype: compute dtype for a published folder; a workdir names its own.

  Raises:
    ValueError: if the folder is none of these, or its parts do not agree.
  """
  path = resolve_folder(path)
  if is_pretrained_folder(path):
    config, params, settings = load_encoder(path, dtype=dtype)
    for name in ("question_prompt", "passage_prompt"):
      if settings[name]:
        raise ValueError(
          f"{path} expects {name} {settings[name]!r} before its inputs, which "
          "passages tokenised once cannot have; choose a model without prompts."
        )
    made = make_retriever(
      config,
      params,
      folder_tokenizer(path, config.bert.vocab_size),
      **{name: settings[name] for name in _READING},
    )
    return dataclasses.replace(made, origin=origin(path))
  params, extra = restore_params(path, replicated(make_mesh()))
  return restored_retriever(path, params, extra)


def restored_retriever(
  path: Path, params: Any, extra: Mapping[str, Any]
) -> Retriever:
  """The retriever of a step that `restore_params` has read.

  End-to-end training saves a reader as well, which is left out.

  Args:
    path: the training workdir, or the step.
    params: the step's parameters.
    extra: what was saved with them.

  Raises:
    ValueError: if the workdir's tokenizer is not the one of the training.
  """
  folder, _ = find_step(path)
  tokenizer = load_tokenizer(folder.parent / "tokenizer")
  components = extra["components"]
  _, description = described_role(path, components, "retriever")
  if tokenizer.fingerprint != description["tokenizer"]:
    raise ValueError(
      f"{folder.parent / 'tokenizer'} is not the tokenizer that {path} was "
      f"trained with ({tokenizer.fingerprint[:12]} against "
      f"{description['tokenizer'][:12]}); restore the original folder."
    )
  return make_retriever(
    network_from(description).config,
    role_params("retriever", components, params),
    tokenizer,
    **{name: description[name] for name in _READING},
  )


def with_titles(retriever: Retriever) -> Retriever:
  """The retriever whose passages begin with their titles.

  Published models do not say so of themselves, and read texts alone.
  """
  config = retriever.encoder.config
  params, length = to_host(retriever.params), retriever.passage_length
  return dataclasses.replace(
    retriever,
    title=True,
    fingerprint=passage_fingerprint(config, params, length, True),
  )


def truncate(retriever: Retriever, dimensions: int) -> Retriever:
  """The retriever that keeps the first dimensions of its embeddings.

  What is kept is brought to length 1 again if the encoder does so.

  Raises:
    ValueError: if it has not so many, or they come from a learned projection.
  """
  config = retriever.encoder.config
  if not 1 <= dimensions <= config.output_dim:
    raise ValueError(
      f"--dimensions {dimensions}: embeddings of this encoder have "
      f"{config.output_dim}; keep 1 to {config.output_dim} of them."
    )
  if dimensions == config.output_dim:
    return retriever
  if config.projection == "dense":
    raise ValueError(
      f"--dimensions {dimensions}: this encoder ends in a projection to "
      f"{config.output_dim} dimensions, none of which may be left out."
    )
  config = dataclasses.replace(
    config, projection="truncate", embedding_dim=dimensions
  )
  side = to_host(retriever.params), retriever.passage_length, retriever.title
  return dataclasses.replace(
    retriever,
    encoder=DualEncoder(config),
    fingerprint=passage_fingerprint(config, *side),
  )


def fit_to_index(
  retriever: Retriever, corpus: Corpus, manifest: Mapping[str, Any]
) -> Retriever:
  """The retriever with the dimensions and titles of an index of it.

  Raises:
    ValueError: if the index belongs to another checkpoint or corpus.
  """
  width = manifest["width"]
  if width < retriever.encoder.config.output_dim:
    retriever = truncate(retriever, width)
  if not retriever.title and manifest["encoder"] != retriever.fingerprint:
    titled = with_titles(retriever)
    if titled.fingerprint == manifest["encoder"]:
      retriever = titled
  check_index(
    manifest,
    encoder=retriever.fingerprint,
    corpus=corpus.fingerprint,
    tokenizer=retriever.tokenizer.fingerprint,
  )
  return retriever


def write_index(
  retriever: Retriever,
  corpus: Corpus | PassageSample,
  directory: str | Path,
  *,
  mesh: Mesh,
  dtype: str = "float32",
  batch_tokens: int | None = None,
  shard_rows: int = 65536,
  progress: Progress | None = None,
) -> None:
  """Encodes every passage of the corpus and saves the index.

  Args:
    retriever: what encodes.
    corpus: what is encoded.
    directory: where the index goes; a killed run is taken up again.
    mesh: the devices that encode.
    dtype: of the stored embeddings: "float32", "bfloat16" or "int8".
    batch_tokens: tokens (with padding) in one encoder call; by default what
      suits the device. On a CPU 2,048 stay in cache: 2.3 times as many
      passages/s as 16,384 with the tiny preset, 2 cores.
    shard_rows: rows in one piece of work.
    progress: called with passages done and in all.

  Raises:
    ValueError: if the corpus was tokenised by another tokenizer.
  """
  check_tokenizer(retriever, corpus)
  if batch_tokens is None:
    devices = jax.local_device_count()
    batch_tokens = bulk_tokens(jax.default_backend(), devices)
  _, encode = compiled_encoders(retriever.encoder.config)
  build_index(
    lambda ids, lengths: encode(retriever.params, ids, lengths),
    corpus if retriever.title else UntitledPassages(corpus),
    Path(directory),
    mesh=mesh,
    dtype=dtype,
    max_length=retriever.passage_length,
    batch_tokens=batch_tokens,
    shard_rows=shard_rows,
    identity={
      "encoder": retriever.fingerprint,
      "tokenizer": retriever.tokenizer.fingerprint,
    },
    origin=retriever.origin,
    progress=progress,
  )


def index_corpus(
  retriever: Retriever,
  corpus: Corpus | PassageSample,
  directory: str | Path,
  *,
  mesh: Mesh,
  **options: Any,
) -> Searchable:
  """`write_index` with these options; then the index, opened on `mesh`."""
  write_index(retriever, corpus, directory, mesh=mesh, **options)
  return open_index(directory, mesh)


def check_tokenizer(
  retriever: Retriever, corpus: Corpus | PassageSample
) -> None:
  """Refuses a corpus whose token ids mean something else to this encoder.

  Raises:
    ValueError: naming both tokenizers.
  """
  theirs = corpus.manifest["tokenizer"]
  if theirs != retriever.tokenizer.fingerprint:
    raise ValueError(
      f"the corpus was tokenised with {theirs[:12]}, the checkpoint's "
      f"tokenizer is {retriever.tokenizer.fingerprint[:12]}; prepare the "
      "corpus again with --tokenizer CHECKPOINT."
    )


def search_questions(
  retriever: Retriever,
  index: Searchable,
  corpus: Corpus,
  questions: Sequence[str],
  *,
  k: int,
  exclusions: Exclusions | None = None,
  progress: Progress | None = None,
) -> tuple[Float32[np.ndarray, "n {k}"], Int32[np.ndarray, "n {k}"]]:
  """The k best rows for every question.

  Args:
    retriever: what encodes the questions.
    index: made by it from the corpus; opened for any backend.
    corpus: the evidence.
    questions: their texts.
    k: passages of a question.
    exclusions: of these questions; see `search_embeddings`.
    progress: called with questions done and in all.

  Returns:
    Scores (plain dot products) and corpus rows, best first, the same on every
    process.

  Raises:
    ValueError: if the index belongs to another checkpoint or corpus, or k is
      larger than the corpus.
  """
  retriever = fit_to_index(retriever, corpus, index.manifest)
  embeddings = encode_questions(retriever, questions)
  return search_embeddings(
    index, embeddings, k, exclusions=exclusions, progress=progress
  )
