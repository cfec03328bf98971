"""A pack: parts in one file, whose blocks are compared before their use.

    with PackWriter("small.odqa", {"made_from": …}) as writer:
      writer.add("index/codes", "index", codes)
    pack = Pack("small.odqa")
    pack.array("index/codes")      # memory-mapped; see `Part.check`

    header     magic, version, where the contents are, and checksums of both
    parts      each from a multiple of 64 bytes on
    checksums  16 bytes of BLAKE2b for every block of 64 KiB
    contents   JSON: the parts, what they are, and what the pack was made from

No byte of the file is outside of a checksum.
"""

import hashlib
import json
import lzma
import mmap
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from odqa_jax.runtime.files import Damage, saying_what_is_full

MAGIC = b"odqapack"
VERSION = 1
BLOCK = 2**16
_ALIGNED = 64
_DIGEST = 16
# Magic, version; where checksums and contents begin, and the file ends; the
# digest of checksums and contents, and that of all before it.
_HEADER = struct.Struct(f"<8sIQQQ{_DIGEST}s")
_START = -(-(_HEADER.size + _DIGEST) // _ALIGNED) * _ALIGNED
# What a part's bytes are for.
GROUPS = ("models", "index", "text", "tokenizer", "other")


def digest(data: bytes | memoryview) -> bytes:
  """What bytes are recognised by."""
  return hashlib.blake2b(data, digest_size=_DIGEST).digest()


class Part(NamedTuple):
  """One part of a pack.

  Attributes:
    name: unique.
    group: of `GROUPS`.
    offset: where it begins in the file.
    bytes: without the zeros that fill it up.
    first: number of its first checksum.
    codec: "raw", or "xz" for what is decompressed when it is read.
    dtype: of its elements, as NumPy spells it.
    shape: of the array.
  """

  name: str
  group: str
  offset: int
  bytes: int
  first: int
  codec: str
  dtype: str
  shape: tuple[int, ...]

  @property
  def blocks(self) -> int:
    """How many checksums it has."""
    return -(-self.padded // BLOCK)

  @property
  def padded(self) -> int:
    """Its bytes with the zeros that fill it up."""
    return -(-self.bytes // _ALIGNED) * _ALIGNED


class PackWriter:
  """Writes a pack, which appears whole or not at all."""

  def __init__(self, path: str | Path, about: Mapping[str, Any]) -> None:
    """Begins a file beside `path`.

    Args:
      path: of the pack; one that is there is replaced.
      about: what the contents say besides the parts; may be added to.

    Raises:
      ValueError: if something else than a pack has the name.
    """
    self.path = Path(path)
    self.about = dict(about)
    refuse_foreign(self.path)
    self._temporary = self.path.with_name(f"{self.path.name}.tmp")
    self._parts: list[Part] = []
    self._digests: list[bytes] = []

  def __enter__(self) -> "PackWriter":
    self.path.parent.mkdir(parents=True, exist_ok=True)
    self._file = self._temporary.open("w+b")
    self._file.write(bytes(_START))
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    try:
      if kind is None:
        with saying_what_is_full(self.path):
          self._finish()
    finally:
      self._file.close()
      self._temporary.unlink(missing_ok=True)

  def add(
    self, name: str, group: str, values: np.ndarray, *, xz: bool = False
  ) -> int:
    """Adds an array; returns the bytes that it takes.

    Args:
      name: of the part.
      group: of `GROUPS`.
      values: any array of numbers.
      xz: whether to compress it: then it is decompressed as a whole.

    Raises:
      FullDisk: see `saying_what_is_full`.
    """
    values = np.ascontiguousarray(values)
    data = values.tobytes()
    if xz:
      data = lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)
    part = Part(
      name=name,
      group=group,
      offset=self._file.tell(),
      bytes=len(data),
      first=len(self._digests),
      codec="xz" if xz else "raw",
      dtype=values.dtype.str,
      shape=values.shape,
    )
    with saying_what_is_full(self.path):
      for start in range(0, part.padded, BLOCK):
        block = data[start : start + BLOCK]
        block += bytes(min(BLOCK, part.padded - start) - len(block))
        self._digests.append(digest(block))
        self._file.write(block)
    self._parts.append(part)
    return part.padded

  def _finish(self) -> None:
    sums = self._file.tell()
    contents = {**self.about, "parts": [p._asdict() for p in self._parts]}
    tail = b"".join(self._digests)
    there = sums + len(tail)
    tail += json.dumps(contents, sort_keys=True).encode()
    self._file.write(tail)
    self._file.seek(0)
    header = _HEADER.pack(
      MAGIC, VERSION, sums, there, sums + len(tail), digest(tail)
    )
    header += bytes(_START - _DIGEST - len(header))
    self._file.write(header + digest(header))
    self._file.flush()
    os.fsync(self._file.fileno())
    os.replace(self._temporary, self.path)


def refuse_foreign(path: Path) -> None:
  """Raises a ValueError for what is there and no pack."""
  if path.exists() and not is_pack(path):
    raise ValueError(
      f"{path}: exists and is no pack, so it is not replaced; name another "
      "file, or remove this one."
    )


def is_pack(path: str | Path) -> bool:
  """Whether a file begins as packs do, whatever follows."""
  path = Path(path)
  if not path.is_file():
    return False
  with path.open("rb") as file:
    return file.read(len(MAGIC)) == MAGIC


class Pack:
  """A pack that is open.

  Attributes:
    path: of the file.
    about: what its contents say, besides the parts.
    parts: by name.
  """

  def __init__(self, path: str | Path) -> None:
    """Reads and checks the contents; parts wait for their use.

    Raises:
      ValueError: if it is no pack, or of another version.
      Damage: if it is not what was written.
    """
    self.path = Path(path)
    tail, sums, there = self._open()
    contents = json.loads(tail[there - sums :])
    self.parts = {
      p["name"]: Part(**p | {"shape": tuple(p["shape"])})
      for p in contents.pop("parts")
    }
    self.about: dict[str, Any] = contents
    self._digests = tail[: there - sums]
    self._sound = np.zeros(len(self._digests) // _DIGEST, bool)

  def _open(self) -> tuple[bytes, int, int]:
    """Maps the file; gives checksums and contents, and where they begin."""
    if not self.path.is_file():
      raise ValueError(f"{self.path}: no such file; make one with `odqa pack`.")
    size = self.path.stat().st_size
    with self.path.open("rb") as file:
      header = file.read(_START)
      if not header.startswith(MAGIC):
        raise ValueError(f"{self.path}: is no pack; make one with `odqa pack`.")
      if len(header) < _START:
        raise self._damage(f"{size} bytes, cut short")
      sealed = digest(header[:-_DIGEST]) == header[-_DIGEST:]
      _, version, sums, there, end, wanted = _HEADER.unpack_from(header)
      if not sealed:
        raise self._damage("its header does not match its checksum")
      if version != VERSION:
        raise ValueError(
          f"{self.path}: a pack of version {version}, and this version of "
          f"odqa_jax reads version {VERSION}; make it again with `odqa pack`."
        )
      if end != size:
        raise self._damage(f"{size} bytes, and the header says {end}")
      self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    tail = self._map[sums:end]
    if digest(tail) != wanted:
      raise self._damage("its contents do not match their checksum")
    return tail, sums, there

  def _damage(self, what: str) -> Damage:
    return Damage(f"{self.path}: {what}; make it again with `odqa pack`.")

  def check(self, name: str, start: int = 0, stop: int | None = None) -> None:
    """Compares the blocks of a part that hold some of its bytes.

    Raises:
      Damage: naming the part and the place of the first that differs.
    """
    part = self.parts[name]
    last = part.blocks if stop is None else -(-stop // BLOCK)
    for number in range(start // BLOCK, last):
      at = part.first + number
      if self._sound[at]:
        continue
      first = part.offset + number * BLOCK
      block = self._map[first : min(first + BLOCK, part.offset + part.padded)]
      wanted = self._digests[at * _DIGEST : (at + 1) * _DIGEST]
      if digest(block) != wanted:
        raise self._damage(
          f"bytes {first} to {first + len(block)} ({name}) do not match their "
          "checksum"
        )
      self._sound[at] = True

  def verify(self) -> None:
    """Compares the whole file; raises as `check` does."""
    for name in self.parts:
      self.check(name)

  def array(self, name: str) -> np.ndarray:
    """A part that was compared whole: mapped, or decompressed.

    Raises:
      Damage: see `check`.
    """
    self.check(name)
    return self.mapped(name)

  def mapped(self, name: str) -> np.ndarray:
    """A part of which nothing is compared yet: see `check`."""
    part = self.parts[name]
    if not part.bytes:
      return np.zeros(part.shape, part.dtype)
    data: bytes | memoryview = memoryview(self._map)
    data = data[part.offset : part.offset + part.bytes]
    if part.codec == "xz":
      data = lzma.decompress(data)
    return np.frombuffer(data, part.dtype).reshape(part.shape)

  def bytes_of(self, name: str, start: int, stop: int) -> bytes:
    """Some bytes of a part without a codec, once they were compared."""
    self.check(name, start, stop)
    first = self.parts[name].offset
    return self._map[first + start : first + stop]


def contents(path: str | Path) -> dict[str, int]:
  """Bytes of a pack by what they are for; together they are the file.

  Args:
    path: of the pack.

  Returns:
    `GROUPS` → bytes; "other" has the contents, checksums and header.

  Raises:
    ValueError: see `Pack`.
  """
  pack = Pack(path)
  sizes = dict.fromkeys(GROUPS, 0)
  for part in pack.parts.values():
    sizes[part.group] += part.padded
  sizes["other"] += pack.path.stat().st_size - sum(sizes.values())
  return sizes
