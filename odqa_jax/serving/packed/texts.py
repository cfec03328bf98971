"""The passages of a pack: their very text, or their token ids.

texts = open_texts(pack)
texts.text(5), texts.passage(5).ids

Texts are compressed in blocks of many passages, ids one passage at a time: see
`token_coder.py`. Either way a passage is read without its neighbours' blocks.
"""

import functools
import lzma
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import tokenizers

from odqa_jax.runtime.files import Damage
from odqa_jax.serving.packed.container import Pack
from odqa_jax.serving.packed.token_coder import NGramModel, Tables
from odqa_jax.serving.packed.words import join

# What separates id, title and text of a passage, which hold no NUL.
SEPARATOR = "\0"


class Tokens(NamedTuple):
  """A passage as a reader gets it.

  Attributes:
    title: its ids.
    ids: of the text.
    offsets: of these ids, their first character in the text and the one after
      their last.
  """

  title: Sequence[int]
  ids: Sequence[int]
  offsets: Sequence[tuple[int, int]]


@runtime_checkable
class Texts(Protocol):
  """What passages can be asked for, by row."""

  def __len__(self) -> int:
    """How many there are."""

  def id(self, row: int) -> str:
    """Id of a passage."""

  def title(self, row: int) -> str:
    """Its title."""

  def text(self, row: int) -> str:
    """Its text."""

  def find(self, passage_id: str) -> int | None:
    """Row of the passage with an id; None if there is none."""

  def tokens(self, rows: Sequence[int]) -> list[Tokens]:
    """Passages as a reader gets them."""


class ExactTexts:
  """Passages as they were."""

  def __init__(self, pack: Pack, tokenizer: tokenizers.Tokenizer) -> None:
    self._pack, self._tokenizer = pack, tokenizer
    self._bounds = pack.array("text/bounds")
    self._rows = pack.array("text/rows")
    # A question's passages are asked for several times.
    self._block = functools.lru_cache(maxsize=32)(self._read_block)

  def __len__(self) -> int:
    return int(self._rows[-1])

  def _read_block(self, number: int) -> list[str]:
    start, stop = self._bounds[number : number + 2].tolist()
    data = self._pack.bytes_of("text/blocks", start, stop)
    return lzma.decompress(data).decode().split(SEPARATOR)

  def _field(self, row: int, field: int) -> str:
    if not 0 <= row < len(self):
      raise IndexError(f"row {row} of a pack of {len(self)} passages")
    number = int(np.searchsorted(self._rows, row, side="right")) - 1
    return self._block(number)[3 * (row - int(self._rows[number])) + field]

  def id(self, row: int) -> str:
    """Id of a passage."""
    return self._field(row, 0)

  def title(self, row: int) -> str:
    """Its title."""
    return self._field(row, 1)

  def text(self, row: int) -> str:
    """Its text."""
    return self._field(row, 2)

  @functools.cached_property
  def _by_id(self) -> dict[str, int]:
    return {self.id(row): row for row in range(len(self))}

  def find(self, passage_id: str) -> int | None:
    """Row of the passage with an id; None if there is none."""
    return self._by_id.get(passage_id)

  def tokens(self, rows: Sequence[int]) -> list[Tokens]:
    """Passages as a reader gets them."""
    encode = functools.partial(
      self._tokenizer.encode_batch, add_special_tokens=False
    )
    titles = encode([self.title(row) for row in rows])
    texts = encode([self.text(row) for row in rows])
    return [
      Tokens(title.ids, text.ids, text.offsets)
      for title, text in zip(titles, texts, strict=True)
    ]


class TokenTexts:
  """Passages as token ids; their text is put together from these.

  The row is the id. The title of an article's first passage is that of all.
  """

  def __init__(self, pack: Pack, tokenizer: tokenizers.Tokenizer) -> None:
    self._pack = pack
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    self._pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    self._counts = pack.array("text/counts")
    self._titles = pack.array("text/title_counts")
    self._articles = pack.array("text/articles")
    self._ends = 2 * np.cumsum(pack.array("text/words"), dtype=np.int64)
    self._model = NGramModel(
      Tables(
        vocab_size=len(self._pieces),
        contexts=np.cumsum(pack.array("text/model/contexts"), dtype=np.int64),
        lengths=pack.array("text/model/lengths"),
        tokens=pack.array("text/model/tokens"),
        levels=pack.array("text/model/levels"),
        weights=pack.array("text/model/weights").astype(np.int64),
      )
    )
    self._known: dict[int, tuple[list[int], list[int]]] = {}

  def __len__(self) -> int:
    return len(self._counts)

  def id(self, row: int) -> str:
    """Id of a passage."""
    return str(row)

  def find(self, passage_id: str) -> int | None:
    """Row of the passage with an id; None if there is none."""
    known = passage_id.isdecimal() and int(passage_id) < len(self)
    return int(passage_id) if known else None

  def title(self, row: int) -> str:
    """Its title."""
    return self._join(self._ids([row])[0][0])[0]

  def text(self, row: int) -> str:
    """Its text."""
    return self._join(self._ids([row])[0][1])[0]

  def tokens(self, rows: Sequence[int]) -> list[Tokens]:
    """Passages as a reader gets them."""
    return [
      Tokens(title, ids, self._join(ids)[1]) for title, ids in self._ids(rows)
    ]

  def _join(self, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
    return join([self._pieces[i] for i in ids])

  def _ids(self, rows: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Title and text of passages; those of the last call are remembered."""
    places = np.searchsorted(self._articles, rows, side="right") - 1
    first = self._articles[places].tolist()
    missing = sorted({*rows, *first} - self._known.keys())
    if missing:
      known = {r: self._known[r] for r in {*rows, *first} - {*missing}}
      self._known = known | self._decoded(missing)
    return [
      (self._known[a][0], self._known[row][1])
      for a, row in zip(first, rows, strict=True)
    ]

  def _decoded(self, rows: list[int]) -> dict[int, tuple[list[int], list[int]]]:
    streams = []
    for row in rows:
      if not 0 <= row < len(self):
        raise IndexError(f"row {row} of a pack of {len(self)} passages")
      start = int(self._ends[row - 1]) if row else 0
      stop = int(self._ends[row])
      streams.append(self._pack.bytes_of("text/streams", start, stop))
    try:
      found = self._model.decode(streams, self._counts[rows].tolist())
    except ValueError as error:
      raise Damage(f"{self._pack.path}: {error}") from error
    titles = self._titles[rows].tolist()
    return {
      row: (ids[:n].tolist(), ids[n:].tolist())
      for row, ids, n in zip(rows, found, titles, strict=True)
    }


def open_texts(pack: Pack, tokenizer: tokenizers.Tokenizer) -> Texts:
  """The passages of a pack, as it has them."""
  exact = "text/blocks" in pack.parts
  return (ExactTexts if exact else TokenTexts)(pack, tokenizer)
