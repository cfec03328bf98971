"""Where passages' tokens are gathered, and that counting waits for nothing."""

import dataclasses

import jax
import numpy as np
import pytest
from small_reader import reader_settings, small_parts

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.reading.device_gather import DeviceGatherer, gatherer_bytes
from odqa_jax.runtime.mesh import make_mesh, to_global
from odqa_jax.training import tokens
from odqa_jax.training.memory import Run, local_examples, resident, step_bytes
from odqa_jax.training.meters import Meter
from odqa_jax.training.tasks.table import check_names
from odqa_jax.training.tokens import device_gatherer


def parts(toy_data, **settings):
  run = reader_settings(
    "individual", toy_data, **{"data.source": "answers"} | settings
  )
  corpus = Corpus(toy_data / "corpus")
  _, components, _, gatherer = small_parts(run, corpus)
  made = Run(run, check_names(run), components, make_mesh(), len(corpus))
  return made, gatherer


def test_a_cpu_keeps_to_the_host_unless_told(toy_data, capsys):
  run, gatherer = parts(toy_data)
  assert device_gatherer(run, gatherer) is None
  assert "gathered on the host: a CPU has" in capsys.readouterr().err
  run, gatherer = parts(toy_data, **{"retrieval.tokens": "device"})
  assert isinstance(device_gatherer(run, gatherer), DeviceGatherer)
  assert "gathered on the devices." in capsys.readouterr().err
  for other in ({"retrieval.tokens": "host"}, {"retrieval.k": 0}):
    run, gatherer = parts(toy_data, **{"retrieval.tokens": "device"} | other)
    assert device_gatherer(run, gatherer) is None
  assert not capsys.readouterr().err


def test_an_accelerator_gathers_where_there_is_room(
  toy_data, capsys, monkeypatch
):
  """To the byte: state, index, a step, and the tokens."""
  monkeypatch.setattr(tokens, "is_cpu", lambda mesh: False)
  run, gatherer = parts(toy_data, **{"retrieval.refresh": "snapshot"})
  needed = gatherer_bytes(gatherer, run.mesh, question_length=32)
  needed += step_bytes(run, local_examples(run))
  needed += sum(part.on_one(8) for part in resident(run).values())
  assert device_gatherer(run, gatherer, limit=lambda mesh: needed)
  assert device_gatherer(run, gatherer, limit=lambda mesh: needed - 1) is None
  assert "GiB do not fit beside" in capsys.readouterr().err
  told = dataclasses.replace(
    run,
    settings=dataclasses.replace(
      run.settings,
      retrieval=dataclasses.replace(run.settings.retrieval, tokens="device"),
    ),
  )
  # The margin of the estimate is for those who leave the choice to us.
  assert device_gatherer(told, gatherer, limit=lambda mesh: needed - 1)
  with pytest.raises(ValueError, match=r"tokens='device': their .* more micro"):
    device_gatherer(told, gatherer, limit=lambda mesh: needed // 2)


def test_features_of_small_readers_stay_with_the_host(
  toy_data, capsys, monkeypatch
):
  monkeypatch.setattr(tokens, "is_cpu", lambda mesh: False)
  run, gatherer = parts(toy_data, **{"reader.overlap_features": True})
  assert device_gatherer(run, gatherer) is None
  assert "config.reader.overlap_features" in capsys.readouterr().err


def test_what_is_on_the_devices_is_counted_without_waiting():
  rng = np.random.default_rng(0)
  batch = {
    "example_mask": np.arange(16) < 13,
    "question_lengths": rng.integers(1, 9, 16).astype(np.int32),
    "passage_lengths": rng.integers(1, 9, (16, 3)).astype(np.int32),
  }
  host, device = Meter(), Meter()
  placed = to_global(make_mesh(), batch)
  with jax.transfer_guard("disallow"):
    for _ in range(2):
      host.add(batch, 5.0)
      device.add(placed, 5.0)
    assert device.tokens == 0
    host.mark = device.mark = host.mark - 100
    one, two = host.take(), device.take()
  tokens_of_real = sum(
    x[:13].sum() for name, x in batch.items() if "lengths" in name
  )
  # Rates of 100 seconds and a little more.
  for name, total in (("tokens", 2 * tokens_of_real), ("passages", 2 * 13 * 3)):
    for rates in (one, two):
      assert rates[f"time/{name}_per_s"] == pytest.approx(total / 100, rel=0.05)
  assert not device.waiting
