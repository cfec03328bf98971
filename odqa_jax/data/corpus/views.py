"""Views of a corpus: a part of it, or its passages without their titles."""

import hashlib
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Int, Int32

from odqa_jax.data.corpus.corpus import Corpus

# Above every length.
_ENDLESS = 2**31 - 1


class PassageSample:
  """Some rows of a corpus, in ascending order.

  Attributes:
    rows: of the corpus; row i here is `rows[i]` there.
    manifest: of the corpus.
    fingerprint: of these rows of it.
  """

  def __init__(self, corpus: Corpus, rows: Int[np.ndarray, " n"]) -> None:
    self.rows = np.sort(rows)
    self.manifest: Any = corpus.manifest
    self._corpus = corpus
    digest = hashlib.sha256(corpus.fingerprint.encode())
    digest.update(self.rows.astype("<i8").tobytes())
    self.fingerprint = digest.hexdigest()

  def __len__(self) -> int:
    return len(self.rows)

  def id(self, row: int) -> str:
    """The passage's own name."""
    return self._corpus.id(int(self.rows[row]))

  def packed_lengths(
    self, max_length: int, *, title: bool = True
  ) -> Int32[np.ndarray, " n"]:
    """See `Corpus.packed_lengths`."""
    return self._corpus.packed_lengths(max_length, title=title)[self.rows]

  def passage_inputs(
    self, rows: Int[np.ndarray, " n"], length: int, *, title: bool = True
  ) -> tuple[Int32[np.ndarray, "n l"], Int32[np.ndarray, " n"]]:
    """See `Corpus.passage_inputs`."""
    return self._corpus.passage_inputs(self.rows[rows], length, title=title)


class UntitledPassages:
  """A corpus whose passages are encoded without their titles."""

  def __init__(self, corpus: Corpus | PassageSample) -> None:
    self._corpus = corpus
    self.manifest = corpus.manifest
    self.fingerprint = corpus.fingerprint

  def __len__(self) -> int:
    return len(self._corpus)

  def id(self, row: int) -> str:
    """The passage's own name."""
    return self._corpus.id(row)

  def packed_lengths(self, max_length: int) -> Int[np.ndarray, " n"]:
    """Tokens of every packed passage."""
    return self._corpus.packed_lengths(max_length, title=False)

  def passage_inputs(
    self, rows: Int[np.ndarray, " n"], length: int
  ) -> tuple[Int[np.ndarray, "n l"], Int[np.ndarray, " n"]]:
    """Token ids and lengths of the packed passages."""
    return self._corpus.passage_inputs(rows, length, title=False)


def tell_cut(
  corpus: Corpus | PassageSample, length: int, *, title: bool
) -> None:
  """Says on stderr how many passages an encoder does not read to the end.

  Args:
    corpus: the passages.
    length: tokens that it reads of each.
    title: whether titles are among them.
  """
  whole = corpus.packed_lengths(_ENDLESS, title=title)
  cut = int((whole > length).sum())
  if cut:
    print(
      f"{cut:,} of {len(corpus):,} passages are above {length} tokens; "
      "what is beyond is not read (config.data.passage_length).",
      file=sys.stderr,
    )


def sample_passages(
  corpus: Corpus, wanted: Iterable[str], size: int, *, seed: int
) -> PassageSample:
  """The passages wanted by id, filled up with others at random.

  Args:
    corpus: what is sampled; ids that it does not have are left out.
    wanted: ids that are always in it, also where they are more than `size`.
    size: passages, at most those of the corpus.
    seed: decides the others.
  """
  rows = []
  for name in wanted:
    if (row := corpus.find(name)) is not None:
      rows.append(row)
  chosen = np.unique(np.array(rows, np.int64))
  missing = min(size, len(corpus)) - len(chosen)
  if missing > 0:
    order = np.random.default_rng(seed).permutation(len(corpus))
    others = order[~np.isin(order, chosen)]
    chosen = np.concatenate([chosen, others[:missing]])
  return PassageSample(corpus, chosen)
