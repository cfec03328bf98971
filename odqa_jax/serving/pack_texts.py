"""Puts the passages of a corpus into a pack; `packed/texts.py` reads them."""

import lzma
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt16

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.serving.packed.container import PackWriter
from odqa_jax.serving.packed.texts import SEPARATOR
from odqa_jax.serving.packed.token_coder import NGramModel, Tables
from odqa_jax.serving.packed.token_model import fit_tables

# Bytes of text that are compressed together: what is read for one passage.
_BLOCK = 2**17
# Passages that are coded at once.
_CODED = 2**15
# Called with passages done.
Progress = Callable[[int], None]


def add_texts(writer: PackWriter, corpus: Corpus, progress: Progress) -> int:
  """Adds ids, titles and texts as they are.

  Returns:
    Bytes of memory that a reader of them holds.
  """
  bounds, rows, blocks = [0], [0], []
  for text, last in _blocks(corpus):
    blocks.append(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
    bounds.append(bounds[-1] + len(blocks[-1]))
    rows.append(last)
    progress(last)
  data = np.frombuffer(b"".join(blocks), np.uint8)
  writer.add("text/blocks", "text", data)
  writer.add("text/bounds", "text", np.array(bounds), xz=True)
  writer.add("text/rows", "text", np.array(rows), xz=True)
  return 64 * _BLOCK


def _blocks(corpus: Corpus) -> Iterator[tuple[bytes, int]]:
  """Passages joined to blocks, and the row after the last of each."""
  fields: list[str] = []
  size = 0
  for row in range(len(corpus)):
    mine = [corpus.id(row), corpus.title(row), corpus.text(row)]
    fields += mine
    size += sum(map(len, mine))
    if size >= _BLOCK or row + 1 == len(corpus):
      yield SEPARATOR.join(fields).encode(), row + 1
      fields, size = [], 0


def add_tokens(writer: PackWriter, corpus: Corpus, progress: Progress) -> int:
  """Adds the token ids of titles and texts; see `add_token_ids`.

  Raises:
    ValueError: for a vocabulary of more than 65,535 ids.
  """
  vocab_size = corpus.tokenizer.vocab_size
  if vocab_size >= 2**16:
    raise ValueError(
      f"{corpus.directory}: token ids go up to {vocab_size - 1}, and a pack "
      "codes those below 65,535; pack with --text exact."
    )
  passages = _with_titles(corpus)
  return add_token_ids(writer, passages, vocab_size, progress)


class CodedPassages(NamedTuple):
  """Passages as ids, an article's first with the title before its text.

  Attributes:
    ids: of all.
    counts: ids of each.
    title_counts: how many of them are the title's.
    articles: ascending, the first row of each article.
  """

  ids: UInt16[np.ndarray, " t"]
  counts: Int64[np.ndarray, " n"]
  title_counts: Int64[np.ndarray, " n"]
  articles: Int64[np.ndarray, " a"]


def add_token_ids(
  writer: PackWriter,
  passages: CodedPassages,
  vocab_size: int,
  progress: Progress,
) -> int:
  """Adds ids, coded by a model of themselves; see `packed/token_coder.py`.

  Returns:
    Bytes of memory that a reader of them holds.
  """
  counts = passages.counts
  bounds = np.append(0, np.cumsum(counts))
  tables = fit_tables(passages.ids, bounds, vocab_size)
  model = NGramModel(tables)
  streams, words = [], []
  for start in range(0, len(counts), _CODED):
    some = bounds[start : start + _CODED + 1]
    ids = passages.ids[some[0] : some[-1]]
    data, ends = model.encode(ids, some - some[0])
    streams.append(data)
    words.append(np.diff(ends, prepend=0) // 2)
    progress(min(start + _CODED, len(counts)))
  writer.add("text/streams", "text", np.frombuffer(b"".join(streams), np.uint8))
  columns = {
    "words": np.concatenate(words),
    "counts": counts,
    "title_counts": passages.title_counts,
    "articles": passages.articles,
  }
  for name, values in columns.items():
    writer.add(f"text/{name}", "text", _narrow(values), xz=True)
  _add_tables(writer, tables)
  return 24 * len(tables.tokens) + 40 * len(counts)


def _add_tables(writer: PackWriter, tables: Tables) -> None:
  columns = {
    "contexts": np.diff(tables.contexts, prepend=0),
    "lengths": tables.lengths,
    "tokens": tables.tokens,
    "levels": tables.levels,
    "weights": tables.weights,
  }
  for name, values in columns.items():
    writer.add(f"text/model/{name}", "text", _narrow(values), xz=True)


def _narrow(values: np.ndarray) -> np.ndarray:
  """Numbers from 0 on in the smallest type that holds them."""
  return values.astype(np.min_scalar_type(int(values.max(initial=0))))


def _with_titles(corpus: Corpus) -> CodedPassages:
  """The ids of a corpus."""
  texts = np.diff(np.asarray(corpus.text_offsets))
  offsets = np.asarray(corpus.title_offsets)
  titles = np.zeros(len(corpus), np.int64)
  first = np.asarray(corpus.article_starts)
  titles[first] = np.diff(offsets)[first]
  counts = texts + titles
  ids = np.empty(int(counts.sum()), np.uint16)
  starts = np.cumsum(counts) - counts
  # Where a text's ids go, none of them a title's.
  is_text = np.ones(len(ids), bool)
  source = np.asarray(corpus.title_tokens)
  for row in first.tolist():
    start, size = int(starts[row]), int(titles[row])
    is_text[start : start + size] = False
    ids[start : start + size] = source[offsets[row] : offsets[row] + size]
  ids[is_text] = np.asarray(corpus.text_tokens)
  return CodedPassages(ids, counts, titles, first)
