"""BM25, and what it is mined for: positives and hard negatives.

    bm25 = Bm25.build(corpus)
    pairs = mine_pairs(questions, corpus, bm25, negatives=8)
    pairs.save("data/pairs/train")

BM25 itself is the `bm25s` library with PyStemmer (extra `bm25`).
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, Int64

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.sets import Question, QuestionSet
from odqa_jax.text.answers import has_answer

Progress = Callable[[int, int], None]

FORMAT = 1
_BATCH = 256


class Bm25:
  """A BM25 index of a corpus, in memory.

  Titles and texts are indexed together, lower-cased, English stop words left
  out and words stemmed; Lucene's scoring with k1 = 0.9, b = 0.4, the values
  that open-domain question answering uses.
  """

  def __init__(self, index: Any, stemmer: Any) -> None:
    self._index = index
    self._stemmer = stemmer

  @classmethod
  def build(cls, corpus: Corpus, *, k1: float = 0.9, b: float = 0.4) -> "Bm25":
    """Indexes every passage.

    Raises:
      ImportError: if the extra `bm25` is not installed.
    """
    try:
      import bm25s
      import Stemmer
    except ImportError as error:
      raise ImportError(
        "BM25 needs the extra `bm25`: pip install 'odqa_jax[bm25]'."
      ) from error
    stemmer = Stemmer.Stemmer("english")
    texts = (f"{corpus.title(i)} {corpus.text(i)}" for i in range(len(corpus)))
    tokens = bm25s.tokenize(
      list(texts), stopwords="en", stemmer=stemmer, show_progress=False
    )
    index = bm25s.BM25(method="lucene", k1=k1, b=b)
    index.index(tokens, show_progress=False)
    return cls(index, stemmer)

  def search(
    self, questions: Sequence[str], k: int
  ) -> tuple[Int64[np.ndarray, "n k"], Float32[np.ndarray, "n k"]]:
    """The k best rows per question and their scores, best first.

    Equal scores are in the order of the rows; a row with score 0 shares no
    word with the question.

    Raises:
      ValueError: if k is larger than the corpus.
    """
    import bm25s

    size = int(self._index.scores["num_docs"])
    if not 1 <= k <= size:
      raise ValueError(
        f"k={k}: the corpus has {size} passages; ask for 1 to {size} of them."
      )
    queries = bm25s.tokenize(
      list(questions),
      stopwords="en",
      stemmer=self._stemmer,
      return_ids=False,
      show_progress=False,
    )
    rows = np.empty((len(questions), k), np.int64)
    scores = np.empty((len(questions), k), np.float32)
    for i, words in enumerate(queries):
      known = self._index.get_tokens_ids(words)
      found = self._index.get_scores_from_ids(known)
      rows[i] = _best_rows(found, k)
      scores[i] = found[rows[i]]
    return rows, scores


def _best_rows(
  scores: Float32[np.ndarray, " n"], k: int
) -> Int64[np.ndarray, " k"]:
  """The k highest, ties by the lowest row: the library's order varies."""
  # Most rows score 0, and selecting among many equals is slow.
  found = scores[scores > 0]
  threshold = np.partition(found, -k)[-k] if len(found) >= k else 0.0
  above = np.flatnonzero(scores > threshold)
  equal = np.flatnonzero(scores == threshold)[: k - len(above)]
  rows = np.concatenate([above, equal])
  return rows[np.argsort(-scores[rows], kind="stable")]


@dataclasses.dataclass(frozen=True)
class Pairs:
  """Questions with the rows of their positives and hard negatives.

  Attributes:
    question: [p] number of the question in its set.
    positive_rows: the positives of all pairs, one pair after the other.
    positive_offsets: [p+1] bounds in `positive_rows`.
    negative_rows: the hard negatives, hardest first; likewise.
    negative_offsets: [p+1].
    manifest: fingerprints of corpus and questions, and counts: of pairs, of
      positives from distant supervision, of questions left out and the first
      of their ids.
  """

  question: Int[np.ndarray, " p"]
  positive_rows: Int[np.ndarray, " _"]
  positive_offsets: Int[np.ndarray, " _"]
  negative_rows: Int[np.ndarray, " _"]
  negative_offsets: Int[np.ndarray, " _"]
  manifest: dict[str, Any]

  def __len__(self) -> int:
    return len(self.question)

  def positive(self, i: int) -> Int[np.ndarray, " _"]:
    """Rows of the positives of pair i; at least one."""
    start, end = self.positive_offsets[i : i + 2]
    return self.positive_rows[start:end]

  def negatives(self, i: int) -> Int[np.ndarray, " _"]:
    """Rows of the hard negatives of pair i, hardest first; may be none."""
    start, end = self.negative_offsets[i : i + 2]
    return self.negative_rows[start:end]

  def save(self, directory: str | Path) -> None:
    """Writes a folder that appears whole or not at all."""
    directory = Path(directory)
    temporary = directory.with_name(f"{directory.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name in _ARRAYS:
      np.save(temporary / f"{name}.npy", getattr(self, name))
    text = json.dumps(self.manifest, indent=2, sort_keys=True)
    (temporary / "manifest.json").write_text(text + "\n")
    shutil.rmtree(directory, ignore_errors=True)
    os.replace(temporary, directory)

  @classmethod
  def open(cls, directory: str | Path) -> "Pairs":
    """Memory-maps what `save` wrote.

    Raises:
      ValueError: if the folder holds no pairs of this format.
    """
    directory = Path(directory)
    path = directory / "manifest.json"
    if not path.is_file():
      raise ValueError(
        f"{directory} holds no pairs (no manifest.json); make them with "
        "`odqa prepare --pairs`."
      )
    manifest = json.loads(path.read_text())
    if manifest.get("kind") != "pairs" or manifest.get("format") != FORMAT:
      raise ValueError(f"{path}: not pairs of format {FORMAT}; prepare again.")
    arrays = {name: _load(directory / f"{name}.npy") for name in _ARRAYS}
    pairs = cls(**arrays, manifest=manifest)
    for name in ("positive", "negative"):
      offsets, rows = arrays[f"{name}_offsets"], arrays[f"{name}_rows"]
      if (
        len(offsets) != manifest["count"] + 1
        or len(pairs) != manifest["count"]
        or offsets[-1] != len(rows)
      ):
        raise ValueError(
          f"{directory / name}_offsets.npy: does not fit the "
          f"{manifest['count']} pairs of manifest.json; prepare again."
        )
    return pairs


def _load(path: Path) -> np.ndarray:
  try:
    return np.load(path, mmap_mode="r", allow_pickle=False)
  except (OSError, ValueError) as error:
    raise ValueError(
      f"{path}: missing or cut short ({error}); prepare again."
    ) from error


_ARRAYS = (
  "question",
  "positive_rows",
  "positive_offsets",
  "negative_rows",
  "negative_offsets",
)


def mine_pairs(
  questions: QuestionSet,
  corpus: Corpus,
  bm25: Bm25,
  *,
  negatives: int = 8,
  depth: int = 50,
  progress: Progress | None = None,
) -> Pairs:
  """Positives and hard negatives for every question that has a positive.

  The positives are a question's gold passages where it names any, else the
  best BM25 passage that contains an answer. Hard negatives are the negatives
  that it names, then the best BM25 passages without an answer.
  "End-to-End Training of Neural Retrievers", Sec. 2.2.1.

  Args:
    questions: a prepared set.
    corpus: the evidence.
    bm25: its BM25 index.
    negatives: most negatives kept per question.
    depth: how many BM25 passages are looked at.
    progress: called with questions done and in all.

  Raises:
    ValueError: if a gold or negative passage is not in the corpus, or no
      question has a positive.
  """
  depth = min(depth, len(corpus))
  kept, positives, hard, without = [], [], [], []
  distant = 0
  for start, batch in _batches(questions):
    rows, scores = bm25.search([q.question for q in batch], depth)
    for i, question in enumerate(batch):
      found = rows[i][scores[i] > 0]
      own = _rows_of(question, question.positive_ids, corpus)
      if not own:
        own = _distant_positive(question, found, corpus)
        distant += len(own)
      if not own:
        without.append(question.id)
        continue
      named = _rows_of(question, question.negative_ids, corpus)
      kept.append(start + i)
      positives.append(own)
      hard.append(
        _hard_negatives(question, found, own, named, corpus, negatives)
      )
    if progress:
      progress(start + len(batch), len(questions))
  if not kept:
    raise ValueError(
      f"no question of {len(questions)} has a positive passage: none names "
      f"one, and no answer is in the best {depth} BM25 passages of this corpus "
      f"(for example {without[:3]})."
    )
  manifest = {
    "format": FORMAT,
    "kind": "pairs",
    "corpus": corpus.fingerprint,
    "questions": questions.fingerprint,
    "count": len(kept),
    "distant_positives": distant,
    "without_positive": len(without),
    "examples_without_positive": without[:5],
  }
  return Pairs(
    np.array(kept, np.int64), *_ragged(positives), *_ragged(hard), manifest
  )


def _batches(
  questions: QuestionSet,
) -> Iterator[tuple[int, list[Question]]]:
  for start in range(0, len(questions), _BATCH):
    stop = min(start + _BATCH, len(questions))
    yield start, [questions[i] for i in range(start, stop)]


def _ragged(
  lists: Sequence[Sequence[int]],
) -> tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]:
  offsets = np.cumsum([0, *map(len, lists)])
  values = np.array([row for rows in lists for row in rows], np.int64)
  return values, offsets


def _rows_of(
  question: Question, ids: Sequence[str], corpus: Corpus
) -> list[int]:
  try:
    return [corpus.row_of(passage_id) for passage_id in ids]
  except KeyError as error:
    raise ValueError(
      f"question {question.id!r} names a passage that the corpus lacks: "
      f"{error.args[0]}; prepare the questions with the corpus they belong to."
    ) from error


def _distant_positive(
  question: Question, found: Int[np.ndarray, " k"], corpus: Corpus
) -> list[int]:
  for row in found.tolist():
    if has_answer(corpus.text(row), question.answers, question.answer_type):
      return [row]
  return []


def _hard_negatives(
  question: Question,
  found: Int[np.ndarray, " k"],
  positives: Sequence[int],
  named: Sequence[int],
  corpus: Corpus,
  limit: int,
) -> list[int]:
  chosen = [row for row in dict.fromkeys(named) if row not in positives]
  chosen = chosen[:limit]
  for row in found.tolist():
    if len(chosen) >= limit:
      break
    if row in positives or row in chosen:
      continue
    text = corpus.text(row)
    if not has_answer(text, question.answers, question.answer_type):
      chosen.append(row)
  return chosen
