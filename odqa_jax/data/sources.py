"""Where training examples come from: the table `SOURCES`.

To add a source: a class with the methods of `loader.Examples`, a function
here, a row in the table.
"""

from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict

from odqa_jax.data.corpus import Corpus
from odqa_jax.data.ict import IctExamples
from odqa_jax.data.loader import Examples, PairExamples
from odqa_jax.data.mining import Pairs
from odqa_jax.data.question_sets import QuestionSet


def ict_examples(data: ConfigDict, corpus: Corpus) -> Examples:
  """Sentences and their blocks, from the corpus alone."""
  return IctExamples(
    corpus,
    question_length=data.question_length,
    passage_length=data.passage_length,
    keep_query=data.keep_query,
    title=data.title,
  )


def pair_examples(data: ConfigDict, corpus: Corpus) -> Examples:
  """Questions with positives and hard negatives mined beforehand.

  `data.questions` and `data.pairs` name one set each, or as many, separated
  by commas; several are read as one.

  Raises:
    ValueError: if pairs were mined from another corpus or question set.
  """
  question_folders = data.questions.split(",")
  pair_folders = data.pairs.split(",")
  if len(question_folders) != len(pair_folders):
    raise ValueError(
      f"config.data.questions names {len(question_folders)} sets and "
      f"config.data.pairs {len(pair_folders)}; give one for one."
    )
  sets = []
  for question_folder, pair_folder in zip(
    question_folders, pair_folders, strict=True
  ):
    questions = QuestionSet(Path(question_folder))
    pairs = Pairs.open(pair_folder)
    for name, mine in (("corpus", corpus), ("questions", questions)):
      made_from = pairs.manifest[name]
      if made_from != mine.fingerprint:
        raise ValueError(
          f"{pair_folder} was mined from other {name} ({made_from[:12]}) than "
          f"{data[name]} ({mine.fingerprint[:12]}); run prepare again."
        )
    sets.append((list(questions), pairs))
  return PairExamples(
    sets,
    corpus,
    question_length=data.question_length,
    passage_length=data.passage_length,
    hard_negatives=data.hard_negatives,
    title=data.title,
  )


SOURCES: dict[str, Callable[[ConfigDict, Corpus], Examples]] = {
  "ict": ict_examples,
  "pairs": pair_examples,
}


def load_examples(data: ConfigDict, corpus: Corpus) -> Examples:
  """The examples that `config.data.source` names.

  Raises:
    ValueError: for an unknown name, listing the known ones.
  """
  if data.source not in SOURCES:
    raise ValueError(
      f"config.data.source={data.source!r}; known: {sorted(SOURCES)}."
    )
  return SOURCES[data.source](data, corpus)
