"""Tells pickles from their first bytes, so that none is ever opened.

A pickle runs whatever code its maker put in. Weights are read from
safetensors, arrays from npy; what is offered as a pickle is refused by name.
"""

import zipfile
from contextlib import suppress
from pathlib import Path

# The opcodes PROTO (of the protocols 2 to 5) and those that the text protocols
# of old files begin with.
_BINARY = tuple(b"\x80" + bytes([protocol]) for protocol in (2, 3, 4, 5))
_TEXT = (b"(lp", b"(dp", b"]q", b"}q", b"ccopy_reg", b"cnumpy", b"ctorch")
_GZIP = b"\x1f\x8b"
_SUFFIXES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", ".cp")


def pickle_sign(path: Path) -> str:
  """What says that a file is a pickle, or "".

  Reads a few bytes; a torch archive is told by the name of its member.
  """
  if not path.is_file():
    return ""
  with path.open("rb") as file:
    start = file.read(16)
  if start.startswith((*_BINARY, *_TEXT)):
    return "begins as a pickle does"
  if zipfile.is_zipfile(path):
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
      if any(name.endswith("data.pkl") for name in archive.namelist()):
        return "is an archive of torch.save, with a pickle in it"
  if start.startswith(b"\x93NUMPY") and is_object_array(path):
    return "is a NumPy file of pickled objects"
  if path.suffix in _SUFFIXES and start.startswith(_GZIP):
    return "is compressed and named as a pickle"
  return ""


def is_object_array(path: Path) -> bool:
  """Whether the header of a .npy says that the rest is pickled objects."""
  with path.open("rb") as file:
    return b"'|O'" in file.read(256)


def refuse_pickle(path: Path, remedy: str) -> None:
  """Raises a ValueError for a pickle, before an opcode of it is run.

  Args:
    path: a file, or anything else, which is left to others.
    remedy: how to have what it holds without one.
  """
  if sign := pickle_sign(path):
    raise ValueError(
      f"{path}: {sign}; pickles can run code and are not read; {remedy}."
    )
