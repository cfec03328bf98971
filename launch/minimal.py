"""Builds the smallest tree that answers from a pack, and asks it a question.

python launch/minimal.py FILE.odqa OUT --question "who wrote faust"

The tree is what one answer loads, traced: the interpreter, the modules, the
shared libraries down to the C library. Symbols are stripped, sources compiled;
all Python goes into one zip file. What does not serve to unpack the others is
compressed (`--plain`: it is not), and unpacked in memory at start, to /dev/shm.
The question is then asked in a chroot of the tree, where nothing else is, with
the variables that the last line names. It is JSON: bytes as `du` counts them of
the tree, and of the file.

Run by root on Linux, with the Python whose tree is to be built; it has NumPy,
`tokenizers` and jaxtyping. binutils' `strip` is used where it is installed.
"""

import argparse
import json
import os
import py_compile
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Loaded where they are found, and not needed: OpenSSL, whose digests Python has
# its own of, and what editable installs leave.
_LEFT_OUT = ("_hashlib", "_ssl", "ssl", "__editable__", "_distutils_hack")
_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
_ZIP = f"lib/python{sys.version_info.major}{sys.version_info.minor}.zip"
_TRACE = """
import json, runpy, sys
sys.argv = ["odqa-packed", *sys.argv[1:]]
try:
  runpy.run_module("odqa_jax.serving.packed", run_name="__main__")
except SystemExit as end:
  assert not end.code, end.code
import encodings.ascii, encodings.latin_1, importlib, tarfile
for name in ("md5", "sha1", "sha2", "sha256", "sha512", "sha3", "blake2"):
  try:
    importlib.import_module(f"_{name}")
  except ImportError:
    pass  # Other versions of Python have other digests.
files = {n: getattr(m, "__file__", None) for n, m in list(sys.modules.items())}
main = "odqa_jax.serving.packed.__main__"
files[main] = files["odqa_jax.serving.packed"].replace("__init__", "__main__")
print(json.dumps(files))
"""
# Unpacks the libraries to memory, then answers.
_BOOT = """
import os, sys, tarfile, tempfile
home = os.path.dirname(os.path.abspath(__file__))
where = tempfile.mkdtemp(dir="/dev/shm")
with tarfile.open(os.path.join(home, "site.tar.xz")) as archive:
  archive.extractall(where, filter="data")
sys.path.insert(0, where)
import runpy, shutil
try:
  runpy.run_module("odqa_jax.serving.packed", run_name="__main__")
finally:
  shutil.rmtree(where)
"""


def trace(pack: Path, question: str) -> dict[str, str | None]:
  """The modules and shared libraries that answering loads."""
  command = [sys.executable, "-c", _TRACE, str(pack), "--question", question]
  env = {**os.environ, "PYTHONPATH": str(ROOT)}
  said = subprocess.run(command, env=env, capture_output=True, text=True)
  if said.returncode:
    # What the program says of a pack that is damaged or absent.
    sys.exit(said.stderr.strip().rpartition("\n")[2])
  return json.loads(said.stdout.splitlines()[-1])


def build(out: Path, found: dict[str, str | None], plain: bool) -> None:
  """Writes the tree."""
  out.mkdir(parents=True)
  for name in ("bin", "lib64", "dev/shm", "tmp", f"lib/{_VERSION}/lib-dynload"):
    (out / name).mkdir(parents=True, exist_ok=True)
  site = out / "lib" / _VERSION / "site"
  stdlib = Path(sysconfig.get_path("stdlib")).resolve()
  _copy_binary(Path(os.path.realpath(sys.executable)), out / "bin" / "python3")
  with zipfile.ZipFile(
    out / _ZIP, "w", zipfile.ZIP_DEFLATED, compresslevel=9
  ) as archive:
    for name, file in sorted(found.items()):
      if file and not name.split(".")[0].startswith(_LEFT_OUT):
        _place_module(name, Path(file).resolve(), stdlib, site, archive)
  # It asks for its own version.
  (about,) = Path(sysconfig.get_path("purelib")).glob("jaxtyping-*.dist-info")
  (site.parent / about.name).mkdir()
  shutil.copy(about / "METADATA", site.parent / about.name)
  _place_libraries(found, out, site)
  (out / "lib" / _VERSION / "boot.py").write_text(_BOOT)
  if not plain:
    archive_path = out / "lib" / _VERSION / "site.tar.xz"
    with tarfile.open(archive_path, "w:xz", preset=9) as archive:
      for path in sorted(site.iterdir()):
        archive.add(path, path.name)
    shutil.rmtree(site)


def _place_module(
  name: str, file: Path, stdlib: Path, site: Path, archive: zipfile.ZipFile
) -> None:
  """A module's file at its place in the tree."""
  parts = name.split(".")
  if file.suffix == ".so":
    if file.is_relative_to(stdlib) and "site-packages" not in file.parts:
      dynload = site.parent / "lib-dynload"
      _copy_binary(file, dynload / file.name)
    else:
      _copy_binary(file, site.joinpath(*parts[:-1], file.name))
    return
  if file.suffix != ".py":
    return
  if file.name == "__init__.py":
    parts = [*parts, "__init__"]
  target = "/".join(parts) + ".pyc"
  with tempfile.TemporaryDirectory() as scratch:
    compiled = Path(scratch) / "x.pyc"
    py_compile.compile(
      str(file), cfile=str(compiled), dfile=target, doraise=True, optimize=2
    )
    # NumPy looks for its shared libraries beside its modules.
    if parts[0] in ("numpy", "tokenizers"):
      place = site / target
      place.parent.mkdir(parents=True, exist_ok=True)
      shutil.copy(compiled, place)
    else:
      archive.write(compiled, target)


def _place_libraries(
  found: dict[str, str | None], out: Path, site: Path
) -> None:
  """The shared libraries that the interpreter and the modules ask for."""
  modules = [
    file
    for name, file in found.items()
    if file and file.endswith(".so") and not name.startswith(_LEFT_OUT)
  ]
  for line in _run(["ldd", os.path.realpath(sys.executable), *modules]):
    if "=> /" in line:
      name, path = line.split("=>")
      file, name = Path(path.split()[0]), name.strip()
      place = [*file.resolve().parts]
      if "site-packages" in place:
        place = place[place.index("site-packages") + 1 :]
        _copy_binary(file, site.joinpath(*place))
      else:
        _copy_binary(file, out / "lib" / name)
    elif line.strip().startswith("/lib64/ld-linux"):
      name = line.split()[0]
      _copy_binary(Path(name), out / name.removeprefix("/"))


def _run(command: list[str]) -> list[str]:
  """The lines that a command writes."""
  said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
  return said.stdout.splitlines()


def _copy_binary(file: Path, target: Path) -> None:
  target.parent.mkdir(parents=True, exist_ok=True)
  shutil.copy(file, target)
  target.chmod(0o755)
  # NumPy's wheels have been stripped, and patched so that it breaks them.
  if shutil.which("strip") and not any("numpy" in p for p in file.parts):
    subprocess.run(
      ["strip", "--strip-unneeded", str(target)], stderr=subprocess.DEVNULL
    )


def command(plain: bool) -> list[str]:
  """What answers, within the tree."""
  start = ["/bin/python3", "-S", "-B"]
  if plain:
    return [*start, "-m", "odqa_jax.serving.packed"]
  return [*start, f"/lib/{_VERSION}/boot.py"]


def environment() -> dict[str, str]:
  """All that is set while it answers."""
  library = f"/lib/{_VERSION}"
  return {
    "PYTHONHOME": "/",
    "PYTHONPATH": f"/{_ZIP}:{library}:{library}/lib-dynload:{library}/site",
    "OPENBLAS_NUM_THREADS": "1",
  }


def ask(out: Path, pack: Path, question: str, plain: bool) -> dict:
  """What the tree answers in a chroot; the pack lies in it meanwhile."""
  inside = out / "system.odqa"
  shutil.copy(pack, inside)
  run = ["chroot", str(out), *command(plain)]
  try:
    said = subprocess.run(
      [*run, "/system.odqa", "--question", question],
      env=environment() | {"PATH": os.environ["PATH"]},
      check=True,
      stdout=subprocess.PIPE,
      text=True,
    )
  finally:
    inside.unlink()
  return json.loads(said.stdout.splitlines()[-1])


def disk_usage(path: Path) -> int:
  """Bytes of a folder as `du` counts them, whole blocks."""
  return int(_run(["du", "-s", "--block-size=1", str(path)])[0].split()[0])


def main() -> None:
  """Builds, asks, measures."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("pack", type=Path)
  parser.add_argument("out", type=Path)
  parser.add_argument("--question", default="who wrote faust")
  parser.add_argument("--plain", action="store_true")
  args = parser.parse_args()
  if args.out.exists():
    sys.exit(f"{args.out}: exists; name a folder that does not.")
  if os.geteuid():
    sys.exit("only root may ask in a chroot: run this as root.")
  build(args.out, trace(args.pack, args.question), args.plain)
  answer = ask(args.out, args.pack, args.question, args.plain)
  runtime, system = disk_usage(args.out), args.pack.stat().st_size
  figures = {
    "answer": answer["answer"],
    "runtime": runtime,
    "pack": system,
    "all": runtime + system,
    "command": command(args.plain),
    "environment": environment(),
  }
  print(json.dumps(figures))


if __name__ == "__main__":
  main()
