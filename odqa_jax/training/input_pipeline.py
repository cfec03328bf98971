"""What the training loop takes its batches from.

`InputPipeline` hands on what the loader made. `RetrievalPipeline` keeps one
batch ahead: its passages are searched for with the weights *before* the step in
between, and gathered on the devices, or on the host while that step runs, so
that the devices wait for neither. It also refreshes the index, and saves all of
this for a resumed run.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
from jaxtyping import Array

from odqa_jax.data.corpus.views import UntitledPassages
from odqa_jax.data.examples.batch import Batch
from odqa_jax.models.dual_encoder import DualEncoder
from odqa_jax.retrieval.refresh import Refresher, RefreshState
from odqa_jax.retrieval.retriever import make_retriever, write_index
from odqa_jax.retrieval.rows import PlacedIndex, load_placed
from odqa_jax.retrieval.storage import read_manifest
from odqa_jax.runtime.mesh import is_primary, to_host
from odqa_jax.runtime.progress import progress_bar
from odqa_jax.runtime.settings import RetrievalSettings
from odqa_jax.training.retrieval import (
  BatchRetrieval,
  Candidates,
  question_side,
)


class InputPipeline:
  """Batches that are complete as the loader makes them.

  Args:
    batches: endless batches with a position.
  """

  def __init__(self, batches: grain.DatasetIterator) -> None:
    self._batches = batches

  def begin(self, params: Any) -> None:
    """Called once at the start of a fresh run."""

  def take(self) -> Mapping[str, np.ndarray | Array]:
    """The next step's batch: this process's rows, or all on the devices."""
    return next(self._batches)

  def prefetch(self, params: Any) -> None:
    """Called with the weights before each step, once its batch is taken."""

  def refresh(self, params: Any, step: int) -> None:
    """Called with the weights after each update."""

  def metrics(self, step: int) -> dict[str, float]:
    """What is worth a line in the log."""
    return {}

  def index(self) -> PlacedIndex | None:
    """The index that is searched now."""
    return None

  def position(self) -> dict[str, Any]:
    """Where the pipeline is, as JSON can hold it."""
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


class RetrievalPipeline(InputPipeline):
  """Question batches, completed with retrieved passages.

  Args:
    settings: the block `config.retrieval`.
    batches: endless question batches.
    retrieval: finds and gathers passages.
    encoder: the retriever.
    workdir: the first index is made here, unless the settings name one.
    question_length: longest question of the retriever in tokens.
    trained: whether the passage encoder is, so that an index grows old.
    whole: gathers weights that are split over the devices.

  Raises:
    ValueError: if the settings refresh an index that cannot change.
  """

  def __init__(
    self,
    settings: RetrievalSettings,
    batches: grain.DatasetIterator,
    retrieval: BatchRetrieval,
    encoder: DualEncoder,
    workdir: Path,
    *,
    question_length: int,
    trained: bool,
    whole: Callable[[Any], Any] = lambda params: params,
  ) -> None:
    super().__init__(batches)
    self._settings, self._retrieval = settings, retrieval
    self._encoder, self._question_length = encoder, question_length
    self._folder = Path(settings.index) if settings.index else workdir / "index"
    self._trained, self._whole = trained, whole
    if settings.refresh != "none" and not (trained and retrieval.k):
      raise ValueError(
        f"config.retrieval.refresh={settings.refresh!r}, but this run leaves "
        "the passage encoder as it is, or searches nothing; set it to none."
      )
    gatherer = retrieval.gatherer
    corpus = gatherer.corpus
    self._refresher = Refresher(
      settings.refresh,
      settings.refresh_every,
      encoder.encode_passage,
      corpus if gatherer.title else UntitledPassages(corpus),
      retrieval.mesh,
      max_length=gatherer.passage_length,
      dtype=settings.dtype,
      weights=encoder.passage_weights,
    )
    self._refreshed: RefreshState | None = None
    self._fixed: PlacedIndex | None = None
    self._drawn_at: Any = None
    self._batch: Batch = {}
    self._candidates: Candidates | None = None

  def begin(self, params: Any) -> None:
    """Makes or opens the first index, and begins to search for a batch."""
    if self._retrieval.k:
      with jax.transfer_guard("allow"):
        index = self._first_index(params["retriever"])
      if self._refresher.refreshes:
        self._refreshed = self._refresher.begin(index, params["retriever"], 0)
      else:
        self._fixed = index
    self.prefetch(params)

  def _first_index(self, params: Any) -> PlacedIndex:
    gatherer = self._retrieval.gatherer
    corpus = gatherer.corpus
    retriever = make_retriever(
      self._encoder.config,
      params,
      corpus.tokenizer,
      question_length=self._question_length,
      passage_length=gatherer.passage_length,
      title=gatherer.title,
    )
    with progress_bar("encode", len(corpus), "passage") as update:
      write_index(
        retriever,
        corpus,
        self._folder,
        mesh=self._retrieval.mesh,
        dtype=self._settings.dtype,
        progress=update,
      )
    return load_placed(self._folder, self._retrieval.mesh)

  def index(self) -> PlacedIndex | None:
    """The index that is searched now; None for a closed book."""
    if self._refreshed is not None:
      return self._refresher.index(self._refreshed)
    return self._fixed

  def take(self) -> Mapping[str, np.ndarray | Array]:
    """The batch ahead with its passages; see `BatchRetrieval.complete`."""
    assert self._candidates is not None, "begin or resume first"
    return self._retrieval.complete(self._batch, self._candidates)

  def prefetch(self, params: Any) -> None:
    """Begins to search for the next batch; returns at once."""
    self._drawn_at = self._batches.get_state()
    self._batch = next(self._batches)
    encoder = self._whole(question_side(params))["retriever"]
    self._candidates = self._retrieval.dispatch(
      encoder, self.index(), self._batch
    )

  def refresh(self, params: Any, step: int) -> None:
    """Makes anew what falls due of the index."""
    if self._refreshed is not None:
      self._refreshed = self._refresher.step(
        self._refreshed, params["retriever"], step
      )

  def metrics(self, step: int) -> dict[str, float]:
    """Steps since the weights that made the searched index."""
    if self._refreshed is not None:
      return {"index_age": self._refresher.age(self._refreshed, step)}
    return {"index_age": float(step)} if self._trained else {}

  def position(self) -> dict[str, Any]:
    """Where the batch ahead was drawn, and which passages it has."""
    assert self._candidates is not None
    with jax.transfer_guard("allow"):
      rows, lengths = to_host(tuple(self._candidates))
    return {
      "loader": self._drawn_at,
      "ahead": {"rows": rows.tolist(), "lengths": lengths.tolist()},
      "division": self._refresher.division,
      "index": self._index_content(),
    }

  def _index_content(self) -> str:
    """The checksum of an index that stays as it is; "" of one that changes."""
    if self._refresher.refreshes or not self._retrieval.k:
      return ""
    return str(read_manifest(self._folder)["sha256"])

  def check(self, position: Mapping[str, Any]) -> None:
    """See `Refresher.check_division`; an index may have moved, not changed."""
    if self._refresher.refreshes:
      self._refresher.check_division(position["division"])
    elif self._index_content() != position["index"]:
      raise ValueError(
        f"{self._folder} is another index than the one that this run searched; "
        "name that one as config.retrieval.index, or a new --workdir."
      )

  def arrays(self) -> RefreshState | None:
    """The index in use and the one in the making, where they change."""
    return self._refreshed

  def abstract(self, params: Any) -> RefreshState | None:
    """Shapes of `arrays`."""
    if not self._refresher.refreshes:
      return None
    return self._refresher.abstract(params["retriever"])

  def resume(self, position: Mapping[str, Any], arrays: Any) -> None:
    """Draws the batch ahead again; its passages are those of before."""
    super().resume(position, arrays)
    if arrays is not None:
      self._refreshed = arrays
    elif self._retrieval.k:
      self._fixed = load_placed(self._folder, self._retrieval.mesh)
    self._drawn_at = self._batches.get_state()
    self._batch = next(self._batches)
    ahead = position["ahead"]
    rows = np.array(ahead["rows"], np.int32)
    self._candidates = Candidates(
      rows.reshape(len(ahead["lengths"]), -1),
      np.array(ahead["lengths"], np.int32),
    )
    if is_primary():
      print("the index is the one that was in use.", file=sys.stderr)
