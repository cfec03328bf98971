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


def mine_sets(
  dataset: Path,
  names: Sequence[str],
  searches: Mapping[str, Search],
  *,
  negatives: int,
  depth: int = 50,
  positives: Named | None = None,
  add: bool = False,
) -> dict[str, dict[str, Any]]:
  """Writes DATASET/pairs/NAME for sets in DATASET/questions.

  What has no positive is left out, and said on stderr.

  Args:
    dataset: the folder.
    names: of the sets.
    searches: see `mine_pairs`, as for all that follows.
    negatives: most that are mined for a question.
    depth: passages looked at.
    positives: what is known of them beforehand.
    add: whether the pairs that there are stay, and gain negatives.

  Returns:
    The report of each set.

  Raises:
    ValueError: if a set or, to add to, its pairs are absent; see also
      `mine_pairs`.
  """
  if not names:
    return {}
  corpus = Corpus(dataset / "corpus")
  # All of them before the first is mined.
  sets = {name: QuestionSet(dataset / "questions" / name) for name in names}
  folders = {name: dataset / "pairs" / name for name in names}
  known = {n: Pairs.open(folders[n]) if add else None for n in names}
  reports = {}
  for name, questions in sets.items():
    with progress_bar(f"mine {name}", len(questions), "questions") as update:
      mined = mine_pairs(
        questions,
        corpus,
        searches,
        negatives=negatives,
        depth=depth,
        positives=positives,
        known=known[name],
        progress=update,
      )
    mined.save(folders[name])
    reports[name] = mined.manifest["report"]
    line = dropped_line(name, reports[name])
    if line:
      print(line, file=sys.stderr)
  return reports
