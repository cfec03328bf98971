"""A run goes on with what it was begun with, wherever that lies now."""

import os
import shutil
from pathlib import Path

import pytest

from odqa_jax.data.prepare import prepare
from odqa_jax.runtime.settings import read_settings
from odqa_jax.training.contents import contents
from odqa_jax.training.train import train


def keys_of(folder: Path, **settings) -> dict:
  """The config keys that name the parts of a dataset folder."""
  return {
    "data.corpus": str(folder / "corpus"),
    "data.questions": str(folder / "questions" / "toy"),
    "data.pairs": str(folder / "pairs" / "toy"),
    **settings,
  }


@pytest.fixture
def data(tmp_path, toy_data) -> Path:
  return Path(shutil.copytree(toy_data, tmp_path / "data"))


@pytest.mark.slow
def test_moved_data_and_workdir_are_the_same_run(
  toy_config, tmp_path, data, monkeypatch
):
  whole = train(toy_config(**keys_of(data)), tmp_path / "whole")
  train(toy_config(**keys_of(data), **{"checkpoint.keep": 2}), tmp_path / "w")
  shutil.rmtree(tmp_path / "w" / "checkpoints" / "6")
  (tmp_path / "moved").mkdir()
  data.rename(tmp_path / "moved" / "data")
  (tmp_path / "w").rename(tmp_path / "moved" / "w")
  monkeypatch.chdir(tmp_path / "moved")
  again = train(toy_config(**keys_of(Path("data"))), Path("w"))
  assert again["steps"] == 6 and again["loss"] == whole["loss"]


@pytest.mark.slow
def test_first_weights_may_move_too(toy_config, tmp_path, data):
  train(toy_config(**keys_of(data)), tmp_path / "first")
  first = {"init_from": str(tmp_path / "first"), "model.preset": "init"}
  train(toy_config(**keys_of(data, **first)), tmp_path / "w")
  (tmp_path / "first").rename(tmp_path / "elsewhere")
  first["init_from"] = str(tmp_path / "elsewhere")
  assert train(toy_config(**keys_of(data, **first)), tmp_path / "w")
  other = toy_config(**keys_of(data), seed=7)
  train(other, tmp_path / "other")
  first["init_from"] = str(tmp_path / "other")
  with pytest.raises(ValueError, match=r"config\.init_from='.*other' holds"):
    train(toy_config(**keys_of(data, **first)), tmp_path / "w")


@pytest.mark.slow
def test_other_content_at_the_same_path_is_refused(
  toy_config, tmp_path, data, toy_data
):
  config = toy_config(**keys_of(data))
  train(config, tmp_path / "w")
  asked = tmp_path / "toy.jsonl"
  lines = (toy_data.parent / "toy.jsonl").read_text().splitlines(keepends=True)
  asked.write_text("".join(lines[:-1]))
  prepare(
    corpus=[str(toy_data.parent / "passages.jsonl")],
    questions=[str(asked)],
    out=data,
    tokenizer=str(data / "tokenizer"),
    pairs=["toy"],
  )
  with pytest.raises(ValueError, match="begun with other data") as error:
    train(config, tmp_path / "w")
  assert "config.data.questions" in str(error.value)
  assert "config.data.pairs" in str(error.value)
  assert "config.data.corpus" not in str(error.value)


def test_a_copy_of_the_workdir_goes_on(toy_config, tmp_path, data):
  train(toy_config(**keys_of(data)), tmp_path / "w")
  os.rename(tmp_path / "w", tmp_path / "w2")
  shutil.copytree(tmp_path / "w2", tmp_path / "w3")
  assert train(toy_config(**keys_of(data)), tmp_path / "w3")["steps"] == 6


def test_a_run_of_a_retriever_is_known_by_its_bytes(
  toy_config, tmp_path, toy_data
):
  first, moved, other = (tmp_path / name for name in ("a", "b", "c"))
  first.write_text("q1 Q0 p1 1 2 x\n")
  moved.write_text("q1 Q0 p1 1 2 x\n")
  other.write_text("q1 Q0 p2 1 2 x\n")

  def held(runs):
    settings = {"data.source": "retrieved", "data.run": runs}
    keys = keys_of(toy_data, **settings)
    return contents(read_settings(toy_config(**keys)))["data.run"]

  assert held(str(first)) == held(str(moved)) != held(str(other))
  assert held(f"{first},{other}") != held(f"{other},{first}")
