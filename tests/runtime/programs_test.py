"""Compiled programs on disk: where, for whom, and what is left alone."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import filelock
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from odqa_jax.runtime import programs
from odqa_jax.runtime.programs import keep_programs, size_thread_pool

SETTINGS = (
  "jax_compilation_cache_dir",
  "jax_compilation_cache_max_size",
  "jax_persistent_cache_min_compile_time_secs",
)
_EVENTS: Counter[str] = Counter()
jax.monitoring.register_event_listener(
  lambda name, **_: _EVENTS.update([name.rsplit("/", 1)[-1]])
)


@pytest.fixture(autouse=True)
def as_in_a_new_process(monkeypatch, tmp_path):
  """JAX's cache as a process finds it that was told of none."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
  monkeypatch.setattr(programs, "_MIN_SECONDS", 0.0)
  before = {name: jax.config.values[name] for name in SETTINGS}
  for name, value in zip(SETTINGS, (None, -1, 1.0), strict=True):
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


def compiled(number: int) -> Counter[str]:
  """Compiles a program of its own; what JAX says of its cache meanwhile."""
  # Of NumPy, since making it is a program too, which may be there already.
  x = np.ones(8, np.float32)
  _EVENTS.clear()
  jax.clear_caches()
  jax.jit(lambda x: jnp.sin(x) * number)(x).block_until_ready()
  return _EVENTS.copy()


def kept(folder: Path) -> list[Path]:
  return sorted(folder.glob("*-cache"))


def test_a_program_is_compiled_once_for_all_runs(tmp_path):
  keep_programs(str(tmp_path / "work"))
  assert not (tmp_path / "work").exists()
  assert compiled(3)["cache_misses"] >= 1
  assert kept(tmp_path / "work" / "programs")
  compilation_cache.reset_cache()
  again = compiled(3)
  assert again["cache_hits"] >= 1 and not again["cache_misses"]


def test_commands_without_a_workdir_share_a_folder(tmp_path, monkeypatch):
  keep_programs(None)
  compiled(5)
  assert kept(tmp_path / "xdg" / "odqa_jax" / "programs")
  # As the XDG specification has it, a relative path counts for none.
  monkeypatch.setenv("XDG_CACHE_HOME", "somewhere")
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  expected = tmp_path / "home" / ".cache" / "odqa_jax" / "programs"
  assert programs.user_folder() == expected


def test_a_folder_of_the_users_wins(tmp_path):
  mine = str(tmp_path / "mine")
  jax.config.update("jax_compilation_cache_dir", mine)
  keep_programs(str(tmp_path / "work"))
  values = [jax.config.values[name] for name in SETTINGS]
  assert values == [mine, -1, 1.0]


@pytest.mark.parametrize("place", ["a file", "read-only", "no home"])
def test_without_a_folder_programs_are_compiled(
  place, tmp_path, monkeypatch, capsys
):
  if place == "a file":
    (tmp_path / "xdg").write_text("not a folder")
  elif place == "read-only":
    # Who runs as root may write everywhere.
    monkeypatch.setattr(os, "access", lambda *_: False)
  else:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(
      programs.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("none"))
    )
  keep_programs(None)
  assert jax.config.values["jax_compilation_cache_dir"] is None
  said = capsys.readouterr().err
  assert said.count("\n") == 1 and "JAX_COMPILATION_CACHE_DIR" in said


def test_a_bad_workdir_is_left_to_its_command(tmp_path, capsys):
  (tmp_path / "notes.txt").write_text("mine")
  keep_programs(str(tmp_path / "notes.txt"))
  assert jax.config.values["jax_compilation_cache_dir"] is None
  assert capsys.readouterr().err == ""


def test_what_a_killed_process_left_is_removed(tmp_path):
  folder = tmp_path / "programs"
  keep_programs(str(tmp_path))
  compiled(7)
  for path in kept(folder):
    path.write_bytes(path.read_bytes()[:100])
    path.with_name(path.name.replace("-cache", "-atime")).unlink()
  torn = kept(folder)
  for name, value in zip(SETTINGS, (None, -1, 1.0), strict=True):
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  with filelock.FileLock(folder / ".lockfile"):
    keep_programs(str(tmp_path))
    assert kept(folder) == torn, "somebody is writing them"
  jax.config.update(SETTINGS[0], None)
  keep_programs(str(tmp_path))
  assert not kept(folder)
  # Python turns warnings into errors here: JAX has none.
  assert compiled(7)["cache_misses"] >= 1
  assert kept(folder) == torn


def test_the_oldest_programs_go_first(tmp_path, monkeypatch):
  keep_programs(str(tmp_path / "a"))
  compiled(11)
  size = max(p.stat().st_size for p in kept(tmp_path / "a" / "programs"))
  jax.config.update(SETTINGS[0], None)
  compilation_cache.reset_cache()
  monkeypatch.setattr(programs, "_MAX_BYTES", 3 * size)
  keep_programs(str(tmp_path / "b"))
  for number in range(12, 20):
    compiled(number)
  files = kept(tmp_path / "b" / "programs")
  assert files and sum(p.stat().st_size for p in files) <= 3 * size
  assert compiled(19)["cache_hits"] >= 1


PROGRAM = """
import sys
import jax
import odqa_jax.main, odqa_jax.training.train
from odqa_jax.runtime import programs
assert jax.config.values["jax_compilation_cache_dir"] is None, "by an import"
hits = []
jax.monitoring.register_event_listener(
  lambda name, **_: hits.append(name.endswith("cache_hits"))
)
programs._MIN_SECONDS = 0.0
programs.keep_programs(sys.argv[1])
for n in range(40):
  jax.jit(lambda x: x * n + n)(1.0)
print(sum(hits))
"""


@pytest.mark.slow
def test_processes_share_a_folder_at_the_same_time(tmp_path):
  environment = os.environ | {"PYTHONWARNINGS": "error"}
  environment.pop("JAX_COMPILATION_CACHE_DIR")

  def start():
    return subprocess.Popen(
      [sys.executable, "-c", PROGRAM, str(tmp_path)],
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def hits(process):
    out, err = process.communicate()
    assert process.returncode == 0 and not err, err
    return int(out)

  for process in [start(), start()]:
    hits(process)
  assert hits(start()) == 40


@pytest.mark.parametrize(
  ("environment", "threads"),
  [
    ({}, None),
    ({"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}, None),
    ({"XLA_FLAGS": "--a=b --xla_force_host_platform_device_count=8"}, "16"),
    ({"JAX_NUM_CPU_DEVICES": "4"}, "16"),
    ({"JAX_NUM_CPU_DEVICES": "4", "NPROC": "32"}, "32"),
  ],
)
def test_threads_are_for_several_devices(environment, threads, monkeypatch):
  for name in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES", "NPROC"):
    monkeypatch.delenv(name, raising=False)
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  size_thread_pool()
  assert os.environ.get("NPROC") == threads
