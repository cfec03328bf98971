"""Folders of TFDS: the same records are the same bytes."""

import subprocess
import sys
import tempfile
from pathlib import Path

import tensorflow_datasets as tfds

from odqa_jax.data.raw.tfds_folder import TEXT, read_dataset, write_dataset

FEATURES = {"id": TEXT, "title": TEXT, "texts": [TEXT], "of": [{"id": TEXT}]}
# More than are read at once.
RECORDS = [
  {"id": str(i), "title": "é", "texts": ["a"] * (i % 3), "of": [{"id": "x"}]}
  for i in range(2500)
]
_PROGRAM = """
import sys
from pathlib import Path
import tfds_folder_test as test
folder = Path(sys.argv[1])
test.write_dataset(folder, "toy", "rows", test.FEATURES, test.RECORDS)
"""


def contents(folder: Path) -> dict[str, bytes]:
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_other_processes_write_the_same_bytes(tmp_path: Path) -> None:
  (tmp_path / "here").mkdir()
  write_dataset(tmp_path / "here", "toy", "rows", FEATURES, RECORDS)
  written = contents(tmp_path / "here")
  # Each process has a seed of its own for the tables of keys.
  for name in ("one", "two"):
    (tmp_path / name).mkdir()
    subprocess.run(
      [sys.executable, "-c", _PROGRAM, tmp_path / name],
      env={"PYTHONPATH": ":".join([str(Path(__file__).parent), *sys.path])},
      check=True,
    )
    assert contents(tmp_path / name) == written


def test_all_records_come_back_in_order(tmp_path: Path) -> None:
  write_dataset(tmp_path, "toy", "rows", FEATURES, RECORDS)
  source = read_dataset(tmp_path, "rows")
  assert [r["id"] for r in source] == [r["id"].encode() for r in RECORDS]
  assert source[2]["texts"] == [b"a", b"a"]
  assert source[2]["of"]["id"] == [b"x"]
  builder = tfds.builder_from_directory(str(tmp_path))
  assert builder.info.splits["rows"].num_examples == len(RECORDS)


def test_no_temporary_folder_is_left(tmp_path: Path, monkeypatch) -> None:
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
  for name in ("temporary", "set"):
    (tmp_path / name).mkdir()
  write_dataset(tmp_path / "set", "toy", "rows", FEATURES, RECORDS[:3])
  assert not list((tmp_path / "temporary").iterdir())
