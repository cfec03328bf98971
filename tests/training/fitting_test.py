"""The number of micro-batches that memory allows, and what is said if none."""

import dataclasses
import re
import shutil

import jax
import numpy as np
import pytest
from runs import make_run, task_settings

from odqa_jax.models.dual_encoder import DualEncoder
from odqa_jax.runtime.checkpoint import find_step, restore_params
from odqa_jax.runtime.config import apply_overrides, base_config
from odqa_jax.runtime.mesh import make_mesh, replicated
from odqa_jax.runtime.settings import AUTO, read_settings
from odqa_jax.training import fitting, memory
from odqa_jax.training import train as train_module
from odqa_jax.training.fitting import Chosen, chosen_before, fitted
from odqa_jax.training.train import train

_MIB = 2**20


@pytest.fixture(autouse=True, scope="module")
def traced_once():
  """A step is traced for seconds, and again for every limit that is tried."""
  known, trace = {}, memory.step_bytes

  def step_bytes(run, examples):
    settings = dataclasses.replace(run.settings, micro_batches=1)
    networks = [(n, c.config) for n, c in run.components.items()]
    key = repr((settings, networks, run.mesh.size, examples))
    if key not in known:
      known[key] = trace(run, examples)
    return known[key]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(memory, "step_bytes", step_bytes)
    patch.setattr(fitting, "step_bytes", step_bytes)
    yield


def auto_run(toy_config, task="contrastive", devices=1, **settings):
  changes = {"micro_batches": AUTO} | settings
  return make_run(toy_config(**task_settings(task, **changes)), devices)


def needed(run, examples):
  """Bytes of a device with so many examples at a time."""
  parts = memory.resident(run).values()
  held = sum(part.on_one(run.mesh.size) for part in parts)
  return held + memory.step_bytes(run, examples)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 4])
def test_the_fewest_that_fit_are_taken(toy_config, devices):
  """Exactly what a number needs is enough, a byte less is not."""
  run = auto_run(toy_config, devices=devices)
  local = 32 // devices
  for number in (1, 2, 4):
    limit = needed(run, local // number)
    assert fitted(run, limit).settings.parts == number
    assert fitted(run, limit - 1).settings.parts == 2 * number


@pytest.mark.slow
def test_a_number_of_ones_own_is_kept_or_refused(toy_config):
  run = auto_run(toy_config, micro_batches=2)
  assert fitted(run, needed(run, 16)) == run
  # What only the margin makes too large is for the compiler to decide.
  assert fitted(run, needed(run, 16) - 1) == run
  with pytest.raises(
    ValueError, match=r"use --config\.micro_batches=8"
  ) as error:
    fitted(run, needed(run, 4))
  said = str(error.value)
  assert said.startswith("config.micro_batches=2 does not fit a device with")
  assert re.search(r"training state [\d.]+, step [\d.]+", said)


@pytest.mark.slow
def test_a_resumed_run_keeps_its_number_while_it_fits(toy_config):
  run = auto_run(toy_config)
  enough = needed(run, 32)
  had = {n: Chosen(n, {"retriever": "none"}) for n in (2, 8)}
  assert fitted(run, enough, before=had[8]).settings.parts == 8
  assert fitted(run, needed(run, 4), before=had[2]).settings.parts == 8


@pytest.mark.slow
@pytest.mark.parametrize(
  ("settings", "flag"),
  [
    ({"retrieval.dtype": "float32"}, "retrieval.dtype"),
    ({"retrieval.refresh": "snapshot"}, "retrieval.refresh"),
    ({"model.remat": "none", "reader.remat": "none"}, "model.remat"),
  ],
)
def test_what_is_proposed_fits(toy_config, settings, flag):
  """A proposal is taken up, and does what it promises."""
  run = auto_run(toy_config, "individual", devices=2, **settings)
  run = memory.Run(
    run.settings, run.needs, run.components, run.mesh, passages=4_000_000
  )
  others = dict(fitting._alternatives(run))
  (words,) = [words for words in others if words.startswith(f"--config.{flag}")]
  limit = needed(others[words], 1)
  assert limit < needed(run, 1)
  with pytest.raises(
    ValueError, match="this run cannot fit 2 devices"
  ) as error:
    fitted(run, limit)
  assert words in str(error.value).partition("What would fit: ")[2]


@pytest.mark.slow
def test_more_devices_are_proposed_where_parts_are_split(toy_config):
  run = auto_run(toy_config, "joint", devices=2)
  run = memory.Run(
    run.settings, run.needs, run.components, run.mesh, passages=50_000_000
  )
  with pytest.raises(ValueError, match=r"\b(\d+) devices\.$") as error:
    fitted(run, 2**31)
  more = int(re.search(r"(\d+) devices\.$", str(error.value)).group(1))
  parts = memory.resident(run).values()
  for count, fits in ((more, True), (more // 2, False)):
    held = sum(part.on_one(count) for part in parts)
    assert (held + memory.step_bytes(run, 1) <= 2**31) == fits


# ---- What is computed again ----


def gpu_run(toy_config, task, **settings):
  """A run planned for one GPU, with all left to its memory."""
  config = toy_config(
    **task_settings(
      task,
      **(
        {"micro_batches": AUTO, "model.remat": AUTO, "reader.remat": AUTO}
        | settings
      ),
    )
  )
  run = make_run(config, 1)
  retriever, *_ = run.components.values()
  bert = dataclasses.replace(retriever.config.bert, platform="gpu", scan=False)
  bert = dataclasses.replace(bert, attention="xla", layers=4)
  encoder = dataclasses.replace(retriever.config, bert=bert)
  components = run.components | {"retriever": DualEncoder(encoder)}
  return dataclasses.replace(run, components=components)


def at_level(run, level):
  names = dict.fromkeys(run.components, level)
  return fitting._with_remat(run, names)


@pytest.mark.slow
def test_of_a_contrastive_batch_layers_are_computed_again_first(toy_config):
  """As two micro-batches would be encoded twice."""
  run = gpu_run(toy_config, "contrastive")
  for level in ("none", "dots", "full"):
    fits = fitted(run, needed(at_level(run, level), 32))
    assert fitting.recomputed(fits) == {"retriever": level}
    assert fits.settings.parts == 1
  # What does not fit at all takes micro-batches, and computes nothing again.
  fits = fitted(run, needed(at_level(run, "full"), 32) - 1)
  assert fits.settings.parts > 1
  assert fitting.recomputed(fits) == {"retriever": "none"}


@pytest.mark.slow
def test_of_a_sum_micro_batches_are_taken_first(toy_config):
  run = gpu_run(toy_config, "joint")
  least = at_level(run, "none")
  size = memory.local_examples(run)
  for parts in (1, 2):
    fits = fitted(run, needed(least, size // parts))
    assert fits.settings.parts == parts
    assert set(fitting.recomputed(fits).values()) == {"none"}
  fits = fitted(run, needed(least, 1) - 1)
  assert set(fitting.recomputed(fits).values()) == {"dots"}


@pytest.mark.slow
def test_a_level_of_ones_own_and_other_platforms_are_kept(toy_config):
  run = gpu_run(toy_config, "joint", **{"reader.remat": "full"})
  assert fitting.recomputed(fitted(run, 2**50)) == {
    "retriever": "none",
    "reader": "full",
  }
  config = toy_config(
    **task_settings("joint", **{"model.remat": AUTO, "reader.remat": AUTO})
  )
  fits = fitted(make_run(config, 1), 2**50)
  assert fitting.recomputed(fits) == {"retriever": "dots", "reader": "full"}


@pytest.mark.slow
def test_elsewhere_too_all_is_computed_again_where_nothing_else_fits(
  toy_config,
):
  auto = {"model.remat": AUTO, "reader.remat": AUTO}
  run = auto_run(toy_config, "joint", **auto)
  fits = fitted(run, needed(run, 1))
  assert fitting.recomputed(fits) == {"retriever": "dots", "reader": "full"}
  fits = fitted(run, needed(run, 1) - 1)
  assert fitting.recomputed(fits) == {"retriever": "full", "reader": "full"}


# ---- The setting ----


@pytest.mark.parametrize(
  ("text", "value"), [("auto", AUTO), ("false", False), ("True", True)]
)
def test_a_word_stands_in_place_of_true_and_false(text, value):
  config = base_config().lock()
  assert read_settings(config).model.scan == AUTO
  apply_overrides(config, [f"model.scan={text}"])
  assert read_settings(config).model.scan is value or value == AUTO


@pytest.mark.parametrize("text", ["1", "yes", "Auto"])
def test_another_word_than_true_and_false_is_refused(text):
  config = base_config().lock()
  with pytest.raises(ValueError, match=r"config\.model\.scan"):
    apply_overrides(config, [f"model.scan={text}"])
  config.model.scan = text
  with pytest.raises(ValueError, match="True, False, or auto"):
    read_settings(config)


def test_the_word_stands_in_place_of_a_number():
  config = base_config().lock()
  assert read_settings(config).parts == 1
  apply_overrides(config, ["micro_batches=auto"])
  assert read_settings(config).micro_batches == AUTO
  # And a number in place of the word, as a number.
  apply_overrides(config, ["micro_batches=4"])
  assert read_settings(config).parts == 4
  config.micro_batches = AUTO  # As a recipe does.
  assert read_settings(config).micro_batches == AUTO


@pytest.mark.parametrize("word", ["many", "Auto", "1.5"])
def test_other_words_are_refused(word):
  config = base_config().lock()
  with pytest.raises(ValueError, match="micro_batches"):
    apply_overrides(config, [f"micro_batches={word}"])
  config.micro_batches = word
  with pytest.raises(ValueError, match="a number, or auto"):
    read_settings(config)


# ---- In training ----


@pytest.fixture
def limited(monkeypatch):
  """A function that sets the devices' memory, in bytes."""

  def limit(size):
    monkeypatch.setattr(train_module, "memory_limit", lambda mesh: size)

  return limit


def params_of(workdir):
  return restore_params(workdir, replicated(make_mesh()))[0]


@pytest.mark.slow
def test_a_run_is_that_of_the_number_it_chose(toy_config, tmp_path, limited):
  settings = {"batch_size": 32, "model.dropout": 0.1}
  settings |= {"steps": 2, "checkpoint.every": 2}
  auto = toy_config(micro_batches=AUTO, **settings)
  limited(2**40)
  train(auto, tmp_path / "whole")
  assert chosen_before(tmp_path / "whole").micro_batches == 1
  _, step = find_step(tmp_path / "whole")
  assert step == 2
  limited(_for_half(auto))
  train(auto, tmp_path / "parts")
  number = chosen_before(tmp_path / "parts").micro_batches
  assert number == 2
  train(toy_config(micro_batches=number, **settings), tmp_path / "same")
  same = jax.tree.map(
    np.array_equal, params_of(tmp_path / "parts"), params_of(tmp_path / "same")
  )
  assert all(jax.tree.leaves(same))


def _for_half(config):
  """Bytes of eight devices that two of four examples of each fit at a time."""
  run = make_run(config, devices=8)
  assert (
    memory.local_examples(run) == read_settings(config).batch_size // 8 == 4
  )
  assert needed(run, 2) < needed(run, 4)
  return needed(run, 2)


@pytest.mark.slow
def test_a_run_goes_on_with_its_number(toy_config, tmp_path, limited):
  """Bit for bit, though the devices have more memory by now."""
  settings = {"batch_size": 32, "model.dropout": 0.1, "micro_batches": AUTO}
  config = toy_config(**settings, **{"checkpoint.keep": 2})
  limited(_for_half(config))
  train(config, tmp_path / "whole")
  shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
  shutil.rmtree(tmp_path / "stopped" / "checkpoints" / "6")
  limited(2**40)
  train(config, tmp_path / "stopped")
  assert chosen_before(tmp_path / "stopped").micro_batches == 2
  same = jax.tree.map(
    np.array_equal,
    params_of(tmp_path / "whole"),
    params_of(tmp_path / "stopped"),
  )
  assert all(jax.tree.leaves(same))


def test_an_empty_workdir_has_chosen_nothing(tmp_path):
  assert chosen_before(tmp_path) is None
