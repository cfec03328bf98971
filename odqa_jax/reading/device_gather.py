"""Passages of a batch, put together on the devices from a token store.

    gather = DeviceGatherer(gatherer, mesh, question_length=64)
    made = gather(batch, rows, question_lengths)

What `PassageGatherer` and `answer_places` make on the host, bit for bit. But a
program of fixed shapes cannot be padded to what it finds: with buckets it is
padded to the longest passage of the corpus, without them to the longest length
that is allowed. Little is lost, because one of 64 · 32 passages nearly always
is about as long as any.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Int

from odqa_jax.data.examples.batch import ANSWER, READER_QUESTION
from odqa_jax.data.examples.reader_inputs import NULL_ROW, ReaderInputs
from odqa_jax.reading.gather import PassageGatherer
from odqa_jax.reading.token_store import (
  Aligned,
  TokenStore,
  aligned_tokens,
  place_tokens,
  store_bytes,
)
from odqa_jax.runtime.mesh import replicate, to_global

Arrays = dict[str, Array]
# A width is a multiple of it, if it is not the longest that is allowed.
_STEP = 16
# What is taken of a question batch.
_TAKEN = (*READER_QUESTION, *ANSWER)


def gatherer_bytes(
  gatherer: PassageGatherer, mesh: Mesh, *, question_length: int
) -> int:
  """Bytes on every device that the passages' tokens take.

  Raises:
    ValueError: if they are too many for a device's numbers.
  """
  margin = _margin(gatherer, question_length)
  stores = {id(c): c for c in (gatherer.corpus, gatherer.inputs.store)}
  return sum(store_bytes(c, mesh, margin=margin) for c in stores.values())


def _margin(gatherer: PassageGatherer, question_length: int) -> int:
  """How far an input may reach beyond the tokens of its passage."""
  inputs = gatherer.inputs
  before = question_length + inputs.fixed_tokens()
  return max(before, inputs.length, gatherer.passage_length)


class DeviceGatherer:
  """Gathers passages on the devices.

  Args:
    gatherer: what it does the work of.
    mesh: the devices; a batch is split over all of them.
    question_length: the longest question of the reader in tokens.

  Raises:
    ValueError: if the reader takes features that only the host makes.
  """

  def __init__(
    self, gatherer: PassageGatherer, mesh: Mesh, *, question_length: int
  ) -> None:
    if gatherer.inputs.overlap_features:
      raise ValueError(
        "config.retrieval.tokens='device' with config.reader.overlap_features: "
        "only the host makes these features; use 'host'."
      )
    self._gatherer, self._mesh = gatherer, mesh
    margin = _margin(gatherer, question_length)
    corpus, texts = gatherer.corpus, gatherer.inputs.store
    store = reader = place_tokens(corpus, mesh, margin=margin)
    if texts is not corpus:
      reader = place_tokens(texts, mesh, margin=margin)
    self._stores = store, reader
    axes = mesh.axis_names
    split, whole = PartitionSpec(axes), PartitionSpec()
    # check_vma cannot see which of the arrays differ between devices.
    self._assemble = jax.jit(
      jax.shard_map(
        self._local,
        mesh=mesh,
        in_specs=(split, whole, whole, split),
        out_specs=split,
        check_vma=False,
      )
    )

  def __call__(
    self,
    batch: Mapping[str, np.ndarray | Array],
    rows: Int[Array | np.ndarray, "b k"],
    question_lengths: Int[Array | np.ndarray, " b"],
  ) -> Arrays:
    """The passages of a batch, split over the devices; returns at once.

    Args:
      batch: a question batch: this process's rows, or all on the devices.
      rows: of the whole batch, on every device or host.
      question_lengths: likewise, in the reader's vocabulary.
    """
    taken = to_global(self._mesh, {name: batch[name] for name in _TAKEN})

    def everywhere(x: Array | np.ndarray) -> Array:
      if isinstance(x, jax.Array):
        return x
      # After a pause: what was searched for was kept by the host.
      with jax.transfer_guard("allow"):
        return replicate(self._mesh, x)

    found = everywhere(rows), everywhere(question_lengths)
    return self._assemble(self._stores, *found, taken)

  def _local(
    self,
    stores: tuple[TokenStore, TokenStore],
    rows: Int[Array, "b k"],
    question_lengths: Int[Array, " b"],
    batch: Arrays,
  ) -> Arrays:
    """This device's part of the batch."""
    gatherer, axes = self._gatherer, self._mesh.axis_names
    inputs = gatherer.inputs
    if gatherer.null_document or not rows.shape[1]:
      null = jnp.full((len(rows), 1), NULL_ROW, jnp.int32)
      rows = jnp.concatenate([rows, null], axis=1)
    size = len(rows) // self._mesh.size
    start = lax.axis_index(axes).astype(jnp.int32) * size
    mine = lax.dynamic_slice_in_dim(rows, start, size)
    passage_width, reader_width = gatherer.passage_length, inputs.length
    if gatherer.buckets:
      longest = inputs.longest(batch["reader_question_ids"].shape[1])
      passage_width = _rounded(gatherer.longest, passage_width)
      reader_width = _rounded(longest, reader_width)
    passages = aligned_tokens(
      stores[0],
      rows,
      jnp.ones(len(rows), jnp.int32),
      passage_width,
      title=gatherer.title,
      axes=axes,
    )
    texts = aligned_tokens(
      stores[1],
      rows,
      question_lengths + _before_passage(inputs),
      reader_width,
      title=inputs.title,
      axes=axes,
    )
    ids, lengths = _passage_inputs(gatherer, passages, mine < 0)
    reader_ids, reader_lengths = _reader_inputs(inputs, texts, batch)
    starts, ends = _answer_places(reader_ids, reader_lengths, batch)
    return {
      "passage_ids": ids,
      "passage_lengths": lengths,
      "passage_rows": mine,
      "reader_ids": reader_ids,
      "reader_lengths": reader_lengths,
      "answer_starts": starts,
      "answer_ends": ends,
    }


def _rounded(length: int, longest: int) -> int:
  """A width that holds so many tokens."""
  return min(-(-length // _STEP) * _STEP, longest)


def _moved(x: Int[Array, "b k l"], by: int) -> Int[Array, "b k l"]:
  """Tokens `by` places to the right."""
  return jnp.pad(x, ((0, 0), (0, 0), (by, 0)))[:, :, : x.shape[2]]


def _passage_inputs(
  gatherer: PassageGatherer, passages: Aligned, null: Bool[Array, "b k"]
) -> tuple[Int[Array, "b k l"], Int[Array, "b k"]]:
  """See `Corpus.passage_inputs`; the null document is [CLS] [SEP]."""
  tokens, titles, counts = passages
  tokenizer = gatherer.corpus.tokenizer
  width = tokens.shape[2]
  places = jnp.arange(width)[None, None, :]
  body, ids = jnp.ones_like(titles), tokens
  if gatherer.title:
    separator = titles[:, :, None] + 1
    ids = jnp.where(places < separator, tokens, _moved(tokens, 1))
    ids = jnp.where(places == separator, tokenizer.sep_id, ids)
    body = jnp.where(null, 1, titles + 2)
  lengths = jnp.minimum(body + counts - titles + 1, width)
  last = lengths[:, :, None] - 1
  ids = jnp.where(places == 0, tokenizer.cls_id, ids)
  ids = jnp.where(places == last, tokenizer.sep_id, ids)
  return jnp.where(places > last, tokenizer.pad_id, ids), lengths


def _before_passage(inputs: ReaderInputs) -> int:
  """Tokens before title or text, without those of the question."""
  v = inputs.vocabulary
  after = v.title_prefix if inputs.title else v.passage_prefix
  return len(v.question_prefix) + len(after)


def _reader_inputs(
  inputs: ReaderInputs, texts: Aligned, batch: Arrays
) -> tuple[Int[Array, "b k l"], Int[Array, "b k"]]:
  """See `ReaderInputs.pack`."""
  tokens, titles, counts = texts
  v, pad = inputs.vocabulary, tokens.shape[2]
  places = jnp.arange(pad)[None, None, :]
  lead, question = len(v.question_prefix), batch["reader_question_ids"]
  question = jnp.pad(question, ((0, 0), (lead, pad)))[:, None, :pad]
  ids = _put(question, places, 0, v.question_prefix)
  end = (lead + batch["reader_question_lengths"])[:, None, None]
  body, text_lengths = tokens, (counts - titles)[:, :, None]
  if inputs.title:
    start = end + len(v.title_prefix)
    ids = _put(ids, places, end, v.title_prefix)
    ids = jnp.where(places >= start, tokens, ids)
    end = start + titles[:, :, None]
    body = _moved(tokens, len(v.passage_prefix))
  ids = _put(ids, places, end, v.passage_prefix)
  start = end + len(v.passage_prefix)
  ids = jnp.where(places >= start, body, ids)
  lengths = jnp.minimum(start + text_lengths + len(v.suffix), pad)
  ids = jnp.where(places < lengths, ids, v.pad_id)
  ids = _put(ids, places, lengths - len(v.suffix), v.suffix)
  return ids, lengths[:, :, 0]


def _put(
  ids: Array, places: Array, start: Any, tokens: Sequence[int]
) -> Int[Array, "b k l"]:
  """Writes tokens that are the same in every input."""
  for i, token in enumerate(tokens):
    ids = jnp.where(places == start + i, token, ids)
  return ids


def _answer_places(
  ids: Int[Array, "b k l"], lengths: Int[Array, "b k"], batch: Arrays
) -> tuple[Int[Array, "b k"], Int[Array, "b k"]]:
  """See `reader_inputs.answer_places`."""
  _, k, l = ids.shape
  answer, answer_lengths = batch["answer_ids"], batch["answer_lengths"]
  last = jnp.maximum(answer_lengths - 2, 0)[:, None, None]
  places = jnp.arange(l)[None, None, :]
  match = places > batch["reader_question_lengths"][:, None, None]
  match &= places + last < lengths[:, :, None]
  match &= (answer_lengths > 1)[:, None, None]
  for j in range(min(answer.shape[1], l)):
    ahead = ((0, 0), (0, 0), (0, j))
    same = jnp.pad(ids[:, :, j:], ahead, constant_values=-1)
    match &= (same == answer[:, j, None, None]) | (j > last)
  occurs = match.any(axis=2)
  first = match.argmax(axis=2).astype(jnp.int32)
  first += jnp.arange(k, dtype=jnp.int32)[None, :] * l
  starts = jnp.where(occurs, first, -1)
  return starts, jnp.where(occurs, first + last[:, :, 0], -1)
