"""What a config names is found, and what it sets for nothing is told."""

import dataclasses
from pathlib import Path

import pytest

from odqa_jax.runtime.config import load_config
from odqa_jax.runtime.settings import read_settings
from odqa_jax.training.named_data import unused_keys, with_corpora
from odqa_jax.training.tasks.table import TASKS

RECIPES = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))
PAIRS = ["data.questions=q", "data.pairs=p"]


def settings_of(recipe, overrides=()):
  return read_settings(load_config(str(recipe), overrides))


def told(recipe, *overrides):
  settings = settings_of(recipe, overrides)
  return list(unused_keys(settings, TASKS[settings.task].needs))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_set_nothing_for_nothing(path):
  assert not told(path)


@pytest.mark.parametrize(
  "setting",
  ["reader.preset=tiny", "retrieval.refresh=rolling", "data.passages=4",
   "data.reader_length=99", "data.run=x", "data.keep_query=0.5"],
)  # fmt: skip
def test_a_key_of_another_task_is_told(setting):
  (line,) = told("supervised", setting)
  assert line.startswith(f"config.{setting.partition('=')[0]}=")
  assert "has no effect" in line


def test_the_index_of_the_dev_set_has_a_dtype():
  dtype = "retrieval.dtype=bfloat16"
  assert told("supervised", dtype)
  assert not told("supervised", dtype, "evaluate.questions=dev")


def test_a_dataset_stands_for_its_corpus(tmp_path):
  (tmp_path / "corpus").mkdir()
  with pytest.raises(ValueError, match=r"config\.data\.corpus='.*no corpus"):
    with_corpora(settings_of("supervised", [*PAIRS, f"data.corpus={tmp_path}"]))
  (tmp_path / "corpus" / "manifest.json").touch()
  for given in (tmp_path, tmp_path / "corpus"):
    corpora = [f"data.corpus={given}", f"evaluate.corpus={given}"]
    found = with_corpora(settings_of("supervised", [*PAIRS, *corpora]))
    assert found.data.corpus == str(tmp_path / "corpus")
    assert found.evaluate.corpus == str(tmp_path / "corpus")


@pytest.mark.parametrize("name", ["corpus", "questions", "pairs"])
def test_what_is_not_set_is_named(name):
  settings = settings_of("supervised", [*PAIRS, "data.corpus=c"])
  data = dataclasses.replace(settings.data, **{name: ""})
  with pytest.raises(ValueError, match=rf"config\.data\.{name} is not set"):
    with_corpora(dataclasses.replace(settings, data=data))
