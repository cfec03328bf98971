"""Leaks: what is measured must not be what was learned.

    report = question_leaks(data)             # train questions asked again
    report |= passage_leaks(data)             # passages that stand there twice
    report |= gold_leaks(data, ["nq-train"])  # passages that are learned
    report |= span_leaks(data, repeated=0)    # sentences that find themselves

Which sets are which their names tell: one with a word that begins with `train`
is learned from; one with the word dev, val, test, eval or a longer form of it
is held out; others are neither. Words are runs of letters: `NQ-open.dev`.

Published sets have such questions too: of NQ's and TriviaQA's test questions
about a third ask what a train question asks ("Question and Answer Test-Train
Overlap in Open-Domain Question Answering Datasets", 2021), most of them in
other words, which is not looked for here.
"""

import contextlib
import itertools
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64, UInt64

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.store import hash_id
from odqa_jax.data.mining.pairs import Pairs
from odqa_jax.data.mining.spans import Spans
from odqa_jax.data.questions.sets import QuestionSet
from odqa_jax.runtime.artifact import existing, publish
from odqa_jax.runtime.progress import progress_bar
from odqa_jax.text.normalised import normalise_text

Role = Literal["train", "held_out", ""]

_HELD_OUT = r"dev(set|test|elopment)?|val(id|idation)?|test(set)?|eval(uation)?"
_EXAMPLES = 3
_READ = 1024


def role_of(name: str) -> Role:
  """What a question set serves, by its name."""
  words = re.findall("[a-z]+", name.lower())
  if any(word.startswith("train") for word in words):
    return "train"
  return "held_out" if any(re.fullmatch(_HELD_OUT, w) for w in words) else ""


@dataclass(frozen=True)
class _Asked:
  """A question set, with the hashes of its normalised questions."""

  name: str
  questions: QuestionSet
  hashes: UInt64[np.ndarray, " q"]

  def also_in(self, other: "_Asked") -> Int64[np.ndarray, " _"]:
    """Numbers of the questions that another set has too."""
    return np.flatnonzero(np.isin(self.hashes, other.hashes))


def _hashes(texts: Iterable[str], count: int) -> UInt64[np.ndarray, " _"]:
  return np.fromiter(
    (hash_id(normalise_text(text)) for text in texts), np.uint64, count
  )


def _sets(dataset: Path, roles: Sequence[Role]) -> list[_Asked]:
  """The prepared sets of a dataset folder that have one of some roles."""
  found = []
  for folder in sorted((dataset / "questions").glob("*")):
    if not folder.is_dir() or role_of(folder.name) not in roles:
      continue
    # What an interrupted run or an older version left there is not read.
    with contextlib.suppress(ValueError):
      questions = QuestionSet(folder)
      hashes = _hashes((q.question for q in questions), len(questions))
      found.append(_Asked(folder.name, questions, hashes))
  return found


def question_leaks(dataset: Path, *, allow: bool = False) -> dict[str, Any]:
  """Compares the questions of all sets of a dataset folder, normalised.

  Args:
    dataset: the folder.
    allow: whether train questions that are held out too only count.

  Returns:
    `train_questions`: for every two sets, the held-out questions that are
    train questions: `sets`, `count`, `share` and `examples`;
    `held_out_questions`: likewise of two sets that are held out;
    `repeated_questions`: by set, how many stand in it again.

  Raises:
    ValueError: for the first, unless it is allowed.
  """
  sets = _sets(dataset, ("train", "held_out", ""))
  train = [s for s in sets if role_of(s.name) == "train"]
  held_out = [s for s in sets if role_of(s.name) == "held_out"]
  learned = _overlaps(itertools.product(held_out, train))
  if learned and not allow:
    raise ValueError(
      f"{dataset}: held-out questions are train questions: "
      + "; ".join(map(_told, learned))
      + ". Take them out of the train set, or accept them with --allow-leak."
    )
  repeated = {s.name: len(s.hashes) - len(np.unique(s.hashes)) for s in sets}
  repeated = {name: count for name, count in repeated.items() if count}
  shared = _overlaps(itertools.combinations(held_out, 2))
  for overlap in (*learned, *shared):
    _warn(f"the same questions: {_told(overlap)}")
  for name, count in repeated.items():
    _warn(f"{count} questions of {name} stand in it before")
  return {
    "train_questions": learned,
    "held_out_questions": shared,
    "repeated_questions": repeated,
  }


def _overlaps(
  pairs: Iterable[tuple[_Asked, _Asked]],
) -> list[dict[str, Any]]:
  """What the first of every two sets shares with the second."""
  overlaps = []
  for one, other in pairs:
    numbers = one.also_in(other)
    if len(numbers):
      shared = [one.questions[int(i)].question for i in numbers[:_EXAMPLES]]
      overlaps.append(
        {
          "sets": [one.name, other.name],
          "count": len(numbers),
          "share": len(numbers) / len(one.hashes),
          "examples": shared,
        }
      )
  return overlaps


def _told(overlap: dict[str, Any]) -> str:
  one, other = overlap["sets"]
  return (
    f"{overlap['count']} ({overlap['share']:.2%}) of {one} stand in {other}, "
    f"for example {overlap['examples']}"
  )


def _warn(finding: str) -> None:
  print(f"leak check: {finding}.", file=sys.stderr)


def passage_leaks(dataset: Path) -> dict[str, Any]:
  """Counts the passages whose normalised text an earlier one has.

  It is counted once for a corpus, and kept in DATASET/leaks. In memory there
  are sixteen bytes a passage.

  Returns:
    `repeated_passages`: `count` and `examples`, ids of equal passages.
  """
  corpus = Corpus(dataset / "corpus")
  source = {"corpus": corpus.fingerprint}
  artifact = existing(dataset / "leaks", "leaks")
  if artifact is None or artifact.manifest["made_from"] != source:
    with publish(dataset / "leaks", "leaks", source) as draft:
      with progress_bar("leak check", len(corpus), "passages") as update:
        draft.counts["repeated_passages"] = _repeated(corpus, update)
    found = draft.manifest["repeated_passages"]
  else:
    found = artifact.manifest["repeated_passages"]
  if found["count"]:
    _warn(
      f"{found['count']} of {len(corpus)} passages have the text of an earlier "
      f"one, for example {found['examples']}"
    )
  return {"repeated_passages": found}


def _repeated(
  corpus: Corpus, progress: Callable[[int, int], None]
) -> dict[str, Any]:
  hashes = np.empty(len(corpus), np.uint64)
  for row in range(len(corpus)):
    hashes[row] = hash_id(normalise_text(corpus.text(row)))
    if (row + 1) % _READ == 0 or row + 1 == len(corpus):
      progress(row + 1, len(corpus))
  order = np.argsort(hashes, kind="stable")
  again = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
  first = again[np.argsort(order[again])[:_EXAMPLES]]
  examples = [
    [corpus.id(int(order[i])), corpus.id(int(order[i + 1]))] for i in first
  ]
  return {"count": len(again), "examples": examples}


def span_leaks(dataset: Path, repeated: int) -> dict[str, Any]:
  """Counts passages that may be retrieved for a sentence that they hold.

  Training with salient spans never retrieves a sentence's own passage, nor one
  with the very same text; one whose text differs in case or punctuation alone
  it does.

  Args:
    dataset: the folder, with spans.
    repeated: passages whose normalised text an earlier one has.

  Returns:
    `own_passages`: `excluded_copies`, passages with the very text of another;
    `near_copies`, those that repeat an earlier one in other letters.
  """
  spans = Spans.open(dataset / "spans")
  groups = max(len(spans.copy_offsets) - 1, 0)
  near = repeated - (len(spans.copy_rows) - groups)
  if near:
    _warn(
      f"{near} passages differ from an earlier one in case or punctuation "
      "alone, and may be retrieved for its salient spans"
    )
  copies = {"excluded_copies": len(spans.copy_rows), "near_copies": near}
  return {"own_passages": copies}


def gold_leaks(dataset: Path, mined: Sequence[str]) -> dict[str, Any]:
  """Counts gold passages of held-out questions among what is trained on.

  One passage answers many questions, so this is common and no fault by itself;
  where the share is high, a retriever is measured on passages it has learned.

  Args:
    dataset: the folder.
    mined: sets whose pairs are there; those for training are looked at.

  Returns:
    `gold_passages`: for every two sets `sets`, the gold passages of the first
    that are positives of the second: `count` and `share`.
  """
  train = [name for name in mined if role_of(name) == "train"]
  found: list[dict[str, Any]] = []
  if train:
    corpus = Corpus(dataset / "corpus")
    positives = {
      name: np.unique(Pairs.open(dataset / "pairs" / name).positive_rows)
      for name in train
    }
    for held_out in _sets(dataset, ("held_out",)):
      gold = _gold_rows(held_out.questions, corpus)
      for name, rows in positives.items():
        count = int(np.isin(gold, rows).sum())
        if count:
          sets = [held_out.name, name]
          share = count / len(gold)
          found.append({"sets": sets, "count": count, "share": share})
          _warn(
            f"{count} ({share:.2%}) of the {len(gold)} gold passages of "
            f"{held_out.name} are positives of {name}"
          )
  return {"gold_passages": found}


def _gold_rows(
  questions: QuestionSet, corpus: Corpus
) -> Int64[np.ndarray, " _"]:
  rows = set()
  for name in {i for q in questions for i in q.positive_ids}:
    # Those of another corpus cannot be trained on.
    if (row := corpus.find(name)) is not None:
      rows.add(row)
  return np.array(sorted(rows), np.int64)
