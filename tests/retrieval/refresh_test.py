"""Refreshing an index during training, against embedding everything anew."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from random_corpus import Tokens, first_devices, index_from_rows
from small_retriever import small_encoder, small_retriever

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.models.bert import BertConfig
from odqa_jax.models.dual_encoder import DualEncoder, EncoderConfig
from odqa_jax.retrieval.backends.codes import quantize
from odqa_jax.retrieval.division import STEP
from odqa_jax.retrieval.encoding import encode_questions
from odqa_jax.retrieval.index import (
  Index,
  check_index,
  load_index,
  padded_rows,
)
from odqa_jax.retrieval.refresh import MODES, Refresher, RefreshState
from odqa_jax.retrieval.refresh_batches import RefreshBatches
from odqa_jax.retrieval.retriever import index_corpus, write_index
from odqa_jax.retrieval.rows import CodedIndex, CodedRows, encoded_rows
from odqa_jax.retrieval.searchable import search_embeddings
from odqa_jax.runtime.checkpoint import Checkpoints
from odqa_jax.runtime.mesh import (
  make_mesh,
  path_name,
  replicated,
  row_sharding,
  state_shardings,
)

LENGTH = 80
REFRESHING = [mode for mode in MODES if mode != "none"]


def bag_of_words(params: Any, ids: jax.Array, lengths: jax.Array) -> jax.Array:
  """Adds up word vectors; the ids after `lengths` do not count."""
  real = jnp.arange(ids.shape[1])[None, :] < lengths[:, None]
  return jnp.einsum("nle,nl->ne", params["w"][ids], jnp.float32(real))


def table(step: int) -> np.ndarray:
  """Small integers, so that every embedding is exact."""
  rng = np.random.default_rng(step)
  return rng.integers(-9, 10, (50, 12)).astype(np.float32)


def weights(step: int, mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
  return {"w": jax.device_put(table(step), replicated(mesh))}


def truth(
  corpus: Tokens, step: int, rows: np.ndarray | None = None
) -> np.ndarray:
  """Some rows, by default all, with the weights of a step."""
  rows = np.arange(len(corpus)) if rows is None else rows
  words = table(step)
  found = [words[corpus.tokens[i][:LENGTH]].sum(0) for i in rows]
  return np.array(found, np.float32).reshape(-1, words.shape[1])


def make(mode: str, period: int, corpus: Tokens, mesh: Any, **options: Any):
  settings = {"max_length": LENGTH, "batch_tokens": 320} | options
  return Refresher(mode, period, bag_of_words, corpus, mesh, **settings)


def index_of(corpus: Tokens, mesh: Any, dtype: Any = np.float32) -> Index:
  rows = truth(corpus, 0).astype(dtype)
  return index_from_rows(rows, mesh, {"corpus": corpus.fingerprint})


def searched(refresher: Refresher, state: RefreshState) -> np.ndarray:
  """The passages' rows, after a look at those that are none."""
  index = refresher.index(state)
  rows = np.asarray(index.embeddings)
  assert not rows[index.count :].any()
  assert index.embeddings.sharding.is_equivalent_to(
    row_sharding(refresher.mesh), 2
  )
  return rows[: index.count]


def run(
  refresher: Refresher, state: RefreshState, steps: range
) -> Iterator[tuple[int, RefreshState]]:
  """Steps as a training loop does, which donates its own weights."""
  for step in steps:
    params = weights(step, refresher.mesh)
    with jax.transfer_guard("disallow"):
      state = refresher.step(state, params, step)
    params["w"].delete()
    yield step, state


@pytest.mark.parametrize("devices", [1, 3, 8])
@pytest.mark.parametrize("count, period", [(7, 20), (300, 1), (300, 4)])
@pytest.mark.parametrize("mode", ["none", "blocking", "snapshot"])
def test_whole_indexes_at_their_time(
  mode: str, count: int, period: int, devices: int
):
  corpus, mesh = Tokens(count), first_devices(devices)
  refresher = make(mode, period, corpus, mesh)
  first = refresher.begin(index_of(corpus, mesh), weights(0, mesh), 0)
  assert refresher.refreshes == (mode != "none")
  for step, state in run(refresher, first, range(1, 3 * period + 2)):
    version = {
      "none": 0,
      "blocking": step // period * period,
      # What was frozen a whole period before the last boundary.
      "snapshot": max(step // period - 1, 0) * period,
    }[mode]
    np.testing.assert_array_equal(
      searched(refresher, state), truth(corpus, version)
    )
    assert refresher.age(state, step) == step - version
    assert refresher.index(state).manifest["version"] == version


@pytest.mark.parametrize("devices", [1, 3, 8])
@pytest.mark.parametrize(
  "count, period", [(7, 20), (300, 1), (300, 4), (300, 7), (300, 40)]
)
def test_rolling_writes_every_row_once_a_period(
  count: int, period: int, devices: int
):
  corpus, mesh = Tokens(count), first_devices(devices)
  refresher = make("rolling", period, corpus, mesh)
  first = refresher.begin(index_of(corpus, mesh), weights(0, mesh), 0)
  versions, order = np.zeros(count, int), []
  before = searched(refresher, first)
  for step, state in run(refresher, first, range(1, 2 * period + 2)):
    rows = searched(refresher, state)
    changed = np.flatnonzero((rows != before).any(axis=1))
    np.testing.assert_array_equal(rows[changed], truth(corpus, step, changed))
    assert (versions[changed] <= max(step - period, 0)).all()
    versions[changed], before = step, rows
    order.append(changed.tolist())
    assert refresher.age(state, step) == pytest.approx(
      step - versions.mean(), abs=1e-9
    )
    if step == period:
      assert versions.min() >= 1
  # Every period in the same order; shares are equal within a batch.
  assert order[: period + 1] == order[period:]
  batches = len(refresher._batches)
  largest = -(-batches // period) * devices * 320 // STEP
  assert max(len(rows) for rows in order) <= largest


def test_frozen_weights_are_a_copy():
  corpus, mesh = Tokens(300), make_mesh()
  refresher, live = make("snapshot", 5, corpus, mesh), weights(0, mesh)
  first = refresher.begin(index_of(corpus, mesh), live, 0)
  jax.jit(lambda w: w * 0 - 1, donate_argnums=0)(live["w"])
  assert live["w"].is_deleted()
  *_, (_, state) = run(refresher, first, range(1, 11))
  np.testing.assert_array_equal(searched(refresher, state), truth(corpus, 5))
  np.testing.assert_array_equal(state.frozen["w"], table(10))


@pytest.mark.parametrize("mode", REFRESHING)
def test_buffers_are_written_in_place(mode: str):
  corpus, mesh = Tokens(300), make_mesh()
  refresher = make(mode, 1, corpus, mesh)
  first = refresher.begin(index_of(corpus, mesh), weights(0, mesh), 0)
  for _, later in run(refresher, first, range(1, 2)):
    written = first.building if mode == "snapshot" else first.embeddings
    assert written.is_deleted()
    # The old index is what the next one is built in.
    assert (later.building is first.embeddings) == (mode == "snapshot")


@pytest.mark.parametrize("mode", MODES)
def test_begins_without_an_index(mode: str):
  corpus, mesh = Tokens(300), make_mesh()
  refresher = make(mode, 4, corpus, mesh)
  first = refresher.begin(None, weights(3, mesh), 3)
  np.testing.assert_array_equal(searched(refresher, first), truth(corpus, 3))
  assert refresher.age(first, 5) == 2
  # Periods are counted from the beginning.
  for step, state in run(refresher, first, range(4, 8)):
    if mode == "blocking":
      assert refresher.age(state, step) == (0 if step == 7 else step - 3)


def test_bfloat16_rows():
  corpus, mesh = Tokens(300), make_mesh()
  refresher = make("snapshot", 2, corpus, mesh, dtype="bfloat16")
  index = index_of(corpus, mesh, ml_dtypes.bfloat16)
  first = refresher.begin(index, weights(0, mesh), 0)
  *_, (_, state) = run(refresher, first, range(1, 5))
  rows = searched(refresher, state)
  assert rows.dtype == ml_dtypes.bfloat16
  np.testing.assert_array_equal(
    rows, truth(corpus, 2).astype(ml_dtypes.bfloat16)
  )


def coded_index(rows: np.ndarray, corpus: Tokens, mesh: Any) -> CodedIndex:
  """Of float32 rows, quantised by the host."""
  split = row_sharding(mesh)
  padding = padded_rows(len(rows), mesh) - len(rows)
  placed = [
    jax.device_put(np.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1)), split)
    for x in quantize(rows)[:2]
  ]
  manifest = {"corpus": corpus.fingerprint}
  return CodedIndex(CodedRows(*placed), len(rows), manifest, mesh)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("mode", MODES)
def test_int8_rows_are_those_that_the_host_makes(mode: str, devices: int):
  """Also of an embedding of zeros, whose scale is 0."""
  corpus, mesh = Tokens(300), first_devices(devices)
  refresher = make(mode, 2, corpus, mesh, dtype="int8")
  first = refresher.begin(
    coded_index(truth(corpus, 0), corpus, mesh), weights(0, mesh), 0
  )
  *_, (_, state) = run(refresher, first, range(1, 5))
  versions = {"none": 0, "blocking": 4, "snapshot": 2}
  if mode == "rolling":
    wanted = [truth(corpus, version) for version in (3, 4)]
  else:
    wanted = [truth(corpus, versions[mode])]
  index = refresher.index(state)
  assert isinstance(index, CodedIndex) and index.manifest["dtype"] == "int8"
  codes, scales = (np.asarray(x) for x in index.embeddings)
  assert codes.dtype == np.int8 and scales.dtype == np.float32
  assert not codes[300:].any() and not scales[300:].any()
  same = [is_coded(codes[:300], scales[:300], rows) for rows in wanted]
  assert np.logical_or.reduce(same).all() and all(x.any() for x in same)


def is_coded(
  codes: np.ndarray, scales: np.ndarray, rows: np.ndarray
) -> np.ndarray:
  """Which rows are coded as `codes.quantize` does it, but for ties."""
  wanted = quantize(rows)
  close = np.isclose(scales, wanted[1], rtol=2e-7, atol=0)
  error = np.abs(codes * scales[:, None] - rows).max(axis=1)
  # Half a step, and what rounds when steps are computed with a scale in f32.
  close &= error <= scales * (0.5 + 1e-4)
  return close & (np.abs(np.int32(codes) - wanted[0]) <= 1).all(axis=1)


def test_int8_codes_of_what_is_hard_to_round():
  """Of all magnitudes, halves and zeros."""
  rng = np.random.default_rng(0)
  rows = rng.standard_normal((4000, 24)).astype(np.float32)
  rows *= np.exp2(rng.integers(-60, 60, (4000, 1))).astype(np.float32)
  rows[:500] = rng.integers(-254, 255, (500, 24)) / 2
  rows[:500, 0] = 127
  rows[7] = 0
  like = CodedRows(np.int8(0), np.float32(0))
  codes, scales = jax.jit(lambda x: encoded_rows(x, like=like))(rows)
  codes, scales = np.asarray(codes), np.asarray(scales)
  assert is_coded(codes, scales, rows).all()
  assert (codes != quantize(rows)[0]).mean() < 1e-3
  assert not codes[7].any() and scales[7] == 0


@pytest.mark.parametrize("devices", [1, 8])
def test_a_live_int8_index_is_searched(devices: int):
  """As `Searchable` has it, against products with the decoded rows."""
  rng, mesh = np.random.default_rng(1), first_devices(devices)
  rows = rng.standard_normal((700, 16), np.float32)
  rows[400:450] = rows[:50]
  index = coded_index(rows, Tokens(700), mesh)
  queries = rng.standard_normal((70, 16), np.float32)
  scores, found = (np.asarray(x) for x in search_embeddings(index, queries, 9))
  codes, scales, _ = quantize(rows)
  products = queries @ (codes * scales[:, None]).T
  wanted = np.argsort(-products, axis=1, kind="stable")[:, :9]
  hits = (found[:, :, None] == wanted[:, None]).any(axis=2)
  assert hits.mean() > 0.995
  np.testing.assert_allclose(
    scores, np.take_along_axis(products, found, axis=1), rtol=1e-5, atol=1e-5
  )
  # Best first, and of equal rows the lower one first.
  assert (np.diff(scores, axis=1) <= 0).all()
  tied = np.diff(scores, axis=1) == 0
  assert tied.any() and (np.diff(found, axis=1)[tied] > 0).all()
  assert index.search(queries[:0], 3)[0].shape == (0, 3)
  with pytest.raises(ValueError, match="k=701 is out of range"):
    index.search(queries, 701)


def real_weights(step: int, mesh: Any) -> dict[str, jax.Array]:
  """Sums of these depend on their order: only the same bits are equal."""
  rng = np.random.default_rng(step)
  values = rng.standard_normal((50, 12), np.float32)
  return {"w": jax.device_put(values, replicated(mesh))}


def assert_same_bits(one: Any, other: Any) -> None:
  assert jax.tree.structure(one) == jax.tree.structure(other)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    assert a.dtype == b.dtype and a.sharding.is_equivalent_to(
      b.sharding, a.ndim
    )
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize(
  ("killed_at", "dtype"), [(3, "float32"), (7, "float32"), (12, "int8")]
)
@pytest.mark.parametrize("mode", REFRESHING)
def test_a_killed_run_goes_on_with_the_same_bits(
  mode: str, killed_at: int, dtype: str, tmp_path: Path
):
  """The state is kept in one Orbax step with the rest of the training's."""
  corpus, mesh = Tokens(300), make_mesh()

  def stepped(refresher: Refresher, state: RefreshState, step: int):
    return refresher.step(state, real_weights(step, mesh), step)

  whole = make(mode, 7, corpus, mesh, dtype=dtype)
  state = whole.begin(None, real_weights(0, mesh), 0)
  with Checkpoints(tmp_path) as checkpoints:
    for step in range(1, 22):
      state = stepped(whole, state, step)
      if step == killed_at:
        tree = {"params": real_weights(step, mesh), "refresh": state}
        checkpoints.save(step, tree, {"refresh": whole.division})
  again = make(mode, 7, corpus, mesh, dtype=dtype)
  with Checkpoints(tmp_path) as checkpoints:
    params = jax.eval_shape(lambda: real_weights(0, mesh))
    params = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=replicated(mesh)
      ),
      params,
    )
    abstract = {"params": params, "refresh": again.abstract(params)}
    restored, extra = checkpoints.restore(abstract)
  again.check_division(extra["refresh"])
  resumed = restored["refresh"]
  assert isinstance(resumed, RefreshState)
  for step in range(killed_at + 1, 22):
    resumed = stepped(again, resumed, step)
  assert_same_bits(resumed, state)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("mode", MODES)
def test_the_abstract_state_is_that_of_the_real_one(mode: str, dtype: str):
  corpus, mesh = Tokens(300), make_mesh({"data": 4, "model": 2})
  refresher = make(mode, 5, corpus, mesh, dtype=dtype)
  params = {"w": jax.device_put(np.ones((5000, 12)), replicated(mesh))}
  state = refresher.begin(None, params, 0)
  if mode == "snapshot":
    assert not state.frozen["w"].is_fully_replicated
  abstract = refresher.abstract(params)
  assert jax.tree.structure(abstract) == jax.tree.structure(state)
  for a, b in zip(
    jax.tree.leaves(abstract), jax.tree.leaves(state), strict=True
  ):
    assert a.shape == b.shape and a.dtype == b.dtype
    assert a.sharding.is_equivalent_to(b.sharding, b.ndim)


@pytest.mark.parametrize("mode", REFRESHING)
def test_a_refreshed_row_is_its_passage_encoded_by_the_right_weights(mode: str):
  """Row by row against a real encoder, whose weights change at every step."""
  corpus, mesh, model, period = (
    Tokens(100),
    first_devices(2),
    small_encoder(),
    3,
  )
  inputs = corpus.passage_inputs(np.arange(100), 32)
  last = 2 * period + 1
  trained = [model.init(jax.random.key(step)) for step in range(last + 1)]
  encode = jax.jit(model.encode_passage)
  direct = np.stack([encode(params, *inputs) for params in trained])
  # Other weights would be noticed.
  apart = np.abs(direct[:, None] - direct[None]).max(axis=(2, 3))
  assert (apart[~np.eye(last + 1, dtype=bool)] > 0.1).all()
  refresher = Refresher(
    mode, period, model.encode_passage, corpus, mesh,
    max_length=32, batch_tokens=256,
  )  # fmt: skip
  state = refresher.begin(None, trained[0], 0)
  made_by, before = np.zeros(100, int), searched(refresher, state)
  for step in range(1, last + 1):
    state = refresher.step(state, trained[step], step)
    rows = searched(refresher, state)
    if mode == "rolling":
      made_by[(rows != before).any(axis=1)] = step
    elif step % period == 0:
      made_by[:] = step if mode == "blocking" else step - period
    np.testing.assert_allclose(
      rows, direct[made_by, np.arange(100)], rtol=0, atol=1e-5
    )
    assert refresher.age(state, step) == pytest.approx(step - made_by.mean())
    before = rows
  # A period ago at most, or where a copy is encoded, two of them.
  least = {"blocking": 6, "snapshot": 3, "rolling": 5}[mode]
  assert made_by.min() == least


@pytest.mark.slow
@pytest.mark.parametrize("mode", REFRESHING)
def test_a_refreshed_index_is_one_built_by_the_same_weights(
  mode: str, toy_data: Path, tmp_path: Path
):
  """From an index on disk, and searched with questions."""
  corpus, mesh = Corpus(toy_data / "corpus"), make_mesh()
  retrievers = [small_retriever(corpus, step) for step in range(4)]
  encode = retrievers[0].encoder.encode_passage
  refresher = Refresher(mode, 1, encode, corpus, mesh, max_length=64)
  write_index(retrievers[0], corpus, tmp_path / "first", mesh=mesh)
  first = load_index(tmp_path / "first", mesh)
  state = refresher.begin(first, retrievers[0].params, 0)
  for step in (1, 2, 3):
    params = jax.device_put(retrievers[step].params, replicated(mesh))
    state = refresher.step(state, params, step)
  index = refresher.index(state)
  version = 2 if mode == "snapshot" else 3
  assert index.manifest["version"] == version
  built = index_corpus(
    retrievers[version], corpus, tmp_path / "built", mesh=mesh
  )
  assert isinstance(built, Index)
  np.testing.assert_allclose(
    index.embeddings, built.embeddings, rtol=0, atol=1e-5
  )
  questions = encode_questions(retrievers[3], ["the red castle", "a painter"])
  found, wanted = (search_embeddings(x, questions, 5) for x in (index, built))
  np.testing.assert_allclose(found[0], wanted[0], rtol=0, atol=1e-4)


def test_a_real_encoder_on_one_and_eight_devices():
  """Also with weights that are split over the devices."""
  corpus, model = Tokens(200), small_encoder()
  params = model.init(jax.random.key(0))
  inputs = corpus.passage_inputs(np.arange(200), 32)
  want = np.asarray(jax.jit(model.encode_passage)(params, *inputs))
  queries = np.random.default_rng(0).standard_normal((5, 16), np.float32)
  found = []
  for devices, split in [(1, False), (8, False), (8, True)]:
    mesh = first_devices(devices)
    shardings = state_shardings(mesh, params, split=split)
    assert split == any(
      not s.is_fully_replicated for s in jax.tree.leaves(shardings)
    )
    placed = jax.device_put(params, shardings)
    refresher = Refresher(
      "snapshot", 3, model.encode_passage, corpus, mesh, max_length=32
    )
    state = refresher.begin(None, placed, 0)
    for step in range(1, 7):
      state = refresher.step(state, placed, step)
    np.testing.assert_allclose(
      searched(refresher, state), want, rtol=0, atol=1e-5
    )
    index = refresher.index(state)
    found.append(np.asarray(index.search(queries, 20)[1]))
  np.testing.assert_array_equal(found[0], found[1])
  np.testing.assert_array_equal(found[0], found[2])


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_a_snapshot_keeps_the_passage_encoder_as_it_computes(shared: bool):
  """In bfloat16, of half the bytes and split; rows have the same bits."""
  corpus, mesh = Tokens(200), make_mesh()
  bert = BertConfig(60, 64, layers=2, heads=4, mlp_dim=256, dtype="bfloat16")
  config = EncoderConfig(
    bert, shared=shared, projection="dense", embedding_dim=12, pooling="mean"
  )
  model = DualEncoder(config)
  params = model.init(jax.random.key(0))
  # Values that bfloat16 rounds, norms and biases too.
  params = jax.tree.map(
    lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape), params
  )
  side = params["shared" if shared else "passage"]
  made = []
  for weights_of in (lambda p: p, model.passage_weights):
    refresher = Refresher(
      "snapshot", 2, model.encode_passage, corpus, mesh,
      max_length=32, batch_tokens=256, weights=weights_of,
    )  # fmt: skip
    state = refresher.begin(None, params, 0)
    for step in (1, 2):
      state = refresher.step(state, params, step)
    made.append((state, searched(refresher, state)))
  (_, wanted), (kept, rows) = made
  np.testing.assert_array_equal(rows, wanted)
  assert list(kept.frozen) == ["shared" if shared else "passage"]
  assert jax.tree.structure(kept.frozen) == jax.tree.structure(
    {"shared" if shared else "passage": side}
  )
  dtypes = {
    path_name(path): leaf.dtype.name
    for path, leaf in jax.tree_util.tree_leaves_with_path(kept.frozen)
  }
  narrow = {name for name, dtype in dtypes.items() if dtype == "bfloat16"}
  assert narrow == {
    name for name in dtypes if "/layer/" in name and "LayerNorm" not in name
  }
  heavy = jax.tree.leaves(kept.frozen[next(iter(kept.frozen))]["encoder"])
  split = [x for x in heavy if x.size >= 2**15]
  assert split and not any(x.is_fully_replicated for x in split)
  assert wanted.dtype == np.float32 and np.ptp(wanted) > 1


def test_few_programs_and_little_padding():
  corpus, mesh = Tokens(3000), make_mesh()
  shapes = []

  def encode(params: Any, ids: jax.Array, lengths: jax.Array) -> jax.Array:
    shapes.append(ids.shape)
    return bag_of_words(params, ids, lengths)

  asked = []

  class Counted(Tokens):
    def passage_inputs(self, rows: np.ndarray, length: int):
      asked.append((len(rows), length))
      return super().passage_inputs(rows, length)

  corpus = Counted(3000)
  refresher = Refresher(
    "rolling", 9, encode, corpus, mesh, max_length=LENGTH, batch_tokens=640
  )
  first = refresher.begin(index_of(corpus, mesh), weights(0, mesh), 0)
  shapes.clear()
  list(run(refresher, first, range(1, 28)))
  assert 1 < len(shapes) == len(set(shapes)) <= 5
  # All batches but the first are full, in each of 3 periods: no device has more
  # rows of any length than it has passages, so that little is filled up.
  computed = sum(n * length for n, length in asked)
  assert computed < 3 * 1.42 * corpus.packed_lengths(LENGTH).sum()


def test_nothing_but_the_weights_travels():
  """One batch's program has no collective where weights are replicated."""
  corpus, mesh = Tokens(300), make_mesh()
  made = RefreshBatches(
    bag_of_words, corpus, mesh, max_length=LENGTH, batch_tokens=640
  )
  rows = jax.ShapeDtypeStruct(
    (made.padded, 12), "float32", sharding=row_sharding(mesh)
  )
  split = row_sharding(mesh)
  text = (
    made._write.lower(
      rows,
      weights(0, mesh),
      jax.ShapeDtypeStruct((80, 64), "int32", sharding=split),
      jax.ShapeDtypeStruct((80,), "int32", sharding=split),
      jax.ShapeDtypeStruct((80,), "int32", sharding=split),
    )
    .compile()
    .as_text()
  )
  for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
    assert name not in text
  assert "input_output_alias" in text


def test_the_manifest_fits_no_encoder():
  corpus, mesh = Tokens(300), make_mesh()
  refresher = make("blocking", 2, corpus, mesh)
  first = refresher.begin(index_of(corpus, mesh), weights(0, mesh), 0)
  *_, (_, state) = run(refresher, first, range(1, 3))
  index = refresher.index(state)
  rest = {
    "corpus": corpus.fingerprint,
    "tokenizer": corpus.manifest["tokenizer"],
  }
  with pytest.raises(ValueError, match="the weights of training step 2, the"):
    check_index(index.manifest, encoder="e" * 8, **rest)
  check_index(index.manifest, encoder="the weights of training step 2", **rest)


def test_bad_settings():
  corpus, mesh = Tokens(9), make_mesh()
  with pytest.raises(ValueError, match=r"retrieval.refresh='async'.*snapsh"):
    make("async", 5, corpus, mesh)
  with pytest.raises(ValueError, match=r"retrieval.refresh_every=0 must"):
    make("snapshot", 0, corpus, mesh)
  with pytest.raises(ValueError, match=r"config.retrieval.dtype='int4'.*bfloa"):
    make("snapshot", 5, corpus, mesh, dtype="int4")
  with pytest.raises(ValueError, match="corpus is empty"):
    make("snapshot", 5, Tokens(0), mesh)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"corpus": Tokens(9, seed=1)}, "its corpus is corpus 9 1, not corpus 9 0"),
    ({"corpus": Tokens(8)}, "its count is 8, not 9"),
    ({"devices": 4}, "its mesh is .*'data': 4"),
    ({"dtype": ml_dtypes.bfloat16}, "its dtype is bfloat16, not float32"),
  ],
)
def test_an_index_of_something_else_is_refused(
  change: dict[str, Any], message: str
):
  made = {"corpus": Tokens(9), "devices": 8} | change
  made["mesh"] = first_devices(made.pop("devices"))
  refresher = make("rolling", 5, Tokens(9), make_mesh())
  with pytest.raises(ValueError, match=message):
    refresher.begin(index_of(**made), weights(0, make_mesh()), 0)


def test_an_encoder_of_another_width_is_refused():
  corpus, mesh = Tokens(9), make_mesh()
  refresher = Refresher(
    "rolling",
    5,
    lambda p, i, l: p["w"][i[:, 0], :3],
    corpus,
    mesh,
    max_length=9,
  )
  with pytest.raises(ValueError, match="its width is 12, not 3"):
    refresher.begin(index_of(corpus, mesh), weights(0, mesh), 0)
  wrong = Refresher(
    "rolling", 5, lambda p, i, l: p["w"][i], corpus, mesh, max_length=9
  )
  with pytest.raises(ValueError, match=r"shape \(\d+, 9, 12\) for"):
    wrong.begin(None, weights(0, mesh), 0)


@pytest.mark.parametrize("step", [0, 6, 12])
def test_a_step_left_out_is_told(step: int):
  corpus, mesh = Tokens(9), make_mesh()
  refresher = make("snapshot", 5, corpus, mesh)
  state = refresher.begin(None, weights(0, mesh), 0)
  with pytest.raises(ValueError, match=f"step {step} in .* steps 1 to 5"):
    refresher.step(state, weights(0, mesh), step)


@pytest.mark.parametrize("devices, batch_tokens", [(1, 320), (8, 640)])
def test_other_batches_are_refused(devices: int, batch_tokens: int):
  """500 rows pad to 512 on one device and on eight: shapes would fit."""
  corpus, mesh = Tokens(500), first_devices(devices)
  first = make("snapshot", 5, corpus, make_mesh())
  state = first.begin(None, weights(0, make_mesh()), 0)
  here = make("snapshot", 5, corpus, mesh, batch_tokens=batch_tokens)
  placed = jax.tree.map(
    lambda x, a: jax.device_put(x, a.sharding),
    state,
    here.abstract(weights(0, mesh)),
  )
  with pytest.raises(ValueError, match=r"other batches.*resume with those"):
    here.step(placed, weights(1, mesh), 1)


@pytest.mark.slow
def test_two_processes(tmp_path: Path):
  """They read only their own rows, and make what one process makes."""
  for name, processes in (("one", 1), ("two", 2)):
    with socket.socket() as free:
      free.bind(("localhost", 0))
      port = free.getsockname()[1]
    environment = os.environ | {
      "XLA_FLAGS": f"--xla_force_host_platform_device_count={4 // processes}",
      "PYTHONPATH": os.pathsep.join(
        [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
      ),
    }
    script = str(Path(__file__).parents[1] / "support" / "refresh_worker.py")
    out = tmp_path / name
    workers = [
      subprocess.Popen(
        [sys.executable, script, str(port), str(processes), str(i), str(out)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
      )
      for i in range(processes)
    ]
    try:
      for worker in workers:
        _, errors = worker.communicate()
        assert worker.returncode == 0, errors[-3000:]
    finally:
      # One that failed leaves the other waiting for it.
      for worker in workers:
        worker.kill()
  one, two = (
    sorted((tmp_path / name).glob("*.npy")) for name in ("one", "two")
  )
  assert [p.name for p in one] == [p.name for p in two] and len(one) == 3
  for a, b in zip(one, two, strict=True):
    np.testing.assert_array_equal(np.load(a), np.load(b))
