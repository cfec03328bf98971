"""A whole system, answering from one file.

    system = open_packed("small.odqa")
    found = system.read("who wrote faust", k=20, read_k=5, most=10)
    found.answers(10)[0].text

It searches, reads and answers as the system does that was packed
(`serving/extraction.py`), in NumPy: see `network.py`. Passages are read in
threads of their own, beside which NumPy's only cost time: a program sets
OPENBLAS_NUM_THREADS=1 before it imports NumPy, as `odqa` does.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from jaxtyping import Float32, Int64

from odqa_jax.reading.passage_spans import (
  ExtractedAnswer,
  PassageSpans,
  best_answers,
)
from odqa_jax.serving.packed.container import Pack
from odqa_jax.serving.packed.network import question_vector
from odqa_jax.serving.packed.search import Rows
from odqa_jax.serving.packed.spans import Spans, read_passage
from odqa_jax.serving.packed.tensors import read_weights
from odqa_jax.serving.packed.texts import Texts, Tokens, open_texts
from odqa_jax.text.pairs import Pair, PairVocabulary

RETRIEVER, READER = "retriever", "extractive_reader"
# Where a container of Linux says how much memory it has: cgroups 2 and 1.
_LIMITS = (
  Path("/sys/fs/cgroup/memory.max"),
  Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


class PackedTokenizer:
  """BERT's word pieces out of a pack; see `text.pairs.PairTokenizer`."""

  def __init__(self, backend: tokenizers.Tokenizer, fingerprint: str) -> None:
    self.backend = backend
    self.fingerprint = fingerprint
    self.vocab_size = backend.get_vocab_size()
    ids = backend.get_vocab()
    self.pad_id: int = ids["[PAD]"]
    self.cls_id: int = ids["[CLS]"]
    self.sep_id: int = ids["[SEP]"]
    self.pair_separator: tuple[int, ...] = (self.sep_id,)

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Ids of every text."""
    return [encoding.ids for encoding in self.encodings(texts)]

  def encodings(self, texts: Sequence[str]) -> list[tokenizers.Encoding]:
    """Likewise, each id with its characters in the text."""
    return self.backend.encode_batch(list(texts), add_special_tokens=False)

  def decode(self, ids: Sequence[int]) -> str:
    """Text of ids."""
    return self.backend.decode([int(i) for i in ids])


@dataclasses.dataclass(frozen=True)
class Reading:
  """What was found and read for a question.

  Attributes:
    rows: of the passages that were found, the best first.
    scores: of these, by the retriever.
    spans: of those that were read, which are the first.
    texts: the passages.
  """

  rows: Int64[np.ndarray, " k"]
  scores: Float32[np.ndarray, " k"]
  spans: PassageSpans
  texts: Texts

  def answers(
    self, most: int, *, k: int | None = None, merge: bool = False
  ) -> list[ExtractedAnswer]:
    """The best first; see `best_answers`."""
    return best_answers(self.spans, self.texts, most=most, k=k, merge=merge)


class PackedSystem:
  """A pack that answers.

  Attributes:
    pack: it.
    texts: its passages.
    rows: of its index.
  """

  def __init__(self, pack: Pack) -> None:
    """Reads the weights; everything else waits for its use.

    Raises:
      ValueError: if there is not so much memory as it needs.
      Damage: for a part that is not what was written.
    """
    check_memory(pack)
    self.pack = pack
    about = pack.about
    text = pack.array("tokenizer").tobytes().decode()
    self.tokenizer = PackedTokenizer(
      tokenizers.Tokenizer.from_str(text), about["tokenizer"]
    )
    self._vocabulary = PairVocabulary(self.tokenizer)
    known: dict[str, np.ndarray] = {}
    self._weights = {
      name: read_weights(pack, name, known) for name in about["networks"]
    }
    self._config = {n: x["config"] for n, x in about["networks"].items()}
    self.texts = open_texts(pack, self.tokenizer.backend)
    self.rows = Rows(pack)
    self._pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))

  def __len__(self) -> int:
    return len(self.rows)

  @property
  def chosen_on(self) -> str | None:
    """What the scoring was tuned on; "": that was not kept; None: none was."""
    config = self._config[READER]
    return None if config["read_k"] is None else config.get("chosen_on", "")

  def tuned_read_k(self, k: int) -> int | None:
    """How many passages of k are read best; None: nobody has tuned that."""
    best = self._config[READER]["read_k"]
    return min(k, best) if best else None

  def read_k(self, k: int) -> int:
    """How many passages of k are read where nothing is said."""
    return self.tuned_read_k(k) or k

  def search(
    self, question: str, k: int
  ) -> tuple[Float32[np.ndarray, " k"], Int64[np.ndarray, " k"]]:
    """Scores and rows of the k best passages, the best first."""
    config = self._config[RETRIEVER]
    room = config["question_length"] - 2
    (ids,) = self.tokenizer.encode_batch([question])
    ids = [self.tokenizer.cls_id, *ids[:room], self.tokenizer.sep_id]
    weights = self._weights[RETRIEVER]
    return self.rows.search(question_vector(config, weights, ids), k)

  def read(self, question: str, *, k: int, read_k: int, most: int) -> Reading:
    """Searches, and reads the first passages of what was found.

    Args:
      question: what is asked.
      k: passages that are found.
      read_k: passages that are read of these.
      most: spans that are kept of a passage.

    Raises:
      ValueError: for more passages than there are, or scores that are not
        finite.
    """
    if not 1 <= read_k <= k <= len(self):
      raise ValueError(
        f"--k {k}, --read-k {read_k}: {self.pack.path} has {len(self)} "
        "passages; choose 1 to that number, and --read-k up to --k."
      )
    scores, rows = self.search(question, k)
    spans = self._read(question, rows[:read_k].tolist(), most)
    return Reading(rows, scores, spans, self.texts)

  def _read(self, question: str, rows: list[int], most: int) -> PassageSpans:
    config = self._config[READER]
    (asked,) = self.tokenizer.encode_batch([question])
    passages = self.texts.tokens(rows)
    pairs = [
      self._pair(config, asked[: config["question_length"]], passage)
      for passage in passages
    ]
    found = [*self._pool.map(lambda p: self._spans(config, p, most), pairs)]
    places = np.full((2, len(rows), most), -1, np.int64)
    for i, (spans, passage) in enumerate(zip(found, passages, strict=True)):
      real = spans.starts >= 0
      offsets = np.array(passage.offsets, np.int64).reshape(-1, 2)
      places[0, i, real] = offsets[spans.starts[real], 0]
      places[1, i, real] = offsets[spans.ends[real], 1]
    names = list(found[0].log_scores)
    return PassageSpans(
      rows=np.array(rows, np.int64),
      starts=places[0],
      ends=places[1],
      log_scores={n: np.stack([s.log_scores[n] for s in found]) for n in names},
      log_sums={n: np.array([s.log_sums[n] for s in found]) for n in names},
      objective=config["objective"],
      rank_weight=config["rank_weight"],
    )

  def _pair(
    self, config: Mapping[str, Any], asked: list[int], passage: Tokens
  ) -> Pair:
    join = (
      self._vocabulary.passage_first
      if config["passage_first"]
      else self._vocabulary.question_first
    )
    title = passage.title if config["title"] else None
    return join(asked, title, passage.ids, config["pair_length"])

  def _spans(self, config: Mapping[str, Any], pair: Pair, most: int) -> Spans:
    found = read_passage(
      config,
      self._weights[READER],
      pair.ids,
      pair.first_length,
      (pair.context_start, pair.context_end),
      most=most,
      longest=config["span_length"],
    )
    if not all(x < np.inf for x in found.log_sums.values()):
      raise ValueError(
        f"{self.pack.path}: the scores of a passage are not finite; look at "
        "the weights of the extractive reader."
      )
    return found


def total_memory() -> int:
  """Bytes that a program may have in all: the machine's, or its container's."""
  there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  for limit in _LIMITS:
    # "max" says that there is none.
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
      there = min(there, int(text))
  return there


def check_memory(pack: Pack) -> None:
  """Refuses a pack that this machine cannot hold.

  Raises:
    ValueError: naming both sizes.
  """
  needed, there = pack.about["memory"], total_memory()
  if needed > there:
    raise ValueError(
      f"{pack.path}: needs {needed / 1e6:,.0f} MB of memory, and this machine "
      f"has {there / 1e6:,.0f} MB; answer on a larger one, or pack fewer "
      "passages."
    )


def open_packed(path: str | Path) -> PackedSystem:
  """Opens a pack for answering.

  Raises:
    ValueError: see `Pack`, `PackedSystem`.
  """
  return PackedSystem(Pack(path))
