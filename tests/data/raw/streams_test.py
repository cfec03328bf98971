"""Compressed files: told by their bytes, read to the end, damage named."""

import bz2
import functools
import gzip
import hashlib
import io
import lzma
import os
import random
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from odqa_jax.data.formats.files import choose_format
from odqa_jax.data.raw.records import RawFile

Compress = Callable[[bytes], bytes]
COMPRESSED: dict[str, Compress] = {
  "gzip": gzip.compress,
  "bzip2": bz2.compress,
  "xz": lzma.compress,
  "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}
LINES = [f"line {i} {random.Random(i).random()}" for i in range(5000)]
TEXT = "".join(line + "\n" for line in LINES).encode()
each = pytest.mark.parametrize("name", COMPRESSED)


def raw_file(root: Path, content: bytes) -> RawFile:
  (root / "file.txt").write_bytes(content)
  return RawFile(root / "file.txt")


def lines_of(root: Path, content: bytes) -> list[str]:
  return [text for _, text in raw_file(root, content).lines()]


@each
def test_the_bytes_decide_what_a_file_is(tmp_path: Path, name: str) -> None:
  data = COMPRESSED[name](TEXT)
  file = raw_file(tmp_path, data)
  assert [text for _, text in file.lines()] == LINES
  assert file.digest.hexdigest() == hashlib.sha256(data).hexdigest()
  assert lines_of(tmp_path, COMPRESSED[name](b"\xef\xbb\xbfa\n")) == ["a"]
  assert lines_of(tmp_path, COMPRESSED[name](b"")) == []


@each
def test_all_streams_are_read(tmp_path: Path, name: str) -> None:
  compress = COMPRESSED[name]
  parts = [TEXT[i : i + 7000] for i in range(0, len(TEXT), 7000)]
  data = b"".join(compress(part) for part in [*parts, b""])
  assert lines_of(tmp_path, data) == LINES
  # As tape and block devices pad.
  assert lines_of(tmp_path, data + bytes(1024)) == LINES


@each
@pytest.mark.parametrize(
  "damage",
  {
    "cut": lambda data: data[:-9],
    "cut early": lambda data: data[: len(data) // 2],
    "flipped": lambda data: _flipped(data, len(data) // 2),
    "second stream": lambda data: data + _flipped(data, 1),
    "second stream cut": lambda data: data + data[:12],
    "garbage": lambda data: data + b"garbage",
  }.values(),
  ids="cut cut-early flipped second second-cut garbage".split(),
)
def test_damage_is_named_and_never_the_end(
  tmp_path: Path, name: str, damage: Compress
) -> None:
  data = damage(COMPRESSED[name](TEXT))
  with pytest.raises(ValueError, match=f"file.txt: damaged {name} data"):
    lines_of(tmp_path, data)


def _flipped(data: bytes, at: int) -> bytes:
  changed = bytearray(data)
  changed[at] ^= 255
  return bytes(changed)


@each
def test_a_bomb_does_not_fill_the_memory(
  tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr("odqa_jax.data.raw.records._LONGEST_LINE", 1 << 20)
  size = 1 << 28
  data = COMPRESSED[name](b"x" * size)
  assert len(data) * 1000 < size
  file = raw_file(tmp_path, data)
  del data
  tracemalloc.start()
  try:
    with pytest.raises(ValueError, match=r"file.txt:1: .*longer than 1,048"):
      list(file.lines())
    with pytest.raises(ValueError, match="no line end in the first"):
      choose_format(file.path, "questions")
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert peak < size / 2


def _archive(names: dict[str, str]) -> bytes:
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode="w") as tar:
    for name, link in names.items():
      member = tarfile.TarInfo(name)
      member.type = tarfile.SYMTYPE if link else tarfile.REGTYPE
      member.linkname = link
      member.size = 0 if link else 3
      tar.addfile(member, None if link else io.BytesIO(b"bad"))
  return buffer.getvalue()


def _zipped(*names: str) -> bytes:
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w") as archive:
    for name in names:
      archive.writestr(name, "bad")
  return buffer.getvalue()


ESCAPING = {"../out": "", "/tmp/odqa-out": "", "link": "/etc", "a": "../../b"}
NO_TEXT = {
  "a tar archive": _archive(ESCAPING),
  "gzip of a tar archive": gzip.compress(_archive(ESCAPING)),
  "zstd of a tar archive": COMPRESSED["zstd"](_archive(ESCAPING)),
  "a zip archive": _zipped("../out", "/tmp/odqa-out", "../out."),
  "an empty zip archive": _zipped(),
  "gzip of a zip archive": gzip.compress(_zipped("../out")),
  "gzip of gzip data": gzip.compress(gzip.compress(TEXT)),
  "xz of bzip2 data": lzma.compress(bz2.compress(TEXT)),
  "a 7-Zip archive": b"7z\xbc\xaf\x27\x1c\0\4",
  "a RAR archive": b"Rar!\x1a\x07\x01\0",
  "compressed by lz4": b"\x04\x22\x4d\x18\x64",
  "compressed by lzma": lzma.compress(TEXT, format=lzma.FORMAT_ALONE),
  "UTF-16 text": "id\ttext\n".encode("utf-16"),
  "UTF-32 text": "id\ttext\n".encode("utf-32"),
  "gzip of UTF-16 text": gzip.compress(b"\xfe\xff\0i\0d"),
  "an Arrow or Feather file": b"ARROW1\0\0" + bytes(20),
  "a NumPy array": b"\x93NUMPY\x01\0",
  "a Python pickle": b"\x80\x04\x95" + bytes(20),
  "an SQLite database": b"SQLite format 3\0",
  "an old Office document": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
  "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid ",
  "a web page": b"<!DOCTYPE html><html><body>404</body></html>\n",
}


@pytest.mark.parametrize("what", NO_TEXT)
def test_what_is_no_text_is_named_and_never_unpacked(
  tmp_path: Path, what: str
) -> None:
  folder = tmp_path / "a" / "b"
  folder.mkdir(parents=True)
  file = raw_file(folder, NO_TEXT[what])
  for read in (
    functools.partial(choose_format, file.path, "questions"),
    lambda: list(file.lines()),
    lambda: list(file.records()),
  ):
    with pytest.raises(ValueError, match=f"file.txt: the file is {what}"):
      read()
  assert os.listdir(tmp_path) == ["a"]
  assert os.listdir(tmp_path / "a") == ["b"]
  assert os.listdir(folder) == ["file.txt"]
  assert not Path("/tmp/odqa-out").exists()


@pytest.mark.parametrize(
  "text", ["ORCA\tid\n", "BZhang\tx\n", "PKzip is old\n", "Objects\n"]
)
def test_text_that_begins_like_another_kind(tmp_path: Path, text: str) -> None:
  assert lines_of(tmp_path, text.encode()) == [text.strip()]
