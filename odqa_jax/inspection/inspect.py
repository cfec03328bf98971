"""`odqa inspect`: what a path is, told by its content.

print(inspect("data/corpus", n=3).text())
"""

from pathlib import Path

from odqa_jax.inspection.artifacts import artifact_page
from odqa_jax.inspection.models import (
  is_workdir,
  published_page,
  step_page,
  tokenizer_page,
  workdir_page,
)
from odqa_jax.inspection.page import Page
from odqa_jax.inspection.provenance import manifest_of
from odqa_jax.inspection.raw import file_page
from odqa_jax.inspection.systems import fusion_page, is_fusion, system_page
from odqa_jax.models.hf.tensors import other_weights
from odqa_jax.runtime.artifact import MANIFEST
from odqa_jax.serving.system_folder import SYSTEM

_TOKENIZERS = ("tokenizer.json", "vocab.txt")
_SETS = ("questions", "pairs")
_PARTS = ("corpus", "reader_corpus", "spans")


def inspect(path: str | Path, *, n: int = 3, verify: bool = False) -> Page:
  """The page of anything that the commands read or write.

  Args:
    path: a file or folder.
    n: records, or rows of metrics, to show.
    verify: compare every byte of large artifacts with its checksum.

  Raises:
    ValueError: if there is nothing there, or `n` is below 0.
  """
  path = Path(path)
  if n < 0:
    raise ValueError(f"--n {n}: 0 or more records are shown.")
  if path.is_file():
    if path.name == MANIFEST:
      return _folder_page(path.parent, n, verify)
    if path.name in _TOKENIZERS:
      return tokenizer_page(path)
    if path.name == SYSTEM:
      return _folder_page(path.parent, n, verify)
    return fusion_page(path) if is_fusion(path) else file_page(path, n)
  if not path.is_dir():
    what = "is neither a file nor a folder" if path.exists() else "is not there"
    raise ValueError(f"{path}: {what}; check the path.")
  return _folder_page(path, n, verify)


def _folder_page(path: Path, n: int, verify: bool) -> Page:
  if (path / SYSTEM).is_file():
    return system_page(path, lambda part: inspect(part, n=0, verify=verify))
  if (path / MANIFEST).is_file():
    if manifest_of(path).get("kind") == "checkpoint":
      return step_page(path)
    return artifact_page(path, n, verify=verify)
  if any((path / name / MANIFEST).is_file() for name in _PARTS):
    return _dataset_page(path, n, verify)
  if is_workdir(path):
    return workdir_page(path, n)
  if _is_model(path):
    return published_page(path)
  if any((path / name).is_file() for name in _TOKENIZERS):
    return tokenizer_page(path)
  if (path / "config.json").is_file():
    return published_page(path)
  return _other_page(path)


def _is_model(path: Path) -> bool:
  """Whether a folder holds weights, or says that it is a model of parts."""
  named = ("modules.json", "question/config.json")
  return (
    any((path / name).is_file() for name in named)
    or any(path.glob("*.safetensors*"))
    or other_weights(path) is not None
  )


def _dataset_page(path: Path, n: int, verify: bool) -> Page:
  """The parts that `odqa prepare --out` makes."""
  page = Page(str(path), "dataset", "what odqa prepare has made of raw files")
  names = [name for name in _PARTS if (path / name).is_dir()]
  for group in _SETS:
    if (path / group).is_dir():
      sets = sorted(p for p in (path / group).iterdir() if p.is_dir())
      names += [f"{group}/{p.name}" for p in sets]
  for name in names:
    if name.endswith(".tmp"):
      page.facts["unfinished"] = [*page.facts.get("unfinished", []), name]
    else:
      page.parts[name] = artifact_page(path / name, n, verify=verify)
  if (path / "tokenizer").is_dir():
    tokenizer = tokenizer_page(path / "tokenizer")
    page.facts["tokenizer"] = tokenizer.facts.get("tokenizer")
    page.problems += tokenizer.problems
  if corpus := page.parts.get("corpus"):
    page.histograms = corpus.histograms
    page.records = corpus.records
  return page


def _other_page(path: Path) -> Page:
  page = Page(str(path), "folder", "a folder that nothing here reads")
  names = sorted(p.name for p in path.iterdir())
  page.facts = {"holds": names[:20]}
  if path.name.endswith(".tmp"):
    page.kind, page.about = "unfinished", "a build that was interrupted"
    problem = (
      f"{path}: was not finished; run the command that makes it again, which "
      "goes on from there."
    )
  elif not names:
    problem = f"{path}: is an empty folder; check the path."
  else:
    problem = (
      f"{path}: neither an artifact (no {MANIFEST}), a dataset folder, a "
      "training workdir, nor a model folder (no config.json); name one of "
      "these, or a file."
    )
  page.problems.append(problem)
  return page
