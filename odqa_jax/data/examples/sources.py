"""Where training examples come from: the table `SOURCES`.

To add a source: a class with the methods of `loader.Examples`, a function
here, a row in the table.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples import batch
from odqa_jax.data.examples.answers import AnswerExamples
from odqa_jax.data.examples.ict import IctExamples
from odqa_jax.data.examples.loader import Examples, tell_left_out
from odqa_jax.data.examples.pairs import PairExamples
from odqa_jax.data.examples.salient import SalientExamples
from odqa_jax.data.mining.pairs import Pairs
from odqa_jax.data.mining.spans import Spans
from odqa_jax.data.questions.sets import QuestionSet
from odqa_jax.runtime.settings import DataSettings, nearest
from odqa_jax.text.reader_vocabulary import ReaderVocabulary


def ict_examples(
  data: DataSettings, corpus: Corpus, vocabulary: ReaderVocabulary | None
) -> Examples:
  """Sentences and their blocks, from the corpus alone."""
  del vocabulary
  return IctExamples(
    corpus,
    question_length=data.question_length,
    passage_length=data.passage_length,
    keep_query=data.keep_query,
    title=data.title,
  )


def pair_examples(
  data: DataSettings, corpus: Corpus, vocabulary: ReaderVocabulary | None
) -> Examples:
  """Questions with positives and hard negatives mined beforehand.

  `data.questions` and `data.pairs` name one set each, or as many, separated
  by commas; several are read as one.

  Raises:
    ValueError: if pairs were mined from another corpus or question set.
  """
  del vocabulary
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
          f"{getattr(data, name)} ({mine.fingerprint[:12]}); run prepare again."
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


def answer_examples(
  data: DataSettings, corpus: Corpus, vocabulary: ReaderVocabulary | None
) -> Examples:
  """Questions with answers, for tasks with a reader; several sets as one."""
  assert vocabulary is not None
  questions = [
    question
    for folder in data.questions.split(",")
    for question in QuestionSet(Path(folder))
  ]
  return AnswerExamples(
    questions,
    corpus,
    vocabulary,
    question_length=data.question_length,
    answer_length=data.answer_length,
    buckets=data.reader_buckets,
    strict=data.strict,
  )


def salient_examples(
  data: DataSettings, corpus: Corpus, vocabulary: ReaderVocabulary | None
) -> Examples:
  """Sentences with masked entities, for tasks with a reader."""
  assert vocabulary is not None
  if not data.spans:
    raise ValueError(
      "config.data.source=salient needs config.data.spans, the folder that "
      "odqa prepare --spans makes."
    )
  return SalientExamples(
    corpus,
    Spans.open(data.spans),
    vocabulary,
    question_length=data.question_length,
    reader_question_length=data.question_length,
    answer_length=data.answer_length,
    spans_per_example=data.spans_per_example,
  )


@dataclasses.dataclass(frozen=True)
class Source:
  """A row of `SOURCES`.

  Attributes:
    make: settings, corpus and the reader's vocabulary → examples.
    fields: what its batches hold.
    reads: the keys of `config.data` that it reads, besides the corpus.
  """

  make: Callable[[DataSettings, Corpus, ReaderVocabulary | None], Examples]
  fields: batch.Fields
  reads: tuple[str, ...] = ()


SOURCES: dict[str, Source] = {
  "ict": Source(ict_examples, batch.PAIRS),
  "pairs": Source(pair_examples, batch.PAIRS, ("questions", "pairs")),
  "answers": Source(answer_examples, batch.QUESTIONS, ("questions",)),
  "salient": Source(salient_examples, batch.QUESTIONS, ("spans",)),
}


def check_source(name: str, fields: batch.Fields) -> None:
  """Refuses `config.data.source` where a task needs other batches.

  Raises:
    ValueError: naming the sources that fit.
  """
  if name not in SOURCES:
    raise ValueError(f"config.data.source={name!r}; {nearest(name, SOURCES)}")
  if SOURCES[name].fields is not fields:
    fitting = [n for n, row in SOURCES.items() if row.fields is fields]
    raise ValueError(
      f"config.data.source={name!r} does not go with this config.task; choose "
      f"one of {', '.join(fitting)}."
    )


def load_examples(
  data: DataSettings,
  corpus: Corpus,
  vocabulary: ReaderVocabulary | None = None,
) -> Examples:
  """The examples that `config.data.source` names.

  Args:
    data: the block `config.data`.
    corpus: the evidence.
    vocabulary: of the task's reader, if it has one.
  """
  examples = SOURCES[data.source].make(data, corpus, vocabulary)
  tell_left_out(examples)
  return examples
