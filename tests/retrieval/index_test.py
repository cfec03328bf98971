"""Building, resuming, opening, checking and exporting an index."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from random_corpus import IDENTITY, Encoder, Tokens, build, first_devices

from odqa_jax.data.corpus.corpus import Corpus, Passage, build_corpus
from odqa_jax.retrieval import storage
from odqa_jax.retrieval.division import batch_sizes, divide
from odqa_jax.retrieval.index import (
  Index,
  build_index,
  check_index,
  export_npy,
  load_index,
)
from odqa_jax.runtime.artifact import write_manifest
from odqa_jax.runtime.mesh import make_mesh
from odqa_jax.text.wordpiece_training import train_wordpiece


def held(index: Index) -> np.ndarray:
  return np.asarray(index.embeddings)[: index.count]


def files(directory: Path) -> dict[str, bytes]:
  return {p.name: p.read_bytes() for p in directory.iterdir()}


@pytest.mark.parametrize("count", [1, 7, 64, 300])
def test_rows_are_in_corpus_order(tmp_path: Path, count: int):
  corpus, encode = Tokens(count), Encoder()
  index = build(tmp_path / "index", encode, corpus)
  np.testing.assert_array_equal(held(index), corpus.embeddings())
  assert index.count == count and index.width == 12
  assert not np.asarray(index.embeddings)[count:].any()
  assert len(index.embeddings.sharding.device_set) == 8
  assert [p.name for p in tmp_path.iterdir()] == ["index"]
  assert {p.suffix for p in (tmp_path / "index").iterdir()} == {
    ".npy",
    ".json",
  }
  row = count // 2
  query = corpus.embeddings()[row : row + 1] * 100
  _, found = index.search(query, 1)
  scores = corpus.embeddings() @ query[0]
  assert int(found[0, 0]) == int(np.argmax(scores))


@pytest.mark.parametrize("fail_at", [0, 1, 9, 20])
def test_an_interrupted_build_resumes(tmp_path: Path, fail_at: int):
  corpus, whole = Tokens(300), Encoder()
  build(tmp_path / "clean", whole, corpus)
  broken = Encoder(fail_at)
  with pytest.raises(InterruptedError):
    build(tmp_path / "index", broken, corpus)
  assert not (tmp_path / "index").exists()
  kept = len(list((tmp_path / "index.tmp").glob("rows-*.json")))
  told: list[tuple[int, int]] = []
  again = Encoder()
  build(
    tmp_path / "index",
    again,
    corpus,
    progress=lambda done, total: told.append((done, total)),
  )
  assert files(tmp_path / "index") == files(tmp_path / "clean")
  assert told[0] == (64 * kept, 300) and told[-1] == (300, 300)
  assert told == sorted(told)
  # Calls of the shards that were kept are not made again.
  per_shard = calls_per_shard(corpus)
  assert sum(per_shard) == len(whole.shapes)
  assert len(again.shapes) == sum(per_shard[kept:])
  assert kept == sum(np.cumsum(per_shard) < fail_at + 1)


def calls_per_shard(corpus: Tokens) -> list[int]:
  lengths = corpus.packed_lengths(80)
  sizes = batch_sizes(lengths, 80, 1024, rows=64, devices=8)
  shards = (lengths[i : i + 64] for i in range(0, len(corpus), 64))
  return [len(divide(np.sort(part), sizes)) for part in shards]


def interrupted(directory: Path, corpus: Tokens, **options: Any) -> Path:
  calls = calls_per_shard(corpus)
  with pytest.raises(InterruptedError):
    build(directory, Encoder(sum(calls[:3])), corpus, **options)
  return directory.with_name(directory.name + ".tmp")


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "no entry"])
def test_a_damaged_finished_shard_is_encoded_again(tmp_path: Path, damage: str):
  corpus = Tokens(300)
  build(tmp_path / "clean", Encoder(), corpus)
  partial = interrupted(tmp_path / "index", corpus)
  path = partial / "rows-00001.npy"
  content = path.read_bytes()
  if damage == "flip":
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
  elif damage == "truncate":
    path.write_bytes(content[:-7])
  elif damage == "remove":
    path.unlink()
  else:
    path.with_suffix(".json").unlink()
  (partial / "rows-00004.npy.tmp").write_bytes(b"half")
  encode = Encoder()
  build(tmp_path / "index", encode, corpus)
  assert files(tmp_path / "index") == files(tmp_path / "clean")
  calls = calls_per_shard(corpus)
  assert len(encode.shapes) == calls[1] + sum(calls[3:])


@pytest.mark.parametrize(
  "change",
  [
    {"identity": IDENTITY | {"encoder": "other"}},
    {"dtype": "bfloat16"},
    {"max_length": 64},
    {"shard_rows": 128},
    {"corpus": Tokens(300, seed=1)},
  ],
)
def test_a_partial_build_of_something_else_is_refused(
  tmp_path: Path, change: dict[str, Any]
):
  corpus = Tokens(300)
  partial = interrupted(tmp_path / "index", corpus)
  before = files(partial)
  options = {"corpus": corpus} | change
  with pytest.raises(ValueError, match=r"index.tmp .* there and .* here"):
    build(tmp_path / "index", Encoder(), **options)
  assert files(partial) == before


def test_an_index_that_is_there_is_opened(tmp_path: Path):
  corpus, encode = Tokens(100), Encoder()
  build(tmp_path / "index", encode, corpus)
  calls = len(encode.shapes)
  index = build(tmp_path / "index", encode, corpus, shard_rows=50)
  assert len(encode.shapes) == calls
  np.testing.assert_array_equal(held(index), corpus.embeddings())
  other = IDENTITY | {"encoder": "other"}
  with pytest.raises(ValueError, match="encoder is 'eeeeeeee' there and 'oth"):
    build(tmp_path / "index", encode, corpus, identity=other)


def test_other_bad_arguments(tmp_path: Path):
  with pytest.raises(ValueError, match=r"'int9'.*float32, bfloat16"):
    build(tmp_path / "index", Encoder(), Tokens(3), dtype="int9")
  with pytest.raises(ValueError, match="corpus is empty"):
    build(tmp_path / "index", Encoder(), Tokens(0))
  with pytest.raises(ValueError, match=r"tokenised by tttttttt.*is other"):
    build(
      tmp_path / "index",
      Encoder(),
      Tokens(3),
      identity=IDENTITY | {"tokenizer": "other"},
    )
  with pytest.raises(ValueError, match=r"shape \(8,\) for 8"):
    build(tmp_path / "index", lambda ids, lengths: lengths, Tokens(3))
  with pytest.raises(ValueError, match="shard_rows is 0"):
    build(tmp_path / "index", Encoder(), Tokens(3), shard_rows=0)
  assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("devices", [1, 3, 8])
def test_opens_on_any_number_of_devices(
  tmp_path: Path, devices: int, dtype: str
):
  corpus = Tokens(300)
  options = {"dtype": dtype, "shard_rows": 50}
  build(tmp_path / "index", Encoder(), corpus, first_devices(2), **options)
  index = load_index(tmp_path / "index", first_devices(devices))
  stored = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}[dtype]
  assert index.embeddings.dtype == stored
  np.testing.assert_array_equal(held(index), corpus.embeddings().astype(stored))
  assert index.embeddings.shape[0] % (64 * devices) == 0
  assert len(index.embeddings.addressable_shards) == devices


def shard_of(directory: Path, row: int) -> Path:
  return directory / f"rows-{row // 64:05d}.npy"


def test_a_missing_or_damaged_shard_is_named(tmp_path: Path):
  directory, mesh = tmp_path / "index", make_mesh()
  build(directory, Encoder(), Tokens(300))
  path = shard_of(directory, 130)
  content = path.read_bytes()

  header = content.replace(b"(64, 12)", b"(32, 24)")
  for damaged in (content[:-5] + b"\x01" + content[-4:], header):
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"rows-00002.npy: .* checksum"):
      load_index(directory, mesh)

  path.write_bytes(content[:-1])
  with pytest.raises(ValueError, match=r"rows-00002.npy: \d+ bytes, and"):
    load_index(directory, mesh)

  path.unlink()
  with pytest.raises(ValueError, match=r"rows-00002.npy: missing"):
    load_index(directory, mesh)


def test_a_bad_manifest_is_named(tmp_path: Path):
  directory, mesh = tmp_path / "index", make_mesh()
  with pytest.raises(ValueError, match=r"holds no index.*odqa index"):
    load_index(directory, mesh)
  build(directory, Encoder(), Tokens(70))
  path = directory / "manifest.json"
  text = path.read_text()
  for wrong, message in [
    (text[:-9], "not JSON"),
    ("[]", "not a JSON object"),
    (text.replace('"max_length": 80', '"max_length": 90'), "checksum"),
    (text.replace("\n", " "), "checksum"),
  ]:
    path.write_text(wrong)
    with pytest.raises(ValueError, match=rf"manifest.json: .*{message}"):
      load_index(directory, mesh)
  for change in ({"kind": "corpus"}, {"format": 1}):
    write_manifest(directory, json.loads(text) | change)
    with pytest.raises(ValueError, match=r"json: kind .* of format \d"):
      load_index(directory, mesh)


def test_a_manifest_reaches_only_its_own_files(tmp_path: Path):
  directory, mesh = tmp_path / "index", make_mesh()
  build(directory, Encoder(), Tokens(200))
  manifest = json.loads((directory / "manifest.json").read_text())
  manifest["files"]["../rows.npy"] = manifest["files"]["rows-00000.npy"]
  write_manifest(directory, manifest)
  with pytest.raises(ValueError, match="lies elsewhere"):
    load_index(directory, mesh)


def test_an_index_of_something_else_is_refused(tmp_path: Path):
  index = build(tmp_path / "index", Encoder(), Tokens(9))
  right = IDENTITY | {"corpus": "corpus 9 0"}
  check_index(index.manifest, **right)
  for name, value in right.items():
    with pytest.raises(
      ValueError, match=f"its {name} is {value}, .* other"
    ) as e:
      check_index(index.manifest, **right | {name: "other"})
    assert all(f"its {n}" not in str(e.value) for n in set(right) - {name})
  with pytest.raises(ValueError, match=r"its corpus.*its tokenizer"):
    check_index(index.manifest, **right | {"corpus": "a", "tokenizer": "b"})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_export(tmp_path: Path, dtype: str):
  rows = np.random.default_rng(0).standard_normal((1300, 5), np.float32)
  rows = rows.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32)
  partial, folder = tmp_path / "partial", tmp_path / "index"
  partial.mkdir()
  for i, start in enumerate(range(0, 1300, 500)):
    storage.save_shard(partial, i, start, rows[start : start + 500])
  storage.finish(partial, folder, {"dtype": dtype, "count": 1300}, 3)
  export_npy(folder, tmp_path / "rows.npy")
  read = np.load(tmp_path / "rows.npy", allow_pickle=False)
  assert read.dtype == np.float32
  np.testing.assert_array_equal(read, rows.astype(np.float32))
  assert {p.name for p in tmp_path.iterdir()} == {"index", "rows.npy"}


def test_a_real_corpus(tmp_path: Path):
  words = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen"]
  rng = np.random.default_rng(0)
  passages = [
    Passage(f"w{i}", f"the {words[i % 8]}", " ".join(rng.choice(words, n)))
    for i, n in enumerate(rng.integers(1, 60, 200))
  ]
  tokenizer = train_wordpiece([p.text + p.title for p in passages], 100)
  build_corpus(passages, tmp_path / "corpus", tokenizer)
  corpus = Corpus(tmp_path / "corpus")

  @jax.jit
  def encode(ids: jax.Array, lengths: jax.Array) -> jax.Array:
    real = jnp.arange(ids.shape[1])[None] < lengths[:, None]
    ids = jnp.where(real, ids, 0)
    return jnp.stack([ids.sum(1), ids[:, 1], lengths], axis=1) * 1.0

  identity = {"encoder": "mine", "tokenizer": tokenizer.fingerprint}
  options = {"max_length": 48, "shard_rows": 64, "batch_tokens": 512}
  build_index(
    encode,
    corpus,
    tmp_path / "index",
    mesh=make_mesh(),
    identity=identity,
    **options,
  )
  index = load_index(tmp_path / "index", make_mesh())
  inputs = corpus.passage_inputs(np.arange(200), 48)
  np.testing.assert_array_equal(held(index), encode(*inputs))
  check_index(index.manifest, **identity, corpus=corpus.fingerprint)


def test_a_folder_of_something_else_stays(tmp_path: Path):
  (tmp_path / "index").mkdir()
  (tmp_path / "index" / "notes.txt").write_text("mine")
  with pytest.raises(ValueError, match="exists and is no index folder"):
    build(tmp_path / "index", Encoder(), Tokens(7))
  assert (tmp_path / "index" / "notes.txt").read_text() == "mine"
  (tmp_path / "index" / "notes.txt").unlink()
  # An empty folder is nobody's.
  assert build(tmp_path / "index", Encoder(), Tokens(7)).count == 7


@pytest.mark.parametrize("tokens", [0, -5])
def test_calls_of_no_token_are_refused(tmp_path: Path, tokens):
  with pytest.raises(ValueError, match=f"--batch-tokens {tokens}"):
    build(tmp_path / "index", Encoder(), Tokens(7), batch_tokens=tokens)
