"""A retriever, and texts that it makes embeddings of.

    retriever.encode(["who wrote emma"])
    retriever.encode(["Emma is a novel by Jane Austen."], "passage")

Nothing but a text and the retriever decides its embedding: neither what else is
encoded with it nor the padding, but for rounding.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float32

from odqa_jax.data.corpus.packing import PassageTokens
from odqa_jax.data.examples.batch import bucket_count
from odqa_jax.data.examples.loader import question_batches
from odqa_jax.models.dual_encoder import DualEncoder, EncoderConfig
from odqa_jax.retrieval.division import size_for, steady_sizes
from odqa_jax.retrieval.embed import bulk_tokens, embed
from odqa_jax.runtime.mesh import make_mesh, row_sharding
from odqa_jax.text.tokenizer import Tokenizer

# Encoded at once.
_QUESTIONS = 64


@dataclasses.dataclass(frozen=True)
class Retriever:
  """A dual encoder with everything that decides what it computes.

  Attributes:
    encoder: the model.
    params: its parameters, replicated on this process's own devices.
    tokenizer: what made the ids that it was trained on.
    question_length: longest question in tokens.
    passage_length: longest passage in tokens.
    title: whether passages begin with their title.
    fingerprint: of the passage side: parameters, pooling, lengths, title. An
      index belongs to it; a new question encoder keeps the index.
    origin: of a model of the Hub, see `runtime.hub.origin`.
  """

  encoder: DualEncoder
  params: Any
  tokenizer: Tokenizer
  question_length: int
  passage_length: int
  title: bool
  fingerprint: str
  origin: Mapping[str, Any] | None = None

  def encode(
    self,
    texts: Sequence[str],
    kind: Literal["question", "passage"] = "question",
    *,
    titles: Sequence[str] | None = None,
    batch_tokens: int | None = None,
  ) -> Float32[np.ndarray, "n e"]:
    """Embeds texts; the score of two of them is their dot product.

    >>> retriever = load_retriever("minilm")
    >>> retriever.encode(["who wrote Emma", "where is Aruba"]).shape
    (2, 384)
    >>> retriever.encode(["Emma is a novel."], "passage").dtype
    dtype('float32')

    Args:
      texts: any number, of any length; what is too long is cut.
      kind: the two sides may have encoders, and have lengths, of their own.
      titles: of the passages, as many; they are read where they were in
        training (`self.title`).
      batch_tokens: tokens (with padding) in one encoder call; None: what suits
        the devices. It changes no embedding.

    Returns:
      A row for each text, in their order.

    Raises:
      ValueError: for one text in place of a list, another kind, or another
        number of titles.
    """
    if isinstance(texts, str):
      raise ValueError(f"{texts[:40]!r} is one text; give a list of texts.")
    if kind == "passage":
      return encode_passages(self, texts, titles, batch_tokens=batch_tokens)
    if kind != "question":
      raise ValueError(f"kind {kind!r}: choose 'question' or 'passage'.")
    if titles is not None:
      raise ValueError("titles belong to passages; give kind='passage' too.")
    return encode_questions(self, texts, batch_tokens=batch_tokens)


@functools.lru_cache(maxsize=8)
def compiled_encoders(
  config: EncoderConfig,
) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
  """The compiled encoders of questions and of passages.

  Kept, so that a model measured again and again, or asked question after
  question, is compiled once.
  """
  encoder = DualEncoder(config)
  return jax.jit(encoder.encode_question), jax.jit(encoder.encode_passage)


def encode_questions(
  retriever: Retriever,
  questions: Sequence[str],
  *,
  batch_tokens: int | None = None,
) -> Float32[np.ndarray, "n e"]:
  """Embeds questions; the result is the same on every process.

  Args:
    retriever: what encodes.
    questions: their texts.
    batch_tokens: see `Retriever.encode`; None: 64 questions at once.
  """
  size = _QUESTIONS
  if batch_tokens is not None:
    longest = retriever.question_length
    size = size_for(longest, batch_tokens, rows=len(questions) or 1, devices=1)
  tokens = retriever.tokenizer.encode_batch(list(questions))
  return encode_question_tokens(retriever, tokens, batch_size=size)


def encode_question_tokens(
  retriever: Retriever, tokens: list[list[int]], batch_size: int = _QUESTIONS
) -> Float32[np.ndarray, "n e"]:
  """`encode_questions` that are tokenised, without special tokens."""
  sharding = row_sharding(make_mesh(devices=jax.local_devices()))
  devices = jax.local_device_count()
  size = -(-bucket_count(len(tokens), batch_size) // devices) * devices
  encode, _ = compiled_encoders(retriever.encoder.config)
  width = retriever.encoder.config.output_dim
  parts = [np.zeros((0, width), np.float32)]
  longest = retriever.question_length
  for ids, lengths, real in question_batches(
    tokens, retriever.tokenizer, batch_size=size, longest=longest
  ):
    placed = jax.device_put((ids, lengths), sharding)
    parts.append(np.asarray(encode(retriever.params, *placed))[:real])
  return np.concatenate(parts)


def encode_passages(
  retriever: Retriever,
  texts: Sequence[str],
  titles: Sequence[str] | None = None,
  *,
  batch_tokens: int | None = None,
) -> Float32[np.ndarray, "n e"]:
  """Embeds passages, as an index of a corpus that holds them would.

  Args:
    retriever: what encodes.
    texts: of the passages.
    titles: likewise, as many; None: none has one.
    batch_tokens: see `Retriever.encode`.

  Raises:
    ValueError: for another number of titles.
  """
  titles = [""] * len(texts) if titles is None else titles
  if len(titles) != len(texts):
    raise ValueError(
      f"{len(titles)} titles do not belong to {len(texts)} texts; give one for "
      'each, "" where there is none.'
    )
  if not texts:
    return np.zeros((0, retriever.encoder.config.output_dim), np.float32)
  passages = PassageTokens(
    texts, titles, retriever.tokenizer, title=retriever.title
  )
  devices = jax.local_device_count()
  tokens = batch_tokens or bulk_tokens(jax.default_backend(), devices)
  _, encode = compiled_encoders(retriever.encoder.config)
  return embed(
    lambda ids, lengths: encode(retriever.params, ids, lengths),
    passages,
    0,
    passages.packed_lengths(retriever.passage_length),
    sizes=steady_sizes(
      retriever.passage_length,
      tokens,
      rows=bucket_count(len(texts), tokens),
      devices=devices,
    ),
    mesh=make_mesh(devices=jax.local_devices()),
    dtype=np.dtype(np.float32),
    progress=lambda done: None,
  )
