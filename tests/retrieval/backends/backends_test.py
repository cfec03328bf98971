"""One index behind every backend, and the memory that each needs."""

import functools
import json
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import ml_dtypes
import numpy as np
import pytest
from command_line import last_line, run
from random_corpus import first_devices, save

from odqa_jax.models.dual_encoder import BertConfig, DualEncoder, EncoderConfig
from odqa_jax.models.hf.encoder import save_encoder
from odqa_jax.retrieval import searchable as retrieval
from odqa_jax.retrieval.backends import memory
from odqa_jax.retrieval.backends.codes import quantize
from odqa_jax.retrieval.backends.host import HostIndex
from odqa_jax.retrieval.backends.int8 import Int8Index
from odqa_jax.retrieval.backends.scann import ScannIndex
from odqa_jax.retrieval.index import Index, load_index
from odqa_jax.retrieval.searchable import open_index
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
  assert type(index) is TYPES[backend]
  assert index.count == 1500 and index.width == 24
  assert index.manifest["count"] == 1500
  queries = normal((9, 24), 1)
  scores, found = retrieval.search(index, queries, 20)
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
  assert type(open_index(directory, first_devices(2))) is Int8Index
  with pytest.raises(
    ValueError, match=r"holds int8 codes.*--dtype f32 or bf16"
  ):
    load_index(directory, first_devices(2))
  with pytest.raises(ValueError, match=r"'gpu' is not known.*exact, host, sca"):
    open_index(directory, first_devices(2), backend="gpu")


def test_questions_searched_together(tmp_path: Path):
  directory = save(tmp_path / "index", normal((300, 24), 0))
  mesh = first_devices(1)
  for backend, most in (("exact", 64), ("host", 1024)):
    index = open_index(directory, mesh, backend=backend)
    assert retrieval.batches(index, 0) == []
    assert retrieval.batches(index, 3) == [range(3)]
    assert retrieval.batches(index, most + 1) == [
      range(most),
      range(most, most + 1),
    ]


@pytest.mark.parametrize("devices", [1, 8])
def test_rows_that_do_not_fit_are_refused(tmp_path: Path, devices: int):
  """Before anything is placed; what to do is in the message."""
  directory = save(tmp_path / "index", normal((1000, 24), 0))
  mesh = first_devices(devices)
  # Every device holds a multiple of 64 rows.
  needed = -(-1000 // (64 * devices)) * 64 * 24 * 4
  load_index(directory, mesh, free=lambda device: needed)
  load_index(directory, mesh, free=lambda device: None)
  before = len(jax.live_arrays())
  with pytest.raises(ValueError) as error:
    # The last device has the least.
    devices_free = {d: needed for d in mesh.devices.flat}
    devices_free[mesh.devices.flat[-1]] = needed - 1
    load_index(directory, mesh, free=devices_free.get)
  assert len(jax.live_arrays()) == before
  message = str(error.value)
  for part in (
    f"index needs {needed:,} bytes on each of {devices} devices",
    f"only {needed - 1:,} are free",
    "--backend host",
    "--dtype bf16 or int8",
    "more devices",
  ):
    assert part in message


def device(platform: str, stats: dict[str, int] | None) -> Any:
  """A device that says what memory it has."""
  made = mock.create_autospec(jax.Device, instance=True)
  made.platform = platform
  made.memory_stats = lambda: stats
  return made


def test_free_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  free = memory.free_bytes
  assert free(device("gpu", {"bytes_limit": 100, "bytes_in_use": 30})) == 70
  assert free(device("gpu", None)) is None
  assert free(device("tpu", {})) is None
  info = tmp_path / "meminfo"
  monkeypatch.setattr(memory, "_MEMINFO", info)
  assert memory.host_bytes() is None
  assert free(device("cpu", None)) is None
  info.write_text("MemTotal: 99 kB\nMemAvailable:   80 kB\n")
  assert memory.host_bytes() == 80 * 1024
  # Eight CPU devices share the host.
  assert free(device("cpu", None)) == 10 * 1024


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
    assert figures["streamed"]["batches"] == 1
    assert figures["streamed"]["bytes_per_batch"] >= 200 * 32 * 4
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
