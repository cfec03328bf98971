"""Manifests, checksums, publishing and locks of what is kept on disk."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from odqa_jax.runtime import blocks
from odqa_jax.runtime.artifact import (
  Artifact,
  existing,
  lock,
  open_artifact,
  publish,
  read_manifest,
  write_manifest,
)
from odqa_jax.runtime.files import (
  Damage,
  FullDisk,
  read_json,
  replace_file,
  replacing,
  write_json,
)

ROOT = Path(__file__).parents[2]


def make(directory: Path, count: int = 100, **options) -> dict:
  with publish(directory, "pairs", {"corpus": "c"}, **options) as draft:
    np.save(draft.folder / "rows.npy", np.arange(count))
    (draft.folder / "inner").mkdir(exist_ok=True)
    (draft.folder / "inner" / "note.txt").write_text("a note")
    (draft.folder / "empty.bin").write_bytes(b"")
    draft.counts["count"] = count
  return draft.manifest


def flip(path: Path, at: int = -1) -> None:
  content = bytearray(path.read_bytes())
  content[at] ^= 1
  path.write_bytes(content)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(blocks, "BLOCK_BYTES", 256)
  monkeypatch.setattr(blocks, "AT_ONCE", 0)


def test_a_manifest_says_what_and_from_what(tmp_path: Path):
  manifest = make(tmp_path / "a")
  written = json.loads((tmp_path / "a" / "manifest.json").read_text())
  assert manifest == written | {"corpus": "c"}
  assert (written["format"], written["kind"], written["count"]) == (
    3,
    "pairs",
    100,
  )
  assert written["made_from"] == {"corpus": "c"}
  assert set(written["files"]) == {"rows.npy", "inner/note.txt", "empty.bin"}
  assert written["files"]["empty.bin"] == {"bytes": 0, "sha256": []}
  files = open_artifact(tmp_path / "a", "pairs")
  np.testing.assert_array_equal(files.array("rows.npy"), np.arange(100))
  assert len(files.array("empty.bin")) == 0
  assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_an_error_leaves_what_was_there(tmp_path: Path):
  make(tmp_path / "a", 3)
  with pytest.raises(ZeroDivisionError):
    with publish(tmp_path / "a", "pairs", {}) as draft:
      (draft.folder / "half").write_text("half")
      raise ZeroDivisionError
  assert read_manifest(tmp_path / "a", "pairs")["count"] == 3
  assert [p.name for p in tmp_path.iterdir()] == ["a"]


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
  return subprocess.run(
    [sys.executable, "-c", code, *map(str, arguments)],
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
    check=False,
  )


KILLED = """
import os, sys
from pathlib import Path
from odqa_jax.runtime import artifact
def kill(*_): os.kill(os.getpid(), 9)
if sys.argv[2]: setattr(artifact, sys.argv[2], kill)
with artifact.publish(sys.argv[1], "pairs", {}) as draft:
  (draft.folder / "half").write_text("half")
  if not sys.argv[2]: kill()
"""


@pytest.mark.parametrize("at", ["", "describe_file", "write_manifest"])
def test_a_killed_process_leaves_nothing_under_the_name(
  tmp_path: Path, at: str
):
  killed = run(KILLED, tmp_path / "a", at)
  assert killed.returncode == -signal.SIGKILL, killed.stderr
  assert not (tmp_path / "a").exists()
  assert existing(tmp_path / "a", "pairs") is None
  # Its lock is free, and what it had begun is gone.
  assert (tmp_path / "a.lock").exists()
  manifest = make(tmp_path / "a")
  assert "half" not in manifest["files"]
  assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_an_interrupted_build_with_an_identity_is_gone_on_with(tmp_path: Path):
  for identity, kept in (
    ({"a": 1}, False),
    ({"a": 1}, True),
    ({"a": 2}, False),
  ):
    with pytest.raises(ZeroDivisionError):
      with publish(tmp_path / "a", "pairs", {}, identity=identity) as draft:
        assert (draft.folder / "part-0").exists() == kept
        (draft.folder / "part-0").write_text("done")
        (draft.folder / "rows.npy.tmp").write_text("half")
        raise ZeroDivisionError
  options = {"identity": {"a": 2}, "scratch": ["part-*"]}
  assert len(make(tmp_path / "a", **options)["files"]) == 3
  assert not list((tmp_path / "a").glob("part-*"))
  assert not (tmp_path / "a" / "identity.json").exists()


def test_one_process_at_a_time_builds_a_folder(tmp_path: Path):
  code = """
import sys
from odqa_jax.runtime.artifact import publish
try:
  with publish(sys.argv[1], "pairs", {}): pass
except ValueError as error:
  print(error)
"""
  with lock(tmp_path / "a"):
    refused = run(code, tmp_path / "a").stdout
    with pytest.raises(ValueError, match=f"process {os.getpid()} on "):
      make(tmp_path / "a")
  assert f"process {os.getpid()} on " in refused, refused
  assert "is writing it; wait" in refused
  assert run(code, tmp_path / "a").stdout == ""
  assert (tmp_path / "a" / "manifest.json").exists()


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path):
  (tmp_path / "a.lock").write_text("process 1 on elsewhere")
  make(tmp_path / "a")
  assert not (tmp_path / "a.lock").exists()


def test_other_folders_are_not_replaced(tmp_path: Path):
  make(tmp_path / "a")
  with pytest.raises(ValueError, match="a: exists and is no spans folder"):
    with publish(tmp_path / "a", "spans", {}):
      pass
  (tmp_path / "b").write_text("a file")
  with pytest.raises(ValueError, match="b: exists and is no pairs folder"):
    make(tmp_path / "b")
  assert (tmp_path / "b").read_text() == "a file"


@pytest.mark.parametrize("name", ["rows.npy", "inner/note.txt"])
@pytest.mark.parametrize(
  "harm, message",
  [
    (flip, r": bytes 0 to \d+ do not match their checksum; delete .*odqa prep"),
    (Path.unlink, ": missing, and the manifest says"),
    (lambda p: p.write_bytes(p.read_bytes()[:-1]), r": \d+ bytes, and the man"),
    (lambda p: p.write_bytes(p.read_bytes() + b" "), r": \d+ bytes, and the"),
  ],
)
def test_damage_is_named(tmp_path: Path, name: str, harm, message: str):
  make(tmp_path / "a")
  harm(tmp_path / "a" / name)
  with pytest.raises(Damage, match=name + message):
    open_artifact(tmp_path / "a", "pairs")
  assert existing(tmp_path / "a", "pairs") is None


def test_any_byte_of_a_manifest_counts(tmp_path: Path):
  make(tmp_path / "a")
  path = tmp_path / "a" / "manifest.json"
  content = path.read_bytes()
  for at in range(0, len(content), 3):
    flip(path, at)
    with pytest.raises(Damage, match=r"a/manifest\.json: "):
      open_artifact(tmp_path / "a", "pairs")
    path.write_bytes(content)
  path.write_bytes(content.replace(b"\n", b" "))
  with pytest.raises(Damage, match="does not match its checksum"):
    open_artifact(tmp_path / "a", "pairs")


def test_another_kind_or_format_is_no_damage(tmp_path: Path):
  make(tmp_path / "a")
  manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
  message = "kind 'pairs' of format 1, and this version .* format 3; make one"
  # The first format had no checksum of its own.
  first = {k: v for k, v in manifest.items() if k != "sha256"} | {"format": 1}
  write_json(tmp_path / "a" / "manifest.json", first)
  with pytest.raises(ValueError, match=message) as error:
    open_artifact(tmp_path / "a", "pairs")
  assert not isinstance(error.value, Damage)
  write_manifest(tmp_path / "a", manifest)
  with pytest.raises(ValueError, match=r"kind 'pairs' .* reads kind 'spans'"):
    open_artifact(tmp_path / "a", "spans")
  with pytest.raises(ValueError, match=r"holds no index .*`odqa index`"):
    open_artifact(tmp_path, "index")


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
  "use",
  [
    lambda x, i: x[i],
    lambda x, i: x[i - len(x)],
    lambda x, i: x[i : i + 1],
    lambda x, i: x[np.array([0, i])],
    lambda x, i: x[np.array([0, i - len(x)])],
    lambda x, i: x.within(np.array([0, i]), np.array([1, i + 1])),
  ],
)
def test_a_block_is_compared_before_its_rows_are_used(tmp_path: Path, use):
  make(tmp_path / "a", 1000)
  path = tmp_path / "a" / "rows.npy"
  flip(path, 128 + 8 * 500)
  rows = open_artifact(tmp_path / "a", "pairs", lazy=True).array("rows.npy")
  assert rows.shape == (1000,) and len(rows) == 1000
  # Blocks of 32 rows, and 16 in the first one, behind the header.
  low, high = 16 + 32 * 15, 16 + 32 * 16
  for i in (0, low - 1, high, 999):
    use(rows, i)
  for i in (low, 500, high - 1):
    with pytest.raises(Damage, match=r"rows.npy: bytes 4096 to 4352 do not"):
      use(rows, i)
  with pytest.raises(Damage, match=r"rows.npy"):
    np.asarray(rows)
  flip(path, 128 + 8 * 500)
  np.testing.assert_array_equal(np.asarray(rows), np.arange(1000))
  np.testing.assert_array_equal(rows[np.array([3, 1])], [3, 1])


@pytest.mark.usefixtures("small_blocks")
def test_ranges_over_many_blocks_and_empty_ones(tmp_path: Path):
  make(tmp_path / "a", 1000)
  flip(tmp_path / "a" / "rows.npy", 128 + 8 * 500)
  files = open_artifact(tmp_path / "a", "pairs", lazy=True)
  rows = files.array("rows.npy")
  # An empty range may lie at the end.
  rows.within(np.array([0, 1000, 0]), np.array([0, 1000, 10]))
  assert len(rows[500:500]) == len(rows[1000:]) == 0
  for start, end in ((0, 1000), (400, 600), (490, 501)):
    with pytest.raises(Damage):
      rows.within(np.array([start]), np.array([end]))
    with pytest.raises(Damage):
      rows[start:end]
  with pytest.raises(IndexError):
    rows[1000]
  with pytest.raises(IndexError):
    rows[np.array([1000])]
  with pytest.raises(Damage):
    files.check()


@pytest.mark.usefixtures("small_blocks")
def test_rows_of_a_matrix_and_of_int32(tmp_path: Path):
  with publish(tmp_path / "a", "index", {}) as draft:
    np.save(draft.folder / "x.npy", np.arange(400, dtype="f4").reshape(100, 4))
  files = Artifact(tmp_path / "a", read_manifest(tmp_path / "a", "index"))
  rows = files.array("x.npy", np.int32)
  assert rows.shape == (100, 4) and rows.dtype == np.int32
  found = rows[np.array([[99, 0]], np.int32)]
  assert found.shape == (1, 2, 4)
  np.testing.assert_array_equal(found.view("f4")[0, 0], [396, 397, 398, 399])


def test_replaced_files_are_whole(tmp_path: Path):
  replace_file(tmp_path / "new" / "a", b"1")
  replace_file(tmp_path / "new" / "a", b"2")
  assert [p.name for p in (tmp_path / "new").iterdir()] == ["a"]
  for content, message in ((b"{", "not JSON"), (b"[]", "not a JSON object")):
    replace_file(tmp_path / "b", content)
    with pytest.raises(Damage, match=f"b: {message}"):
      read_json(tmp_path / "b")


def test_a_file_takes_its_name_when_it_is_complete(tmp_path: Path):
  path = tmp_path / "deep" / "file"
  with replacing(path) as temporary:
    temporary.write_text("first")
  with pytest.raises(RuntimeError), replacing(path) as temporary:
    temporary.write_text("second")
    raise RuntimeError
  assert path.read_text() == "first"
  with replacing(path) as temporary:
    temporary.write_text("third")
  assert path.read_text() == "third"
  assert [p.name for p in path.parent.iterdir()] == ["file"]


NO_ROOM = os.strerror(errno.ENOSPC)


@pytest.mark.parametrize(
  "error",
  [
    OSError(errno.ENOSPC, NO_ROOM),
    OSError("51200 requested and 24544 written"),
    RuntimeError(f"Failed: write() failed: {NO_ROOM}; at byte 100"),
  ],
  ids=str,
)
def test_a_full_disk_names_the_file_and_what_is_free(
  tmp_path: Path, error: Exception
):
  file = tmp_path / "a" / "x.npy"
  said = rf"x\.npy: not written whole \({NO_ROOM}\); [\d,]+\.\d MB are free "
  with pytest.raises(FullDisk, match=f"a/{said}"), replacing(file) as temporary:
    temporary.write_bytes(b"half")
    raise error
  assert not list(file.parent.iterdir())
  with (
    pytest.raises(FullDisk, match=f"a.tmp/{said}"),
    publish(tmp_path / "a", "pairs", {}, identity={}) as draft,
  ):
    (draft.folder / "old.npy").write_bytes(b"")
    os.utime(draft.folder / "old.npy", (0, 0))
    (draft.folder / "x.npy").write_bytes(b"")
    os.utime(draft.folder / "identity.json", (0, 0))
    raise error
  error = OSError(errno.ENOSPC, NO_ROOM, str(tmp_path / "named"))
  with pytest.raises(FullDisk, match=r"named: not"), replacing(file):
    raise error


def test_other_errors_stay_what_they_are(tmp_path: Path):
  for error in (
    PermissionError(13, "no"),
    RuntimeError("no"),
    ValueError("no"),
  ):
    with pytest.raises(type(error), match="no"), replacing(tmp_path / "x"):
      raise error


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from odqa_jax.runtime.artifact import (publish)
from odqa_jax.runtime.files import (replacing)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
folder = Path(sys.argv[1])
try:
  if sys.argv[2] == "save":
    with publish(folder / "a", "pairs", {}) as draft:
      np.save(draft.folder / "rows.npy", np.zeros(100_000))
  else:
    with replacing(folder / "f") as temporary, temporary.open("wb") as file:
      np.savez(file, a=np.zeros(100_000))
except OSError as error:
  print(error)
"""


@pytest.mark.parametrize("way, name", [("save", "rows.npy"), ("zip", "f")])
def test_a_limit_on_the_size_of_files(tmp_path: Path, way: str, name: str):
  done = run(LIMITED, tmp_path, way)
  assert re.search(rf"{name}: not written whole \(.*MB are free", done.stdout)
  assert not list(tmp_path.iterdir())
