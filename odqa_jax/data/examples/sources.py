"""Where training examples come from: the table `SOURCES`.

To add a source: a class with the methods of `loader.Examples`, a function
here, a row in the table.
"""

from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.answers import AnswerExamples
from odqa_jax.data.examples.ict import IctExamples
from odqa_jax.data.examples.loader import Examples, PairExamples
from odqa_jax.data.examples.salient import SalientExamples
from odqa_jax.data.mining.pairs import Pairs
from odqa_jax.data.mining.spans import Spans
from odqa_jax.data.questions.sets import QuestionSet
from odqa_jax.text.reader_vocabulary import ReaderVocabulary


def ict_examples(
  data: ConfigDict, corpus: Corpus, vocabulary: ReaderVocabulary | None
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
  data: ConfigDict, corpus: Corpus, vocabulary: ReaderVocabulary | None
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


def answer_examples(
  data: ConfigDict, corpus: Corpus, vocabulary: ReaderVocabulary | None
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
  )


def salient_examples(
  data: ConfigDict, corpus: Corpus, vocabulary: ReaderVocabulary | None
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


_Maker = Callable[[ConfigDict, Corpus, ReaderVocabulary | None], Examples]
SOURCES: dict[str, _Maker] = {
  "ict": ict_examples,
  "pairs": pair_examples,
  "answers": answer_examples,
  "salient": salient_examples,
}
# Those whose batches have answers to read for, and no passages yet.
READER_SOURCES = ("answers", "salient")


def load_examples(
  data: ConfigDict, corpus: Corpus, vocabulary: ReaderVocabulary | None = None
) -> Examples:
  """The examples that `config.data.source` names.

  Args:
    data: the block `config.data`.
    corpus: the evidence.
    vocabulary: of the task's reader, if it has one.

  Raises:
    ValueError: for an unknown name, listing the known ones; or one that does
      not go with the task.
  """
  if data.source not in SOURCES:
    raise ValueError(
      f"config.data.source={data.source!r}; known: {sorted(SOURCES)}."
    )
  if (data.source in READER_SOURCES) != (vocabulary is not None):
    fits = [
      n for n in SOURCES if (n in READER_SOURCES) == (vocabulary is not None)
    ]
    raise ValueError(
      f"config.data.source={data.source!r} does not go with this config.task: "
      f"one {'with' if vocabulary else 'without'} a reader takes {fits}."
    )
  return SOURCES[data.source](data, corpus, vocabulary)
