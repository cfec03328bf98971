"""Passage files → token stores."""

import functools
from collections.abc import Sequence
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
from odqa_jax.runtime.progress import progress_bar
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
      chosen = tell_format(name, "passages", format, columns)
      sources.append(PassageFile(name, chosen, rejections))
  return sources
