"""Refreshing an index while the encoder that made it is being trained.

    refresher = Refresher("snapshot", 500, encode, corpus, mesh, max_length=256)
    state = refresher.begin(index, params, step=0)
    for step in 1, 2, …:
      … train on refresher.index(state) …
      state = refresher.step(state, params, step)

A period is so many training steps, in which every row is refreshed once:

- `blocking` embeds the whole corpus at the end of the period: a fresh index
  after a pause;
- `snapshot` copies the passage encoder at the beginning of the period, embeds a
  share of the corpus with the copy after each step, and puts the new index in
  the old one's place at the end. What is searched is then one period old, and
  nearly two before the next one: the ages of "End-to-End Training of Neural
  Retrievers", which has half of its devices do nothing else;
- `rolling` writes a share over the searched rows after each step, with the
  weights of that step: one index in memory instead of two, half a period old
  on average.

The share of a step is a range of `RefreshBatches`, all of about one size; where
there are fewer batches than steps, some steps have none. The copy lies split
over the devices; they gather it once for a share, not for every batch.

The state is a tree of arrays. Saved and restored beside the training state, in
the middle of a period too, it goes on with the same bits.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from odqa_jax.retrieval.embed import Passages
from odqa_jax.retrieval.refresh_batches import EncodeWith, RefreshBatches
from odqa_jax.retrieval.rows import (
  PlacedIndex,
  Rows,
  abstract_rows,
  placed_index,
  rows_dtype,
)
from odqa_jax.retrieval.storage import DTYPES
from odqa_jax.runtime.mesh import (
  replicate,
  replicated,
  row_sharding,
  state_shardings,
  to_host,
)

MODES = ("none", "blocking", "snapshot", "rolling")


class RefreshState(NamedTuple):
  """The index in use, and what there is of the next one.

  Attributes:
    embeddings: the rows that are searched, see `rows`.
    building: rows of the next index, `snapshot` only; those that are not made
      yet hold what does not matter.
    frozen: the weights that `building` is made with, `snapshot` only.
    versions: [s] int32, the training steps whose weights made the searched
      rows: one for all, or in mode `rolling` one for every step's share.
    began: int32 scalar, the training step at which this period began; `frozen`
      are the weights of that step. How far it is follows from the step.
    division: int32 scalar, `Refresher.division`.
  """

  embeddings: Any
  building: Any
  frozen: Any
  versions: Any
  began: Any
  division: Any


class Refresher:
  """Refreshes an index: all that stays the same during a run.

  Args:
    mode: one of `MODES`; `none` never changes the index.
    period: training steps in which every row is refreshed once.
    encode: `(params, ids [n, l], lengths [n]) -> [n, e]`; traced within
      `jax.shard_map`, so it must not name axes of the mesh.
    corpus: the passages, row for row those of the index.
    mesh: where the index lies.
    max_length: tokens of the longest packed passage; longer ones are cut.
    dtype: of the rows, `float32`, `bfloat16` or `int8`.
    weights: what `encode` reads of the parameters, as it computes with it;
      of its own result it makes the same. By default all of them.
    batch_tokens: padded tokens that one device encodes at once, about; by
      default what suits the device.

  Raises:
    ValueError: if the mode or the type is unknown, the period is less than 1,
      or the corpus is empty.

  Attributes:
    division: a checksum of the batches that the corpus falls into; a state can
      be resumed only where it is the same.
  """

  def __init__(
    self,
    mode: str,
    period: int,
    encode: EncodeWith,
    corpus: Passages,
    mesh: Mesh,
    *,
    max_length: int,
    dtype: str = "float32",
    weights: Callable[[Any], Any] = lambda params: params,
    batch_tokens: int | None = None,
  ) -> None:
    _check(mode, period, corpus, dtype)
    self.mode, self.period, self.mesh = mode, period, mesh
    self._encode, self._corpus = encode, corpus
    self._max_length, self._dtype = max_length, dtype
    self._batches = RefreshBatches(
      encode, corpus, mesh, max_length=max_length, batch_tokens=batch_tokens
    )
    self.division = self._batches.division
    # Passages of every step's share, for their mean version.
    done = np.insert(np.cumsum(self._batches.passages()), 0, 0)
    shares = [done[self._share(i).stop] for i in range(period)]
    self._passages = np.diff(shares, prepend=0)
    self._weights = weights

    def keep(params: Any) -> Any:
      # jit may hand the buffers of a plain identity on, and the training step
      # donates them.
      kept = jax.tree.map(jnp.copy, weights(params))
      return jax.lax.with_sharding_constraint(kept, _kept_shardings(mesh, kept))

    def zeros(width: int) -> Any:
      rows = abstract_rows(self._batches.padded, width, dtype, mesh)
      return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), rows)

    self._keep = jax.jit(keep)
    self._gather = jax.jit(weights, out_shardings=replicated(mesh))
    self._zeros = jax.jit(
      zeros, static_argnums=0, out_shardings=row_sharding(mesh)
    )

  @property
  def refreshes(self) -> bool:
    """Whether the index ever changes.

    Where it does not, a run that began with an index on disk need not save the
    state: it can `begin` with the same one again.
    """
    return self.mode != "none"

  def begin(
    self, index: PlacedIndex | None, params: Any, step: int
  ) -> RefreshState:
    """The state after `step` updates, when the first period begins.

    Args:
      index: what is searched first, made by these weights. The state takes it
        over: a later `step` donates its arrays. None has it made now.
      params: what `weights` takes; copied where they are kept.
      step: updates made so far.

    Raises:
      ValueError: if the index is not one of this corpus, type, width and mesh.
    """
    if index is not None:
      self._check_index(index, params)
      rows: Rows = index.embeddings
    else:
      rows = self._zeros(self._width(params))
      rows = self._write(rows, params, range(len(self._batches)))
    snapshot = self.mode == "snapshot"
    return RefreshState(
      embeddings=rows,
      building=self._zeros(self._width(params)) if snapshot else None,
      frozen=self._keep(params) if snapshot else None,
      versions=self._place([step] * _versions(self.mode, self.period)),
      began=self._place(step),
      division=self._place(self.division),
    )

  def abstract(self, params: Any) -> RefreshState:
    """Shapes, types and shardings of a state, to restore it with.

    Args:
      params: what `weights` takes; arrays or `ShapeDtypeStruct`s.
    """
    width = self._width(params)
    return abstract_state(
      self.mode,
      self.period,
      abstract_rows(self._batches.padded, width, self._dtype, self.mesh),
      jax.eval_shape(self._weights, params),
      self.mesh,
    )

  def check_division(self, saved: int) -> None:
    """Refuses to go on with a state that was begun with other batches.

    Which rows are refreshed already would not be known. `step` checks it; a
    caller that saves `division` can check it before anything is restored.

    Raises:
      ValueError: if `saved` is not this refresher's division.
    """
    if saved != self.division:
      raise ValueError(
        f"this refresh of the index was begun with other batches (checksum "
        f"{saved}, here {self.division}): on another number or kind of "
        f"devices, of which there are {self.mesh.size} now, or with another "
        "corpus or passage length; resume with those of before."
      )

  def step(self, state: RefreshState, params: Any, step: int) -> RefreshState:
    """Refreshes what is due after an update.

    Args:
      state: the state after the update before; must not be used again, for
        arrays that are written to are donated.
      params: the weights after this update; copied where they are kept.
      step: the number of updates made, this one included.

    Raises:
      ValueError: if a step was left out, or the state is of another division.
    """
    if not self.refreshes:
      return state
    self.check_division(int(self._read(state.division)))
    began = int(self._read(state.began))
    at = step - began - 1
    if not 0 <= at < self.period:
      raise ValueError(
        f"a refresh for step {step} in the period of the steps {began + 1} to "
        f"{began + self.period}; ask for one after every step."
      )
    ends = at + 1 == self.period
    if self.mode == "blocking" and ends:
      everything = range(len(self._batches))
      rows = self._write(state.embeddings, params, everything)
      state = state._replace(embeddings=rows, versions=self._place([step]))
    elif self.mode == "rolling":
      rows = self._write(state.embeddings, params, self._share(at))
      versions = self._read(state.versions).tolist()
      versions[at] = step
      state = state._replace(embeddings=rows, versions=self._place(versions))
    elif self.mode == "snapshot":
      rows = self._write(state.building, state.frozen, self._share(at))
      state = state._replace(building=rows)
      if ends:
        state = state._replace(
          embeddings=state.building,
          building=state.embeddings,
          frozen=self._keep(params),
          versions=self._place([began]),
        )
    return state._replace(began=self._place(step)) if ends else state

  def age(self, state: RefreshState, step: int) -> float:
    """Training steps since the searched rows were made, on average."""
    return step - self._version(state)

  def index(self, state: RefreshState) -> PlacedIndex:
    """What is searched now; valid until the next `step`.

    In the manifest stands, as `version`, the training step whose weights made
    it (the mean, where rows differ), and no encoder's fingerprint.
    """
    version = self._version(state)
    manifest = {
      "encoder": f"the weights of training step {version:.10g}",
      "corpus": self._corpus.fingerprint,
      "tokenizer": self._corpus.manifest["tokenizer"],
      "dtype": self._dtype,
      "max_length": self._max_length,
      "count": len(self._corpus),
      "version": version,
    }
    count = len(self._corpus)
    return placed_index(state.embeddings, count, manifest, self.mesh)

  def _write(self, rows: Rows, params: Any, batches: range) -> Rows:
    """Writes batches with weights that are gathered once for all of them."""
    if not batches:
      return rows
    return self._batches.write(rows, self._gather(params), batches)

  def _share(self, at: int) -> range:
    """The batches of the step `at` of a period, from 0."""
    batches = len(self._batches)
    return range(batches * at // self.period, batches * (at + 1) // self.period)

  def _version(self, state: RefreshState) -> float:
    """The mean version of the searched rows."""
    versions = self._read(state.versions)
    weights = self._passages if self.mode == "rolling" else None
    return float(np.average(versions, weights=weights))

  def _width(self, params: Any) -> int:
    """The width of what the encoder makes."""
    ids = jax.ShapeDtypeStruct((1, self._max_length), np.int32)
    lengths = jax.ShapeDtypeStruct((1,), np.int32)
    return jax.eval_shape(self._encode, params, ids, lengths).shape[-1]

  def _check_index(self, index: PlacedIndex, params: Any) -> None:
    """Refuses an index whose rows this refresher cannot replace."""
    pairs: dict[str, tuple[Any, Any]] = {
      "corpus": (index.manifest.get("corpus"), self._corpus.fingerprint),
      "count": (index.count, len(self._corpus)),
      "dtype": (rows_dtype(index.embeddings), self._dtype),
      "width": (index.width, self._width(params)),
      "mesh": (index.mesh, self.mesh),
    }
    wrong = [
      f"its {name} is {theirs}, not {ours}"
      for name, (theirs, ours) in pairs.items()
      if theirs != ours
    ]
    if wrong:
      raise ValueError(
        f"this index cannot be refreshed here: {'; '.join(wrong)}. Begin with "
        "one made from this corpus by this encoder, opened on this mesh."
      )

  def _place(self, value: int | list[int]) -> Array:
    """Numbers of the host, int32, on every device."""
    with jax.transfer_guard("allow"):
      return replicate(self.mesh, np.array(value, np.int32))

  def _read(self, value: Array) -> np.ndarray:
    """The reverse of `_place`; these arrays wait for no computation."""
    with jax.transfer_guard("allow"):
      return np.asarray(to_host(value))


def abstract_state(
  mode: str, period: int, rows: Any, frozen: Any, mesh: Mesh
) -> RefreshState:
  """Shapes, types and shardings of a state.

  Args:
    mode: see `Refresher`.
    period: likewise.
    rows: from `abstract_rows`.
    frozen: the shapes of what a snapshot keeps of the weights.
    mesh: where all of it lies.
  """

  def numbers(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.int32, sharding=replicated(mesh))

  kept = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    frozen,
    _kept_shardings(mesh, frozen),
  )
  snapshot = mode == "snapshot"
  return RefreshState(
    embeddings=rows,
    building=rows if snapshot else None,
    frozen=kept if snapshot else None,
    versions=numbers(_versions(mode, period)),
    began=numbers(),
    division=numbers(),
  )


def _versions(mode: str, period: int) -> int:
  """How many versions a state holds."""
  return period if mode == "rolling" else 1


def _kept_shardings(mesh: Mesh, kept: Any) -> Any:
  """Split where it can be: between two shares nobody reads the copy."""
  return state_shardings(mesh, kept, split=True)


def _check(mode: str, period: int, corpus: Passages, dtype: str) -> None:
  """Refuses settings that mean nothing."""
  if mode not in MODES:
    raise ValueError(
      f"config.retrieval.refresh={mode!r} is not known; choose one of "
      f"{', '.join(MODES)}."
    )
  if period < 1:
    raise ValueError(
      f"config.retrieval.refresh_every={period} must be 1 or more: the "
      "training steps in which every row is refreshed once."
    )
  if dtype not in DTYPES:
    raise ValueError(
      f"config.retrieval.dtype={dtype!r} is not known; choose one of "
      f"{', '.join(DTYPES)}."
    )
  if not len(corpus):
    raise ValueError("the corpus is empty; an index needs a passage.")
