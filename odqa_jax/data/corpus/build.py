"""Builds a corpus directory: every passage is tokenised once.

Reading and tokenising overlap; the files are those of `store`, which
makes the build resumable: a rerun reads the sources from the start, and goes
on after the last part recorded if what it read until there hashes alike.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

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
  SCRATCH,
  TOKENIZER,
  CorpusStore,
  discarding,
  hash_id,
)
from odqa_jax.runtime.artifact import existing, publish
from odqa_jax.text.sentencepiece import AnyTokenizer, SentencePieceTokenizer
from odqa_jax.text.sentences import ends_sentence, split_sentences

_BATCH_ROWS = 4096

Progress = Callable[[int, int], None]


def build_corpus(
  sources: str | Path | Sequence[str | Path | Source] | Iterable[Passage],
  out: str | Path,
  tokenizer: AnyTokenizer,
  *,
  name: str = "passages",
  part_rows: int = 65_536,
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
    tokenizer: makes the ids; all cores work unless TOKENIZERS_PARALLELISM is
      false. Word pieces for a retriever; T5's for a reader's own store of the
      same passages, whose `fingerprint` is then the same.
    name: what to call passages that come from no file.
    part_rows: passages between two records of progress; an interrupted build
      loses fewer than these.
    progress: called as `progress(done, 0)` after every few thousand passages.

  Returns:
    The manifest.

  Raises:
    ValueError: for bad input, naming file and line; nothing is left behind.
      Also if `out` holds something other than a corpus.
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
    with CorpusStore(draft.folder, tokenizer) as store:
      build = _Build(store, tokenizer, inputs, part_rows, progress)
      build.run()
      draft.counts |= _finish(store, build)
    tokenizer.save(draft.folder / TOKENIZER)
    draft.counts["special_ids"] = _special_ids(tokenizer)
    made_from["sources"] = [source.describe() for source in inputs]
  return draft.manifest


def _finished(
  out: Path, inputs: Sequence[Source], tokenizer: AnyTokenizer
) -> dict[str, Any] | None:
  """The manifest of `out` if it is what this build would write."""
  artifact = existing(out, "corpus")
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


@dataclass(frozen=True, slots=True)
class _Batch:
  """Passages ready for the tokenizer; `rows` and `digest` count it in."""

  passages: list[Passage]
  lines: list[int]
  parts: list[str]
  parts_per_row: list[int]
  titles: dict[str, int]
  opens_article: list[bool]
  opens_sentence: list[bool]
  rows: int
  digest: str


class _Build:
  """One run over the sources, from the store's last record to the end."""

  def __init__(
    self,
    store: CorpusStore,
    tokenizer: AnyTokenizer,
    inputs: Sequence[Source],
    part_rows: int,
    progress: Progress | None,
  ):
    self.inputs = inputs
    self.source_rows = [0] * len(inputs)
    self._store, self._tokenizer = store, tokenizer
    self._whole_words = isinstance(tokenizer, SentencePieceTokenizer)
    self._part_rows, self._progress = part_rows, progress

  def run(self) -> None:
    """Appends every passage that the store lacks, and commits."""
    records = self._records()
    digest = hashlib.sha256()
    previous = None
    with discarding(self._store):
      for chunk in _chunks(islice(records, self._store.rows), _BATCH_ROWS):
        for passage, _ in chunk:
          digest.update(passage_bytes(passage))
        previous = chunk[-1][0]
    if self._store.rows and digest.hexdigest() != self._store.digest:
      self._store.restart()
      return self.run()
    size = min(self._part_rows, _BATCH_ROWS)
    waiting = None
    # The thread is in Rust, outside the interpreter lock, while this one
    # parses the next batch.
    with ThreadPoolExecutor(1) as pool:
      for batch in self._batches(records, size, digest, previous):
        texts = [*batch.parts, *batch.titles]
        tokens = pool.submit(self._tokenizer.encode_batch, texts)
        if waiting:
          self._append(waiting[0], waiting[1].result())
        waiting = batch, tokens
      if waiting:
        self._append(waiting[0], waiting[1].result())
        self._store.commit(waiting[0].rows, waiting[0].digest)

  def _records(self) -> Iterator[tuple[Passage, int]]:
    for i, source in enumerate(self.inputs):
      self.source_rows[i] = 0
      for record in source.records():
        self.source_rows[i] += 1
        yield record

  def _batches(
    self,
    records: Iterator[tuple[Passage, int]],
    size: int,
    digest: Any,
    previous: Passage | None,
  ) -> Iterator[_Batch]:
    rows = self._store.rows
    with discarding(self._store):
      for chunk in _chunks(records, size):
        passages = [passage for passage, _ in chunk]
        for passage in passages:
          digest.update(passage_bytes(passage))
        before = [previous, *passages]
        fresh = [
          a is None or a.title != b.title
          for a, b in zip(before, passages, strict=False)
        ]
        parts = [
          split_sentences(passage.text, spaces_only=self._whole_words)
          for passage in passages
        ]
        rows += len(passages)
        batch = _Batch(
          passages=passages,
          lines=[line for _, line in chunk],
          parts=list(chain.from_iterable(parts)),
          parts_per_row=[len(p) for p in parts],
          titles={
            t: i for i, t in enumerate(dict.fromkeys(p.title for p in passages))
          },
          opens_article=fresh,
          opens_sentence=[
            new or ends_sentence(a.text)  # type: ignore[union-attr]
            for new, a in zip(fresh, before, strict=False)
          ],
          rows=rows,
          digest=digest.hexdigest(),
        )
        previous = passages[-1]
        yield batch

  def _append(self, batch: _Batch, tokens: list[list[int]]) -> None:
    """Writes one tokenised batch."""
    store, rows = self._store, len(batch.passages)
    parts, titles = tokens[: len(batch.parts)], tokens[len(batch.parts) :]
    row = np.repeat(np.arange(rows), batch.parts_per_row)
    lengths = np.fromiter(map(len, parts), np.int64, len(parts))
    text_lengths = np.bincount(row, lengths, rows).astype(np.int64)
    self._check_tokens(batch, text_lengths)
    starts = store.count("text_tokens.npy") + np.cumsum(lengths) - lengths
    starts, row = starts[lengths > 0], row[lengths > 0]
    first = np.diff(row, prepend=-1) > 0
    begins = ~first | np.array(batch.opens_sentence)[row]
    store.append("sentence_starts.npy", starts[begins])
    fresh = np.flatnonzero(batch.opens_article)
    store.append("article_starts.npy", fresh + batch.rows - rows)
    store.append_ragged(
      "text_tokens.npy", _flat(parts, store.token_type), text_lengths
    )
    by_row = [titles[batch.titles[p.title]] for p in batch.passages]
    title_lengths = np.array([len(ids) for ids in by_row])
    store.append_ragged(
      "title_tokens.npy", _flat(by_row, store.token_type), title_lengths
    )
    for name, field in (("ids", "id"), ("titles", "title"), ("texts", "text")):
      blobs = [getattr(p, field).encode() for p in batch.passages]
      store.append_ragged(
        f"{name}.bin",
        np.frombuffer(b"".join(blobs), np.uint8),
        np.array([len(blob) for blob in blobs]),
      )
    hashes = [hash_id(p.id) for p in batch.passages]
    store.append("hashes.scratch", np.array(hashes, np.uint64))
    store.append("lines.scratch", np.array(batch.lines))
    if batch.rows - store.rows >= self._part_rows:
      store.commit(batch.rows, batch.digest)
    if self._progress:
      self._progress(batch.rows, 0)

  def _check_tokens(self, batch: _Batch, lengths: np.ndarray) -> None:
    if lengths.all():
      return
    i = int(np.argmin(lengths))
    with discarding(self._store):
      raise ValueError(
        f"{self.locate(batch.rows - len(lengths) + i, batch.lines[i])}: no "
        "character of the text is in the tokenizer's rules (control or "
        "unassigned ones only); remove the passage."
      )

  def locate(self, row: int, line: int) -> str:
    """`FILE:LINE` of a row that came from line `line` of its source."""
    ends = np.cumsum(self.source_rows)
    return self.inputs[int(np.searchsorted(ends, row, "right"))].locate(line)


def _chunks(
  records: Iterator[tuple[Passage, int]], size: int
) -> Iterator[list[tuple[Passage, int]]]:
  while chunk := list(islice(records, size)):
    yield chunk


def _flat(lists: Sequence[Sequence[int]], dtype: np.dtype) -> np.ndarray:
  count = sum(map(len, lists))
  return np.fromiter(chain.from_iterable(lists), dtype, count)


def _finish(store: CorpusStore, build: _Build) -> dict[str, Any]:
  """Completes the files; returns the counts."""
  with discarding(store):
    if not store.rows:
      names = ", ".join(str(source.name) for source in build.inputs)
      raise ValueError(
        f"{names}: no passage; a corpus needs at least one; check the files."
      )
    store.seal()
    _index_ids(store, build)
  tokens = store.count("text_tokens.npy") + store.count("title_tokens.npy")
  return {
    "count": store.rows,
    "tokens": tokens,
    "sentences": store.count("sentence_starts.npy"),
    "articles": store.count("article_starts.npy"),
    "fingerprint": store.digest,
  }


def _special_ids(tokenizer: AnyTokenizer) -> dict[str, int]:
  if isinstance(tokenizer, SentencePieceTokenizer):
    return {"pad": tokenizer.pad_id, "eos": tokenizer.eos_id}
  return {
    "pad": tokenizer.pad_id,
    "cls": tokenizer.cls_id,
    "sep": tokenizer.sep_id,
  }


def _index_ids(store: CorpusStore, build: _Build) -> None:
  """Writes the hashes of all ids, sorted, with their rows.

  Raises:
    ValueError: if an id occurs twice, naming both places.
  """
  hashes, lines = (
    np.fromfile(store.folder / name, store.dtypes[name])
    for name in (HASHES, LINES)
  )
  order = np.argsort(hashes, kind="stable")
  hashes = hashes[order]
  blob = np.memmap(store.folder / "ids.bin", np.uint8, "r")
  bounds = np.load(store.folder / RAGGED["ids.bin"], "r")
  # Equal hashes are rare, but need not be equal ids.
  for i in np.flatnonzero(hashes[1:] == hashes[:-1]):
    run = order[i : np.searchsorted(hashes, hashes[i], "right")]
    ids = [blob[bounds[r] : bounds[r + 1]].tobytes() for r in run]
    if ids[0] in ids[1:]:
      first, second = run[0], run[1 + ids[1:].index(ids[0])]
      places = [build.locate(int(r), int(lines[r])) for r in (first, second)]
      raise ValueError(
        f"{places[1]}: the id {ids[0].decode()!r} stands already at "
        f"{places[0]}; ids are unique in a corpus; rename or remove one."
      )
  for name, values in zip(ID_INDEX, (hashes, order), strict=True):
    np.save(store.folder / name, values, allow_pickle=False)
