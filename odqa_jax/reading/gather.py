"""Retrieval inside a training step: a question batch gets its k passages.

    lookup = Lookup(config, models.encoder, corpus, inputs, mesh)
    found = lookup.dispatch(state.params["retriever"], index, batch)
    batch = lookup.complete(batch, found)

`dispatch` encodes the questions without dropout and searches, all on the
devices, and returns at once; `complete` waits for the rows and gathers tokens
from the memory map while the devices work on something else. The scores of
the search are thrown away: the training step scores the passages anew.

A completed batch has the keys of `reader_examples.py`, and

| key             | shape     | meaning                                      |
|-----------------|-----------|----------------------------------------------|
| passage_ids     | [b, k, l] | passages for the context encoder             |
| passage_lengths | [b, k]    |                                              |
| passage_rows    | [b, k]    | corpus rows, best first; −1: null document   |
| reader_ids      | [b, k, l] | question and passage for the reader          |
| reader_lengths  | [b, k]    |                                              |
| reader_flags    | [b, k, l] | what they share, for readers that take it    |
| answer_starts   | [b, k]    | first token of the answer among k·l, −1: none|
| answer_ends     | [b, k]    | its last token                               |
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Int32
from ml_collections import ConfigDict

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.loader import Batch, bucket_length
from odqa_jax.data.examples.reader_inputs import (
  NULL_ROW,
  ReaderInputs,
  find_answers,
)
from odqa_jax.models.dual_encoder import DualEncoder
from odqa_jax.retrieval.backends.exact import search_placed
from odqa_jax.retrieval.index import Index
from odqa_jax.runtime.mesh import host_slice, replicated, to_global, to_host

# What a search takes of a batch, in the order of its arguments.
SEARCHED = (
  "question_ids",
  "question_lengths",
  "own_rows",
  "gold_rows",
  "reader_question_lengths",
)


class Found(NamedTuple):
  """What a search returned, the same on every process.

  Attributes:
    rows: corpus rows of the global batch, best first.
    question_lengths: of the global batch in the reader's vocabulary.
  """

  rows: Int[Array | np.ndarray, "b k"]
  question_lengths: Int[Array | np.ndarray, " b"]


def choose_rows(
  rows: Int[Array, "b c"],
  own_rows: Int[Array, "b m"],
  gold_rows: Int[Array, " b"],
  k: int,
  *,
  force_gold: bool,
) -> Int[Array, "b k"]:
  """The k best of c candidates, without a question's own passages.

  Args:
    rows: candidates, best first, c ≥ k + m.
    own_rows: what must not be retrieved; −1 excludes nothing.
    gold_rows: a passage known to answer; −1 for none.
    k: how many remain.
    force_gold: put the gold passage last where it is not among the k.
  """
  own = jnp.any(rows[:, :, None] == own_rows[:, None, :], axis=2)
  # A stable sort by exclusion keeps the order of the rest.
  order = jnp.argsort(own, axis=1, stable=True)
  kept = jnp.take_along_axis(rows, order, axis=1)[:, :k]
  if not force_gold:
    return kept
  absent = jnp.all(kept != gold_rows[:, None], axis=1) & (gold_rows >= 0)
  last = jnp.where(absent, gold_rows, kept[:, -1])
  return kept.at[:, -1].set(last)


def question_search(
  encoder: DualEncoder, mesh: Mesh, *, count: int, k: int, force_gold: bool
) -> Callable[..., Found]:
  """The jitted search for a question batch; jit tells its lengths apart.

  Args:
    encoder: the retriever.
    mesh: the devices of training and index.
    count: passages of the corpus.
    k: passages of a question.
    force_gold: see `choose_rows`.

  Returns:
    `(params, embeddings, *batch)`, the batch in the order of `SEARCHED`.
  """

  def search(
    params: Any,
    embeddings: Float[Array, "n e"],
    question_ids: Int[Array, "b l"],
    question_lengths: Int[Array, " b"],
    own_rows: Int[Array, "b m"],
    gold_rows: Int[Array, " b"],
    reader_question_lengths: Int[Array, " b"],
  ) -> Found:
    queries = encoder.encode_question(params, question_ids, question_lengths)
    # Whatever of its own a question may find, k others remain.
    wide = k + own_rows.shape[1]
    if wide > count:
      raise ValueError(
        f"config.retrieval.k={k} with {own_rows.shape[1]} passages to leave "
        f"out of a corpus of {count}; lower k."
      )
    _, rows = search_placed(mesh, embeddings, count, queries, wide)
    chosen = choose_rows(rows, own_rows, gold_rows, k, force_gold=force_gold)
    return Found(chosen, reader_question_lengths)

  return jax.jit(search, out_shardings=replicated(mesh))


class Lookup:
  """Finds and gathers the passages of question batches.

  Args:
    config: `config.retrieval` and `config.data` say what is retrieved.
    encoder: the retriever.
    corpus: the evidence, row for row that of the index.
    inputs: how the reader's inputs are packed.
    mesh: the devices of training and index.
    k: passages of a question; 0 leaves the null document alone (closed book).

  Raises:
    ValueError: if the corpus has fewer passages than are to be retrieved.
  """

  def __init__(
    self,
    config: ConfigDict,
    encoder: DualEncoder,
    corpus: Corpus,
    inputs: ReaderInputs,
    mesh: Mesh,
    *,
    k: int,
  ) -> None:
    if k > len(corpus):
      raise ValueError(
        f"config.retrieval.k={k}, but the corpus {corpus.directory} has "
        f"{len(corpus)} passages; lower k."
      )
    self.k = k
    self.corpus = corpus
    self.inputs = inputs
    self.mesh = mesh
    self.title = config.data.title
    self.passage_length = config.data.passage_length
    self.buckets = config.data.reader_buckets
    self.null_document = config.retrieval.null_document or not k
    self._lengths = corpus.packed_lengths(self.passage_length, title=self.title)
    self._search = question_search(
      encoder,
      mesh,
      count=len(corpus),
      k=k,
      force_gold=config.retrieval.force_gold,
    )

  def dispatch(self, params: Any, index: Index | None, batch: Batch) -> Found:
    """Begins the search for a batch; the result is still being computed.

    Args:
      params: the retriever's, as they are now.
      index: what is searched; None with k = 0.
      batch: this process's rows of a question batch.
    """
    placed = to_global(self.mesh, {name: batch[name] for name in SEARCHED})
    if not self.k:
      lengths = placed["reader_question_lengths"]
      return Found(np.zeros((len(lengths), 0), np.int32), lengths)
    assert index is not None
    inputs = (placed[name] for name in SEARCHED)
    return self._search(params, index.embeddings, *inputs)

  def complete(self, batch: Batch, found: Found) -> Batch:
    """Waits for the rows, and gathers their tokens.

    All processes pad to the lengths of the global batch.
    """
    # This transfer is meant; with several processes JAX takes it for a silent
    # one, which the training loop forbids.
    with jax.transfer_guard("allow"):
      rows, question_lengths = (np.asarray(x) for x in to_host(tuple(found)))
    if self.null_document:
      null = np.full((len(rows), 1), NULL_ROW, np.int32)
      rows = np.concatenate([rows, null], axis=1)
    local = host_slice(len(rows))
    lengths = np.where(rows >= 0, self._lengths[np.maximum(rows, 0)], 2)
    passage_pad, pad = self.passage_length, self.inputs.length
    if self.buckets:
      passage_pad = bucket_length(lengths, passage_pad)
      pad = bucket_length(self.inputs.lengths(question_lengths, rows), pad)
    passage_ids, passage_lengths = self._passages(rows[local], passage_pad)
    read = self.inputs.pack(
      batch["reader_question_ids"],
      batch["reader_question_lengths"],
      rows[local],
      pad,
    )
    starts, ends = find_answers(
      read["reader_ids"],
      read["reader_lengths"],
      batch["reader_question_lengths"],
      batch["answer_ids"],
      batch["answer_lengths"],
    )
    return (
      batch
      | read
      | {
        "passage_ids": passage_ids,
        "passage_lengths": passage_lengths,
        "passage_rows": rows[local].astype(np.int32),
        "answer_starts": starts,
        "answer_ends": ends,
      }
    )

  def _passages(
    self, rows: Int[np.ndarray, "b k"], pad: int
  ) -> tuple[Int32[np.ndarray, "b k l"], Int32[np.ndarray, "b k"]]:
    """Inputs of the context encoder; the null document has no text."""
    ids, lengths = self.corpus.passage_inputs(
      np.maximum(rows, 0).reshape(-1), pad, title=self.title
    )
    ids = ids.reshape(*rows.shape, pad)
    lengths = lengths.reshape(rows.shape)
    tokenizer = self.corpus.tokenizer
    empty = np.full(pad, tokenizer.pad_id, np.int32)
    empty[:2] = tokenizer.cls_id, tokenizer.sep_id
    ids[rows < 0] = empty
    lengths[rows < 0] = 2
    return ids, lengths
