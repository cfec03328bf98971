"""Training of networks that score passages, by their recipes and by layout."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import last_line, run
from jax.sharding import NamedSharding
from small_reader import one_device

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.sets import QuestionSet
from odqa_jax.data.runs import Ranking, write_run
from odqa_jax.models import dual_encoder
from odqa_jax.models.bert import BertConfig, apply_bert
from odqa_jax.models.families import network_from
from odqa_jax.models.hf.heads import save_network
from odqa_jax.models.passage_scorer import Reranker, ScorerConfig
from odqa_jax.runtime.checkpoint import find_step, read_extra, restore_params
from odqa_jax.runtime.config import load_config
from odqa_jax.runtime.mesh import make_mesh, replicated, to_global
from odqa_jax.runtime.settings import read_settings
from odqa_jax.text.byte_pairs import (
  SPECIAL_TOKENS,
  BytePairTokenizer,
  load_pair_tokenizer,
)
from odqa_jax.training import train as train_module
from odqa_jax.training.initial_head import HEADS, initial_head
from odqa_jax.training.memory import abstract_batch
from odqa_jax.training.program import batch_gradients, make_layout
from odqa_jax.training.tasks.table import TASKS, check_names, make_task
from odqa_jax.training.train import train

CONFIGS = Path(__file__).parents[3] / "configs"
RECIPES = {
  "reranker": "reranker",
  "extractive": "extractive_reader",
  "pruner": "passage_classifier",
  "filter": "passage_filter",
}
SIZES = {"width": 16, "layers": 1, "heads": 2, "mlp_dim": 32}


@pytest.fixture(scope="module")
def run_file(toy_data, tmp_path_factory) -> Path:
  """Every question's gold passage second, between three others."""
  questions = list(QuestionSet(toy_data / "questions" / "toy"))
  corpus = Corpus(toy_data / "corpus")
  rows = []
  for question in questions:
    gold = corpus.find(question.positive_ids[0])
    others = [(gold + step) % len(corpus) for step in (50, 71, 103)]
    rows.append([others[0], gold, *others[1:]])
  scores = np.tile(np.arange(4, 0, -1, np.float32), (len(rows), 1))
  path = tmp_path_factory.mktemp("run") / "run.json"
  ids = tuple(question.id for question in questions)
  ranking = Ranking(ids, np.array(rows, np.int32), scores)
  write_run(path, ranking, questions, corpus)
  return path


@pytest.fixture
def small(monkeypatch):
  monkeypatch.setattr(train_module, "make_mesh", lambda *_: one_device())
  tiny = dual_encoder.PRESETS["tiny"] | SIZES
  monkeypatch.setitem(dual_encoder.PRESETS, "tiny", tiny)


def flags(toy_data, run_file, recipe: str) -> list[str]:
  data = {
    "corpus": toy_data / "corpus",
    "questions": toy_data / "questions" / "toy",
    "run": run_file if recipe != "pruner" else "",
  }
  return [f"--config.data.{name}={value}" for name, value in data.items()]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["reranker", "extractive", "pruner"])
def test_recipes_run_by_command(
  capsys, tmp_path, toy_data, run_file, small, recipe
):
  config = f"{CONFIGS / recipe}.py:debug"
  work = tmp_path / "work"
  code, out, err = run(
    capsys, "train", "--config", config, "--workdir", work,
    "--config.steps=4", "--config.model.scan=False",
    "--config.log_every=2", "--config.checkpoint.every=2",
    *flags(toy_data, run_file, recipe),
  )  # fmt: skip
  assert code == 0, err
  figures = json.loads(last_line(out))
  assert figures["steps"] == 4 and np.isfinite(figures["loss"])
  assert figures["time/passages_per_s"] > 0
  role = RECIPES[recipe]
  folder, step = find_step(work)
  extra = read_extra(folder, step)
  assert list(extra["components"]) == [role]
  description = extra["components"][role]
  network = network_from(description)
  tokenizer = load_pair_tokenizer(work / "tokenizer")
  assert description["tokenizer"] == tokenizer.fingerprint
  params, _ = restore_params(work, replicated(one_device()))
  expected = jax.eval_shape(network.init, jax.random.key(0))
  assert jax.tree.structure(params[role]) == jax.tree.structure(expected)
  if recipe != "extractive":
    return
  # Another run of the task begins where this one has ended.
  overrides = [
    flag.removeprefix("--config.") for flag in flags(toy_data, run_file, recipe)
  ]
  overrides += [
    f"init_from={work}",
    "steps=1",
    "model.scan=False",
    "optimizer.learning_rate=0.0",
  ]
  again = train(load_config(config, overrides), tmp_path / "again")
  assert f"step 4 of {folder}" in again["initial"]
  kept, _ = restore_params(tmp_path / "again", replicated(one_device()))
  jax.tree.map(np.testing.assert_array_equal, kept, params)
  for other, message in (
    (["objective.extractive=dpr"], "has other heads"),
    (["data.pair_length=600"], "takes 512 tokens at most"),
  ):
    with pytest.raises(ValueError, match=message):
      train(load_config(config, overrides + other), tmp_path / "other")
  overrides[2] = "data.run="
  wrong = f"{CONFIGS}/pruner.py:debug"
  with pytest.raises(ValueError, match="has no passage classifier but extr"):
    train(load_config(wrong, overrides), tmp_path / "other")


# --- Losses ----------------------------------------------------------------


BERT = BertConfig(40, **SIZES, max_positions=16, dropout=0.0, scan=False)


def settings_of(recipe, **changes):
  overrides = [f"{key}={value}" for key, value in changes.items()]
  return read_settings(load_config(f"{CONFIGS / recipe}.py:debug", overrides))


def noise(init):
  """Parameters of which all matter."""
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), jnp.float32),
    jax.eval_shape(init, jax.random.key(0)),
  )


def made(recipe, **changes):
  """A task with parameters, and a batch of 8 examples."""
  settings = settings_of(recipe, **changes)
  role = RECIPES[recipe]
  network = HEADS[role](settings, BERT)
  task = make_task(settings, {role: network})
  params, rng = noise(task.init), np.random.default_rng(0)
  q, n, l, o = 8, 3, 12, 2
  starts = rng.integers(2, 7, (q, n, o), np.int32)
  starts[:, 1] = -1
  starts[4] = -1
  lengths = rng.integers(9, l + 1, (q, n), np.int32)
  mask = np.ones((q, n), bool)
  mask[5, 2] = False
  batch = {
    "ids": rng.integers(5, 40, (q, n, l), np.int32),
    "lengths": lengths,
    "first_lengths": lengths // 2,
    "passage_rows": np.zeros((q, n), np.int32),
    "passage_mask": mask,
    "context_starts": np.full((q, n), 1, np.int32),
    "context_ends": np.full((q, n), 9, np.int32),
    "answer_starts": starts,
    "answer_ends": np.where(starts < 0, -1, starts + 1).astype(np.int32),
    "irrelevant": rng.random((q, n)) < 0.5,
    "example_mask": np.arange(q) != 6,
  }
  fields = TASKS[recipe].needs.fields
  return task, network, params, {k: jnp.asarray(batch[k]) for k in fields}


def log_softmax(x):
  x = np.asarray(x, np.float64)
  return x - np.log(np.exp(x - x.max()).sum()) - x.max()


def outputs(network, params, batch):
  call = network.read if hasattr(network, "read") else network.score
  ids, lengths = batch["ids"], batch["lengths"].reshape(-1)
  flat = ids.reshape(-1, ids.shape[2])
  found = call(params, flat, lengths, batch["first_lengths"].reshape(-1))
  return jax.tree.map(
    lambda x: np.asarray(x, np.float64).reshape(*ids.shape[:2], *x.shape[1:]),
    found,
  )


def test_a_reranker_learns_which_passage_is_gold():
  task, network, params, batch = made("reranker")
  scores = outputs(network, params["reranker"], batch)
  mask = np.asarray(batch["passage_mask"])
  real = [i for i in range(8) if i != 6]
  losses = [-log_softmax(scores[i][mask[i]])[0] for i in real]
  hits = [scores[i][mask[i]].argmax() == 0 for i in real]
  loss, metrics = jax.jit(lambda *x: task.loss(*x, None))(params, batch)
  np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)
  np.testing.assert_allclose(
    np.divide(*metrics["hits@1"]), np.mean(hits), rtol=1e-6
  )


def test_a_pruner_weighs_both_kinds_alike():
  task, network, params, batch = made("pruner")
  logits = outputs(network, params["passage_classifier"], batch)
  labels = np.asarray(batch["irrelevant"])
  losses = np.logaddexp(0, np.where(labels, -logits, logits))
  losses = losses * np.where(labels, 0.5, 1.0)
  kept = np.asarray(batch["passage_mask"] & batch["example_mask"][:, None])
  loss, metrics = jax.jit(lambda *x: task.loss(*x, None))(params, batch)
  np.testing.assert_allclose(loss, losses[kept].mean(), rtol=1e-5)
  accuracy = ((logits > 0) == labels)[kept].mean()
  np.testing.assert_allclose(
    np.divide(*metrics["accuracy"]), accuracy, rtol=1e-6
  )


def test_a_filter_learns_which_of_two_passages_was_found():
  task, network, params, batch = made("filter")
  assert params["passage_filter"]["filter"]["kernel"].shape == (16, 1)
  scores = outputs(network, params["passage_filter"], batch)
  needed = ~np.asarray(batch["irrelevant"])
  # −log σ(s) of what was found, −log(1 − σ(s)) of what was not.
  chances = 1 / (1 + np.exp(-scores))
  losses = -np.log(np.where(needed, chances, 1 - chances))
  kept = np.asarray(batch["passage_mask"] & batch["example_mask"][:, None])
  loss, metrics = jax.jit(lambda *x: task.loss(*x, None))(params, batch)
  np.testing.assert_allclose(loss, losses[kept].mean(), rtol=1e-5)
  accuracy = ((scores > 0) == needed)[kept].mean()
  np.testing.assert_allclose(
    np.divide(*metrics["accuracy"]), accuracy, rtol=1e-6
  )


def test_a_filter_scores_the_state_of_the_first_token():
  _, network, params, batch = made("filter")
  params = params["passage_filter"]
  ids = batch["ids"][:, 0]
  lengths, first = batch["lengths"][:, 0], batch["first_lengths"][:, 0]
  states = jax.jit(
    lambda p: apply_bert(BERT, p, ids, lengths, first_lengths=first)
  )(params)
  vector = np.asarray(params["filter"]["kernel"], np.float64)[:, 0]
  scores = jax.jit(network.score)(params, ids, lengths, first)
  expected = np.asarray(states[:, 0], np.float64) @ vector
  np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


def test_an_extractive_reader_learns_starts_over_all_passages():
  task, network, params, batch = made("extractive")
  scores = outputs(network, params["extractive_reader"], batch)
  mask = np.asarray(batch["passage_mask"])
  starts = np.asarray(batch["answer_starts"])
  real = [i for i in range(8) if i not in (4, 6)]
  losses = []
  for i in real:
    inside = np.zeros(scores.start[i].shape, bool)
    inside[mask[i], 1:9] = True
    chosen = np.full(inside.shape, -np.inf)
    chosen[inside] = log_softmax(scores.start[i][inside])
    places = {(n, s) for n in range(3) for s in starts[i, n] if mask[i, n]}
    total = sum(np.exp(chosen[n, s]) for n, s in places if s >= 0)
    losses.append(-np.log(total))
  loss, metrics = jax.jit(lambda *x: task.loss(*x, None))(params, batch)
  np.testing.assert_allclose(
    np.divide(*metrics["start_loss"]), np.mean(losses), rtol=1e-5
  )
  parts = [f"{part}_loss" for part in ("start", "end", "span", "passage")]
  total = sum(np.divide(*metrics[part]) for part in parts)
  np.testing.assert_allclose(loss, total, rtol=1e-5)
  assert np.divide(*metrics["answered"]) == pytest.approx(6 / 7)


def test_the_reader_of_dpr_has_no_bilinear_head():
  task, _, params, batch = made("extractive", **{"objective.extractive": "dpr"})
  assert "qa_span" not in params["extractive_reader"]
  loss, metrics = jax.jit(lambda *x: task.loss(*x, None))(params, batch)
  assert np.isfinite(loss) and set(metrics) == {
    "loss", "passage_loss", "span_loss", "answered"
  }  # fmt: skip


@pytest.mark.parametrize("recipe", ["extractive", "filter"])
def test_no_layout_changes_the_gradient(recipe):
  task, _, params, batch = made(recipe)
  whole = jax.jit(jax.grad(lambda p: task.loss(p, batch, None)[0]))(params)
  mesh = make_mesh(devices=jax.devices()[:4])
  settings = settings_of(recipe, micro_batches=2)
  layout = make_layout(settings, task, mesh, params)
  placed = jax.device_put(
    params,
    jax.tree.map(lambda x: NamedSharding(mesh, x), layout.specs),
  )
  found, _ = jax.jit(
    lambda p, b: batch_gradients(
      p, b, None, loss=task.loss, layout=layout, parts=2
    )
  )(placed, to_global(mesh, jax.tree.map(np.asarray, batch)))
  jax.tree.map(
    # In float32, summed in another order.
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
    found,
    whole,
  )


# --- What a run begins with, and what is refused ------------------------------


def test_a_published_folder_brings_its_vocabulary_and_lacks_a_head(
  toy_data, tmp_path
):
  corpus = Corpus(toy_data / "corpus")
  pieces = [*SPECIAL_TOKENS, "a", "b"]
  tokenizer = BytePairTokenizer({t: i for i, t in enumerate(pieces)}, [])
  bert = BertConfig(
    9, **SIZES, variant="roberta", type_vocab=1, max_positions=300, eps=1e-5
  )
  network = Reranker(ScorerConfig(bert))
  params = noise(network.init)
  folder = tmp_path / "roberta"
  body = {k: v for k, v in params.items() if k != "classifier"}
  save_network(folder, network, body, tokenizer)
  settings = settings_of("extractive", init_from=folder)
  start, found = initial_head(
    "extractive_reader", settings, corpus, one_device()
  )
  assert found.fingerprint == tokenizer.fingerprint
  assert start.network.config.bert.variant == "roberta"
  assert "random qa_outputs, qa_classifier, qa_span" in start.loaded_from
  jax.tree.map(
    np.testing.assert_array_equal,
    {name: start.params[name] for name in body},
    body,
  )
  kernel = start.params["qa_span"]["kernel"]
  assert kernel.shape == (16, 16) and np.asarray(kernel).any()


def test_a_pooler_is_kept_beside_a_fresh_classifier(toy_data, tmp_path):
  corpus = Corpus(toy_data / "corpus")
  size = corpus.tokenizer.vocab_size
  network = Reranker(ScorerConfig(BertConfig(size, **SIZES, scan=False)))
  params = noise(network.init)
  pooler = params["classifier"]["dense"]
  params["classifier"] = {"dense": pooler}
  save_network(tmp_path / "bert", network, params, corpus.tokenizer)
  settings = settings_of("reranker", init_from=tmp_path / "bert")
  start, _ = initial_head("reranker", settings, corpus, one_device())
  assert "random classifier.out_proj" in start.loaded_from
  assert set(start.params["classifier"]) == {"dense", "out_proj"}
  jax.tree.map(
    np.testing.assert_array_equal, start.params["classifier"]["dense"], pooler
  )


def test_what_is_planned_is_what_is_loaded():
  for recipe in RECIPES:
    settings = settings_of(recipe)
    shapes = abstract_batch(settings, check_names(settings), None)
    n = {"reranker": 4, "extractive": 4, "pruner": 1, "filter": 2}[recipe]
    l = 64 if recipe in ("pruner", "filter") else 96
    assert shapes["ids"].shape[1:] == (n, l)
