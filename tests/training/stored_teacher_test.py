"""Scores of a teacher that were stored, against those of a live one."""

import json

import numpy as np
import pytest
from command_line import last_line, run
from small_parts import save_extractive_reader
from small_reader import one_device
from unified import CONFIGS, write_toy_run

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.sources import load_examples
from odqa_jax.inspection.inspect import inspect
from odqa_jax.runtime.artifact import read_manifest
from odqa_jax.runtime.config import load_config
from odqa_jax.runtime.files import Damage
from odqa_jax.runtime.settings import read_settings
from odqa_jax.training.contents import contents
from odqa_jax.training.stored_teacher import (
  StoredTeacher,
  open_teacher,
  store_scores,
)


@pytest.fixture(scope="module")
def overrides(toy_data, tmp_path_factory):
  root = tmp_path_factory.mktemp("teacher")
  corpus = Corpus(toy_data / "corpus")
  save_extractive_reader(corpus, root / "reader", objective="dpr")
  return [
    f"data.corpus={toy_data / 'corpus'}",
    f"data.questions={toy_data / 'questions' / 'toy'}",
    f"data.run={write_toy_run(toy_data, root / 'run.json')}",
    f"unified.teacher={root / 'reader'}",
    "data.pair_length=64",
    "data.passages=3",
  ]


def settings_of(overrides, *more):
  config = load_config(f"{CONFIGS}/unified.py:debug", [*overrides, *more])
  return read_settings(config)


@pytest.fixture(scope="module")
def stored(overrides, tmp_path_factory):
  """Scores in both types."""
  root = tmp_path_factory.mktemp("stored")
  for dtype in ("float16", "float32"):
    settings = settings_of(overrides)
    store_scores(root / dtype, settings, one_device(), dtype=dtype)
  return root


@pytest.mark.parametrize(
  ("dtype", "close"), [("float32", 1e-5), ("float16", 2e-3)]
)
def test_stored_scores_are_those_of_the_live_teacher(
  overrides, stored, toy_data, dtype, close
):
  corpus = Corpus(toy_data / "corpus")
  live = settings_of(overrides)
  read = settings_of(overrides, f"unified.teacher={stored / dtype}")
  examples = load_examples(live.data, corpus)
  batch = examples.batch(np.arange(8), np.random.default_rng(3), slice(0, 8))
  # What fills up a batch has no scores.
  batch["example_mask"][7] = False
  batch["passage_rows"][7] = 0
  asked = [open_teacher(s, corpus, one_device()) for s in (live, read)]
  assert isinstance(asked[1], StoredTeacher)
  expected, found = (teacher(batch) for teacher in asked)
  places = np.arange(batch["ids"].shape[2])
  inside = (places >= batch["context_starts"][..., None]) & (
    places < batch["context_ends"][..., None]
  )
  inside[7] = False
  for name in ("teacher_start", "teacher_end"):
    assert found[name].dtype == np.float32
    np.testing.assert_allclose(
      found[name][inside],
      np.asarray(expected[name])[inside],
      rtol=close,
      atol=close,
    )
    assert not found[name][~inside].any()
  np.testing.assert_allclose(
    found["teacher_passage"][:7],
    np.asarray(expected["teacher_passage"])[:7],
    rtol=1e-5,
    atol=1e-5,
  )
  assert contents(read)["unified.teacher"] != contents(live)["unified.teacher"]


def test_scores_of_other_inputs_are_refused(overrides, stored):
  mine = f"unified.teacher={stored / 'float32'}"
  for change, name in (
    ("data.pair_length=60", "config.data.pair_length (64 there, 60 here)"),
    ("data.title=False", "config.data.title (True there, False here)"),
    ("data.passages=2", "config.data.passages (3 there, 2 here)"),
    ("data.span_length=9", "config.data.span_length (10 there, 9 here)"),
  ):
    with pytest.raises(ValueError, match="was stored for another") as refusal:
      StoredTeacher(stored / "float32", settings_of(overrides, mine, change))
    assert name in str(refusal.value)


def test_they_are_told_on_a_page(stored, toy_data):
  page = inspect(stored / "float32", n=2)
  scores = read_manifest(stored / "float32", "teacher")
  assert page.kind == "teacher" and not page.all_problems()
  assert page.facts["questions"] == scores["questions"]
  assert page.facts["pairs"] == len(np.load(stored / "float32" / "rows.npy"))
  (_, fields), _ = page.records
  ranks = [float(rank) for rank in fields["ranks"].split()]
  first = slice(*np.load(stored / "float32" / "questions.npy")[0])
  ranked = np.sort(np.load(stored / "float32" / "passage.npy")[first])[::-1]
  np.testing.assert_allclose(ranks, ranked[:3], atol=0.005)


def test_a_flipped_byte_is_found(overrides, tmp_path):
  settings = settings_of(overrides)
  store_scores(tmp_path / "scores", settings, one_device())
  path = tmp_path / "scores" / "passage.npy"
  content = bytearray(path.read_bytes())
  content[-1] ^= 1
  path.write_bytes(content)
  with pytest.raises(Damage, match=r"passage\.npy"):
    StoredTeacher(tmp_path / "scores", settings)


@pytest.mark.slow
def test_scores_are_stored_by_command(capsys, overrides, tmp_path):
  flags = [f"--config.{item}" for item in overrides]
  command = ("teach", "--config", f"{CONFIGS}/unified.py:debug")
  code, out, err = run(
    capsys, *command, "--out", tmp_path / "scores", "--dtype", "f32", *flags
  )
  assert code == 0, err
  figures = json.loads(last_line(out))
  assert figures["questions"] == 100 and figures["pairs"] == 600
  code, _, err = run(
    capsys, *command, "--out", tmp_path / "scores",
    *flags[:3], "--config.unified.teacher=",
  )  # fmt: skip
  assert code == 2 and "give config.unified.teacher" in err
