"""Where passages' tokens are gathered, and that counting waits for nothing."""

import dataclasses

import jax
import numpy as np
import pytest
from small_reader import reader_settings, small_parts

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.reading.device_gather import DeviceGatherer, gatherer_bytes
from odqa_jax.runtime.mesh import make_mesh, to_global
from odqa_jax.runtime.settings import AUTO
from odqa_jax.training import fitting, tokens
from odqa_jax.training.memory import Run, local_examples, resident, step_bytes
from odqa_jax.training.meters import Meter
from odqa_jax.training.tasks.table import check_names
from odqa_jax.training.tokens import (
  make_device_gatherer,
  settled,
  stored_tokens,
)

ENOUGH = 2**40


def settings_of(toy_data, **settings):
  return reader_settings(
    "individual", toy_data, **{"data.source": "answers"} | settings
  )


def parts(toy_data, **settings):
  run = settings_of(toy_data, **settings)
  corpus = Corpus(toy_data / "corpus")
  _, components, _, gatherer = small_parts(run, corpus)
  made = Run(run, check_names(run), components, make_mesh(), len(corpus))
  return made, gatherer


def needed(run, examples):
  held = sum(part.on_one(8) for part in resident(run).values())
  return held + step_bytes(run, examples)


def test_a_cpu_keeps_to_the_host_unless_told(toy_data, capsys):
  run, gatherer = parts(toy_data)
  made = settled(run, lambda: stored_tokens(run, gatherer), ENOUGH)
  assert made == run and make_device_gatherer(made, gatherer) is None
  assert "gathered on the host: a CPU has" in capsys.readouterr().err
  asked = {"retrieval.tokens": "device"}
  run = dataclasses.replace(run, settings=settings_of(toy_data, **asked))
  # As it counts nothing that a CPU has, nothing is too much.
  made = settled(run, lambda: stored_tokens(run, gatherer), 0)
  assert isinstance(make_device_gatherer(made, gatherer), DeviceGatherer)
  (line,) = capsys.readouterr().err.splitlines()
  assert "gathered on the devices, 0.00 GiB of each." in line
  stored = stored_tokens(run, gatherer)
  for other in ({"retrieval.tokens": "host"}, {"retrieval.k": 0}):
    settings = settings_of(toy_data, **asked | other)
    run = dataclasses.replace(run, settings=settings)
    made = settled(run, lambda: stored, ENOUGH)
    assert made == run and make_device_gatherer(made, gatherer) is None
  assert not capsys.readouterr().err


@pytest.mark.slow
def test_an_accelerator_gathers_where_there_is_room(
  toy_data, capsys, monkeypatch
):
  """To the byte: state, index, a step, and the tokens."""
  monkeypatch.setattr(tokens, "is_cpu", lambda mesh: False)
  run, gatherer = parts(toy_data, **{"retrieval.refresh": "snapshot"})
  stored = stored_tokens(run, gatherer)
  each = gatherer_bytes(gatherer, run.mesh, question_length=32)
  assert stored.on_one(8) == each > 0
  limit = needed(run, local_examples(run)) + each
  made = settled(run, lambda: stored, limit)
  assert made.tokens == stored == resident(made)["tokens"]
  assert needed(made, local_examples(run)) == limit
  made = settled(run, lambda: stored, limit - 1)
  assert made == run
  assert "GiB do not fit beside" in capsys.readouterr().err


def test_tokens_that_are_asked_for_make_micro_batches(
  toy_data, capsys, monkeypatch
):
  """Left to us, they are where they cost none."""
  monkeypatch.setattr(tokens, "is_cpu", lambda mesh: False)
  for module in (fitting, tokens):
    monkeypatch.setattr(
      module, "step_bytes", lambda run, examples: 115_000 * examples
    )
  several = {"micro_batches": AUTO, "batch_size": 64}
  run, gatherer = parts(toy_data, **several)
  stored = stored_tokens(run, gatherer)
  state = sum(part.on_one(8) for part in resident(run).values())
  limit = state + 8 * 115_000 + stored.on_one(8) - 1
  made = settled(run, lambda: stored, limit)
  assert (made.settings.parts, made.tokens) == (1, None)
  settings = settings_of(toy_data, **several | {"retrieval.tokens": "device"})
  asked = dataclasses.replace(run, settings=settings)
  made = settled(asked, lambda: stored, limit)
  assert (made.settings.parts, made.tokens) == (2, stored)
  # A number that is given is checked without the margin of the estimate.
  one = dataclasses.replace(asked.settings, micro_batches=1)
  one = dataclasses.replace(asked, settings=one)
  limit = state + 8 * 100_000 + stored.on_one(8)
  assert settled(one, lambda: stored, limit).tokens == stored
  capsys.readouterr()
  with pytest.raises(ValueError, match=r"tokens 0\.00, step.*micro_batches=2"):
    settled(one, lambda: stored, limit - 1)
  assert not capsys.readouterr().err
  with pytest.raises(ValueError, match=r"--config\.retrieval\.tokens=host"):
    settled(asked, lambda: stored, state + 115_000)


def test_features_of_small_readers_stay_with_the_host(
  toy_data, capsys, monkeypatch
):
  monkeypatch.setattr(tokens, "is_cpu", lambda mesh: False)
  features = {"reader.overlap_features": True}
  run, gatherer = parts(toy_data, **features)
  assert settled(run, lambda: stored_tokens(run, gatherer), ENOUGH) == run
  assert "config.reader.overlap_features" in capsys.readouterr().err
  run, gatherer = parts(toy_data, **features | {"retrieval.tokens": "device"})
  with pytest.raises(ValueError, match=r"tokens='device'.*overlap_features"):
    settled(run, lambda: stored_tokens(run, gatherer), ENOUGH)


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
