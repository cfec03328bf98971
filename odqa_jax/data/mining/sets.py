"""Mines the question sets of a dataset folder."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.mining.mine import Named, Search, dropped_line, mine_pairs
from odqa_jax.data.mining.pairs import Pairs
from odqa_jax.data.questions.sets import QuestionSet
from odqa_jax.runtime.progress import progress_bar

Sets = Mapping[str, tuple[QuestionSet, Pairs | None]]


def open_sets(dataset: Path, names: Sequence[str], *, add: bool) -> Sets:
  """Question sets of a dataset folder and, to `add` to, their pairs.

  Raises:
    ValueError: naming what is absent or damaged.
  """
  return {
    name: (
      QuestionSet(dataset / "questions" / name),
      Pairs.open(dataset / "pairs" / name) if add else None,
    )
    for name in names
  }


def mine_sets(
  dataset: Path,
  sets: Sets,
  searches: Mapping[str, Search],
  *,
  negatives: int,
  depth: int = 50,
  positives: Named | None = None,
  write: bool = True,
) -> dict[str, dict[str, Any]]:
  """Writes DATASET/pairs/NAME for sets in DATASET/questions.

  What has no positive is left out, and said on stderr.

  Args:
    dataset: the folder.
    sets: by name; those with pairs keep them, and gain negatives.
    searches: see `mine_pairs`, as for all that follows.
    negatives: most that are mined for a question.
    depth: passages looked at.
    positives: what is known of them beforehand.
    write: whether this process writes, and tells what is left out.

  Returns:
    The report of each set.

  Raises:
    ValueError: see `mine_pairs`.
  """
  corpus = Corpus(dataset / "corpus")
  reports = {}
  for name, (questions, known) in sets.items():
    with progress_bar(f"mine {name}", len(questions), "questions") as update:
      mined = mine_pairs(
        questions,
        corpus,
        searches,
        negatives=negatives,
        depth=depth,
        positives=positives,
        known=known,
        progress=update,
      )
    reports[name] = mined.manifest["report"]
    if write:
      mined.save(dataset / "pairs" / name)
      print(dropped_line(name, reports[name]), end="", file=sys.stderr)
  return reports
