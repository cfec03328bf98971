"""What the training loop takes its batches from.

`Feed` hands on what the loader made. `RetrievalFeed` keeps one batch ahead:
its passages are searched for with the weights *before* the step in between,
and gathered on the host while that step runs, so that the devices wait for
neither. It also renews the index, and saves all of this for a resumed run.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from odqa_jax.data.corpus.corpus import Corpus, UntitledPassages
from odqa_jax.data.examples.loader import Batch
from odqa_jax.models.dual_encoder import DualEncoder
from odqa_jax.reading.gather import Found, Lookup
from odqa_jax.retrieval.index import Index, load_index
from odqa_jax.retrieval.refresh import Refresher, RefreshState
from odqa_jax.retrieval.retriever import make_retriever, write_index
from odqa_jax.runtime.mesh import is_primary, to_host
from odqa_jax.runtime.progress import progress_bar


class Feed:
  """Batches that are complete as the loader makes them.

  Args:
    batches: endless batches with a position.
  """

  def __init__(self, batches: grain.DatasetIterator) -> None:
    self._batches = batches

  def begin(self, params: Any) -> None:
    """Called once at the start of a fresh run."""

  def take(self) -> Batch:
    """The batch of the next step."""
    return next(self._batches)

  def prefetch(self, params: Any) -> None:
    """Called with the weights before each step, once its batch is taken."""

  def advance(self, params: Any, step: int) -> None:
    """Called with the weights after each update."""

  def figures(self, step: int) -> dict[str, float]:
    """What is worth a line in the log."""
    return {}

  def index(self) -> Index | None:
    """The index that a dev set may be searched in, if it is up to date."""
    return None

  def position(self) -> dict[str, Any]:
    """Where the feed is, as JSON can hold it."""
    return {"loader": self._batches.get_state()}

  def arrays(self) -> Any:
    """Arrays to save beside the training state; None for none."""
    return None

  def abstract(self, params: Any) -> Any:
    """Shapes of `arrays`, given those of the parameters."""

  def check(self, position: Mapping[str, Any]) -> None:
    """Refuses, before arrays are read, what cannot be resumed here.

    Raises:
      ValueError: if the devices or the corpus do not fit the saved index.
    """

  def resume(self, position: Mapping[str, Any], arrays: Any) -> None:
    """Goes on from what `position` and `arrays` gave."""
    self._batches.set_state(position["loader"])


class RetrievalFeed(Feed):
  """Question batches, completed with retrieved passages.

  Args:
    config: the training config.
    batches: endless question batches.
    lookup: finds and gathers passages.
    encoder: the retriever.
    corpus: the evidence.
    mesh: the devices of training and index.
    workdir: the first index is made here, unless the config names one.
    trained: whether the context encoder is, so that an index grows old.

  Raises:
    ValueError: if the config renews an index that cannot change.
  """

  def __init__(
    self,
    config: ConfigDict,
    batches: grain.DatasetIterator,
    lookup: Lookup,
    encoder: DualEncoder,
    corpus: Corpus,
    mesh: Mesh,
    workdir: Path,
    *,
    trained: bool,
  ) -> None:
    super().__init__(batches)
    self._config, self._lookup, self._encoder = config, lookup, encoder
    self._corpus, self._mesh, self._workdir = corpus, mesh, workdir
    self._trained = trained
    if config.retrieval.refresh != "none" and not (self._trained and lookup.k):
      raise ValueError(
        f"config.retrieval.refresh={config.retrieval.refresh!r}, but this "
        f"config.task={config.task!r} leaves the context encoder as it is, or "
        "searches nothing; set it to none."
      )
    self._refresher = Refresher(
      config.retrieval.refresh,
      config.retrieval.refresh_every,
      encoder.encode_passage,
      corpus if config.data.title else UntitledPassages(corpus),
      mesh,
      max_length=config.data.passage_length,
      dtype=config.retrieval.dtype,
    )
    self._renewed: RefreshState | None = None
    self._fixed: Index | None = None
    self._drawn_at: Any = None
    self._batch: Batch = {}
    self._found: Found | None = None

  def begin(self, params: Any) -> None:
    """Makes or opens the first index, and begins to search for a batch."""
    if self._lookup.k:
      with jax.transfer_guard("allow"):
        index = self._first_index(params["retriever"])
      if self._refresher.refreshes:
        self._renewed = self._refresher.begin(index, params["retriever"], 0)
      else:
        self._fixed = index
    self.prefetch(params)

  def _first_index(self, params: Any) -> Index:
    given = self._config.retrieval.index
    folder = Path(given) if given else self._workdir / "index"
    data = self._config.data
    retriever = make_retriever(
      self._encoder.config,
      params,
      self._corpus.tokenizer,
      question_length=data.question_length,
      passage_length=data.passage_length,
      title=data.title,
    )
    with progress_bar("encode", len(self._corpus), "passage") as update:
      write_index(
        retriever,
        self._corpus,
        folder,
        mesh=self._mesh,
        dtype=self._config.retrieval.dtype,
        progress=update,
      )
    return load_index(folder, self._mesh)

  def _searched(self) -> Index | None:
    if self._renewed is not None:
      return self._refresher.index(self._renewed)
    return self._fixed

  def take(self) -> Batch:
    """Waits for the passages of the batch ahead, and gathers them."""
    assert self._found is not None, "begin or resume first"
    return self._lookup.complete(self._batch, self._found)

  def prefetch(self, params: Any) -> None:
    """Begins to search for the next batch; returns at once."""
    self._drawn_at = self._batches.get_state()
    self._batch = next(self._batches)
    self._found = self._lookup.dispatch(
      params["retriever"], self._searched(), self._batch
    )

  def advance(self, params: Any, step: int) -> None:
    """Renews what falls due of the index."""
    if self._renewed is not None:
      self._renewed = self._refresher.step(
        self._renewed, params["retriever"], step
      )

  def figures(self, step: int) -> dict[str, float]:
    """Steps since the weights that made the searched index."""
    if self._renewed is not None:
      return {"index_age": self._refresher.age(self._renewed, step)}
    return {"index_age": float(step)} if self._trained else {}

  def index(self) -> Index | None:
    """The searched index, where the context encoder is not trained."""
    return None if self._trained else self._fixed

  def position(self) -> dict[str, Any]:
    """Where the batch ahead was drawn, and what was found for it."""
    assert self._found is not None
    with jax.transfer_guard("allow"):
      rows, lengths = to_host(tuple(self._found))
    return {
      "loader": self._drawn_at,
      "ahead": {"rows": rows.tolist(), "lengths": lengths.tolist()},
      "division": self._refresher.division,
    }

  def check(self, position: Mapping[str, Any]) -> None:
    """See `Refresher.check_division`."""
    if self._refresher.refreshes:
      self._refresher.check_division(position["division"])

  def arrays(self) -> RefreshState | None:
    """The index in use and the one in the making, where they change."""
    return self._renewed

  def abstract(self, params: Any) -> RefreshState | None:
    """Shapes of `arrays`."""
    if not self._refresher.refreshes:
      return None
    return self._refresher.abstract(params["retriever"])

  def resume(self, position: Mapping[str, Any], arrays: Any) -> None:
    """Draws the batch ahead again; its passages are those found before."""
    super().resume(position, arrays)
    if arrays is not None:
      self._renewed = arrays
    elif self._lookup.k:
      given = self._config.retrieval.index
      folder = Path(given) if given else self._workdir / "index"
      self._fixed = load_index(folder, self._mesh)
    self._drawn_at = self._batches.get_state()
    self._batch = next(self._batches)
    ahead = position["ahead"]
    rows = np.array(ahead["rows"], np.int32)
    self._found = Found(
      rows.reshape(len(ahead["lengths"]), -1),
      np.array(ahead["lengths"], np.int32),
    )
    if is_primary():
      print("the index is the one that was in use.", file=sys.stderr)
