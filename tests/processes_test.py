"""Two processes with two devices each give what one process gives.

Real processes over loopback, through the launcher and the command line.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.sets import QuestionSet
from odqa_jax.data.runs import Ranking, read_run, write_run
from odqa_jax.models.bert import BertConfig
from odqa_jax.models.hf.heads import save_network
from odqa_jax.models.passage_scorer import PassageClassifier, ScorerConfig
from odqa_jax.runtime.checkpoint import restore_params
from odqa_jax.runtime.mesh import make_mesh, replicated

ROOT = Path(__file__).parents[1]
LOCAL = ROOT / "launch" / "local.sh"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def odqa(tmp_path_factory) -> Path:
  """The command, as the launcher finds it, run by this interpreter."""
  path = tmp_path_factory.mktemp("bin") / "odqa"
  path.write_text(f'#!/bin/sh\nexec {sys.executable} -m odqa_jax.main "$@"\n')
  path.chmod(0o755)
  return path


def launch(odqa: Path, processes: int, devices: int, *args: object) -> dict:
  """Runs a command and returns its figures."""
  environment = {
    **os.environ,
    "ODQA": str(odqa),
    "DEVICES_PER_PROCESS": str(devices),
    "XLA_FLAGS": "",
    "PYTHONPATH": str(ROOT),
  }
  run = subprocess.run(
    # jax.distributed survives SIGTERM, so the time limit ends in SIGKILL.
    ["timeout", "-k", "5", "400", "bash", LOCAL, str(processes)]
    + [str(a) for a in args],
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )
  assert run.returncode == 0, run.stderr[-3000:]
  return json.loads(run.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def one_and_two(odqa, toy_data, tmp_path_factory) -> dict[str, Path]:
  """The same training by one process and by two, on four devices."""
  root = tmp_path_factory.mktemp("processes")
  folders = {"one": root / "one", "two": root / "two"}
  for name, processes, devices in (("one", 1, 4), ("two", 2, 2)):
    launch(
      odqa,
      processes,
      devices,
      "train",
      "--config",
      ROOT / "configs" / "supervised.py:debug",
      "--workdir",
      folders[name],
      f"--config.data.corpus={toy_data / 'corpus'}",
      f"--config.data.questions={toy_data / 'questions' / 'toy'}",
      f"--config.data.pairs={toy_data / 'pairs' / 'toy'}",
      "--config.optimizer.learning_rate=1e-4",
      "--config.model.pooling=mean",
      "--config.sharding=fsdp",
    )
  return folders


def test_training_is_the_same(one_and_two):
  logs = [
    [
      json.loads(line)
      for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    for folder in one_and_two.values()
  ]
  for one, two in zip(*logs, strict=True):
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)
    assert one["in_batch_accuracy"] == two["in_batch_accuracy"]


def test_checkpoint_of_two_processes_restores_in_one(one_and_two):
  sharding = replicated(make_mesh(devices=jax.devices()[:1]))
  one = restore_params(one_and_two["one"], sharding)[0]
  two = restore_params(one_and_two["two"], sharding)[0]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), one, two
  )


def test_two_processes_set_a_damaged_step_aside(odqa, toy_data, tmp_path):
  """Both go on from the step before, and make the damaged one again."""
  arguments = [
    "train",
    "--config", ROOT / "configs" / "ict.py:debug",
    "--workdir", tmp_path,
    f"--config.data.corpus={toy_data / 'corpus'}",
    "--config.steps=4",
    "--config.checkpoint.every=2",
    "--config.checkpoint.keep=2",
    "--config.log_every=1",
  ]  # fmt: skip
  launch(odqa, 2, 2, *arguments)
  before = (tmp_path / "metrics.jsonl").read_text().splitlines()
  step = tmp_path / "checkpoints" / "4"
  files = (p for p in (step / "state").rglob("*") if p.is_file())
  path = max(files, key=lambda p: p.stat().st_size)
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)
  assert launch(odqa, 2, 2, *arguments)["steps"] == 4
  names = {p.name for p in (tmp_path / "checkpoints").iterdir()}
  assert names == {"2", "4", "4.damaged"}
  after = (tmp_path / "metrics.jsonl").read_text().splitlines()
  losses = [[json.loads(x)["loss"] for x in lines] for lines in (before, after)]
  assert losses[0] == losses[1]


def test_index_and_search_are_the_same(odqa, one_and_two, toy_data, tmp_path):
  """Both index the checkpoint of the two processes; the runs agree."""
  for name, processes, devices in (("one", 1, 4), ("two", 2, 2)):
    launch(
      odqa, processes, devices, "index",
      "--checkpoint", one_and_two["two"],
      "--corpus", toy_data,
      "--out", tmp_path / name,
      "--npy", tmp_path / f"{name}.npy",
    )  # fmt: skip
    figures = launch(
      odqa, processes, devices, "search",
      "--checkpoint", one_and_two["two"],
      "--index", tmp_path / name,
      "--corpus", toy_data,
      "--questions", toy_data / "questions" / "toy",
      "--k", "20",
      "--out", tmp_path / f"{name}.trec",
    )  # fmt: skip
    assert figures["questions"] == 100
  np.testing.assert_allclose(
    np.load(tmp_path / "one.npy"), np.load(tmp_path / "two.npy"), atol=1e-5
  )

  def found(name: str) -> list[list[str]]:
    lines = (tmp_path / f"{name}.trec").read_text().splitlines()
    return [line.split()[:3] for line in lines]

  same = np.mean(
    [a == b for a, b in zip(found("one"), found("two"), strict=True)]
  )
  # Scores that differ in the last digit may swap neighbours.
  assert same > 0.99


def test_every_backend_is_the_same(odqa, one_and_two, toy_data, tmp_path):
  """Two processes stream each their rows, and share one ScaNN build."""
  backends = ["exact", "host"]
  if importlib.util.find_spec("scann"):
    backends.append("scann")
  launch(
    odqa, 2, 2, "index",
    "--checkpoint", one_and_two["two"],
    "--corpus", toy_data,
    "--out", tmp_path / "index",
  )  # fmt: skip
  runs = []
  for backend in backends:
    figures = launch(
      odqa, 2, 2, "search",
      "--checkpoint", one_and_two["two"],
      "--index", tmp_path / "index",
      "--corpus", toy_data,
      "--questions", toy_data / "questions" / "toy",
      "--k", "20",
      "--out", tmp_path / f"{backend}.trec",
      "--backend", backend,
    )  # fmt: skip
    assert figures["backend"] == backend
    lines = (tmp_path / f"{backend}.trec").read_text().splitlines()
    runs.append([line.split()[:3] for line in lines])
  for run in runs[1:]:
    same = np.mean([a == b for a, b in zip(run, runs[0], strict=True)])
    # Scores that differ in the last digit may swap neighbours.
    assert same > 0.99


def test_end_to_end_training_is_the_same(odqa, toy_data, tmp_path):
  """Retrieval, a reader, and a share of the index refreshed in every step."""
  logs = []
  for name, processes, devices in (("one", 1, 4), ("two", 2, 2)):
    launch(
      odqa, processes, devices, "train",
      "--config", ROOT / "configs" / "individual.py:debug",
      "--workdir", tmp_path / name,
      f"--config.data.corpus={toy_data / 'corpus'}",
      f"--config.data.questions={toy_data / 'questions' / 'toy'}",
      "--config.optimizer.learning_rate=1e-4",
      "--config.model.pooling=mean",
      "--config.model.dropout=0.0",
      "--config.reader.dropout=0.0",
      "--config.steps=6",
      "--config.log_every=1",
      "--config.retrieval.refresh=rolling",
      "--config.retrieval.refresh_every=3",
    )  # fmt: skip
    lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
    logs.append([json.loads(line) for line in lines])
  for one, two in zip(*logs, strict=True):
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)
    assert one["answer_in_top_k"] == two["answer_in_top_k"]


def test_one_failing_process_ends_the_run(odqa, tmp_path):
  run = subprocess.run(
    [
      "timeout",
      "-k",
      "5",
      "200",
      "bash",
      LOCAL,
      "2",
      "index",
      "--checkpoint",
      str(tmp_path),
      "--corpus",
      str(tmp_path),
      "--out",
      str(tmp_path / "out"),
    ],
    env={**os.environ, "ODQA": str(odqa), "PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert run.returncode == 2
  assert "odqa index:" in run.stderr


def test_reranking_is_the_same(odqa, toy_data, tmp_path):
  """Pieces of the ranking are taken in turn; two processes have one each."""
  corpus = Corpus(toy_data / "corpus")
  questions = list(QuestionSet(toy_data / "questions" / "toy"))
  rng = np.random.default_rng(0)
  rows = np.array([rng.permutation(200)[:90] for _ in questions])
  for i, question in enumerate(questions):
    gold = corpus.row_of(question.positive_ids[0])
    rows[i][rows[i] == gold] = -1
    rows[i] = np.array([gold, *rows[i][rows[i] >= 0], -1, -1])[:90]
  scores = np.where(rows < 0, -np.inf, -np.arange(90.0)).astype(np.float32)
  ids = tuple(question.id for question in questions)
  found = tmp_path / "found.json"
  write_run(found, Ranking(ids, rows, scores), questions, corpus)
  work = tmp_path / "work"
  launch(
    odqa, 1, 4, "train",
    "--config", ROOT / "configs" / "reranker.py:debug",
    "--workdir", work,
    f"--config.data.corpus={toy_data / 'corpus'}",
    f"--config.data.questions={toy_data / 'questions' / 'toy'}",
    f"--config.data.run={found}",
    "--config.steps=8",
    # Until the scores differ.
    "--config.optimizer.learning_rate=0.01",
  )  # fmt: skip
  # More than the pairs that one process takes before the other has its turn.
  assert rows.size > 8192
  runs = []
  for name, processes, devices in (("one", 1, 4), ("two", 2, 2)):
    out = tmp_path / f"{name}.json"
    figures = launch(
      odqa, processes, devices, "rerank",
      "--checkpoint", work,
      "--run", found,
      "--questions", toy_data / "questions" / "toy",
      "--corpus", toy_data,
      "--out", out,
    )  # fmt: skip
    assert figures["after"]["k"] == 90
    runs.append(read_run(out, questions, corpus))
  by_row = [
    np.take_along_axis(run.scores, np.argsort(run.rows, axis=1), axis=1)
    for run in runs
  ]
  np.testing.assert_array_equal(*(np.sort(run.rows, axis=1) for run in runs))
  np.testing.assert_allclose(*by_row, atol=1e-5)
  assert np.ptp(by_row[0][np.isfinite(by_row[0])]) > 1e-3


def test_pruning_is_the_same(odqa, toy_data, tmp_path):
  tokenizer = Corpus(toy_data / "corpus").tokenizer
  bert = BertConfig(tokenizer.vocab_size, 16, 1, 2, 32, max_positions=64)
  network = PassageClassifier(ScorerConfig(bert))
  rng, work = np.random.default_rng(0), tmp_path / "published"
  params = jax.tree.map(
    lambda x: rng.normal(0, 0.6, x.shape).astype(np.float32),
    jax.eval_shape(network.init, jax.random.key(0)),
  )
  save_network(work, network, params, tokenizer)
  kept, scores = [], []
  for name, processes, devices in (("one", 1, 4), ("two", 2, 2)):
    out = tmp_path / name
    figures = launch(
      odqa, processes, devices, "prune",
      "--checkpoint", work,
      "--corpus", toy_data,
      "--keep", 50,
      "--out", out,
    )  # fmt: skip
    assert figures["kept"] == 50
    corpus = Corpus(out / "corpus")
    kept.append([corpus.id(row) for row in range(len(corpus))])
    scores.append(np.load(out / "scores.npy"))
  np.testing.assert_allclose(*scores, atol=1e-5)
  assert np.ptp(scores[0]) > 1e-3
  # But where two passages score the same.
  threshold = np.sort(scores[0])[49]
  unsure = int((np.abs(scores[0] - threshold) < 1e-5).sum()) - 1
  assert len(set(kept[0]) ^ set(kept[1])) <= 2 * unsure
