"""Retrieval within training: a question batch gets its k passages.

    retrieval = BatchRetrieval(encoder, gatherer, mesh, k=8, force_gold=False)
    candidates = retrieval.dispatch(state.params["retriever"], index, batch)
    batch = retrieval.complete(batch, candidates)

`dispatch` encodes the questions without dropout and searches, all on the
devices, and returns at once; `complete` waits for the rows and gathers tokens
from the memory map while the devices work on something else. Where the tokens
are on the devices it waits for nothing. The scores of
the search are thrown away: the training step scores the passages anew.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int

from odqa_jax.data.examples.batch import SEARCHED, Batch
from odqa_jax.data.examples.reader_inputs import answer_places
from odqa_jax.models.dual_encoder import DualEncoder
from odqa_jax.reading.device_gather import DeviceGatherer
from odqa_jax.reading.gather import PassageGatherer
from odqa_jax.retrieval.rows import PlacedIndex, Rows, best_rows
from odqa_jax.runtime.mesh import replicated, to_global, to_host


class Candidates(NamedTuple):
  """The passages of a batch, the same on every process.

  Attributes:
    rows: corpus rows of the global batch, best first.
    question_lengths: of the global batch in the reader's vocabulary.
  """

  rows: Int[Array | np.ndarray, "b k"]
  question_lengths: Int[Array | np.ndarray, " b"]


def choose_rows(
  rows: Int[Array, "b c"],
  excluded_rows: Int[Array, "b m"],
  gold_rows: Int[Array, " b"],
  k: int,
  *,
  force_gold: bool,
) -> Int[Array, "b k"]:
  """The k best of c candidates, without those that a question may not have.

  Args:
    rows: candidates, best first, c ≥ k + m.
    excluded_rows: what must not be retrieved; −1 excludes nothing.
    gold_rows: a passage known to answer; −1 for none.
    k: how many remain.
    force_gold: put the gold passage last where it is not among the k.
  """
  excluded = jnp.any(rows[:, :, None] == excluded_rows[:, None, :], axis=2)
  # A stable sort by exclusion keeps the order of the rest.
  order = jnp.argsort(excluded, axis=1, stable=True)
  kept = jnp.take_along_axis(rows, order, axis=1)[:, :k]
  if not force_gold:
    return kept
  absent = jnp.all(kept != gold_rows[:, None], axis=1) & (gold_rows >= 0)
  last = jnp.where(absent, gold_rows, kept[:, -1])
  return kept.at[:, -1].set(last)


def question_side(params: Any) -> Any:
  """What encodes questions, of all parameters and with its full paths."""
  sides = params["retriever"]
  side = {name: sides[name] for name in sides if name != "passage"}
  return {"retriever": side}


def question_search(
  encoder: DualEncoder, mesh: Mesh, *, count: int, k: int, force_gold: bool
) -> Callable[..., Candidates]:
  """The jitted search for a question batch; jit tells its lengths apart.

  Args:
    encoder: the retriever.
    mesh: the devices of training and index.
    count: passages of the corpus.
    k: passages of a question.
    force_gold: see `choose_rows`.

  Returns:
    `(params, embeddings, *batch)`, the batch in the order of `batch.SEARCHED`.
  """

  def search(
    params: Any,
    embeddings: Rows,
    question_ids: Int[Array, "b q"],
    question_lengths: Int[Array, " b"],
    excluded_rows: Int[Array, "b m"],
    gold_rows: Int[Array, " b"],
    reader_question_lengths: Int[Array, " b"],
  ) -> Candidates:
    queries = encoder.encode_question(params, question_ids, question_lengths)
    # Whatever is excluded for a question, k others remain.
    wide = k + excluded_rows.shape[1]
    if wide > count:
      raise ValueError(
        f"config.retrieval.k={k} with {excluded_rows.shape[1]} passages to "
        f"leave out of a corpus of {count}; lower k."
      )
    rows = best_rows(mesh, embeddings, count, queries, wide)
    chosen = choose_rows(
      rows, excluded_rows, gold_rows, k, force_gold=force_gold
    )
    return Candidates(chosen, reader_question_lengths)

  return jax.jit(search, out_shardings=replicated(mesh))


class BatchRetrieval:
  """Finds and gathers the passages of question batches.

  Args:
    encoder: the retriever.
    gatherer: its corpus is, row for row, that of the index.
    mesh: the devices of training and index.
    k: passages of a question; 0 leaves the null document alone (closed book).
    force_gold: see `choose_rows`.
    on_devices: gathers there what the gatherer would.

  Raises:
    ValueError: if the corpus has fewer passages than are to be retrieved.
  """

  def __init__(
    self,
    encoder: DualEncoder,
    gatherer: PassageGatherer,
    mesh: Mesh,
    *,
    k: int,
    force_gold: bool,
    on_devices: DeviceGatherer | None = None,
  ) -> None:
    corpus = gatherer.corpus
    if k > len(corpus):
      raise ValueError(
        f"config.retrieval.k={k}, but the corpus {corpus.directory} has "
        f"{len(corpus)} passages; lower k."
      )
    self.k = k
    self.gatherer = gatherer
    self.mesh = mesh
    self._on_devices = on_devices
    self._search = question_search(
      encoder, mesh, count=len(corpus), k=k, force_gold=force_gold
    )

  def dispatch(
    self, params: Any, index: PlacedIndex | None, batch: Batch
  ) -> Candidates:
    """Begins the search for a batch; the result is still being computed.

    Args:
      params: the retriever's, as they are now.
      index: what is searched; None with k = 0.
      batch: this process's rows of a question batch.
    """
    placed = to_global(self.mesh, {name: batch[name] for name in SEARCHED})
    if not self.k:
      lengths = placed["reader_question_lengths"]
      return Candidates(np.zeros((len(lengths), 0), np.int32), lengths)
    assert index is not None
    inputs = (placed[name] for name in SEARCHED)
    return self._search(params, index.embeddings, *inputs)

  def complete(
    self, batch: Batch, candidates: Candidates
  ) -> Mapping[str, np.ndarray | Array]:
    """The batch with its passages: `batch.RETRIEVED`.

    Returns:
      This process's part, when the rows were found; or the whole batch, split
      over the devices, at once.
    """
    if self._on_devices is not None:
      placed = to_global(self.mesh, batch)
      return placed | self._on_devices(placed, *candidates)
    # This transfer is meant; with several processes JAX takes it for a silent
    # one, which the training loop forbids.
    with jax.transfer_guard("allow"):
      rows, lengths = (np.asarray(x) for x in to_host(tuple(candidates)))
    batch = self.gatherer.gather(batch, rows, lengths)
    starts, ends = answer_places(
      batch["reader_ids"],
      batch["reader_lengths"],
      batch["reader_question_lengths"],
      batch["answer_ids"],
      batch["answer_lengths"],
    )
    return batch | {"answer_starts": starts, "answer_ends": ends}
