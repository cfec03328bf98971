"""The benchmark for accelerators: rehearsed on a CPU, and its own judgement."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

FOLDER = Path(__file__).parent / "benchmarks"

# Does with a part what its name says.
WORKER = textwrap.dedent("""
  import json, os, sys, time
  for part in sys.argv[1].split(","):
    print(json.dumps({"begin": part}), flush=True)
    if part.startswith("hangs"):
      time.sleep(1000)
    if part.startswith("slow"):
      time.sleep(20)
    if part.startswith("dies"):
      os.kill(os.getpid(), 9)
    print(json.dumps({"part": part, "ms": 1.5}), flush=True)
""")


@pytest.fixture
def accelerator(monkeypatch):
  monkeypatch.syspath_prepend(str(FOLDER))
  import accelerator

  return accelerator


@pytest.fixture
def device_parts(monkeypatch):
  monkeypatch.syspath_prepend(str(FOLDER))
  import device_parts

  return device_parts


def test_a_part_that_fails_leaves_the_others(accelerator, capsys):
  budgets = {"first": 60, "hangs": 2, "dies": 60, "last": 60}
  command = [sys.executable, "-c", WORKER]
  table = accelerator.run_parts(command, budgets, 10)
  assert table == {
    "parts": {
      "first": {"ms": 1.5},
      "hangs": {"error": "took longer than it may"},
      "dies": {"error": "ended the process with code -9"},
      "last": {"ms": 1.5},
    },
    "not_run": [],
  }
  # A line for each as it ends, so that a run that is cut off tells as well.
  lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  assert [line["part"] for line in lines] == list(budgets)


def test_the_minutes_are_kept(accelerator):
  budgets = {"slow": 60, "last": 60}
  command = [sys.executable, "-c", WORKER]
  table = accelerator.run_parts(command, budgets, 5 / 60)
  assert table["parts"] == {"slow": {"error": "took longer than it may"}}
  assert table["not_run"] == ["last"]


def test_a_process_that_cannot_begin_is_started_once(accelerator, tmp_path):
  log = tmp_path / "started"
  program = f"import sys; open({str(log)!r}, 'a').write('.'); sys.exit(3)"
  command = [sys.executable, "-c", program]
  table = accelerator.run_parts(command, {"a": 60, "b": 60}, 10)
  assert table == {
    "parts": {"process": {"error": "ended the process with code 3"}},
    "not_run": ["a", "b"],
  }
  assert log.read_text() == "."


def test_every_part_has_a_budget(accelerator, device_parts):
  assert list(accelerator.BUDGETS) == list(device_parts.PARTS)
  for sizes in device_parts.SIZES.values():
    assert sizes.width % sizes.heads == 0


def test_wrong_attention_is_told(device_parts, monkeypatch):
  sizes = device_parts.SIZES["tiny"]
  right = device_parts.attention
  assert device_parts.check_attention(sizes)["equal"]

  def unmasked(*args, lengths, **options):
    return right(*args, lengths=None, **options)

  monkeypatch.setattr(device_parts, "attention", unmasked)
  assert not device_parts.check_attention(sizes)["equal"]


def test_wrong_rows_are_told(device_parts, monkeypatch):
  sizes = device_parts.SIZES["tiny"]
  right = device_parts.search_placed
  report = device_parts.check_search(sizes)
  assert report["equal"] and report["ties"]["same"] == 1.0

  def swapped(*args):
    scores, rows = right(*args)
    return scores, jnp.asarray(np.asarray(rows)[:, ::-1])

  monkeypatch.setattr(device_parts, "search_placed", swapped)
  assert not device_parts.check_search(sizes)["equal"]


@pytest.mark.slow
def test_the_rehearsal_runs_every_part(accelerator):
  # Nothing here is fast, so compiling well is not worth the time.
  environment = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
  done = subprocess.run(
    [
      sys.executable,
      str(FOLDER / "accelerator.py"),
      "--tiny",
      "--minutes",
      "9",
    ],
    capture_output=True,
    text=True,
    check=True,
    env=environment,
  )
  table = json.loads(done.stdout.splitlines()[-1])
  parts = table["parts"]
  assert list(parts) == list(accelerator.BUDGETS) and not table["not_run"]
  assert not [part for part in parts.values() if "error" in part], parts
  assert {part["device"] for part in parts.values()} == {"cpu"}
  assert parts["attention"]["equal"] and parts["search_ids"]["equal"]
