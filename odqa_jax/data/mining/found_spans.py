"""Where the entities of a passage lie among its tokens.

Sentences are those of the corpus; one that the border of two passages cuts is
left out, because half of it is no query. An entity is whole words of one
sentence, or it is left out.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, chain, pairwise

import numpy as np
import tokenizers

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.store import hash_id
from odqa_jax.data.mining.entities import Entity
from odqa_jax.text.sentences import split_sentences

# Why an entity is left out; the manifest counts them.
REASONS = (
  "in_cut_sentence",
  "across_sentences",
  "inside_word",
  "unknown_token",
  "without_context",
)
# With fewer tokens around it, an entity cannot be asked for.
CONTEXT_TOKENS = 4


class FoundSpans:
  """Sentences with entities, in the making."""

  def __init__(self, corpus: Corpus, types: Sequence[str]) -> None:
    self._corpus = corpus
    self._types = {name: i for i, name in enumerate(types)}
    self._sentences: list[tuple[int, ...]] = []
    self._entities: list[tuple[int, ...]] = []
    self._counts: list[int] = []
    self._hashes: list[int] = []
    self._found: Counter[str] = Counter()
    self._dropped: Counter[str] = Counter()

  def arrays(self) -> dict[str, np.ndarray]:
    """The columns of a part."""
    return {
      "sentences": np.array(self._sentences, np.int32).reshape(-1, 5),
      "entities": np.array(self._entities, np.int32).reshape(-1, 5),
      "counts": np.array(self._counts, np.int64),
      "hashes": np.array(self._hashes, np.uint64),
      "found": np.array([self._found[t] for t in self._types], np.int64),
      "dropped": np.array([self._dropped[r] for r in REASONS], np.int64),
    }

  def add(
    self, rows: range, texts: list[str], entities: list[list[Entity]]
  ) -> None:
    """Takes up some consecutive rows, their texts, and what is in these."""
    self._hashes += map(hash_id, texts)
    parts = [split_sentences(text) for text in texts]
    tokens = iter(self._corpus.tokenizer.encodings([*chain(*parts)]))
    opens = _opens_sentence(self._corpus, rows)
    for i, row in enumerate(rows):
      encodings = [next(tokens) for _ in parts[i]]
      self._check(row, encodings)
      kept = [e for e in entities[i] if e[2] in self._types]
      self._found.update(e[2] for e in kept)
      if kept:
        self._add_row(row, parts[i], encodings, kept, (opens[i], opens[i + 1]))

  def _check(self, row: int, encodings: list[tokenizers.Encoding]) -> None:
    start, end = self._corpus.text_offsets[row : row + 2]
    stored = self._corpus.text_tokens[start:end].tolist()
    if [i for e in encodings for i in e.ids] != stored:
      raise ValueError(
        f"{self._corpus.directory}: the tokens of row {row} are not those that "
        "its text gives with this version; build the corpus again."
      )

  def _add_row(
    self,
    row: int,
    parts: list[str],
    encodings: list[tokenizers.Encoding],
    entities: list[Entity],
    whole: tuple[bool, bool],
  ) -> None:
    """Takes up one row; `whole`: its first, its last sentence is not cut."""
    characters = list(accumulate(map(len, parts), initial=0))
    tokens = list(accumulate((len(e.ids) for e in encodings), initial=0))
    inside: dict[int, list[Entity]] = {}
    for start, end, kind in entities:
      i = bisect_right(characters, start) - 1
      if end > characters[i + 1]:
        self._dropped["across_sentences"] += 1
      elif not (
        (whole[0] or tokens[i]) and (whole[1] or tokens[i + 1] < tokens[-1])
      ):
        self._dropped["in_cut_sentence"] += 1
      else:
        inside.setdefault(i, []).append((start, end, kind))
    for i, entities in inside.items():
      located = self._locate(encodings[i], tokens[i], characters[i], entities)
      if located:
        spans = encodings[i].offsets
        self._sentences.append(
          (
            row,
            tokens[i],
            tokens[i + 1],
            characters[i] + spans[0][0],
            characters[i] + spans[-1][1],
          )
        )
        self._entities += located
        self._counts.append(len(located))

  def _locate(
    self,
    encoding: tokenizers.Encoding,
    token: int,
    character: int,
    entities: list[Entity],
  ) -> list[tuple[int, ...]]:
    """Token ranges of the entities of a sentence that begins at `token`."""
    # So that an edge between two pieces of a word lies inside it.
    starts = _word_starts(encoding)
    ends = [end for _, end in encoding.offsets]
    unknown = self._corpus.tokenizer.unk_id
    located: list[tuple[int, ...]] = []
    for start, end, kind in entities:
      first = bisect_right(ends, start - character)
      last = bisect_left(starts, end - character)
      if (
        first >= last
        or starts[first] < start - character
        or ends[last - 1] > end - character
      ):
        self._dropped["inside_word"] += 1
      elif unknown in encoding.ids[first:last]:
        self._dropped["unknown_token"] += 1
      elif len(starts) - (last - first) < CONTEXT_TOKENS:
        self._dropped["without_context"] += 1
      else:
        located.append(
          (
            token + first,
            token + last,
            character + starts[first],
            character + ends[last - 1],
            self._types[kind],
          )
        )
    return located


def _word_starts(encoding: tokenizers.Encoding) -> list[int]:
  """First character of the word that each token is a part of."""
  starts = [start for start, _ in encoding.offsets]
  for i, (before, word) in enumerate(pairwise(encoding.word_ids), 1):
    if word == before:
      starts[i] = starts[i - 1]
  return starts


def _opens_sentence(corpus: Corpus, rows: range) -> list[bool]:
  """Whether a sentence begins with each row, and after the last one."""
  first = np.asarray(corpus.text_offsets[rows.start : rows.stop + 1])
  starts = corpus.sentence_starts
  place = np.minimum(np.searchsorted(starts, first), len(starts) - 1)
  return [
    bool(opens)
    for opens in (starts[place] == first) | (first == corpus.text_offsets[-1])
  ]
