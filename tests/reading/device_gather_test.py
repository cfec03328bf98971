"""Batches put together on the devices are those of the host, bit for bit."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from random_corpus import first_devices

from odqa_jax.data.corpus.build import build_corpus
from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.reader_inputs import ReaderInputs, answer_places
from odqa_jax.reading.device_gather import DeviceGatherer, gatherer_bytes
from odqa_jax.reading.gather import PassageGatherer
from odqa_jax.reading.token_store import place_tokens, store_bytes
from odqa_jax.runtime.mesh import make_mesh, replicated, row_sharding
from odqa_jax.text.reader_vocabulary import WordPieceVocabulary

WORDS = "the red king of a castle in green garden harbour village 3 5".split()
QUESTION_LENGTH, ANSWER_LENGTH = 12, 4


def random_corpus(
  folder: Path, toy_data: Path, count: int, seed: int
) -> Corpus:
  """Passages of 1 to 40 words; a third has no title."""
  rng = np.random.default_rng(seed)
  with (folder / "p.jsonl").open("w") as file:
    for i in range(count):
      sizes = [int(n) for n in (rng.integers(0, 5), rng.integers(1, 40))]
      title, text = (" ".join(rng.choice(WORDS, n)) for n in sizes)
      row = {"id": f"p{i}", "title": title if i % 3 else "", "text": text}
      file.write(json.dumps(row) + "\n")
  tokenizer = Corpus(toy_data / "corpus").tokenizer
  build_corpus([str(folder / "p.jsonl")], folder / "corpus", tokenizer)
  return Corpus(folder / "corpus")


def word_pieces(corpus: Corpus) -> WordPieceVocabulary:
  return WordPieceVocabulary(corpus.tokenizer)


def prefixed(corpus: Corpus) -> WordPieceVocabulary:
  """Prefixes of several tokens, as a published T5 has them."""
  made = word_pieces(corpus)
  made.question_prefix, made.title_prefix = (7, 8), (9, 10)
  made.passage_prefix, made.suffix = (11, 12, 13), (14, 15)
  return made


def question_batch(
  corpus: Corpus, rows: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
  """Questions of all lengths; half of the answers stand in a passage."""
  rng, b = np.random.default_rng(seed), len(rows)
  lengths = rng.integers(1, QUESTION_LENGTH + 1, b).astype(np.int32)
  lengths[0] = QUESTION_LENGTH
  ids = rng.integers(20, 60, (b, QUESTION_LENGTH)).astype(np.int32)
  ids[np.arange(QUESTION_LENGTH)[None] >= lengths[:, None]] = 0
  answers = rng.integers(20, 60, (b, ANSWER_LENGTH)).astype(np.int32)
  answer_lengths = rng.integers(0, ANSWER_LENGTH + 1, b).astype(np.int32)
  for i in range(1, b, 2):
    row = int(rng.choice(rows[i])) if rows.shape[1] else 0
    start, stop = (int(x) for x in corpus.text_offsets[row : row + 2])
    at = int(rng.integers(start, max(stop - ANSWER_LENGTH, start) + 1))
    found = np.asarray(corpus.text_tokens[at : min(at + 3, stop)])
    answers[i, : len(found)] = found
    answer_lengths[i] = min(len(found) + 1, ANSWER_LENGTH)
  return {
    "reader_question_ids": ids,
    "reader_question_lengths": lengths,
    "answer_ids": answers,
    "answer_lengths": answer_lengths,
  }


def gatherer_of(
  corpus: Corpus,
  vocabulary: Any = word_pieces,
  *,
  reader_title: bool = False,
  reader_length: int = 64,
  overlap_features: bool = False,
  **changes: Any,
) -> PassageGatherer:
  inputs = ReaderInputs(
    vocabulary(corpus),
    corpus,
    length=reader_length,
    title=reader_title,
    overlap_features=overlap_features,
  )
  rest = {"passage_length": 48, "title": True, "null_document": False}
  return PassageGatherer(corpus, inputs, **{"buckets": False} | rest | changes)


def on_host(
  gatherer: PassageGatherer, batch: dict[str, np.ndarray], rows: np.ndarray
) -> dict[str, np.ndarray]:
  lengths = batch["reader_question_lengths"]
  made = gatherer.gather(batch, rows, lengths)
  starts, ends = answer_places(
    made["reader_ids"],
    made["reader_lengths"],
    lengths,
    batch["answer_ids"],
    batch["answer_lengths"],
  )
  made |= {"answer_starts": starts, "answer_ends": ends}
  return {name: made[name] for name in made if name not in batch}


@pytest.mark.parametrize(
  "axes", [{"data": 1}, {"data": 8}, {"data": 4, "model": 2}]
)
@pytest.mark.parametrize(
  ("vocabulary", "title", "reader_title", "null", "k"),
  [
    (word_pieces, True, True, False, 5),
    (word_pieces, False, True, True, 4),
    (prefixed, True, False, True, 3),
    (prefixed, True, True, True, 0),
  ],
)
def test_device_batches_are_the_hosts(
  tmp_path, toy_data, axes, vocabulary, title, reader_title, null, k
):
  corpus = random_corpus(tmp_path, toy_data, 300, seed=k)
  devices = int(np.prod(list(axes.values())))
  mesh = make_mesh(axes, devices=jax.devices()[:devices])
  rows = np.random.default_rng(1).integers(0, 300, (16, k)).astype(np.int32)
  if k:
    rows[0, :2] = 0, 299
  batch = question_batch(corpus, rows, seed=2)
  # Inputs are cut too, within questions, titles and texts.
  for reader_length, passage_length in ((96, 48), (24, 5), (16, 3)):
    gatherer = gatherer_of(
      corpus,
      vocabulary,
      reader_title=reader_title,
      reader_length=reader_length,
      passage_length=passage_length,
      title=title,
      null_document=null,
    )
    expected = on_host(gatherer, batch, rows)
    found = (expected["answer_starts"] >= 0).any()
    assert found or not k or reader_length < 96
    gather = DeviceGatherer(gatherer, mesh, question_length=QUESTION_LENGTH)
    with jax.transfer_guard("disallow"):
      made = gather(batch, rows, batch["reader_question_lengths"])
    assert made.keys() == expected.keys()
    for name, value in made.items():
      assert value.dtype == expected[name].dtype == np.int32
      assert value.sharding.is_equivalent_to(row_sharding(mesh), value.ndim)
      np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_with_buckets_nothing_but_padding_is_cut(tmp_path, toy_data):
  """The width is that of the longest passage, whatever is found."""
  corpus, mesh = random_corpus(tmp_path, toy_data, 300, seed=1), make_mesh()
  rows = np.random.default_rng(1).integers(0, 300, (16, 3)).astype(np.int32)
  batch = question_batch(corpus, rows, seed=2)
  long = {"passage_length": 200, "reader_length": 250}
  expected = on_host(gatherer_of(corpus, **long), batch, rows)
  gatherer = gatherer_of(corpus, **long, buckets=True)
  gather = DeviceGatherer(gatherer, mesh, question_length=QUESTION_LENGTH)
  made = gather(batch, rows, batch["reader_question_lengths"])
  most = int(corpus.packed_lengths(1000).max())
  width = made["passage_ids"].shape[2]
  assert width % 16 == 0 and most <= width < most + 16
  for name in ("passage_ids", "reader_ids"):
    width = made[name].shape[2]
    assert width < expected[name].shape[2]
    np.testing.assert_array_equal(made[name], expected[name][:, :, :width])
    assert (expected[name][:, :, width:] == corpus.tokenizer.pad_id).all()
  for name in ("answer_starts", "answer_ends"):
    at = expected[name]
    moved = np.where(at < 0, at, at // 250 * width + at % 250)
    assert (at >= 0).any()
    np.testing.assert_array_equal(made[name], moved)
  for name in ("passage_lengths", "reader_lengths", "passage_rows"):
    np.testing.assert_array_equal(made[name], expected[name])


def test_a_reader_with_a_store_of_its_own(tmp_path, toy_data):
  """The second store has the same passages, here in another order of ids."""
  corpus = random_corpus(tmp_path, toy_data, 70, seed=0)
  (tmp_path / "other").mkdir()
  other = random_corpus(tmp_path / "other", toy_data, 70, seed=5)
  gatherer = gatherer_of(corpus)
  gatherer = PassageGatherer(
    corpus, gatherer_of(other).inputs, 48, True, False, False
  )
  rows = np.arange(16, dtype=np.int32).reshape(8, 2)
  batch = question_batch(other, rows, seed=0)
  mesh = make_mesh()
  gather = DeviceGatherer(gatherer, mesh, question_length=QUESTION_LENGTH)
  made = gather(batch, rows, batch["reader_question_lengths"])
  jax.tree.map(
    np.testing.assert_array_equal, dict(made), on_host(gatherer, batch, rows)
  )
  both = [store_bytes(c, mesh, margin=64) for c in (corpus, other)]
  assert gatherer_bytes(gatherer, mesh, question_length=9) == sum(both)


def test_rows_on_the_devices_need_no_host(tmp_path, toy_data):
  """As a search leaves them, where no transfer is allowed."""
  corpus, mesh = random_corpus(tmp_path, toy_data, 70, seed=0), make_mesh()
  rows = np.arange(16, dtype=np.int32).reshape(8, 2)
  batch = question_batch(corpus, rows, seed=0)
  lengths = batch["reader_question_lengths"]
  gather = DeviceGatherer(
    gatherer_of(corpus), mesh, question_length=QUESTION_LENGTH
  )
  one = gather(batch, rows, lengths)
  placed = jax.device_put((rows, lengths), replicated(mesh))
  with jax.transfer_guard("disallow"):
    two = gather(batch, *placed)
  jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.parametrize("devices", [1, 3, 8])
def test_a_store_has_every_row_and_the_bytes_it_says(
  tmp_path, toy_data, devices
):
  corpus = random_corpus(tmp_path, toy_data, 450, seed=3)
  mesh = first_devices(devices)
  store = place_tokens(corpus, mesh, margin=20)
  held = sum(x.addressable_shards[0].data.nbytes for x in store)
  assert held == store_bytes(corpus, mesh, margin=20)
  local = len(store.starts) // devices
  each = len(store.tokens) // devices
  tokens, starts, titles, counts = (np.asarray(x) for x in store)
  assert tokens.dtype == np.uint16
  for row in range(450):
    start = row // local * each + starts[row]
    parts = [
      np.asarray(values[int(bounds[row]) : int(bounds[row + 1])])
      for values, bounds in (
        (corpus.title_tokens, corpus.title_offsets),
        (corpus.text_tokens, corpus.text_offsets),
      )
    ]
    assert titles[row] == len(parts[0])
    np.testing.assert_array_equal(
      tokens[start : start + counts[row]], np.concatenate(parts)
    )
    # A slice may begin before the passage, and end beyond it.
    assert starts[row] >= 20 and starts[row] + counts[row] + 20 <= each
  assert not counts[450:].any()


def test_many_blocks_are_interleaved_as_one(tmp_path, toy_data, monkeypatch):
  corpus = random_corpus(tmp_path, toy_data, 100, seed=3)
  mesh = first_devices(1)
  one = place_tokens(corpus, mesh, margin=5)
  monkeypatch.setattr("odqa_jax.reading.token_store._BLOCK", 7)
  other = place_tokens(corpus, mesh, margin=5)
  jax.tree.map(np.testing.assert_array_equal, one, other)


def test_what_the_devices_cannot_do_is_refused(tmp_path, toy_data):
  corpus, mesh = random_corpus(tmp_path, toy_data, 9, seed=0), make_mesh()
  gatherer = gatherer_of(corpus, overlap_features=True)
  with pytest.raises(ValueError, match=r"tokens='device'.*overlap_features"):
    DeviceGatherer(gatherer, mesh, question_length=9)
  with pytest.raises(ValueError, match=r"on each of 8 devices, which count"):
    store_bytes(corpus, mesh, margin=2**30)
