"""A corpus of some rows of another: tokens and text are copied, not made.

cut_corpus(corpus, rows, "pruned/corpus", {"rule": {"keep": 1000}})

The files are those that `build_corpus` makes of these passages, and so is the
fingerprint; beside them lies the row that each passage had.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int64, Shaped

from odqa_jax.data.corpus.build import SCRATCH, special_ids
from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.passages import Passage, passage_bytes
from odqa_jax.data.corpus.store import (
  HASHES,
  ID_INDEX,
  RAGGED,
  TOKENIZER,
  CorpusStore,
  hash_id,
  sorted_hashes,
)
from odqa_jax.data.corpus.tokenise import first_opens, opens
from odqa_jax.data.parts.files import Arrays, unpack_texts
from odqa_jax.data.parts.growing import GrowingArray
from odqa_jax.data.parts.run import Progress
from odqa_jax.runtime.artifact import Artifact, open_artifact, publish
from odqa_jax.runtime.blocks import BlockArray

PARENT_ROWS = "parent_rows.npy"
# Passages copied at once.
_BLOCK_ROWS = 4096


def parent_of(directory: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
  """How the manifest of a cut folder names what it was cut from."""
  return {
    "name": directory.absolute().name,
    "count": manifest["count"],
    "manifest": manifest["sha256"],
  }


def read_parent_rows(directory: str | Path) -> Int64[np.ndarray, " n"]:
  """By row, where each passage of a cut corpus stood in the whole one.

  Raises:
    ValueError: if the corpus was not cut from another.
  """
  files = open_artifact(directory, "corpus", lazy=True)
  if PARENT_ROWS not in files.manifest["files"]:
    raise ValueError(
      f"{directory}: was not cut from another corpus; name one that `odqa "
      "prune` has written."
    )
  return np.asarray(files.array(PARENT_ROWS))


def cut_corpus(
  corpus: Corpus,
  rows: Int64[np.ndarray, " n"],
  out: str | Path,
  made_from: Mapping[str, Any],
  *,
  progress: Progress | None = None,
) -> dict[str, Any]:
  """Writes the corpus of some rows of another.

  Args:
    corpus: the whole.
    rows: those to keep, ascending, each once, one at least.
    out: appears whole; a corpus there is replaced.
    made_from: what the manifest says besides its parent.
    progress: called with passages done and in all.

  Returns:
    The manifest.

  Raises:
    ValueError: if a file of the corpus is damaged, naming it.
  """
  files = open_artifact(corpus.directory, "corpus", lazy=True)
  tokenizer = corpus.any_tokenizer
  parent = parent_of(corpus.directory, corpus.manifest)
  parent["fingerprint"] = corpus.fingerprint
  origin = {"tokenizer": tokenizer.fingerprint, "sources": []}
  with publish(
    out, "corpus", origin | {"parent": parent} | dict(made_from),
    scratch=SCRATCH,
  ) as draft:  # fmt: skip
    draft.counts |= _copy(_Copying(files), rows, draft.folder, progress)
    draft.counts["special_ids"] = special_ids(tokenizer)
    tokenizer.save(draft.folder / TOKENIZER)
    with GrowingArray(draft.folder / PARENT_ROWS, np.int64) as kept:
      kept.append(rows)
  return draft.manifest


def _copy(
  copying: "_Copying",
  rows: Int64[np.ndarray, " n"],
  folder: Path,
  progress: Progress | None,
) -> dict[str, Any]:
  """Writes the columns and the index of ids; returns the counts."""
  with CorpusStore(folder) as store:
    for start in range(0, len(rows), _BLOCK_ROWS):
      store.append(copying.part(rows[start : start + _BLOCK_ROWS]))
      if progress:
        progress(store.rows, len(rows))
    text, title = map(store.count, ("text_tokens.npy", "title_tokens.npy"))
    counts = {
      "count": store.rows,
      "tokens": text + title,
      "sentences": store.count("sentence_starts.npy"),
      "articles": store.count("article_starts.npy"),
      "fingerprint": copying.digest.hexdigest(),
    }
  with (
    GrowingArray(folder / ID_INDEX[0], np.uint64) as sorted_file,
    GrowingArray(folder / ID_INDEX[1], np.int64) as rows_file,
  ):
    hashes = np.memmap(folder / HASHES, np.uint64, "r")
    for values, places in sorted_hashes(hashes):
      sorted_file.append(values)
      rows_file.append(places)
  return counts


class _Copying:
  """One pass over the rows to keep.

  Attributes:
    digest: sha256 of the passages so far.
  """

  def __init__(self, files: Artifact) -> None:
    self.digest = hashlib.sha256()
    self._columns = {
      values: (files.array(values), files.array(bounds))
      for values, bounds in RAGGED.items()
    }
    self._sentences = np.asarray(files.array("sentence_starts.npy"))
    self._previous: Passage | None = None

  def part(self, rows: Int64[np.ndarray, " n"]) -> Arrays:
    """The columns of rows, as `CorpusStore` takes them."""
    part: Arrays = {"lines": rows}
    for values, (column, bounds) in self._columns.items():
      name = Path(values).stem
      held = ragged_rows(column, bounds[rows], bounds[rows + 1])
      part[name], part[f"{name}_lengths"] = held
    ids, titles, texts = (
      unpack_texts(part[name], part[f"{name}_lengths"])
      for name in ("ids", "titles", "texts")
    )
    passages = list(map(Passage, ids, titles, texts))
    self.digest.update(b"".join(map(passage_bytes, passages)))
    first = first_opens(self._previous, passages[0])
    articles, sentences = opens(titles, texts, first)
    self._previous = passages[-1]
    part["hashes"] = np.array([hash_id(i) for i in ids], np.uint64)
    part["article_starts"] = np.flatnonzero(articles)
    part["sentence_starts"] = self._sentence_starts(rows, sentences)
    return part

  def _sentence_starts(
    self, rows: Int64[np.ndarray, " n"], begin: np.ndarray
  ) -> Int[np.ndarray, " s"]:
    """Positions among the tokens of these rows.

    Whether a row begins with a sentence is decided by the row that is now
    before it; those inside it stay.
    """
    bounds = self._columns["text_tokens.npy"][1]
    starts, ends = bounds[rows], bounds[rows + 1]
    moved = np.cumsum(ends - starts) - (ends - starts)
    first, last = (
      np.searchsorted(self._sentences, edge) for edge in (starts, ends)
    )
    found, counts = ragged_rows(self._sentences, first, last)
    inside = found - np.repeat(starts, counts)
    there = np.repeat(moved, counts) + inside
    return np.sort(np.concatenate([there[inside > 0], moved[begin]]))


def ragged_rows(
  values: np.ndarray | BlockArray,
  starts: Int[np.ndarray, " n"],
  ends: Int[np.ndarray, " n"],
) -> tuple[Shaped[np.ndarray, " m"], Int64[np.ndarray, " n"]]:
  """`values[starts[i]:ends[i]]` of all i, one after the other; the lengths."""
  lengths = (ends - starts).astype(np.int64)
  if isinstance(values, BlockArray):
    values = values.within(starts, ends)
  before = np.cumsum(lengths) - lengths
  positions = np.arange(int(lengths.sum()))
  return values[np.repeat(starts - before, lengths) + positions], lengths
