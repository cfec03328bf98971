"""End-to-end training: it runs, resumes bit for bit, and refuses bad input."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_names import Names

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.sets import Question, write_questions
from odqa_jax.models import dual_encoder, t5
from odqa_jax.retrieval import encoding as encoding_module
from odqa_jax.retrieval import retriever as retriever_module
from odqa_jax.retrieval.retriever import (
  index_corpus,
  load_retriever,
  passage_fingerprint,
)
from odqa_jax.runtime.checkpoint import restore_params
from odqa_jax.runtime.interruption import Interrupted
from odqa_jax.runtime.mesh import make_mesh, replicated
from odqa_jax.training import train as train_module
from odqa_jax.training.train import train


@pytest.fixture(autouse=True)
def one_device(request, monkeypatch):
  """Training runs on one device unless a test is marked to use all eight."""
  if "eight_devices" not in request.keywords:
    use_one_device(monkeypatch)


def use_one_device(monkeypatch):
  one = make_mesh(devices=jax.devices()[:1])
  for module in (train_module, retriever_module, encoding_module):
    monkeypatch.setattr(module, "make_mesh", lambda *_, **__: one)


@pytest.fixture
def reading(toy_config, monkeypatch):
  """A function that makes a config of a task with a very small reader."""
  small = {"width": 32, "layers": 1, "heads": 2, "mlp_dim": 64}
  presets = dual_encoder.PRESETS
  monkeypatch.setitem(presets, "tiny", presets["tiny"] | small)
  small |= {"decoder_layers": 1, "head_dim": 16}
  monkeypatch.setitem(t5.PRESETS, "tiny", t5.PRESETS["tiny"] | small)

  def make(task="individual", **settings):
    return toy_config(
      **{
        "task": task,
        "batch_size": 8,
        "steps": 5,
        "log_every": 1,
        "checkpoint.every": 5,
        "data.source": "answers",
        "data.reader_length": 96,
        "data.answer_length": 16,
        "model.dropout": 0.1,
        "reader.preset": "tiny",
        "reader.scan": False,
        "retrieval.k": 2,
        "objective.passage_encoder": task == "individual",
      }
      | settings
    )

  return make


def params_of(workdir: Path):
  return jax.device_get(restore_params(workdir, replicated(make_mesh()))[0])


def metrics_of(workdir: Path) -> list[dict]:
  rows = (workdir / "metrics.jsonl").read_text().splitlines()
  return [
    {k: v for k, v in json.loads(row).items() if not k.startswith("time/")}
    for row in rows
  ]


def stop_at(monkeypatch, step: int) -> None:
  """Makes the loop believe that it was asked to stop after `step`."""
  from odqa_jax.runtime.checkpoint import Checkpoints

  monkeypatch.setattr(
    Checkpoints, "should_stop", lambda self, at, asked: at == step
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  ("task", "settings"),
  [
    ("individual", {"retrieval.refresh": "snapshot"}),
    ("individual", {"retrieval.refresh": "rolling"}),
    (
      "individual",
      {"retrieval.refresh": "snapshot", "retrieval.dtype": "int8"},
    ),
    ("individual", {"retrieval.refresh": "blocking"}),
    ("joint", {"retrieval.dtype": "int8"}),
  ],
)
def test_resume_in_the_middle_of_a_refresh_is_bit_exact(
  tmp_path, reading, monkeypatch, task, settings
):
  """Stopped after step 3 of a round of 4, with dropout on."""
  config = reading(task, **settings, **{"retrieval.refresh_every": 4})
  train(config, tmp_path / "whole")
  with monkeypatch.context() as patch:
    stop_at(patch, 3)
    with pytest.raises(Interrupted):
      train(config, tmp_path / "parts")
  train(config, tmp_path / "parts")
  jax.tree.map(
    np.testing.assert_array_equal,
    params_of(tmp_path / "whole"),
    params_of(tmp_path / "parts"),
  )
  assert metrics_of(tmp_path / "whole") == metrics_of(tmp_path / "parts")


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.eight_devices
def test_tokens_on_the_devices_train_as_those_of_the_host(
  tmp_path, reading, monkeypatch, capsys, devices
):
  """Bit for bit, where the host pads to the longest lengths too."""
  if devices == 1:
    use_one_device(monkeypatch)
  settings = {
    "retrieval.refresh": "snapshot",
    "retrieval.refresh_every": 2,
    "retrieval.force_gold": True,
    "retrieval.null_document": True,
    "data.reader_buckets": False,
    "log_every": 2,
  }
  for tokens in ("host", "device"):
    config = reading(**settings | {"retrieval.tokens": tokens})
    if tokens == "device":
      with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(Interrupted):
          train(config, tmp_path / tokens)
    train(config, tmp_path / tokens)
  assert "tokens are gathered on the devices, " in capsys.readouterr().err
  jax.tree.map(
    np.testing.assert_array_equal,
    params_of(tmp_path / "host"),
    params_of(tmp_path / "device"),
  )
  assert metrics_of(tmp_path / "host") == metrics_of(tmp_path / "device")


@pytest.mark.slow
def test_groups_by_length_train_alike_and_resume_bit_for_bit(
  tmp_path, reading, monkeypatch
):
  settings = {
    "data.reader_buckets": False,
    "retrieval.tokens": "device",
    "micro_batches": 2,
  }
  for name, groups in (("plain", 1), ("groups", 3), ("parts", 3)):
    # The first step's loss is compared, which dropout would change.
    config = reading(
      **settings
      | {"data.length_groups": groups}
      | {"model.dropout": 0.0, "reader.dropout": 0.0}
    )
    if name == "parts":
      with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(Interrupted):
          train(config, tmp_path / name)
    train(config, tmp_path / name)
  plain, groups, parts = (
    metrics_of(tmp_path / name) for name in ("plain", "groups", "parts")
  )
  assert groups == parts
  jax.tree.map(
    np.testing.assert_array_equal,
    params_of(tmp_path / "groups"),
    params_of(tmp_path / "parts"),
  )
  assert groups[0]["loss"] == pytest.approx(plain[0]["loss"], rel=1e-5)
  shares = [line["in_length_groups"] for line in groups]
  assert 0 < max(shares) and "in_length_groups" not in plain[0]


@pytest.mark.slow
def test_ages_of_the_index_are_logged(tmp_path, reading):
  ages = {}
  for mode in ("none", "blocking", "snapshot"):
    config = reading(
      **{"retrieval.refresh": mode, "retrieval.refresh_every": 2}
    )
    train(config, tmp_path / mode)
    ages[mode] = [row["index_age"] for row in metrics_of(tmp_path / mode)]
  assert ages == {
    "none": [1, 2, 3, 4, 5],
    "blocking": [1, 0, 1, 0, 1],
    "snapshot": [1, 2, 3, 2, 3],
  }


@pytest.mark.slow
def test_what_is_frozen_does_not_move_and_the_rest_does(tmp_path, reading):
  moved = {}
  for task in ("individual", "joint", "fid"):
    config = reading(task, steps=2, **{"checkpoint.every": 1})
    config.unlock()
    config.checkpoint.keep = 2
    train(config, tmp_path / task)
    first, last = (
      params_of(tmp_path / task / "checkpoints" / str(step)) for step in (1, 2)
    )
    moved[task] = {
      name: not np.array_equal(x, y)
      for name, x, y in (
        (n, *(self_leaf(p, n) for p in (first, last)))
        for n in ("question", "passage", "reader")
      )
    }
  assert moved == {
    "individual": {"question": True, "passage": True, "reader": True},
    "joint": {"question": True, "passage": False, "reader": True},
    "fid": {"question": False, "passage": False, "reader": True},
  }


@pytest.mark.slow
def test_the_index_of_a_shared_encoder_serves_its_two_copies(
  tmp_path, reading, toy_config
):
  """What one encoder embedded need not be embedded again for two of it."""
  shared = {"model.shared": True, "data.source": "ict", "steps": 1}
  train(toy_config(**shared), tmp_path / "ict")
  corpus = Corpus(toy_config().data.corpus)
  one = load_retriever(tmp_path / "ict")
  one_device = make_mesh(devices=jax.devices()[:1])
  index_corpus(one, corpus, tmp_path / "index", mesh=one_device)
  config = reading(
    "fid",
    steps=1,
    **{
      "init_from": str(tmp_path / "ict"),
      "retrieval.index": str(tmp_path / "index"),
    },
  )
  before = sorted(p.stat().st_mtime_ns for p in (tmp_path / "index").iterdir())
  train(config, tmp_path / "fid")
  after = sorted(p.stat().st_mtime_ns for p in (tmp_path / "index").iterdir())
  assert after == before
  two = load_retriever(tmp_path / "fid")
  assert one.encoder.config.shared and not two.encoder.config.shared
  assert two.fingerprint == one.fingerprint
  ids = jnp.arange(12, dtype=jnp.int32).reshape(2, 6) + 5
  lengths = jnp.array([6, 4], jnp.int32)
  np.testing.assert_array_equal(
    one.encoder.encode_passage(one.params, ids, lengths),
    two.encoder.encode_passage(two.params, ids, lengths),
  )
  other = dataclasses.replace(one.encoder.config, passage_type=0)
  assert one.fingerprint != passage_fingerprint(
    other, jax.device_get(one.params), one.passage_length, one.title
  )


def self_leaf(params, name):
  """One kernel of a network."""
  if name == "reader":
    return params["reader"]["shared"]["embedding"]
  layer = params["retriever"][name]["encoder"]["layer"]
  return layer["attention"]["self"]["query"]["kernel"]


@pytest.mark.eight_devices
@pytest.mark.slow
def test_eight_devices_equal_one(tmp_path, reading, monkeypatch):
  # With [CLS] pooling of random weights all passages score alike, and rounding
  # would decide which are retrieved; Adam's first steps are signs of gradients.
  config = reading(
    steps=3,
    **{
      "model.pooling": "mean",
      "optimizer.learning_rate": 1e-4,
      # Eight devices in two micro-batches have masked examples beside these.
      "batch_size": 6,
      "micro_batches": 2,
      # Which rows "rolling" refreshes first depends on the number of devices.
      "retrieval.refresh": "snapshot",
      "retrieval.refresh_every": 2,
    },
  )
  train(config, tmp_path / "eight")
  use_one_device(monkeypatch)
  train(config, tmp_path / "one")
  rows = zip(
    metrics_of(tmp_path / "eight"), metrics_of(tmp_path / "one"), strict=True
  )
  for eight, one in rows:
    for name in ("loss", "passage_entropy", "answer_in_top_k", "index_age"):
      np.testing.assert_allclose(eight[name], one[name], rtol=1e-4)


@pytest.mark.slow
def test_stages_hand_on_retriever_and_reader(tmp_path, reading):
  train(reading("fid", steps=2), tmp_path / "fid")
  figures = train(
    reading("individual", steps=1, init_from=str(tmp_path / "fid")),
    tmp_path / "individual",
  )
  assert "initial reader: step 2" in figures["initial"]
  with pytest.raises(ValueError, match=r"the reader of .* is another model"):
    config = reading("joint", init_from=str(tmp_path / "fid"))
    config.unlock()
    config.reader.overlap_features = True
    train(config, tmp_path / "other")


@pytest.mark.slow
def test_closed_book_reads_no_passage(tmp_path, reading):
  figures = train(reading("fid", steps=1, **{"retrieval.k": 0}), tmp_path / "w")
  assert figures["answer_in_top_k"] == 0
  assert not (tmp_path / "w" / "index").exists()


@pytest.mark.parametrize(
  ("task", "settings", "message"),
  [
    ("individual", {"retrieval.k": 201}, r"k=201, but the corpus .* has 200"),
    ("individual", {"data.source": "pairs"}, r"source='pairs' does not go"),
    ("contrastive", {}, r"source='answers' does not go"),
    (
      "joint",
      {"retrieval.refresh": "rolling"},
      r"refresh='rolling', but this run leaves the passage encoder",
    ),
    ("individual", {"data.answer_length": 2}, r"none of 100 questions can"),
    ("individual", {"data.source": "salient"}, r"odqa prepare --spans"),
    ("individual", {"reader.init_from": "/nowhere"}, r"/nowhere: no such"),
    ("individual", {"reader.preset": "huge"}, r"preset='huge'; known: base, "),
    ("individual", {"retrieval.refresh": "often"}, r"refresh='often'"),
  ],
)
def test_bad_settings_are_refused_by_name(
  tmp_path, reading, task, settings, message
):
  with pytest.raises(ValueError, match=message):
    train(reading(task, **settings), tmp_path / "w")


@pytest.mark.slow
def test_questions_without_answers_are_left_out_unless_strict(
  tmp_path, reading, capsys
):
  write_questions(
    [Question("q1", "who is it", ("a king",)), Question("q2", "and who", ())],
    tmp_path / "set",
    "set",
  )
  settings = {"data.questions": str(tmp_path / "set"), "steps": 1}
  figures = train(reading(**settings), tmp_path / "w")
  assert (figures["examples"], figures["examples_left_out"]) == (1, 1)
  assert metrics_of(tmp_path / "w")[0]["examples_left_out"] == 1
  assert "left out: 1 without an answer" in capsys.readouterr().err
  with pytest.raises(ValueError, match="question q2 is without an answer"):
    train(reading(**settings, **{"data.strict": True}), tmp_path / "strict")


@pytest.mark.slow
def test_an_index_of_another_encoder_is_refused(tmp_path, reading):
  train(reading("fid", steps=1), tmp_path / "fid")
  index = str(tmp_path / "fid" / "index")
  with pytest.raises(ValueError, match="encoder is"):
    train(
      reading("fid", steps=1, seed=99, **{"retrieval.index": index}),
      tmp_path / "other",
    )


def test_the_corpus_of_the_reader_must_be_the_same(tmp_path, reading, toy_data):
  other = tmp_path / "corpus.jsonl"
  other.write_text('{"id": "a", "title": "A", "text": "Some text."}\n')
  from odqa_jax.data.corpus.build import build_corpus

  build_corpus(
    [str(other)], tmp_path / "corpus", Corpus(toy_data / "corpus").tokenizer
  )
  config = reading(**{"data.reader_corpus": str(tmp_path / "corpus")})
  with pytest.raises(ValueError, match="holds other passages"):
    train(config, tmp_path / "w")


@pytest.mark.slow
def test_masked_salient_spans_train_without_their_own_passage(
  tmp_path, reading, toy_data, monkeypatch
):
  from odqa_jax.data.mining.spans_build import build_spans
  from odqa_jax.training.retrieval import BatchRetrieval

  corpus = Corpus(toy_data / "corpus")
  places = dict.fromkeys(("castle", "garden", "harbour", "village"), "GPE")
  build_spans(corpus, tmp_path / "spans", Names(places))
  seen = []
  complete = BatchRetrieval.complete

  def watched(self, batch, candidates):
    out = complete(self, batch, candidates)
    seen.append((out["excluded_rows"], out["passage_rows"]))
    return out

  monkeypatch.setattr(BatchRetrieval, "complete", watched)
  config = reading(
    steps=3,
    **{
      "data.source": "salient",
      "data.spans": str(tmp_path / "spans"),
      "retrieval.null_document": True,
    },
  )
  figures = train(config, tmp_path / "w")
  assert np.isfinite(figures["retrieval_utility"])
  assert len(seen) == 3
  for own, rows in seen:
    assert (rows[:, -1] == -1).all() and rows.shape[1] == 3
    assert (own[:, 0] >= 0).all()
    for mine, found in zip(own, rows, strict=True):
      assert not set(found[:-1].tolist()) & set(mine.tolist())
