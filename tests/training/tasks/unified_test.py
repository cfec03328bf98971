"""Training of the unified reader: what is minimised, and after whom."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import last_line, run
from small_parts import save_extractive_reader, save_reranker
from small_reader import one_device, use_one_device
from unified import CONFIGS, SIZES, noise, unified_network, write_toy_run

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.models import dual_encoder
from odqa_jax.models.families import describe, network_from
from odqa_jax.models.mobilebert import MobileBertConfig
from odqa_jax.models.roles import UNIFIED
from odqa_jax.models.unified_reader import (
  HEADS,
  UnifiedConfig,
  UnifiedReader,
  as_retriever,
)
from odqa_jax.reading import extract
from odqa_jax.reading.trained_component import load_component
from odqa_jax.runtime.checkpoint import (
  Checkpoints,
  find_step,
  read_extra,
  restore_params,
)
from odqa_jax.runtime.config import load_config
from odqa_jax.runtime.interruption import Interrupted
from odqa_jax.runtime.mesh import make_mesh, replicated
from odqa_jax.runtime.settings import read_settings
from odqa_jax.text.wordpiece_training import train_wordpiece
from odqa_jax.training import train as train_module
from odqa_jax.training.tasks.table import make_task
from odqa_jax.training.teacher import load_teacher
from odqa_jax.training.train import train

Q, N, L, TAU = 6, 3, 10, 3.0


def settings_of(stage="distillation", **changes):
  overrides = [f"{key}={value}" for key, value in changes.items()]
  config = load_config(f"{CONFIGS}/unified.py:debug,stage={stage}", overrides)
  return read_settings(config)


def made_batch():
  r = np.random.default_rng(0)
  lengths = r.integers(8, L + 1, (Q, N)).astype(np.int32)
  mask = np.ones((Q, N), bool)
  mask[2, 2] = False
  starts = np.full((Q, N, 2), -1, np.int32)
  starts[:, 0] = [1, 3]
  int32 = {"dtype": np.int32}
  batch = {
    "question_ids": r.integers(5, 40, (Q, 6), **int32),
    "question_lengths": r.integers(3, 7, Q, **int32),
    "passage_ids": r.integers(5, 40, (Q, N, 7), **int32),
    "passage_lengths": r.integers(4, 8, (Q, N), **int32),
    "run_scores": r.normal(0, 2, (Q, N)).astype(np.float32),
    "ids": r.integers(5, 40, (Q, N, L), **int32),
    "lengths": lengths,
    "first_lengths": lengths - 3,
    "passage_rows": np.zeros((Q, N), np.int32),
    "passage_mask": mask,
    "context_starts": np.ones((Q, N), np.int32),
    "context_ends": lengths - 2,
    "answer_starts": starts,
    "answer_ends": np.where(starts < 0, -1, starts + 1).astype(np.int32),
    "example_mask": np.arange(Q) != 4,
    "teacher_start": r.normal(0, 3, (Q, N, L)).astype(np.float32),
    "teacher_end": r.normal(0, 3, (Q, N, L)).astype(np.float32),
    "teacher_passage": r.normal(0, 3, (Q, N)).astype(np.float32),
  }
  return jax.tree.map(jnp.asarray, batch)


def softmax(x):
  x = np.asarray(x, np.float64)
  weights = np.exp(x - x.max())
  return weights / weights.sum()


def kl(teacher, student):
  p, q = (softmax(np.asarray(x, np.float64) / TAU) for x in (teacher, student))
  return np.sum(p * (np.log(p) - np.log(q)))


def outputs(network, params, batch):
  """Logits of starts, ends and passages, and what retrieval scores with."""
  flat = [batch[n].reshape(Q * N, -1) for n in ("ids", "passage_ids")]
  lengths = [batch[n].reshape(-1) for n in ("lengths", "first_lengths")]

  @jax.jit
  def compute(params):
    found = network.reader.read(params, flat[0], *lengths)
    encoder, weights = network.retriever, as_retriever(params)
    questions = encoder.encode_question(
      weights, batch["question_ids"], batch["question_lengths"]
    )
    passages = encoder.encode_passage(
      weights, flat[1], batch["passage_lengths"].reshape(-1)
    )
    return found[:3], questions, passages

  (start, end, rank), questions, passages = jax.device_get(compute(params))
  products = np.einsum("qe,qne->qn", questions, passages.reshape(Q, N, -1))
  return (
    start.reshape(Q, N, L),
    end.reshape(Q, N, L),
    rank.reshape(Q, N),
    products,
  )


def parts_by_hand(network, params, batch, target):
  """Every part of the distillation's loss, the mean over real questions."""
  start, end, rank, found = outputs(network, params, batch)
  b = jax.tree.map(np.asarray, batch)
  spans, ranks, retrieval = [], [], []
  for i in np.flatnonzero(b["example_mask"]):
    some = b["passage_mask"][i]
    each = []
    for n in np.flatnonzero(some):
      inside = slice(1, b["context_ends"][i, n])
      each.append(
        kl(b["teacher_start"][i, n, inside], start[i, n, inside])
        + kl(b["teacher_end"][i, n, inside], end[i, n, inside])
      )
    spans.append(np.mean(each))
    ranks.append(kl(b["teacher_passage"][i, some], rank[i, some]))
    wanted = b["teacher_passage" if target == "teacher" else "run_scores"]
    retrieval.append(
      -np.log(softmax(found[i, some])[0])
      if target == "nll"
      else kl(wanted[i, some], found[i, some])
    )
  return [np.mean(x) for x in (spans, ranks, retrieval)]


@pytest.mark.parametrize(
  "target",
  [
    "teacher",
    *(pytest.param(x, marks=pytest.mark.slow) for x in ("run", "nll")),
  ],
)
def test_a_student_follows_spans_ranks_and_what_retrieval_is_told(target):
  settings = settings_of(**{"unified.retrieval": target})
  network = unified_network()
  task, batch = make_task(settings, {UNIFIED: network}), made_batch()
  params = noise(task.init)
  loss, metrics = jax.jit(lambda *x: task.loss(*x, None))(params, batch)
  expected = parts_by_hand(network, params[UNIFIED], batch, target)
  names = ("span_loss", "rank_loss", "retrieval_loss")
  for name, value in zip(names, expected, strict=True):
    np.testing.assert_allclose(np.divide(*metrics[name]), value, rtol=2e-4)
  np.testing.assert_allclose(loss, sum(expected), rtol=2e-4)


@pytest.mark.slow
def test_retrieval_scores_are_divided_as_a_retrievers_are():
  network, batch = unified_network(), made_batch()
  changes = {"unified.retrieval": "nll", "objective.temperature": 0.05}
  task = make_task(settings_of(**changes), {UNIFIED: network})
  params = noise(task.init)
  _, metrics = jax.jit(lambda *x: task.loss(*x, None))(params, batch)
  *_, found = outputs(network, params[UNIFIED], batch)
  b = jax.tree.map(np.asarray, batch)
  losses = [
    -np.log(softmax(found[i, b["passage_mask"][i]] / 0.05)[0])
    for i in np.flatnonzero(b["example_mask"])
  ]
  np.testing.assert_allclose(
    np.divide(*metrics["retrieval_loss"]), np.mean(losses), rtol=1e-4
  )


@pytest.mark.slow
def test_joint_finetuning_is_the_sum_of_both_updates_losses():
  network, batch = unified_network(), made_batch()
  joint = make_task(settings_of("joint"), {UNIFIED: network})
  both = make_task(settings_of("iterative"), {UNIFIED: network})
  params = noise(joint.init)
  loss, metrics = jax.jit(lambda *x: joint.loss(*x, None))(params, batch)
  assert joint.second is None and both.second is not None
  read, told = jax.jit(lambda *x: both.loss(*x, None))(params, batch)
  before = both.second.remember(params, batch, None)
  retrieve, more = jax.jit(lambda *x: both.second.loss(*x, None))(
    params, batch | before
  )
  # At the same weights there is nothing to reconstruct.
  np.testing.assert_allclose(more["reconstruction_loss"][0], 0, atol=1e-5)
  np.testing.assert_allclose(loss, read + retrieve, rtol=1e-5)
  for name in ("span_loss", "rank_loss", "rank_hits@1"):
    np.testing.assert_allclose(metrics[name][0], told[name][0], rtol=1e-5)
  alone = settings_of("iterative", **{"unified.reconstruction": False})
  free = make_task(alone, {UNIFIED: network})
  assert free.second is not None
  assert not free.second.remember(params, batch, None)


# --- The teacher -------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(toy_data):
  return Corpus(toy_data / "corpus")


@pytest.fixture(scope="module")
def teacher(corpus, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("t") / "t"
  return save_extractive_reader(corpus, workdir, objective="dpr")


def test_a_teacher_says_the_same_of_a_passage_on_any_device(teacher, corpus):
  settings = settings_of(**{"data.pair_length": 40})
  ids = np.random.default_rng(0).integers(5, 200, (8, N, L)).astype(np.int32)
  lengths = np.full((8, N), L, np.int32)
  batch = {"ids": ids, "lengths": lengths, "first_lengths": lengths - 4}
  made = [
    load_teacher(str(teacher), settings, corpus, mesh)(batch)
    for mesh in (one_device(), make_mesh())
  ]
  found = load_component(teacher, "extractive_reader")
  network = network_from(found.description)
  scores = jax.jit(network.read)(
    found.params,
    jnp.asarray(ids.reshape(-1, L)),
    jnp.asarray(lengths.reshape(-1)),
    jnp.asarray(lengths.reshape(-1) - 4),
  )
  expected = {
    "teacher_start": scores.start.reshape(8, N, L),
    "teacher_end": scores.end.reshape(8, N, L),
    "teacher_passage": scores.passage.reshape(8, N),
  }
  for one in made:
    assert set(one) == set(expected)
    for name, value in expected.items():
      # In float32, compiled for another number of rows.
      np.testing.assert_allclose(one[name], value, rtol=1e-4, atol=1e-5)


def test_a_teacher_that_cannot_be_followed_is_refused(
  teacher, corpus, tmp_path
):
  def refused(match, path=teacher, store=corpus, **changes):
    settings = settings_of(**{"data.pair_length": 40} | changes)
    with pytest.raises(ValueError, match=match):
      load_teacher(str(path), settings, store, one_device())

  refused("has no extractive reader", save_reranker(corpus, tmp_path / "r"))
  refused("set config.data.passage_first=True", **{"data.passage_first": False})
  refused("takes 64 tokens at most", **{"data.pair_length": 90})

  class Other:
    tokenizer = train_wordpiece(["a few other words"], 60)

  from odqa_jax.training.teacher import check_teacher

  found = load_component(teacher, "extractive_reader")
  with pytest.raises(ValueError, match="so that their spans cannot be comp"):
    check_teacher(
      "t",
      found.description,
      Other.tokenizer.fingerprint,
      settings_of(),
      corpus,
    )
  for told, match in (
    ({"objective": "independent"}, "normalises its scores over all passages"),
    ({"title": False}, "reads passages with title=False; set config.data.titl"),
  ):
    with pytest.raises(ValueError, match=match):
      check_teacher(
        "t",
        found.description | told,
        found.tokenizer.fingerprint,
        settings_of(),
        corpus,
      )
  without = {**found.description["config"], "passage": False}
  with pytest.raises(ValueError, match="does not rank passages"):
    check_teacher(
      "t",
      found.description | {"config": without},
      found.tokenizer.fingerprint,
      settings_of(),
      corpus,
    )


@pytest.mark.parametrize(
  ("stage", "given", "match"),
  [
    ("distillation", "", "give config.unified.teacher"),
    ("iterative", "somewhere", "has none; leave it out"),
  ],
)
def test_a_teacher_is_named_where_there_is_one(tmp_path, stage, given, match):
  config = load_config(
    f"{CONFIGS}/unified.py:debug,stage={stage}", [f"unified.teacher={given}"]
  )
  with pytest.raises(ValueError, match=match):
    train(config, tmp_path)


def test_a_mobilebert_can_be_unified():
  bert = MobileBertConfig(**dual_encoder.PRESETS["mobilebert-tiny"])
  network = UnifiedReader(UnifiedConfig(bert, embedding_dim=8))
  described = json.loads(json.dumps(describe(network)))
  again = network_from(described)
  assert again.config == network.config
  shapes = jax.eval_shape(again.init, jax.random.key(0))
  assert set(HEADS) < set(shapes)


# --- By command ---------------------------------------------------------------


@pytest.mark.slow
def test_stages_by_command(capsys, tmp_path, toy_data, monkeypatch):
  """A teacher, distillation, and Algorithm 1, stopped and gone on with."""
  monkeypatch.setattr(train_module, "make_mesh", lambda *_: one_device())
  use_one_device(monkeypatch)
  monkeypatch.setattr(extract, "make_mesh", lambda **_: one_device())
  tiny = dual_encoder.PRESETS["tiny"] | SIZES
  monkeypatch.setitem(dual_encoder.PRESETS, "tiny", tiny)
  data = {
    "corpus": toy_data / "corpus",
    "questions": toy_data / "questions" / "toy",
    "run": write_toy_run(toy_data, tmp_path / "run.json"),
  }
  flags = [f"--config.data.{name}={value}" for name, value in data.items()]
  flags += ["--config.steps=4", "--config.checkpoint.every=2"]
  flags += ["--config.model.scan=False"]

  def stage(recipe: str, work: Path, *more: str):
    code, out, err = run(
      capsys, "train", "--config", f"{CONFIGS}/{recipe}", "--workdir", work,
      *flags, *more,
    )  # fmt: skip
    assert code == 0, err
    return json.loads(last_line(out))

  stage("extractive.py:debug,loss=dpr", tmp_path / "teacher")
  of_unified = "--config.model.embedding_dim=8"
  dev = f"--config.evaluate.questions={data['questions']}"
  figures = stage(
    "unified.py:debug", tmp_path / "unified", of_unified, dev,
    f"--config.unified.teacher={tmp_path / 'teacher'}",
    "--config.evaluate.max_questions=4",
  )  # fmt: skip
  assert np.isfinite(figures["loss"]) and figures["examples"] == 100
  folder, step = find_step(tmp_path / "unified")
  extra = read_extra(folder, step)
  assert list(extra["components"]) == [UNIFIED]
  assert len(extra["contents"]["unified.teacher"]) == 64
  params, _ = restore_params(tmp_path / "unified", replicated(one_device()))
  assert set(params) == {UNIFIED}
  rows = [
    json.loads(line)
    for line in (tmp_path / "unified" / "metrics.jsonl").read_text().split("\n")
    if "dev/" in line
  ]
  assert {"dev/em", "dev/mean_em", "dev/recall@20"} <= set(rows[0])

  overrides = [flag.removeprefix("--config.") for flag in [*flags, of_unified]]
  overrides += [f"init_from={tmp_path / 'unified'}", "seed=3"]
  config = load_config(f"{CONFIGS}/unified.py:debug,stage=iterative", overrides)
  train(config, tmp_path / "whole")
  with monkeypatch.context() as patch:
    patch.setattr(Checkpoints, "should_stop", lambda self, at, asked: at == 3)
    with pytest.raises(Interrupted):
      train(config, tmp_path / "parts")
  train(config, tmp_path / "parts")
  whole, parts = (
    restore_params(tmp_path / name, replicated(one_device()))[0]
    for name in ("whole", "parts")
  )
  jax.tree.map(np.testing.assert_array_equal, whole, parts)
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), whole, params)
  assert any(jax.tree.leaves(moved))
