"""Passage files → token stores."""

import contextlib
import functools
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from odqa_jax.data.corpus.build import build_corpus
from odqa_jax.data.corpus.passages import MemoryPassages, PassageFile, Source
from odqa_jax.data.embedded.sets import CORPORA
from odqa_jax.data.formats.files import tell_format
from odqa_jax.data.formats.tfds_sets import (
  check_tfds,
  is_tfds,
  read_tfds_passages,
)
from odqa_jax.data.parts.run import Runner
from odqa_jax.data.preparation.stages import Stages
from odqa_jax.data.raw.rejections import Rejections
from odqa_jax.runtime.artifact import MANIFEST, read_manifest
from odqa_jax.runtime.paths import leaving_no_empty_folder
from odqa_jax.runtime.progress import progress_bar
from odqa_jax.runtime.settings import nearest
from odqa_jax.text.sentencepiece import AnyTokenizer


def tokenise(
  sources: Sequence[Source],
  out: Path,
  pieces: AnyTokenizer,
  runner: Runner,
  stages: Stages,
) -> dict[str, Any]:
  """Writes all passages as a token store; returns its manifest."""
  name = "tokenise for the reader" if out.name != "corpus" else "tokenise"
  with stages.measure(out.name, out) as counts:
    with progress_bar(name, 0, "passages") as update:
      manifest = build_corpus(
        sources, out, pieces, runner=runner, progress=update
      )
    counts["passages"] = manifest["count"]
    counts["tokens"] = manifest["tokens"]
  return manifest


def check_same_corpus(out: Path, sources: Sequence[Source]) -> None:
  """Refuses a dataset folder that holds passages of other files.

  The same files, changed, replace what was made of them, which is said.

  Raises:
    ValueError: naming both.
  """
  if not (out / "corpus" / MANIFEST).is_file():
    return
  before = read_manifest(out / "corpus", "corpus")["sources"]
  theirs = [entry["name"] for entry in before]
  mine = [source.name for source in sources]
  if theirs != mine:
    raise ValueError(
      f"--out {out} holds the corpus of {', '.join(theirs)}, and --corpus is "
      f"{', '.join(mine)}; choose another --out, or remove {out / 'corpus'}."
    )
  changed = [
    source.name
    for source, entry in zip(sources, before, strict=True)
    if not source.matches(entry)
  ]
  if changed:
    print(
      f"{out / 'corpus'}: {', '.join(changed)} changed, so that it is made "
      "anew; indexes, pairs and runs of the old one no longer fit.",
      file=sys.stderr,
    )


@contextlib.contextmanager
def leaving_nothing_new(out: Path, names: Sequence[str]) -> Iterator[None]:
  """Removes folders that were made before bad input was found.

  Args:
    out: the dataset folder; it goes as well if nothing else is in it.
    names: of folders in it; what was there before stays.
  """
  new = [out / name for name in names if not (out / name).exists()]
  with leaving_no_empty_folder(out):
    try:
      yield
    except ValueError:
      for folder in new:
        shutil.rmtree(folder, ignore_errors=True)
      for parent in {folder.parent for folder in new}:
        # Others are in it, or it was never made.
        with contextlib.suppress(OSError):
          parent.rmdir()
      raise


def open_sources(
  names: Sequence[str],
  format: str | None,
  columns: str = "",
  rejections: Rejections | None = None,
) -> Sequence[Source]:
  """Packaged corpora and those of TFDS by name, and passage files."""
  sources: list[Source] = []
  for name in names:
    if name in CORPORA:
      sources.append(MemoryPassages(CORPORA[name], name))
    elif is_tfds(name):
      check_tfds(name, "passage")
      passages = functools.partial(read_tfds_passages, name)
      sources.append(MemoryPassages(passages, name))
    else:
      if not Path(name).exists() and not Path(name).suffix:
        raise ValueError(
          f"--corpus {name}: no such file, and no corpus of a package; "
          f"{nearest(name, CORPORA)}"
        )
      chosen = tell_format(name, "passages", format, columns)
      sources.append(PassageFile(name, chosen, rejections))
  return sources
