"""Which steps stay, which one is offered, and what damage does."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odqa_jax.runtime import artifact
from odqa_jax.runtime.artifact import write_manifest
from odqa_jax.runtime.checkpoint import (
  Checkpoints,
  find_step,
  read_extra,
  restore_params,
)
from odqa_jax.runtime.files import Damage, FullDisk
from odqa_jax.runtime.mesh import make_mesh, replicated

ROOT = Path(__file__).parents[2]


class State(NamedTuple):
  step: jax.Array
  params: dict


def state_of(step: int) -> State:
  table = jnp.full((3, 5), step, jnp.bfloat16)
  return State(jnp.array(step), {"a": {"table": table}, "b": jnp.arange(4.0)})


def sharding():
  return replicated(make_mesh(devices=jax.devices()[:1]))


def abstract() -> State:
  where = sharding()
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
    state_of(0),
  )


def save(folder: Path, *steps: int, scores=None, **options) -> None:
  with Checkpoints(folder, **options) as checkpoints:
    for step in steps:
      score = (scores or {}).get(step)
      metrics = None if score is None else {"recall@20": score}
      extra = {"window": [0.1, float("inf")], "best": options.get("best")}
      checkpoints.save(step, state_of(step), extra, metrics)


def steps_of(folder: Path) -> list[int]:
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def arrays_of(step: Path) -> Path:
  """The largest file, which holds the arrays."""
  files = (p for p in (step / "state").rglob("*") if p.is_file())
  return max(files, key=lambda p: p.stat().st_size)


def flip(path: Path, at: int = -1) -> None:
  content = bytearray(path.read_bytes())
  content[at] ^= 1
  path.write_bytes(content)


def test_state_and_extra_come_back(tmp_path: Path):
  save(tmp_path / "c", 3)
  with Checkpoints(tmp_path / "c") as checkpoints:
    assert checkpoints.latest() == 3
    state, extra = checkpoints.restore(abstract())
    with pytest.raises(ValueError, match="no checkpoint 4 in"):
      checkpoints.restore(abstract(), 4)
  jax.tree.map(np.testing.assert_array_equal, state, state_of(3))
  assert state.params["a"]["table"].dtype == jnp.bfloat16
  assert extra == {"window": [0.1, float("inf")], "best": None}
  assert read_extra(tmp_path / "c", 3) == extra
  params, extra = restore_params(tmp_path / "c" / "3", sharding())
  jax.tree.map(np.testing.assert_array_equal, params, state_of(3).params)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["c"]


def test_an_empty_folder_offers_nothing(tmp_path: Path):
  with Checkpoints(tmp_path / "c") as checkpoints:
    assert checkpoints.latest() is None
    with pytest.raises(ValueError, match="no checkpoint None in"):
      checkpoints.restore(abstract())
  with pytest.raises(ValueError, match="holds no checkpoint"):
    find_step(tmp_path)


@pytest.mark.parametrize(
  "options, kept, found",
  [
    ({}, [5], 5),
    ({"keep": 2}, [4, 5], 5),
    ({"best": "recall@20"}, [2, 5], 2),
    ({"best": "recall@20", "keep": 3}, [2, 3, 4, 5], 2),
  ],
)
def test_the_last_and_the_best_stay(tmp_path: Path, options, kept, found):
  # A step that was saved on a signal has no score.
  scores = {1: 0.5, 2: 0.7, 4: 0.6}
  save(tmp_path / "checkpoints", 1, 2, 3, 4, 5, scores=scores, **options)
  assert steps_of(tmp_path / "checkpoints") == kept
  assert find_step(tmp_path) == (tmp_path / "checkpoints", found)


def test_equal_scores_prefer_the_later_step(tmp_path: Path):
  scores = {1: 0.5, 2: 0.5, 3: 0.1}
  save(tmp_path / "c", 1, 2, 3, scores=scores, best="recall@20")
  assert steps_of(tmp_path / "c") == [2, 3]


def damage_arrays(step: Path) -> Path:
  path = arrays_of(step)
  flip(path, path.stat().st_size // 2)
  return path


def damage_manifest(step: Path) -> Path:
  flip(step / "manifest.json", 10)
  return step / "manifest.json"


def remove_arrays(step: Path) -> Path:
  path = arrays_of(step)
  path.unlink()
  return path


DAMAGE = pytest.mark.parametrize(
  "damage", [damage_arrays, damage_manifest, remove_arrays]
)


@DAMAGE
def test_a_damaged_newest_step_is_set_aside(tmp_path: Path, damage, capfd):
  save(tmp_path / "c", 1, 2, 3, keep=3)
  named = [damage(tmp_path / "c" / step) for step in ("3", "2")]
  with Checkpoints(tmp_path / "c", keep=3) as checkpoints:
    assert checkpoints.latest() == 1
    warnings = capfd.readouterr().err
    assert all(f"warning: {path}" in warnings for path in named)
    assert "set aside as 3.damaged" in warnings
    state, _ = checkpoints.restore(abstract())
    assert int(state.step) == 1
    checkpoints.save(3, state_of(3), {})
    checkpoints.wait()
    assert checkpoints.latest() == 3
  assert steps_of(tmp_path / "c") == [1, 3]


@DAMAGE
def test_without_a_sound_step_nothing_begins_anew(tmp_path: Path, damage):
  save(tmp_path / "c", 1, 2, keep=2)
  for step in ("1", "2"):
    damage(tmp_path / "c" / step)
  for _ in range(2):
    with Checkpoints(tmp_path / "c") as checkpoints:
      with pytest.raises(ValueError, match="no step in it can be used"):
        checkpoints.restore(abstract())


@DAMAGE
def test_whoever_reads_a_damaged_step_is_told(tmp_path: Path, damage):
  save(tmp_path / "checkpoints", 1, 2, keep=2)
  named = damage(tmp_path / "checkpoints" / "2")
  for path in (tmp_path, tmp_path / "checkpoints" / "2"):
    with pytest.raises(ValueError, match=f"{named}: "):
      restore_params(path, sharding())
  with Checkpoints(tmp_path / "checkpoints") as checkpoints:
    with pytest.raises(ValueError, match=f"{named}: "):
      checkpoints.restore(abstract(), 2)
  if damage is not damage_arrays:
    with pytest.raises(ValueError, match=f"{named}: "):
      read_extra(tmp_path / "checkpoints", 2)


def test_a_step_without_a_manifest_is_not_offered(tmp_path: Path):
  save(tmp_path / "c", 1)
  shutil.copytree(tmp_path / "c" / "1", tmp_path / "c" / "2")
  (tmp_path / "c" / "2" / "manifest.json").unlink()
  with Checkpoints(tmp_path / "c") as checkpoints:
    assert checkpoints.latest() == 1
  assert find_step(tmp_path / "c") == (tmp_path / "c", 1)
  (tmp_path / "c" / "1" / "manifest.json").unlink()
  # As those of the first format are.
  with Checkpoints(tmp_path / "c") as checkpoints:
    with pytest.raises(
      ValueError, match=f"format than {artifact.FORMAT}, which this"
    ):
      checkpoints.latest()
  for path in (tmp_path / "c", tmp_path / "c" / "2"):
    with pytest.raises(
      ValueError, match=f"holds no manifest.json: .*before {artifact.FORMAT}"
    ):
      find_step(path)


def test_a_step_of_another_format_is_not_taken_for_damaged(tmp_path: Path):
  save(tmp_path / "c", 1)
  manifest = json.loads((tmp_path / "c" / "1" / "manifest.json").read_text())
  write_manifest(tmp_path / "c" / "1", manifest | {"format": 99})
  with Checkpoints(tmp_path / "c") as checkpoints:
    with pytest.raises(ValueError, match="format 99, and this version"):
      checkpoints.latest()
  assert steps_of(tmp_path / "c") == [1]


def test_killed_before_the_manifest_the_older_step_is_there(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
  """Orbax has committed its arrays; a second process then goes on."""
  save(tmp_path / "c", 1)

  def killed(*_):
    raise ConnectionError("killed")

  with monkeypatch.context() as patch:
    patch.setattr(artifact, "write_manifest", killed)
    with pytest.raises(ConnectionError):
      save(tmp_path / "c", 2)
  assert (tmp_path / "c" / "2.tmp" / "state").is_dir()
  with Checkpoints(tmp_path / "c") as checkpoints:
    assert checkpoints.latest() == 1
    assert not (tmp_path / "c" / "2.tmp").exists()
    checkpoints.save(2, state_of(2), {})
  assert steps_of(tmp_path / "c") == [2]


def test_one_run_at_a_time_writes_a_folder(tmp_path: Path):
  code = (
    "import sys; from odqa_jax.runtime.checkpoint import Checkpoints\n"
    "try: Checkpoints(sys.argv[1])\n"
    "except ValueError as e: print(e)"
  )
  with Checkpoints(tmp_path / "c"):
    done = subprocess.run(
      [sys.executable, "-c", code, str(tmp_path / "c")],
      cwd=ROOT,
      capture_output=True,
      text=True,
      check=False,
    )
  assert "is writing it; wait" in done.stdout, done.stderr


@pytest.mark.parametrize("damage", ["truncated", "removed", "flipped"])
def test_a_damaged_step_names_the_one_that_is_whole(tmp_path: Path, damage):
  save(tmp_path / "c", 5, 10, keep=2)
  step = tmp_path / "c" / "10"
  if damage == "removed":
    shutil.rmtree(step / "state")
  elif damage == "truncated":
    path = arrays_of(step)
    path.write_bytes(path.read_bytes()[:-10])
  else:
    flip(arrays_of(step))
  for path in (tmp_path / "c", step):
    with pytest.raises(Damage, match=r"c/10/state.*step 5 is whole: .*c/5\."):
      restore_params(path, sharding())
  restore_params(tmp_path / "c" / "5", sharding())
  shutil.rmtree(tmp_path / "c" / "5")
  with pytest.raises(Damage, match="No other step is there that is whole"):
    restore_params(tmp_path / "c", sharding())


def test_nothing_is_put_in_the_place_of_a_damaged_best(tmp_path: Path):
  scores = {1: 0.5, 2: 0.9, 3: 0.1}
  save(tmp_path / "c", 1, 2, 3, keep=3, best="recall@20", scores=scores)
  assert find_step(tmp_path / "c")[1] == 2
  flip(tmp_path / "c" / "2" / "manifest.json", 40)
  with pytest.raises(Damage, match=r"c/2/manifest.*step 3 is whole"):
    find_step(tmp_path / "c")


@pytest.mark.parametrize(
  "entry", [[[1 << 50], "float32"], [[-1], "float32"], [[2], "soup"], 3, [1, 2]]
)
def test_shapes_that_were_made_to_hurt_are_refused(tmp_path: Path, entry):
  save(tmp_path / "c", 1)
  manifest = json.loads((tmp_path / "c" / "1" / "manifest.json").read_text())
  manifest["params"]["params/a/../table"] = entry
  write_manifest(tmp_path / "c" / "1", manifest)
  with pytest.raises(ValueError, match=r"manifest\.json: the parameter"):
    restore_params(tmp_path / "c", sharding())


@pytest.mark.parametrize("shape", [[3, 6], [15], [1 << 30]])
def test_shapes_that_orbax_does_not_have_are_one_line(tmp_path: Path, shape):
  save(tmp_path / "c", 1)
  manifest = json.loads((tmp_path / "c" / "1" / "manifest.json").read_text())
  manifest["params"]["params/a/table"] = [shape, "bfloat16"]
  write_manifest(tmp_path / "c" / "1", manifest)
  with pytest.raises(ValueError, match=r"c/1: Orbax cannot restore"):
    restore_params(tmp_path / "c", sharding())


def test_orbax_metadata_that_was_made_to_hurt_is_one_line(tmp_path: Path):
  """Vouched for by a manifest that was made to fit."""
  save(tmp_path / "c", 1)
  step = tmp_path / "c" / "1"
  for content in ("{", "{}", '{"tree_metadata": {"a": {"key_metadata": 3}}}'):
    (step / "state" / "_METADATA").write_text(content)
    manifest = json.loads((step / "manifest.json").read_text())
    described = artifact.describe_file(step / "state" / "_METADATA")
    manifest["files"]["state/_METADATA"] = described
    write_manifest(step, manifest)
    with pytest.raises(ValueError, match=r"c/1: Orbax cannot restore"):
      restore_params(tmp_path / "c", sharding())


def test_a_full_disk_stops_the_run_and_keeps_the_older_step(
  tmp_path: Path, monkeypatch
):
  def full():
    raise ValueError("RESOURCE_EXHAUSTED: write: No space left on device")

  with pytest.raises(FullDisk, match=r"step 2 was not saved.*MB are free"):
    with Checkpoints(tmp_path / "c") as checkpoints:
      checkpoints.save(1, state_of(1), {})
      checkpoints.wait()
      orbax = checkpoints._checkpointer
      begun = lambda path, *_, **__: path.mkdir(parents=True)  # noqa: E731
      monkeypatch.setattr(orbax, "save", begun)
      monkeypatch.setattr(orbax, "wait_until_finished", full)
      checkpoints.save(2, state_of(2), {})
      while not checkpoints.should_stop(2, asked=False):
        pass
  assert [p.name for p in (tmp_path / "c").iterdir()] == ["1"]


FULL = """
import resource, sys
sys.path.insert(0, "tests/runtime")
import checkpoint_test as t
from pathlib import Path
from odqa_jax.runtime.files import (FullDisk)
with t.Checkpoints(Path(sys.argv[1])) as c:
  resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
  c.save(1, t.state_of(1), {})
  try:
    c.wait()
  except FullDisk as error:
    print(error)
"""


def test_no_traceback_is_left_of_a_full_disk(tmp_path: Path):
  done = subprocess.run(
    [sys.executable, "-c", FULL, str(tmp_path / "c")],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  assert "step 1 was not saved" in done.stdout
  assert "Event loop" not in done.stderr
