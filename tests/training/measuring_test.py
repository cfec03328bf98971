"""What a checkpoint is chosen on: never a test set, unless told."""

import os
import signal

import pytest

from odqa_jax.runtime.report import read_metrics
from odqa_jax.runtime.settings import read_settings
from odqa_jax.training import train as train_module
from odqa_jax.training.measuring import dev_choices
from odqa_jax.training.train import train


def test_a_stop_in_the_last_step_is_measured_all_the_same(
  toy_config, toy_data, tmp_path, monkeypatch
):
  asked = toy_data / "questions" / "toy"
  config = toy_config(
    **{"steps": 1, "checkpoint.every": 9, "evaluate.questions": str(asked)}
  )

  def stop(batch, names):
    os.kill(os.getpid(), signal.SIGTERM)

  monkeypatch.setattr(train_module, "check_batch", stop)
  assert train(config, tmp_path / "work")["steps"] == 1
  rows = read_metrics(tmp_path / "work" / "metrics.jsonl")
  assert any("dev/recall@20" in row for row in rows)


def test_a_checkpoint_is_not_chosen_on_a_test_set(toy_config, tmp_path):
  key = "--config.evaluate.on_test=True"
  for named in (
    {"evaluate.questions": "data/questions/nq-test"},
    {"task": "filter", "data.pool_questions": "dev,NQ-open.dev.jsonl"},
  ):
    config = toy_config(**named)
    with pytest.raises(ValueError, match=f"is a test set by its name.*{key}"):
      dev_choices(read_settings(config))
    config = toy_config(**named, **{"evaluate.on_test": True})
    *_, last = dev_choices(read_settings(config))
    assert str(last).endswith("(a test set, as told)")
  assert dev_choices(read_settings(toy_config())) == []
  # Before anything is opened, or written.
  config = toy_config(**{"evaluate.questions": "data/questions/nq-test"})
  with pytest.raises(ValueError, match="is a test set"):
    train(config, tmp_path / "work")
  assert not (tmp_path / "work").exists()
