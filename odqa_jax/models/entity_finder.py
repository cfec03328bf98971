"""Entities by a BERT token classifier, and the finder that a name stands for.

finder = make_finder("bert-ner/+dates")
finder.find(["Ada was born in London in 1815."])
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers

from odqa_jax.data.examples.batch import bucket_length, pad_tokens
from odqa_jax.data.mining.entities import (
  TYPES,
  Entity,
  EntityFinder,
  GlinerFinder,
  SpacyFinder,
  WithDates,
)
from odqa_jax.models.hf.minilm import resolve_folder
from odqa_jax.models.hf.token_classifier import load_token_classifier
from odqa_jax.models.token_classifier import apply_token_classifier
from odqa_jax.runtime.files import content_hash, file_hash
from odqa_jax.text.tokenizer import load_tokenizer

# Windows that are classified at once: always as many, to compile once a length.
_BATCH = 64
_DATES = "+dates"
# What labels of tokens begin with: an entity begins, goes on, ends or is one
# token alone, in the schemes BIO, BIOES and BILOU.
_BEGIN, _END = ("B", "S", "U"), ("E", "S", "L", "U")
_PREFIXES = {*_BEGIN, *_END, "I"}


def make_finder(name: str, types: Sequence[str] = ()) -> EntityFinder:
  """The finder that a name stands for.

  Args:
    name: "spacy", "gliner:NAME", or a BERT token classifier by its folder or
      name of the Hub; with "+dates" behind it, also what `Dates` finds.
    types: what is wanted; by default what `default_types` says.

  Raises:
    ValueError, FileNotFoundError: if the folder holds no such model.
    ImportError: if an extra is missing, naming it.
  """
  if name.endswith(_DATES):
    return WithDates(make_finder(name.removesuffix(_DATES), types), types)
  if name == "spacy":
    return SpacyFinder()
  if name.startswith("gliner:"):
    return GlinerFinder(name.removeprefix("gliner:"), types or TYPES)
  try:
    folder = resolve_folder(Path(name).expanduser())
  except (ValueError, ImportError) as error:
    raise ValueError(
      f"--tagger {name}: neither spacy, nor gliner:NAME, nor weights ({error})"
    ) from error
  if not folder.is_dir():
    raise ValueError(
      f"--tagger {name}: no such folder; choose one, or spacy, gliner:NAME or "
      "a model of the Hub."
    )
  return TokenClassifierFinder(folder)


class TokenClassifierFinder:
  """A published BERT token classifier.

  A word has the label of its first piece, and words that go on what the word
  before began are one entity: the "first" aggregation of transformers, which
  does not know the endings of BIOES and BILOU as this does. Texts longer than
  the network reads are classified in windows that end between words.

  Args:
    folder: see `load_token_classifier`; with its tokenizer.
  """

  # Spawned copies would each want the device.
  alone = True

  def __init__(self, folder: Path) -> None:
    self._folder = folder
    self._tokenizer = load_tokenizer(folder)
    self._config, self._params, labels = load_token_classifier(folder)
    if self._tokenizer.vocab_size > self._config.vocab_size:
      raise ValueError(
        f"{folder}: the tokenizer has {self._tokenizer.vocab_size} ids, and "
        f"the embedding table {self._config.vocab_size} rows; they belong to "
        "different models."
      )
    self._labels = [_parse(label) for label in labels]
    self.types = tuple(dict.fromkeys(t for _, t in self._labels if t))
    weights = [file_hash(p) for p in sorted(folder.glob("*.safetensors"))]
    identity = [weights, self._tokenizer.fingerprint, labels]
    self.model = f"{folder.name} {content_hash(identity)[:12]}"
    self.software = f"jax {jax.__version__}"
    self._apply = jax.jit(functools.partial(_best, self._config))

  def __reduce__(self) -> tuple[Any, ...]:
    return TokenClassifierFinder, (self._folder,)

  def find(self, texts: Sequence[str]) -> Iterable[list[Entity]]:
    """The entities of every text, in order and without overlaps."""
    encodings = self._tokenizer.encodings(texts)
    longest = self._config.max_positions - 2
    windows = [
      (i, window)
      for i, encoding in enumerate(encodings)
      for window in _windows(encoding, longest)
    ]
    labels: list[list[int]] = [[] for _ in texts]
    for start in range(0, len(windows), _BATCH):
      batch = windows[start : start + _BATCH]
      ids = [encodings[i].ids[w.start : w.stop] for i, w in batch]
      for (i, _), best in zip(batch, self._classify(ids), strict=True):
        labels[i] += best
    for encoding, numbers in zip(encodings, labels, strict=True):
      yield list(_entities(encoding, [self._labels[n] for n in numbers]))

  def _classify(self, ids: list[list[int]]) -> Iterator[list[int]]:
    """The best label of each token."""
    cls, sep = self._tokenizer.cls_id, self._tokenizer.sep_id
    filled = [[cls, *tokens, sep] for tokens in ids]
    filled += [[cls, sep]] * (_BATCH - len(ids))
    counts = np.array([len(tokens) for tokens in filled])
    length = bucket_length(counts, self._config.max_positions)
    padded, lengths = pad_tokens(filled, length, self._tokenizer.pad_id)
    inputs = jnp.asarray(padded), jnp.asarray(lengths)
    best = np.asarray(self._apply(self._params, *inputs))
    for tokens, row in zip(ids, best.tolist(), strict=False):
      yield row[1 : 1 + len(tokens)]


def _best(config: Any, params: Any, ids: Any, lengths: Any) -> jax.Array:
  logits = apply_token_classifier(config, params, ids, lengths)
  return jnp.argmax(logits, axis=-1)


def _parse(label: str) -> tuple[str, str]:
  """What a token with this label does to an entity, and the entity's type."""
  if label == "O":
    return "", ""
  prefix, dash, kind = label.partition("-")
  if dash and prefix in _PREFIXES:
    return prefix, kind
  # Without a scheme, tokens of one type that touch are one entity.
  return "I", label


def _windows(encoding: tokenizers.Encoding, longest: int) -> Iterator[range]:
  """Ranges of tokens, at most so long, that end between words."""
  words, start = encoding.word_ids, 0
  while len(words) - start > longest:
    end = start + longest
    while end > start and words[end] == words[end - 1]:
      end -= 1
    # A word as long as a window is cut.
    end = end if end > start else start + longest
    yield range(start, end)
    start = end
  yield range(start, len(words))


def _entities(
  encoding: tokenizers.Encoding, labels: Sequence[tuple[str, str]]
) -> Iterator[Entity]:
  """Entities of whole words, each of which has the label of its first piece."""
  words, offsets = encoding.word_ids, encoding.offsets
  edges = [i for i, word in enumerate(words) if i == 0 or word != words[i - 1]]
  open_entity: Entity | None = None
  for first, end in pairwise([*edges, len(words)]):
    prefix, kind = labels[first]
    goes_on = open_entity and open_entity[2] == kind and prefix not in _BEGIN
    if open_entity and not goes_on:
      yield open_entity
      open_entity = None
    if kind:
      begin = open_entity[0] if open_entity else offsets[first][0]
      open_entity = begin, offsets[end - 1][1], kind
    if open_entity and prefix in _END:
      yield open_entity
      open_entity = None
  if open_entity:
    yield open_entity
