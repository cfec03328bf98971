"""One index behind every backend, and a backend of one's own."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from command_line import last_line, run
from random_corpus import first_devices, save

from odqa_jax.models.dual_encoder import BertConfig, DualEncoder, EncoderConfig
from odqa_jax.models.hf.encoder import save_encoder
from odqa_jax.retrieval.backends.codes import quantize
from odqa_jax.retrieval.backends.host import HostIndex
from odqa_jax.retrieval.backends.int8 import Int8Index
from odqa_jax.retrieval.backends.scann import ScannIndex
from odqa_jax.retrieval.backends.table import BACKENDS, Backend, open_index
from odqa_jax.retrieval.index import Index, load_index
from odqa_jax.retrieval.searchable import (
  Searchable,
  checked_queries,
  search_embeddings,
)
from odqa_jax.retrieval.storage import read_manifest
from odqa_jax.runtime.mesh import to_host
from odqa_jax.text.tokenizer import load_tokenizer

TYPES = {"exact": Index, "host": HostIndex, "scann": ScannIndex}


def normal(shape: tuple[int, ...], seed: int) -> np.ndarray:
  return np.random.default_rng(seed).standard_normal(shape, "f4")


def with_library(backend: str) -> str:
  if backend == "scann":
    pytest.importorskip("scann", reason="the extra `scann` is not installed")
  return backend


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("backend", list(TYPES))
def test_every_backend_finds_the_same(
  tmp_path: Path, backend: str, dtype: Any, devices: int
):
  rows = normal((1500, 24), 0).astype(dtype)
  directory = save(tmp_path / "index", rows)
  index = open_index(
    directory, first_devices(devices), backend=with_library(backend)
  )
  assert type(index) is TYPES[backend] and isinstance(index, Searchable)
  assert index.count == 1500 and index.width == 24
  assert index.batch_size == (64 if backend == "exact" else 1024)
  assert index.manifest["count"] == 1500
  queries = normal((9, 24), 1)
  scores, found = index.search(queries, 20)
  assert scores.dtype == np.float32 and found.dtype == np.int32
  exact = queries.astype(np.float64) @ rows.astype(np.float64).T
  wanted = np.argsort(-exact, axis=1)[:, :20]
  np.testing.assert_array_equal(np.asarray(found), wanted)
  np.testing.assert_allclose(
    scores, np.take_along_axis(exact, wanted, 1), rtol=1e-5
  )


def test_the_manifest_says_what_exact_opens(tmp_path: Path):
  codes, scales, residuals = quantize(normal((300, 24), 0))
  sides = {"scales": scales, "residuals": residuals}
  directory = save(tmp_path / "index", codes, sides=sides)
  index = open_index(directory, first_devices(2))
  assert type(index) is Int8Index and isinstance(index, Searchable)
  assert index.batch_size == 64 and index.metrics() == {}
  with pytest.raises(
    ValueError, match=r"holds int8 codes.*--dtype f32 or bf16"
  ):
    load_index(directory, first_devices(2))


@pytest.mark.parametrize(
  "backend, message",
  [
    (
      "gpu",
      r"'gpu' is not known; known: exact, .*exact: rows.*; host: .*; scann: ",
    ),
    ("exakt", r"'exakt' is not known; did you mean 'exact'\? known"),
    ("scan:leaves=3", r"'scan' is not known; did you mean 'scann'\?"),
    ("host:leaves=3", r"'host:leaves=3': host takes no settings; leave out 'l"),
    ("scann:leafs=3", r"did you mean 'leaves'"),
  ],
)
def test_unknown_names(tmp_path: Path, backend: str, message: str):
  """Told before the folder, which is not there, is looked at."""
  with pytest.raises(ValueError, match=message):
    open_index(tmp_path / "absent", first_devices(1), backend=backend)


@dataclasses.dataclass(frozen=True)
class Backwards:
  """A throw-away backend: the last rows, as good as their number times bias."""

  manifest: dict[str, Any]
  bias: float
  batch_size = 7

  @property
  def count(self) -> int:
    return self.manifest["count"]

  @property
  def width(self) -> int:
    return self.manifest["width"]

  def search(self, queries: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.arange(self.count - 1, self.count - 1 - k, -1, np.int32)
    rows = np.tile(rows, (len(checked_queries(self, queries, k)), 1))
    return (rows * self.bias).astype(np.float32), rows

  def metrics(self) -> dict[str, Any]:
    return {"bias": self.bias}


@dataclasses.dataclass(frozen=True)
class Settings:
  bias: float = 1.0


def open_backwards(
  directory: Path, mesh: Any, settings: Settings | None = None
) -> Backwards:
  chosen = settings or Settings()
  return Backwards(read_manifest(Path(directory)), chosen.bias)


def test_a_backend_is_a_class_and_a_row(
  capsys, tmp_path, toy_data, checkpoint, monkeypatch
):
  """Found by the command too, which asks nobody for the kind of an index."""
  row = Backend(open_backwards, "from the end", Settings)
  monkeypatch.setitem(BACKENDS, "backwards", row)
  call = functools.partial(commands, capsys, checkpoint, toy_data)
  call("index", "--out", tmp_path / "index")
  index = open_index(
    tmp_path / "index", first_devices(1), backend="backwards:bias=0.5"
  )
  assert isinstance(index, Searchable)
  found = search_embeddings(index, normal((20, 32), 0), 3)
  np.testing.assert_array_equal(found[1], [[199, 198, 197]] * 20)
  figures = call(
    "search", "--index", tmp_path / "index", "--k", 2, "--out",
    tmp_path / "run.trec", "--questions", toy_data / "questions" / "toy",
    "--backend", "backwards:bias=0.5",
  )  # fmt: skip
  assert figures["bias"] == 0.5
  first, second = (tmp_path / "run.trec").read_text().splitlines()[:2]
  assert first.split()[2:5] == ["p199", "1", "99.5"]
  assert second.split()[2:5] == ["p198", "2", "99"]
  with pytest.raises(ValueError, match="did you mean 'bias'"):
    open_index(tmp_path, first_devices(1), backend="backwards:bia=0.5")


@pytest.fixture(scope="module")
def checkpoint(toy_data: Path, tmp_path_factory: Any) -> Path:
  """A small encoder in a published folder."""
  tokenizer = load_tokenizer(toy_data / "corpus" / "tokenizer")
  bert = BertConfig(
    vocab_size=tokenizer.vocab_size, width=32, layers=1, heads=2, mlp_dim=64
  )
  config = EncoderConfig(bert, shared=True, passage_type=0, pooling="mean")
  params = DualEncoder(config).init(jax.random.key(0))
  folder = tmp_path_factory.mktemp("encoder") / "encoder"
  save_encoder(
    folder,
    config,
    to_host(params),
    tokenizer,
    question_length=32,
    passage_length=64,
  )
  return folder


def commands(
  capsys: Any, checkpoint: Path, toy_data: Path, *args: object
) -> dict[str, Any]:
  code, out, err = run(
    capsys, *args[:1], "--checkpoint", checkpoint, "--corpus", toy_data,
    *args[1:],
  )  # fmt: skip
  assert code == 0, err
  return json.loads(last_line(out))


@pytest.mark.parametrize("backend", ["host", "scann"])
def test_by_commands(capsys, tmp_path, toy_data, checkpoint, backend):
  """The runs agree; figures say what a backend costs, or loses."""
  with_library(backend)
  call = functools.partial(commands, capsys, checkpoint, toy_data)
  index, questions = tmp_path / "index", toy_data / "questions" / "toy"
  flags = ("--index", index, "--questions", questions, "--k", 20)
  # What is absent is made, and not placed on the devices for it.
  measured = call("evaluate", *flags, "--backend", backend)["checkpoint"]
  assert measured == call("evaluate", *flags)["checkpoint"]

  found = {}
  for name in ("exact", backend):
    out = tmp_path / f"{name}.trec"
    figures = call("search", *flags, "--out", out, "--backend", name)
    assert figures["backend"] == name
    lines = [line.split() for line in out.read_text().splitlines()]
    found[name] = [line[:4] for line in lines]
  assert found["exact"] == found[backend]
  if backend == "host":
    assert figures["host_resident"]["batches"] == 1
    assert figures["host_resident"]["bytes_per_batch"] >= 200 * 32 * 4
  else:
    assert figures["recall_when_built"]["100"] > 0.99


def test_a_strange_index_is_refused_before_it_is_built(
  capsys, tmp_path, toy_data, checkpoint
):
  directory = save(tmp_path / "index", normal((300, 32), 0))
  code, _, err = run(
    capsys, "search", "--checkpoint", checkpoint, "--corpus", toy_data,
    "--index", directory, "--questions", toy_data / "questions" / "toy",
    "--out", tmp_path / "x.trec", "--backend", "scann",
  )  # fmt: skip
  assert code == 2 and "its encoder is" in last_line(err)
  assert not (directory / "scann").exists()
