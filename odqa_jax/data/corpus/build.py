"""Builds a corpus directory: every passage is tokenised once.

One process reads and checks the passages and hands them out in parts; who
makes the parts is the runner's affair, and the files are the same. An
interrupted build reads its sources from the start, and makes only the parts
that are missing. Until it ends it takes twice the room of the corpus.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from odqa_jax.data.corpus.passages import (
  Passage,
  Source,
  open_sources,
  passage_bytes,
)
from odqa_jax.data.corpus.store import (
  HASHES,
  ID_INDEX,
  LINES,
  RAGGED,
  TOKENIZER,
  CorpusStore,
  sorted_hashes,
)
from odqa_jax.data.corpus.tokenise import TokenisePassages, pack_passages
from odqa_jax.data.parts import files as parts
from odqa_jax.data.parts.files import Part, discard_few, read_part
from odqa_jax.data.parts.growing import GrowingArray
from odqa_jax.data.parts.run import Progress, Runner, make_parts
from odqa_jax.runtime.artifact import existing, publish
from odqa_jax.text.sentencepiece import AnyTokenizer, SentencePieceTokenizer

SCRATCH = (HASHES, LINES, *parts.SCRATCH)
# A part ends with so many passages, or characters.
PART_ROWS = 4096
_PART_CHARACTERS = 2**22


def build_corpus(
  sources: str | Path | Sequence[str | Path | Source] | Iterable[Passage],
  out: str | Path,
  tokenizer: AnyTokenizer,
  *,
  name: str = "passages",
  part_rows: int = PART_ROWS,
  runner: Runner | None = None,
  progress: Progress | None = None,
) -> dict[str, Any]:
  """Writes a corpus directory, or does nothing if it is there already.

  Args:
    sources: passage files, in order (with a format of their own as
      `PassageFile`); or the passages themselves (an iterator
      is first read into memory, so give large sets as files or as an iterable
      that can be started again).
    out: the directory to write. A corpus there of other sources, tokenizer or
      format is replaced when the new one is whole.
    tokenizer: makes the ids. Word pieces for a retriever; T5's for a reader's
      own store of the same passages, whose `fingerprint` is then the same.
    name: what to call passages that come from no file.
    part_rows: passages in a part, at most.
    runner: makes the parts; None: this process alone.
    progress: called as `progress(done, 0)` after every part.

  Returns:
    The manifest.

  Raises:
    ValueError: for bad input, naming file and line; `out` stays as it was,
      and what is complete of a large corpus is used by the next build. Also if
      `out` holds something other than a corpus.
  """
  out = Path(out)
  inputs = open_sources(sources, name)
  manifest = _finished(out, inputs, tokenizer)
  if manifest is not None:
    return manifest
  made_from: dict[str, Any] = {"tokenizer": tokenizer.fingerprint}
  with publish(
    out, "corpus", made_from, identity=dict(made_from), scratch=SCRATCH
  ) as draft:
    reading = _Reading(inputs, part_rows)
    try:
      files = make_parts(
        TokenisePassages(tokenizer),
        reading.parts(),
        draft.folder,
        runner or Runner(),
        progress,
      )
      draft.counts |= _join(files, draft.folder, reading)
    except ValueError:
      discard_few(draft.folder)
      raise
    tokenizer.save(draft.folder / TOKENIZER)
    draft.counts["special_ids"] = special_ids(tokenizer)
    made_from["sources"] = [source.describe() for source in inputs]
  return draft.manifest


def _finished(
  out: Path, inputs: Sequence[Source], tokenizer: AnyTokenizer
) -> dict[str, Any] | None:
  """The manifest of `out` if it is what this build would write."""
  artifact = existing(out, "corpus", SCRATCH)
  if artifact is None:
    return None
  manifest = artifact.manifest
  entries = manifest["sources"]
  same = (
    manifest["tokenizer"] == tokenizer.fingerprint
    and len(entries) == len(inputs)
    and all(s.matches(e) for s, e in zip(inputs, entries, strict=True))
  )
  return manifest if same else None


class _Reading:
  """One reading of the sources, as the input of parts.

  Attributes:
    inputs: the sources.
    rows: passages so far.
    digest: sha256 of these.
  """

  def __init__(self, inputs: Sequence[Source], part_rows: int):
    self.inputs = inputs
    self.rows = 0
    self.digest = hashlib.sha256()
    self._source_rows = [0] * len(inputs)
    self._part_rows = part_rows

  def parts(self) -> Iterator[Part]:
    """The passages in parts, each named by all that was read until its end.

    Raises:
      ValueError: for bad input, and if there is no passage.
    """
    previous = None
    for chunk in _chunks(self._records(), self._part_rows):
      passages, lines, places = zip(*chunk, strict=True)
      self.digest.update(b"".join(map(passage_bytes, passages)))
      first, self.rows = self.rows, self.rows + len(chunk)
      yield Part(
        f"rows {first} to {self.rows} {self.digest.hexdigest()}",
        len(chunk),
        pack_passages(passages, lines, places, previous),
      )
      previous = passages[-1]
    if not self.rows:
      names = ", ".join(str(source.name) for source in self.inputs)
      raise ValueError(
        f"{names}: no passage; a corpus needs at least one; check the files."
      )

  def _records(self) -> Iterator[tuple[Passage, int, str]]:
    for i, source in enumerate(self.inputs):
      for passage, line in source.records():
        self._source_rows[i] += 1
        yield passage, line, source.locate(line)

  def locate(self, row: int, line: int) -> str:
    """`FILE:LINE` of a row that came from line `line` of its source."""
    ends = np.cumsum(self._source_rows)
    return self.inputs[int(np.searchsorted(ends, row, "right"))].locate(line)


def _chunks(
  records: Iterable[tuple[Passage, int, str]], rows: int
) -> Iterator[list[tuple[Passage, int, str]]]:
  chunk, size = [], 0
  for record in records:
    chunk.append(record)
    size += len(record[0].text)
    if len(chunk) == rows or size >= _PART_CHARACTERS:
      yield chunk
      chunk, size = [], 0
  if chunk:
    yield chunk


def _join(
  files: Sequence[Path], folder: Path, reading: _Reading
) -> dict[str, Any]:
  """Writes the columns of all parts, and the index of ids; returns counts."""
  with CorpusStore(folder) as store:
    for file in files:
      store.append(read_part(file))
  _index_ids(folder, reading)
  tokens = store.count("text_tokens.npy") + store.count("title_tokens.npy")
  return {
    "count": store.rows,
    "tokens": tokens,
    "sentences": store.count("sentence_starts.npy"),
    "articles": store.count("article_starts.npy"),
    "fingerprint": reading.digest.hexdigest(),
  }


def special_ids(tokenizer: AnyTokenizer) -> dict[str, int]:
  """What a manifest says of the ids that are no text."""
  if isinstance(tokenizer, SentencePieceTokenizer):
    return {"pad": tokenizer.pad_id, "eos": tokenizer.eos_id}
  return {
    "pad": tokenizer.pad_id,
    "cls": tokenizer.cls_id,
    "sep": tokenizer.sep_id,
  }


def _index_ids(folder: Path, reading: _Reading) -> None:
  """Writes the hashes of all ids, sorted, with their rows.

  Raises:
    ValueError: if an id occurs twice, naming both places.
  """
  hashes = np.memmap(folder / HASHES, np.uint64, "r")
  blob = np.memmap(folder / "ids.bin", np.uint8, "r")
  bounds = np.load(folder / RAGGED["ids.bin"], "r")
  with (
    GrowingArray(folder / ID_INDEX[0], np.uint64) as sorted_file,
    GrowingArray(folder / ID_INDEX[1], np.int64) as rows_file,
  ):
    for values, rows in sorted_hashes(hashes):
      # Equal hashes are rare, but need not be equal ids.
      for i in np.flatnonzero(values[1:] == values[:-1]):
        run = rows[i : np.searchsorted(values, values[i], "right")]
        ids = [blob[bounds[r] : bounds[r + 1]].tobytes() for r in run]
        if ids[0] in ids[1:]:
          first, second = run[0], run[1 + ids[1:].index(ids[0])]
          _refuse_twice(folder, reading, ids[0], int(first), int(second))
      sorted_file.append(values)
      rows_file.append(rows)


def _refuse_twice(
  folder: Path, reading: _Reading, passage_id: bytes, first: int, second: int
) -> NoReturn:
  lines = np.memmap(folder / LINES, np.int64, "r")
  places = [reading.locate(row, int(lines[row])) for row in (first, second)]
  raise ValueError(
    f"{places[1]}: the id {passage_id.decode()!r} stands already at "
    f"{places[0]}; ids are unique in a corpus; rename or remove one."
  )
