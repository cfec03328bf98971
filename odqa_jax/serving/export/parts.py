"""One network of a checkpoint, with its tokenizer, ready to be written.

part = load_part("work/reranker", "reranker")
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from odqa_jax.models.families import network_from
from odqa_jax.models.hf.encoder import SavesTokenizer
from odqa_jax.models.hf.minilm import resolve_folder
from odqa_jax.models.hf.t5 import load_t5
from odqa_jax.models.roles import described_role
from odqa_jax.models.t5 import T5
from odqa_jax.reading.trained_component import load_component
from odqa_jax.retrieval.retriever import is_pretrained_folder, load_retriever
from odqa_jax.runtime.checkpoint import find_step, read_extra, restore_params
from odqa_jax.runtime.mesh import make_mesh, replicated
from odqa_jax.text.reader_vocabulary import reader_vocabulary
from odqa_jax.text.sentencepiece import load_any_tokenizer


@dataclasses.dataclass(frozen=True)
class Part:
  """A trained network.

  Attributes:
    path: the checkpoint, resolved.
    role: what it is there for.
    network: of any family.
    params: of it alone.
    tokenizer: has `save(directory)`.
    reading: how its inputs are made: lengths in tokens, `title` and so on; of
      a generative reader the fields of a `ReadingConfig`. Empty for a
      published T5, of which that is not known.
  """

  path: Path
  role: str
  network: Any
  params: Any
  tokenizer: SavesTokenizer
  reading: Mapping[str, Any]


# What of a component's description says how inputs are made.
_READING = (
  "question_length",
  "passage_length",
  "pair_length",
  "span_length",
  "title",
  "passage_first",
  "objective",
  "leaky",
)


def load_part(checkpoint: str | Path, role: str) -> Part:
  """Loads one network of a workdir, a step, a published folder or Hub name.

  Args:
    checkpoint: see `resolve_folder`.
    role: "retriever", "reader", or a role of `load_component`.

  Raises:
    ValueError: if the checkpoint has no such network, naming what it has.
  """
  path = resolve_folder(checkpoint)
  if role == "reader":
    return _reader(path)
  if role == "retriever":
    found = load_retriever(path)
    return Part(
      path,
      role,
      found.encoder,
      found.params,
      found.tokenizer,
      {name: getattr(found, name) for name in (*_READING[:2], "title")},
    )
  described, params, tokenizer = load_component(path, role)
  reading = {name: described[name] for name in _READING if name in described}
  if role == "extractive_reader":
    # What a checkpoint of a task that knows no other way leaves out.
    reading = {"passage_first": True, "objective": "independent"} | reading
  network = network_from(described)
  return Part(path, role, network, params, tokenizer, reading)


def _reader(path: Path) -> Part:
  """A generative reader.

  Raises:
    ValueError: if there is none, or its vocabulary is not that of the training.
  """
  if is_pretrained_folder(path):
    config, params = load_t5(path)
    vocabulary = reader_vocabulary(load_any_tokenizer(path))
    if vocabulary.size > config.vocab_size:
      raise ValueError(
        f"{path}: its vocabulary has {vocabulary.size} ids, and its weights "
        f"{config.vocab_size} rows; export the checkpoint that it is from."
      )
    return Part(path, "reader", T5(config), params, vocabulary, {})
  folder, step = find_step(path)
  extra = read_extra(folder, step)
  _, described = described_role(path, extra["components"], "reader")
  tokens = folder.parent / "reader_tokenizer"
  vocabulary = reader_vocabulary(load_any_tokenizer(tokens))
  if vocabulary.fingerprint != described["tokenizer"]:
    raise ValueError(
      f"{tokens}: is not the vocabulary that {path} was trained with "
      f"({vocabulary.fingerprint[:12]} against {described['tokenizer'][:12]}); "
      "restore the original folder."
    )
  params, _ = restore_params(path, replicated(make_mesh()))
  return Part(
    path,
    "reader",
    network_from(described),
    params["reader"],
    vocabulary,
    extra["reading"] or {},
  )
