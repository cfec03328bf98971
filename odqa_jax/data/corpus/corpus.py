"""The evidence corpus: token ids and text of every passage, memory-mapped.

    build_corpus(["psgs_w100.tsv.gz"], "corpus", load_tokenizer("bert/"))
    corpus = Corpus("corpus")
    ids, lengths = corpus.passage_inputs(np.array([0, 41]), length=256)

Rows count from 0 in the order of the sources. A block of the files is read, and
compared with its checksum, when it is first touched, so that opening costs
nothing and processes share the memory.
"""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from odqa_jax.data.corpus.build import build_corpus
from odqa_jax.data.corpus.packing import PackedPassages
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
  "read_passages",
]

DPR_PREFIX = "wiki:"


class Corpus(PackedPassages):
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

  text_tokens: BlockArray
  text_offsets: BlockArray
  title_tokens: BlockArray
  title_offsets: BlockArray

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


def corpus_folder(path: str | Path) -> Path:
  """A corpus folder, or that within a dataset folder."""
  nested = Path(path) / "corpus"
  return nested if nested.is_dir() else Path(path)
