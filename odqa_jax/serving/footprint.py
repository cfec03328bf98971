"""What a system takes up, part by part, and what each way to shrink it costs.

    rungs = [Rung("whole", Path("whole")), Rung("filtered", Path("filtered"))]
    rows = measure_ladder(rungs)
    print(footprint_table(rows))

"Designing a Minimal Retrieve-and-Read System for Open-Domain QA", Sec. 3 and
Table 3: the bytes of every rung of a ladder beside its exact match. A size is
that of files, by their lengths; beside it stands what they and their folders
take up on the disk, in its blocks, as `du` counts. Links are followed, and a
file that several names have counts once.
"""

import dataclasses
import json
import math
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from odqa_jax.runtime.artifact import MANIFEST
from odqa_jax.runtime.files import read_json
from odqa_jax.runtime.report import text_table
from odqa_jax.serving.pack import contents
from odqa_jax.serving.packed.container import Pack, is_pack
from odqa_jax.serving.system_folder import SYSTEM, open_system

PARTS = ("runtime", "models", "index", "text", "tokenizer", "other")
# What checkpoints hold beside their weights, which no system needs.
TRAINING = "training"
# Parts of a system that are no models.
_OF_SYSTEM = {
  "corpus": "text",
  "reader_corpus": "text",
  "index": "index",
  "fusion": "other",
  "scoring": "other",
}
# By the kind in a manifest; all else is what its folder is.
_OF_KIND = {
  "corpus": "text",
  "index": "index",
  "scann": "index",
  "bm25": "index",
  "checkpoint": "models",
}
_TOKENIZER_FOLDERS = ("tokenizer", "reader_tokenizer")
_TOKENIZER_FILES = (
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.txt",
  "vocab.json",
  "merges.txt",
  "spiece.model",
  "tokenizer.model",
)
# What `du` calls a block, whatever the disk's own are.
_BLOCK = 512
_MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Rung:
  """A step of a ladder.

  Attributes:
    name: what it is called.
    path: a system folder, a packed system, any other folder, or a file.
    runtime: what runs it; None: it is not counted.
    figures: what `odqa evaluate` has printed of it, as a file.
  """

  name: str
  path: Path
  runtime: Path | None = None
  figures: Path | None = None


def named_rungs(
  paths: Sequence[str], figures: Sequence[str], runtimes: Sequence[str]
) -> list[Rung]:
  """Rungs as a command line has them.

  Args:
    paths: `NAME=PATH`, in the order of the ladder.
    figures: `NAME=FILE`.
    runtimes: `NAME=DIR`, or `DIR` for all that are not named.

  Raises:
    ValueError: if there is no name, or it is that of no rung.
  """
  named = [_parted(text, "NAME=PATH") for text in paths]
  measured = dict(_parted(text, "--em NAME=FILE") for text in figures)
  trees = dict(text.rpartition("=")[::2] for text in runtimes)
  known = [name for name, _ in named]
  for name in (*measured, *filter(None, trees)):
    if name not in known:
      raise ValueError(
        f"{name}: is no rung, which are {', '.join(known)}; give its figures "
        "and its runtime the name of one."
      )

  def path_of(found: str | None) -> Path | None:
    return Path(found) if found else None

  return [
    Rung(
      name,
      Path(path),
      path_of(trees.get(name, trees.get(""))),
      path_of(measured.get(name)),
    )
    for name, path in named
  ]


def _parted(text: str, form: str) -> tuple[str, str]:
  name, _, path = text.partition("=")
  if not name or not path:
    raise ValueError(f"{text}: write {form}.")
  return name, path


class _Tally:
  """Bytes by part.

  Attributes:
    bytes: lengths of files, of `PARTS` and `TRAINING`.
    disk: blocks of files and folders, in bytes.
    corpora: what a row says of the corpora that were met, by fingerprint.
  """

  def __init__(self) -> None:
    self.bytes = dict.fromkeys((*PARTS, TRAINING), 0)
    self.disk = dict.fromkeys((*PARTS, TRAINING), 0)
    self.corpora: dict[str, Mapping[str, Any]] = {}
    self._seen: set[tuple[int, int]] = set()

  def add(self, path: Path, part: str | None) -> None:
    """Counts a file or folder with all that is in it, once.

    Args:
      path: of it.
      part: what it belongs to; None: told by names and manifests.
    """
    found = path.stat()
    if (found.st_dev, found.st_ino) in self._seen:
      return
    self._seen.add((found.st_dev, found.st_ino))
    if stat.S_ISREG(found.st_mode):
      part = _of_file(path, part)
      self.bytes[part] += found.st_size
      self.disk[part] += found.st_blocks * _BLOCK
    elif stat.S_ISDIR(found.st_mode):
      self._add_folder(path, part, found.st_blocks * _BLOCK)

  def _add_folder(self, path: Path, part: str | None, disk: int) -> None:
    manifest = _manifest(path) if part != "runtime" else {}
    kind = manifest.get("kind")
    if kind == "corpus":
      name, leaky = manifest["fingerprint"], manifest["made_from"].get("leaky")
      found = {"passages": manifest["count"], "corpus": name}
      self.corpora[name] = found | ({"leaky": True} if leaky else {})
    part = _OF_KIND.get(str(kind), part)
    if path.name in _TOKENIZER_FOLDERS and part != "runtime":
      part = "tokenizer"
    before = self.bytes["models"], self.disk["models"]
    self.disk[part or "other"] += disk
    for inner in sorted(path.iterdir()):
      # A link that leads nowhere takes up nothing.
      if inner.exists():
        self.add(inner, part)
    if kind == "checkpoint":
      self._set_apart(manifest, *before)

  def _set_apart(self, manifest: Mapping[str, Any], *before: int) -> None:
    """Counts what a training step has besides weights by itself.

    The moments of the optimiser lie in the same files, so that the weights'
    own bytes are told from their shapes.
    """
    weights = sum(
      math.prod(shape) * np.dtype(dtype).itemsize
      for shape, dtype in manifest["params"].values()
    )
    held = self.bytes["models"] - before[0]
    share = 1 - min(weights / held, 1) if held else 0
    for sizes, first in zip((self.bytes, self.disk), before, strict=True):
      rest = round(share * (sizes["models"] - first))
      sizes["models"] -= rest
      sizes[TRAINING] += rest


def _of_file(path: Path, part: str | None) -> str:
  """The part that a file belongs to."""
  if part in (None, "models") and path.name in _TOKENIZER_FILES:
    return "tokenizer"
  if part is None:
    return "models" if path.suffix == ".safetensors" else "other"
  return part


def _manifest(folder: Path) -> dict[str, Any]:
  """What the manifest of a folder says, without its checksum; {}: no such."""
  if not (folder / MANIFEST).is_file():
    return {}
  content = read_json(folder / MANIFEST)
  return content if isinstance(content, dict) else {}


def measure_ladder(rungs: Sequence[Rung]) -> list[dict[str, Any]]:
  """Measures the rungs.

  Returns:
    For each: `name`, `path`, `bytes` and `disk` by part, `total` and
    `disk_total`; `training`, what checkpoints hold beside their weights, which
    is in no total; `passages` and `corpus` where it has one corpus, `leaky` if
    questions that are measured on have filtered it; with figures `em`, `em_95`.

  Raises:
    ValueError: if two have one name, something is not there, a system is not
      what it was, or figures are of another corpus, or several, or none.
  """
  names = [rung.name for rung in rungs]
  for name in names:
    if names.count(name) > 1:
      raise ValueError(
        f"{name}: is the name of {names.count(name)} rungs; give each its own."
      )
  return [measure_rung(rung) for rung in rungs]


def measure_rung(rung: Rung) -> dict[str, Any]:
  """Measures one rung; see `measure_ladder`."""
  tally = _Tally()
  for path in (rung.path, rung.runtime):
    if path is not None and not path.exists():
      raise ValueError(
        f"{rung.name}={path}: is not there; name a system folder, or what else "
        "is to be measured."
      )
  if (rung.path / SYSTEM).is_file():
    _add_system(tally, rung.path)
  elif is_pack(rung.path):
    _add_pack(tally, rung.path)
  else:
    tally.add(rung.path, None)
  if rung.runtime is not None:
    tally.add(rung.runtime, "runtime")
  row: dict[str, Any] = {
    "name": rung.name,
    "path": str(rung.path),
    "runtime": rung.runtime and str(rung.runtime),
    "bytes": {part: tally.bytes[part] for part in PARTS},
    "disk": {part: tally.disk[part] for part in PARTS},
    "training": tally.bytes[TRAINING],
  }
  row["total"] = sum(row["bytes"].values())
  row["disk_total"] = sum(row["disk"].values())
  if len(tally.corpora) == 1:
    (found,) = tally.corpora.values()
    row |= found
  if rung.figures is not None:
    row |= _exact_match(rung, row.get("corpus"))
  return row


def _add_system(tally: _Tally, folder: Path) -> None:
  """Counts the parts of a system, wherever they are."""
  system = open_system(folder)
  for name, path in system.paths.items():
    tally.add(path, _OF_SYSTEM.get(name, "models"))
    if _manifest(path).get("kind") == "checkpoint":
      # A step is read with the tokenizers of its workdir.
      for tokenizer in _TOKENIZER_FOLDERS:
        beside = path.parent.parent / tokenizer
        if beside.is_dir():
          tally.add(beside, "tokenizer")
  tally.add(folder / SYSTEM, "other")


def _add_pack(tally: _Tally, path: Path) -> None:
  """Counts a packed system by its own table of contents.

  Its blocks on the disk are divided as its bytes are.
  """
  sizes, about = contents(path), Pack(path).about
  found = path.stat()
  disk, whole = found.st_blocks * _BLOCK, found.st_size
  for part in PARTS:
    tally.bytes[part] += sizes[part]
    tally.disk[part] += disk * sizes[part] // whole
  tally.disk["other"] += disk - sum(disk * sizes[p] // whole for p in PARTS)
  row = {"passages": about["count"]}
  row |= {name: about[name] for name in ("corpus", "leaky") if about.get(name)}
  tally.corpora[about.get("corpus", "")] = row


# ---- Exact match ----


def _exact_match(rung: Rung, corpus: str | None) -> dict[str, Any]:
  """`em` and its interval from the figures of `odqa evaluate`.

  Raises:
    ValueError: if there are none or several, or they are of another corpus.
  """
  path = rung.figures
  assert path is not None
  figures = _last_json(path)
  searched = figures.get("corpus")
  if corpus and searched and corpus != searched:
    raise ValueError(
      f"{path}: has the exact match with the corpus {str(searched)[:12]}, and "
      f"{rung.name}={rung.path} has {corpus[:12]}; evaluate this system."
    )
  measured = figures.get("system") or figures.get("checkpoint") or figures
  read = measured.get("read")
  if isinstance(read, dict):
    if len(read) != 1:
      raise ValueError(
        f"{path}: has the exact match with {', '.join(read)} passages; choose "
        "their number on a development set, and evaluate with --read-k."
      )
    (measured,) = read.values()
  if not isinstance(measured.get("em"), int | float):
    raise ValueError(
      f"{path}: holds no exact match; give what odqa evaluate has printed of a "
      "system that answers."
    )
  found = {"em": measured["em"], "em_95": measured.get("em_95")}
  return found | ({"leaky": True} if figures.get("leaky") else {})


def _last_json(path: Path) -> dict[str, Any]:
  """A JSON object: the whole file, or its last line.

  Raises:
    ValueError: if there is none.
  """
  text = path.read_text(encoding="utf-8").strip()
  for candidate in (text, text.rpartition("\n")[2]):
    try:
      found = json.loads(candidate)
    except ValueError:
      continue
    if isinstance(found, dict):
      return found
  raise ValueError(
    f"{path}: neither the file nor its last line is a JSON object; give what "
    "odqa evaluate has printed, `odqa evaluate … > FILE`."
  )


# ---- What is shown ----


def footprint_table(rows: Sequence[Mapping[str, Any]]) -> str:
  """The rows of `measure_ladder` as text, in MiB as `du -h` and Table 3.

  The last column is in no total.
  """
  head = ["MiB", "passages", *PARTS, "total", "on disk", "EM", "95 %"]
  kept = any(row["training"] for row in rows)
  if kept:
    head.append("(to be trained on)")
  cells = []
  for row in rows:
    sizes = [f"{row['bytes'][part] / _MIB:,.2f}" for part in PARTS]
    if row["runtime"] is None and not row["bytes"]["runtime"]:
      sizes[0] = "not given"
    sizes += [f"{row[name] / _MIB:,.2f}" for name in ("total", "disk_total")]
    name = row["name"] + (" (leaky)" if row.get("leaky") else "")
    count = f"{row['passages']:,}" if "passages" in row else ""
    more = [f"{row['training'] / _MIB:,.2f}"] if kept else []
    cells.append([name, count, *sizes, *_shares(row), *more])
  return text_table([head, *cells], right=range(1, len(head)))


def _shares(row: Mapping[str, Any]) -> tuple[str, str]:
  """The exact match and its interval, in percent."""
  if row.get("em") is None:
    return "", ""
  share, interval = f"{100 * row['em']:.2f}", row.get("em_95")
  if interval is None:
    return share, ""
  return share, f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"
