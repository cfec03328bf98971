"""The evidence corpus: token ids and text of every passage, memory-mapped.

    build_corpus(["psgs_w100.tsv.gz"], "corpus", load_tokenizer("bert/"))
    corpus = Corpus("corpus")
    ids, lengths = corpus.passage_inputs(np.array([0, 41]), length=256)

Rows count from 0 in the order of the sources. A block of the files is read, and
compared with its checksum, when it is first touched, so that opening costs
nothing and processes share the memory.
"""

import contextlib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int32

from odqa_jax.data.corpus.build import build_corpus
from odqa_jax.data.corpus.passages import Passage, read_passages
from odqa_jax.data.corpus.store import TOKENIZER, hash_id
from odqa_jax.runtime.artifact import open_artifact
from odqa_jax.runtime.blocks import BlockArray
from odqa_jax.text.sentencepiece import AnyTokenizer, load_any_tokenizer
from odqa_jax.text.tokenizer import Tokenizer

__all__ = [
  "Corpus",
  "Passage",
  "build_corpus",
  "pack_questions",
  "read_passages",
]

# Rows packed at once: their tokens stay in the processor's cache.
_BLOCK_ROWS = 2048
DPR_PREFIX = "wiki:"


class Corpus:
  """A corpus directory, opened for reading.

  Attributes:
    directory: where it is.
    manifest: counts, hashes and origin of the files.
    fingerprint: sha256 (hex) of all ids, titles and texts in order; does not
      depend on the tokenizer.
    any_tokenizer: what made the ids: word pieces, or in a reader's own store
      those of its T5.
    text_tokens: ids of all texts, row after row; uint16 (uint32 for a
      vocabulary above 65,536), no special tokens.
    text_offsets: int64 [n+1]; row i has text_tokens[offsets[i]:offsets[i+1]].
    title_tokens: ids of all titles; likewise title_offsets.
    sentence_starts: int64 [s], ascending positions in `text_tokens` at which
      a sentence starts; it ends at the next one or with its article, and may
      run over the border of rows. Every article starts with one.
    article_starts: int64 [a], the first row of every article: a longest run
      of rows with one title.
  """

  def __init__(self, directory: str | Path):
    """Opens a directory that `build_corpus` wrote.

    Raises:
      ValueError: naming the file, if one is absent, damaged, or of another
        kind or format. Any later use raises it too, for a block that is.
    """
    self.directory = Path(directory)
    self._files = open_artifact(self.directory, "corpus", lazy=True)
    self.manifest: dict[str, Any] = self._files.manifest
    self.fingerprint: str = self.manifest["fingerprint"]
    self.text_tokens = self._files.array("text_tokens.npy")
    self.text_offsets = self._files.array("text_offsets.npy")
    self.title_tokens = self._files.array("title_tokens.npy")
    self.title_offsets = self._files.array("title_offsets.npy")
    self.sentence_starts = self._files.array("sentence_starts.npy")
    self.article_starts = self._files.array("article_starts.npy")
    self._id_hashes = self._files.array("id_hashes.npy")
    self._id_rows = self._files.array("id_rows.npy")
    self._blobs = {
      name: (
        self._files.array(f"{name}.bin"),
        self._files.array(f"{name}_bounds.npy"),
      )
      for name in ("ids", "titles", "texts")
    }
    names = (n for n in self.manifest["files"] if n.startswith(TOKENIZER))
    self._files.check(*names)
    self.any_tokenizer: AnyTokenizer = load_any_tokenizer(
      self.directory / TOKENIZER
    )

  @property
  def tokenizer(self) -> Tokenizer:
    """The word pieces that made the ids.

    Raises:
      ValueError: if something else made them.
    """
    if not isinstance(self.any_tokenizer, Tokenizer):
      raise ValueError(
        f"{self.directory}: the token ids are SentencePieces, which have no "
        "[CLS] and [SEP]; a retriever reads a corpus of BERT word pieces, and "
        "this one is for a reader."
      )
    return self.any_tokenizer

  @property
  def leaky(self) -> bool:
    """Whether questions that are measured on have filtered its passages."""
    return bool(self.manifest["made_from"].get("leaky"))

  def __len__(self) -> int:
    return self.manifest["count"]

  def verify(self) -> None:
    """Reads every file and compares it with the manifest.

    Raises:
      ValueError: naming the first file that differs.
    """
    self._files.check()

  def _string(self, name: str, row: int) -> str:
    if not 0 <= row < len(self):
      raise IndexError(f"row {row} of a corpus of {len(self)} passages")
    values, bounds = self._blobs[name]
    start, end = bounds[row : row + 2].tolist()
    return values[start:end].tobytes().decode("utf-8")

  def id(self, row: int) -> str:
    """Id of the passage in a row."""
    return self._string("ids", row)

  def title(self, row: int) -> str:
    """Title of the passage in a row."""
    return self._string("titles", row)

  def text(self, row: int) -> str:
    """Text of the passage in a row."""
    return self._string("texts", row)

  def row_of(self, passage_id: str) -> int:
    """Row of the passage with an id; KeyError if there is none.

    DPR's files put `wiki:` before the ids of its corpus, which has none (see
    facebookresearch/DPR#153): what is not there is looked for without it.
    """
    row = self._exact_row(passage_id)
    if row is None and passage_id.startswith(DPR_PREFIX):
      row = self._exact_row(passage_id.removeprefix(DPR_PREFIX))
    if row is None:
      raise KeyError(f"no passage {passage_id!r} in {self.directory}")
    return row

  def _exact_row(self, passage_id: str) -> int | None:
    wanted = np.uint64(hash_id(passage_id))
    hashes = np.asarray(self._id_hashes)
    i = int(np.searchsorted(hashes, wanted))
    while i < len(self) and hashes[i] == wanted:
      row = int(self._id_rows[i])
      if self.id(row) == passage_id:
        return row
      i += 1
    return None

  def find(self, passage_id: str) -> int | None:
    """Row of the passage with an id, see `row_of`; None if there is none."""
    with contextlib.suppress(KeyError):
      return self.row_of(passage_id)
    return None

  def packed_lengths(
    self, max_length: int, *, title: bool = True
  ) -> Int32[np.ndarray, " n"]:
    """Lengths that `passage_inputs` would return for every row.

    Args:
      max_length: tokens at most, at least 2.
      title: whether title and a `[SEP]` precede the text.
    """
    _check_length(max_length)
    total = np.diff(self.text_offsets) + 2
    if title:
      total += np.diff(self.title_offsets) + 1
    return np.minimum(total, max_length).astype(np.int32)

  def passage_inputs(
    self, rows: Int[np.ndarray, " n"], length: int, *, title: bool = True
  ) -> tuple[Int32[np.ndarray, "n l"], Int32[np.ndarray, " n"]]:
    """Encoder inputs: `[CLS] title [SEP] text [SEP]`, cut and padded.

    What is too long is cut at the right, before the final `[SEP]`.

    Args:
      rows: which passages, in any order, with repeats or without.
      length: width of the result, at least 2.
      title: whether title and its `[SEP]` precede the text.

    Returns:
      Token ids, `[PAD]` from each row's length on; and the lengths, special
      tokens included.

    Raises:
      IndexError: if a row is not in the corpus (negative ones are not).
      ValueError: if the ids are T5's, which has no `[CLS]` and `[SEP]`.
    """
    pad_id = self.tokenizer.pad_id
    _check_length(length)
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
      raise IndexError(
        f"rows {rows.min()} to {rows.max()} of a corpus of {len(self)} passages"
      )
    ids = np.full((len(rows), length), pad_id, np.int32)
    lengths = np.empty(len(rows), np.int32)
    for i in range(0, len(rows), _BLOCK_ROWS):
      block = slice(i, i + _BLOCK_ROWS)
      lengths[block] = self._pack(rows[block], ids[block], title)
    return ids, lengths

  def _pack(
    self,
    rows: Int[np.ndarray, " n"],
    ids: Int32[np.ndarray, "n l"],
    title: bool,
  ) -> Int[np.ndarray, " n"]:
    """Writes one block of `passage_inputs` into `ids`; returns the lengths."""
    width = ids.shape[1]
    special = self.manifest["special_ids"]
    ids[:, 0] = special["cls"]
    body = np.ones(len(rows), np.int64)
    if title:
      starts, ends = self.title_offsets[rows], self.title_offsets[rows + 1]
      place(ids, self.title_tokens, starts, ends, body)
      separator = body + ends - starts
      fits = np.flatnonzero(separator < width)
      ids[fits, separator[fits]] = special["sep"]
      body = separator + 1
    starts, ends = self.text_offsets[rows], self.text_offsets[rows + 1]
    place(ids, self.text_tokens, starts, ends, body)
    lengths = np.minimum(body + ends - starts + 1, width)
    ids[np.arange(len(rows)), lengths - 1] = special["sep"]
    return lengths


def corpus_folder(path: str | Path) -> Path:
  """A corpus folder, or that within a dataset folder."""
  nested = Path(path) / "corpus"
  return nested if nested.is_dir() else Path(path)


def _check_length(length: int) -> None:
  if length < 2:
    raise ValueError(
      f"length {length} leaves no room for [CLS] and [SEP]; it must be at "
      "least 2; raise it."
    )


def place(
  out: Int32[np.ndarray, "n l"],
  tokens: np.ndarray | BlockArray,
  starts: Int[np.ndarray, " n"],
  ends: Int[np.ndarray, " n"],
  columns: Int[np.ndarray, " n"],
) -> None:
  """Copies `tokens[starts[i]:ends[i]]` to row i from `columns[i]` on.

  What passes the right edge is left out.
  """
  rows, width = out.shape
  counts = np.minimum(ends - starts, np.maximum(width - columns, 0))
  before = np.cumsum(counts) - counts
  position = np.arange(int(counts.sum()))
  source = np.repeat(starts - before, counts) + position
  target = np.repeat(np.arange(rows) * width + columns - before, counts)
  if isinstance(tokens, BlockArray):
    tokens = tokens.within(starts, starts + counts)
  out.reshape(-1)[target + position] = tokens[source]


def pack_questions(
  token_lists: Sequence[Sequence[int] | np.ndarray],
  length: int,
  tokenizer: Tokenizer,
) -> tuple[Int32[np.ndarray, "n l"], Int32[np.ndarray, " n"]]:
  """Encoder inputs of questions: `[CLS] question [SEP]`, cut and padded.

  Args:
    token_lists: ids of every question, from `Tokenizer.encode_batch`.
    length: width of the result, at least 2; longer questions are cut at the
      right, before the `[SEP]`.
    tokenizer: gives the ids of the special tokens.

  Returns:
    Token ids, `[PAD]` from each row's length on; and the lengths, special
    tokens included.
  """
  _check_length(length)
  rows = len(token_lists)
  counts = np.fromiter(map(len, token_lists), np.int64, rows)
  ends = np.cumsum(counts)
  tokens = np.fromiter(
    chain.from_iterable(token_lists), np.int32, int(counts.sum())
  )
  ids = np.full((rows, length), tokenizer.pad_id, np.int32)
  ids[:, 0] = tokenizer.cls_id
  place(ids, tokens, ends - counts, ends, np.ones(rows, np.int64))
  lengths = np.minimum(counts + 2, length)
  ids[np.arange(rows), lengths - 1] = tokenizer.sep_id
  return ids, lengths.astype(np.int32)
