"""A passage filter by its recipe: measured, resumed, pruned with, labelled."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from command_line import last_line, run
from small_parts import write_random_run
from small_reader import one_device

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.sources import load_examples
from odqa_jax.data.questions.sets import QuestionSet, write_questions
from odqa_jax.models import dual_encoder
from odqa_jax.reading.trained_scorer import load_trained_scorer
from odqa_jax.runtime.checkpoint import find_step, read_extra, restore_params
from odqa_jax.runtime.config import load_config
from odqa_jax.runtime.mesh import make_mesh, replicated
from odqa_jax.runtime.settings import read_settings
from odqa_jax.training import train as train_module
from odqa_jax.training.train import train

CONFIG = f"{Path(__file__).parents[3] / 'configs' / 'filter'}.py:debug"
SIZES = {"width": 16, "layers": 1, "heads": 2, "mlp_dim": 32}


@pytest.fixture(autouse=True)
def small(monkeypatch):
  monkeypatch.setattr(train_module, "make_mesh", lambda *_: one_device())
  tiny = dual_encoder.PRESETS["tiny"] | SIZES
  monkeypatch.setitem(dual_encoder.PRESETS, "tiny", tiny)


@pytest.fixture(scope="module")
def data(toy_data, tmp_path_factory) -> dict[str, Path]:
  """60 questions to train on, 20 to choose by, 20 that are measured on."""
  folder = tmp_path_factory.mktemp("sets")
  corpus = Corpus(toy_data / "corpus")
  questions = list(QuestionSet(toy_data / "questions" / "toy"))
  parts = {"train": slice(0, 60), "dev": slice(60, 80), "test": slice(80, 100)}
  paths = {"corpus": toy_data / "corpus"}
  for name, part in parts.items():
    write_questions(questions[part], folder / name, name)
    run_file = folder / f"{name}.trec"
    write_random_run(run_file, questions[part], corpus, 2)
    paths |= {name: folder / name, f"{name} run": run_file}
  return paths


def flags(data, **more):
  named = {
    "corpus": data["corpus"],
    "questions": data["train"],
    "run": data["train run"],
    "pool_questions": data["dev"],
    **more,
  }
  # Adam's first steps are as long as the rate, which the warm-up makes small.
  settings = ["model.scan=False", "optimizer.warmup_steps=0", "steps=4"]
  settings += ["checkpoint.every=1", "checkpoint.keep=4", "log_every=2"]
  settings += ["optimizer.learning_rate=0.01", "batch_size=8"]
  return settings + [f"data.{name}={value}" for name, value in named.items()]


def leaky(data):
  return {
    "leaky": True,
    "leaky_questions": data["test"],
    "leaky_run": data["test run"],
  }


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
  """The workdir of a leaky filter, which a command has trained."""
  work = tmp_path_factory.mktemp("filter")
  with pytest.MonkeyPatch.context() as patch:
    small.__wrapped__(patch)
    train(load_config(CONFIG, flags(data, **leaky(data))), work)
  return work


@pytest.mark.slow
def test_the_checkpoint_with_the_highest_hit_ratio_is_used(data, trained):
  lines = (trained / "metrics.jsonl").read_text().splitlines()
  rows = [r for r in map(json.loads, lines) if "dev/hit_ratio" in r]
  assert [row["step"] for row in rows] == [1, 2, 3, 4]
  values = [row["dev/hit_ratio"] for row in rows]
  assert len(set(values)) > 1
  folder, step = find_step(trained)
  assert values[step - 1] == max(values)
  # And it is that of the pool, by hand.
  corpus = Corpus(data["corpus"])
  settings = read_settings(load_config(CONFIG, flags(data, **leaky(data))))
  pool = load_examples(settings.data, corpus).pool
  assert (len(pool.rows), pool.needed.sum()) == (60, 20)
  gold = {corpus.find(q.positive_ids[0]) for q in QuestionSet(data["dev"])}
  assert set(pool.rows[pool.needed].tolist()) == gold
  for number, value in enumerate(values, 1):
    scorer = load_trained_scorer(folder / str(number), "passage_filter")
    ids, lengths = corpus.passage_inputs(pool.rows, 64)
    score = jax.jit(scorer.network.score)
    scores = np.asarray(score(scorer.params, ids, lengths, lengths))
    best = sorted(range(60), key=lambda i: (-scores[i], i))[:20]
    assert value == pytest.approx(np.mean([pool.needed[i] for i in best]))


def test_a_resumed_run_has_the_same_bits(data, trained, tmp_path):
  work = tmp_path / "work"
  shutil.copytree(trained, work)
  for step in (3, 4):
    shutil.rmtree(work / "checkpoints" / str(step))
  config = load_config(CONFIG, flags(data, **leaky(data)))
  assert train(config, work)["steps"] == 4
  last = [
    restore_params(path / "checkpoints" / "4", replicated(one_device()))[0]
    for path in (trained, work)
  ]
  jax.tree.map(np.testing.assert_array_equal, *last)


@pytest.mark.slow
def test_eight_devices_learn_the_same(data, trained, tmp_path, monkeypatch):
  monkeypatch.setattr(train_module, "make_mesh", lambda *_: make_mesh())
  # Dropout is drawn device by device.
  calm = [*flags(data), "model.dropout=0.0", "steps=2"]
  train(load_config(CONFIG, calm), tmp_path / "eight")
  monkeypatch.setattr(train_module, "make_mesh", lambda *_: one_device())
  train(load_config(CONFIG, calm), tmp_path / "one")
  losses = []
  for name in ("one", "eight"):
    lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
    rows = list(map(json.loads, lines))
    losses.append([row["loss"] for row in rows if "loss" in row])
  # In float32, summed in another order, and after an update.
  np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_a_filter_prunes_and_everything_says_that_it_is_leaky(
  data, trained, tmp_path, capsys
):
  out = tmp_path / "out"
  pruning = "prune", "--corpus", data["corpus"], "--keep", 50, "--out", out
  code, said, err = run(capsys, *pruning, "--checkpoint", trained)
  assert code == 0, err
  figures = json.loads(last_line(said))
  assert (figures["kept"], figures["leaky"]) == (50, True)
  # The highest scores are kept.
  corpus = Corpus(data["corpus"])
  scorer = load_trained_scorer(trained, "passage_filter")
  ids, lengths = corpus.passage_inputs(np.arange(200), 64)
  score = jax.jit(scorer.network.score)
  scores = np.asarray(score(scorer.params, ids, lengths, lengths))
  best = np.sort(np.argsort(-scores, kind="stable")[:50])
  kept = Corpus(out / "corpus")
  assert [kept.id(i) for i in range(50)] == [corpus.id(int(i)) for i in best]
  np.testing.assert_allclose(-np.load(out / "scores.npy"), scores, atol=1e-5)
  # So does what is made of its scores, and what is drawn.
  code, said, err = run(
    capsys, "prune", "--corpus", data["corpus"], "--scores",
    out / "scores.npy", "--keep", 20, "--out", tmp_path / "again", "--curve",
    tmp_path / "curve.png", "--run", data["dev run"], "--questions",
    data["dev"],
  )  # fmt: skip
  assert code == 0 and "scores (leaky)" in err
  figures = json.loads(last_line(said))
  assert figures["leaky"]
  assert {row["name"] for row in figures["curve"]} == {
    "scores (leaky)", "random"
  }  # fmt: skip
  for path in (out, out / "corpus", tmp_path / "again" / "corpus"):
    code, said, _ = run(capsys, "inspect", path, "--json")
    page = json.loads(last_line(said))
    assert "questions that are measured on" in page["facts"]["leaky"]
  code, _, err = run(
    capsys, "evaluate", "--bm25", "--corpus", out, "--questions", data["dev"],
    "--card", tmp_path / "card.json",
  )  # fmt: skip
  assert code == 0 and "in percent, leaky" in err and "leaky: questions" in err
  assert json.loads((tmp_path / "card.json").read_text())["corpus"]["leaky"]
  code, said, _ = run(capsys, "inspect", trained)
  assert "leaky yes" in " ".join(said.split())
  code, _, err = run(
    capsys, *pruning[:3], "--keep", 201, "--out", tmp_path / "no",
    "--checkpoint", trained,
  )  # fmt: skip
  assert code == 2
  assert "--keep 201: the corpus has 200 passages;" in last_line(err)


def test_a_filter_of_train_questions_is_not_called_leaky(
  data, tmp_path, capsys
):
  work, out = tmp_path / "work", tmp_path / "out"
  code, _, err = run(
    capsys, "train", "--config", CONFIG, "--workdir", work,
    *(f"--config.{flag}" for flag in flags(data, pool_questions="")),
  )  # fmt: skip
  assert code == 0, err
  # Nothing chooses: the last step is used.
  folder, step = find_step(work)
  described = read_extra(folder, step)["components"]["passage_filter"]
  assert step == 4 and described["leaky"] is False
  code, said, _ = run(
    capsys, "prune", "--corpus", data["corpus"], "--keep", 9, "--out", out,
    "--checkpoint", work,
  )  # fmt: skip
  assert json.loads(last_line(said)) == {
    "kept": 9, "passages": 200, "share": 0.045, "gold_only": 0
  }  # fmt: skip


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"data.leaky": True}, "leaky=True and config.data.leaky_questions=''"),
    ({"data.leaky_run": "x"}, "leaky=False and config.data.leaky_run='x'"),
    ({"data.source": "golden"}, "source='golden' does not go with this"),
    ({"evaluate.questions": "x"}, "name the set as config.data.pool_questions"),
    ({"evaluate.best": "em"}, "choose one of hit_ratio"),
    ({"data.pool_size": 20}, "choose 21 to"),
    ({"data.pool_questions": "TRAIN"}, "60 of its questions are also in"),
    ({"data.run": ""}, "config.data.run is not set"),
    ({"data.run": "a,b"}, "1 sets and config.data.run 2 files"),
  ],
)
def test_what_cannot_be_is_told_before_the_first_step(
  data, tmp_path, changes, said
):
  changed = [f"{k}={v}" for k, v in changes.items()]
  changed = [text.replace("TRAIN", str(data["train"])) for text in changed]
  with pytest.raises(ValueError, match=said):
    train(load_config(CONFIG, flags(data) + changed), tmp_path)


def test_a_pruner_is_no_leaky_filter(data, tmp_path):
  config = CONFIG.replace("filter", "pruner")
  named = [f"data.{k}={v}" for k, v in leaky(data).items()]
  with pytest.raises(ValueError, match="'pruner' trains no passage filter"):
    train(load_config(config, named), tmp_path)
