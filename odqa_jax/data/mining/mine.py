"""Mines positives and hard negatives for the questions of a set.

pairs = mine_pairs(questions, corpus, {"bm25": search}, negatives=8)

A search takes texts and a depth and gives rows of the corpus, best first, -1
for none; BM25 and every retriever with its index is one.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.mining.pairs import Pairs
from odqa_jax.data.questions.sets import Question, QuestionSet
from odqa_jax.text.answers import has_answer

Progress = Callable[[int, int], None]
Search = Callable[[Sequence[str], int], Int[np.ndarray, "n k"]]
# What is known beforehand of a question with a number: the rows of its
# positives; or why it has none, "" where they may be mined.
Named = Callable[[int, Question], tuple[list[int], str]]

# Questions searched at once.
BATCH = 256
_EXAMPLES = 5
# What a report counts of the questions that are kept.
_ORIGINS = (
  "positives_named",
  "positives_mined",
  "negatives_named",
  "negatives_mined",
  "without_negatives",
)


def mine_pairs(
  questions: QuestionSet,
  corpus: Corpus,
  searches: Mapping[str, Search],
  *,
  negatives: int = 8,
  depth: int = 50,
  positives: Named | None = None,
  known: Pairs | None = None,
  progress: Progress | None = None,
) -> Pairs:
  """Positives and hard negatives for every question that has a positive.

  The positives are a question's gold passages where it names any, else the
  best passage found that contains an answer. Hard negatives are all those that
  it names, else the best passages found that are no positives and contain no
  answer. "End-to-End Training of Neural Retrievers", Sec. 2.2.1. Passages that
  a question excludes are neither.

  What several searches find is taken by turns: the best of each, then the
  second of each, and so on; a passage counts once.

  Args:
    questions: a prepared set.
    corpus: the evidence.
    searches: by name. They are called only for questions that lack something,
      since to open one may take long.
    negatives: most negatives that are mined for a question.
    depth: how many passages of each search are looked at.
    positives: takes the place of the passages that questions name.
    known: pairs of these questions, which stay, and gain more negatives.
    progress: called with questions done and in all.

  Returns:
    The pairs; their manifest has the searches, `negatives`, `depth`, and the
    `report`: questions, and how many were kept, with which positives and
    negatives, and dropped for which reason, with examples of their ids.

  Raises:
    ValueError: if no question has a positive, with the reasons.
  """
  passages = NamedPassages(corpus)
  named: Named = positives or passages.positives
  hard: dict[int, list[int]] = {}
  before: list[str] = []
  if known is not None:
    _check_known(known, questions, corpus)
    named = _known_positives(known, named)
    hard = {
      int(n): known.negatives(i).tolist() for i, n in enumerate(known.question)
    }
    before = known.manifest["searches"]
  depth = min(depth, len(corpus))
  miner = _Miner(corpus, searches, negatives, depth, passages, named, hard)
  for start, batch in _batches(questions):
    miner.add(start, batch)
    if progress:
      progress(start + len(batch), len(questions))
  if not miner.kept:
    raise ValueError(miner.failure(len(questions)))
  manifest = {
    "corpus": corpus.fingerprint,
    "questions": questions.fingerprint,
    "count": len(miner.kept),
    "searches": [*before, *searches],
    "negatives": negatives,
    "depth": depth,
    "report": miner.report(len(questions)),
  }
  rows = _ragged(miner.positives), _ragged(miner.negatives)
  return Pairs(np.array(miner.kept, np.int64), *rows[0], *rows[1], manifest)


def _known_positives(known: Pairs, otherwise: Named) -> Named:
  """The positives of pairs that there are."""
  place = {int(n): i for i, n in enumerate(known.question)}

  def positives(number: int, question: Question) -> tuple[list[int], str]:
    if number in place:
      return known.positive(place[number]).tolist(), ""
    return otherwise(number, question)

  return positives


def dropped_line(name: str, report: Mapping[str, Any]) -> str:
  """How many questions of a set were left out, and why; "" if none."""
  reasons = [
    f"{count} {reason.replace('_', ' ')} (such as "
    f"{', '.join(report['examples'][reason][:3])})"
    for reason, count in report["dropped"].items()
  ]
  total = sum(report["dropped"].values())
  line = f"{name}: {total} questions are left out: {'; '.join(reasons)}\n"
  return line * bool(total)


class NamedPassages:
  """The rows of the passages that questions name.

  Attributes:
    missing: how many names the corpus lacks, by kind.
    example: one of them, in words.
  """

  def __init__(self, corpus: Corpus) -> None:
    self._corpus = corpus
    self.missing: Counter[str] = Counter()
    self.example = ""

  def positives(self, number: int, question: Question) -> tuple[list[int], str]:
    """The positives that the corpus has."""
    del number
    rows = self.rows(question, question.positive_ids, "positives")
    lost = bool(question.positive_ids) and not rows
    return rows, "gold_not_in_corpus" * lost

  def rows(
    self, question: Question, ids: Sequence[str], kind: str = ""
  ) -> list[int]:
    """Rows of passages, each once; counts what is missing if it has a kind."""
    rows = []
    for name in dict.fromkeys(ids):
      row = self._corpus.find(name)
      if row is not None:
        rows.append(row)
      elif kind:
        self.missing[kind] += 1
        self.example = self.example or f"{question.id!r} names {name!r}"
    return rows


@dataclass
class _Miner:
  """Pairs in the making."""

  corpus: Corpus
  searches: Mapping[str, Search]
  limit: int
  depth: int
  passages: NamedPassages
  positives_of: Named
  known: Mapping[int, list[int]]

  def __post_init__(self) -> None:
    self.kept: list[int] = []
    self.positives: list[list[int]] = []
    self.negatives: list[list[int]] = []
    self._origin = dict.fromkeys(_ORIGINS, 0)
    self._dropped: dict[str, list[str]] = {}

  def add(self, start: int, batch: Sequence[Question]) -> None:
    """Takes up consecutive questions, the first of which has a number."""
    named = [self.positives_of(start + i, q) for i, q in enumerate(batch)]
    hard = [self._named_negatives(start + i, q) for i, q in enumerate(batch)]
    lacks = [
      self._lacks(start + i, q, *named[i], hard[i]) for i, q in enumerate(batch)
    ]
    found = self._search(batch, np.flatnonzero(lacks))
    for i, question in enumerate(batch):
      own, reason = named[i]
      if not own and not reason:
        own, reason = self._mined_positive(question, found[i])
      if not own:
        self._dropped.setdefault(reason, []).append(question.id)
        continue
      others = [row for row in hard[i] if row not in own]
      mined: list[int] = []
      if not others or start + i in self.known:
        mined = self._mined_negatives(question, found[i], {*own, *others})
      self.kept.append(start + i)
      self.positives.append(own)
      self.negatives.append(others + mined)
      self._origin["positives_named"] += bool(named[i][0])
      self._origin["positives_mined"] += not named[i][0]
      self._origin["negatives_named"] += bool(others)
      self._origin["negatives_mined"] += bool(mined)
      self._origin["without_negatives"] += not (others or mined)

  def _named_negatives(self, number: int, question: Question) -> list[int]:
    if number in self.known:
      return self.known[number]
    return self.passages.rows(question, question.negative_ids, "negatives")

  def _lacks(
    self,
    number: int,
    question: Question,
    positives: list[int],
    reason: str,
    negatives: list[int],
  ) -> bool:
    """Whether a question must be searched for."""
    if not positives:
      return not reason and bool(question.answers)
    others = set(negatives) - set(positives)
    return bool(self.limit) and (not others or number in self.known)

  def _search(
    self, batch: Sequence[Question], chosen: Int[np.ndarray, " _"]
  ) -> list[list[int]]:
    """What is found for the chosen questions, by turns; else nothing."""
    found: list[list[int]] = [[] for _ in batch]
    if not len(chosen):
      return found
    texts = [batch[i].question for i in chosen]
    ranked = [search(texts, self.depth) for search in self.searches.values()]
    turns = np.stack(ranked, axis=2).reshape(len(texts), -1)
    for i, rows in zip(chosen, turns.tolist(), strict=True):
      excluded = self.passages.rows(batch[i], batch[i].excluded_ids)
      once = dict.fromkeys(row for row in rows if row >= 0)
      found[i] = [row for row in once if row not in excluded]
    return found

  def _answers(self, question: Question, text: str) -> bool:
    return has_answer(text, question.answers, question.answer_type)

  def _mined_positive(
    self, question: Question, found: Sequence[int]
  ) -> tuple[list[int], str]:
    """The best passage with an answer; or why there is none."""
    if not question.answers:
      return [], "no_answer"
    for row in found:
      if self._answers(question, self.corpus.text(row)):
        return [row], ""
    titles = map(self.corpus.title, found)
    only_title = any(self._answers(question, title) for title in titles)
    return [], "answer_only_in_title" if only_title else "no_positive_found"

  def _mined_negatives(
    self, question: Question, found: Sequence[int], taken: set[int]
  ) -> list[int]:
    """The best passages without an answer."""
    others = (
      row
      for row in found
      if row not in taken and not self._answers(question, self.corpus.text(row))
    )
    return list(itertools.islice(others, self.limit))

  def report(self, questions: int) -> dict[str, Any]:
    """What was kept and dropped."""
    return {
      "questions": questions,
      "kept": len(self.kept),
      **self._origin,
      "not_in_corpus": dict(self.passages.missing),
      "dropped": {r: len(ids) for r, ids in sorted(self._dropped.items())},
      "examples": {r: ids[:_EXAMPLES] for r, ids in self._dropped.items()},
    }

  def failure(self, questions: int) -> str:
    """Why nothing was kept."""
    example = self.passages.example
    return (
      f"no question of {questions} has a positive passage in this corpus: "
      + "; ".join(
        f"{len(ids)} {reason.replace('_', ' ')} (such as {ids[0]!r})"
        for reason, ids in self._dropped.items()
      )
      + f"; {example}" * bool(example)
      + f". The best {self.depth} passages of {', '.join(self.searches)} were "
      "looked at; give the corpus that the questions belong to."
    )


def _check_known(known: Pairs, questions: QuestionSet, corpus: Corpus) -> None:
  for name, value in (
    ("corpus", corpus.fingerprint),
    ("questions", questions.fingerprint),
  ):
    if known.manifest[name] != value:
      raise ValueError(
        f"the pairs to add to were mined from other {name} "
        f"({known.manifest[name][:12]} instead of {value[:12]}); mine without "
        "--add."
      )


def _batches(
  questions: QuestionSet,
) -> Iterator[tuple[int, list[Question]]]:
  for start in range(0, len(questions), BATCH):
    stop = min(start + BATCH, len(questions))
    yield start, [questions[i] for i in range(start, stop)]


def _ragged(
  lists: Sequence[Sequence[int]],
) -> tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]:
  offsets = np.cumsum([0, *map(len, lists)])
  values = np.array([row for rows in lists for row in rows], np.int64)
  return values, offsets
