"""Where training examples come from: the table `SOURCES`.

To add a source: a class with the methods of `loader.Examples`, a function
here, a row in the table.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples import batch
from odqa_jax.data.examples.answers import AnswerExamples
from odqa_jax.data.examples.found import (
  NO_POOL,
  FoundExamples,
  Pool,
  answering_rows,
  positive_rows,
  times_found,
  validation_pool,
)
from odqa_jax.data.examples.golden import GoldenExamples, golden_passages
from odqa_jax.data.examples.ict import IctExamples
from odqa_jax.data.examples.judged import JudgedPassages
from odqa_jax.data.examples.loader import Examples, tell_left_out
from odqa_jax.data.examples.pairs import PairExamples
from odqa_jax.data.examples.reranking import RerankingExamples
from odqa_jax.data.examples.retrieved import (
  RetrievedQuestions,
  open_retrieved,
)
from odqa_jax.data.examples.salient import SalientExamples
from odqa_jax.data.examples.spans import SpanExamples
from odqa_jax.data.examples.unified import UnifiedExamples
from odqa_jax.data.mining.pairs import Pairs
from odqa_jax.data.mining.spans import Spans
from odqa_jax.data.questions.sets import Question, QuestionSet
from odqa_jax.runtime.settings import DataSettings, nearest
from odqa_jax.text.pairs import PairVocabulary
from odqa_jax.text.reader_vocabulary import ReaderVocabulary

# Of what the task trains: a generative reader, or a network that reads pairs.
Vocabulary = ReaderVocabulary | PairVocabulary
# Passages drawn once, to prune or to measure by, are the same in every run.
_DRAWN_SEED = 1234


def ict_examples(
  data: DataSettings, corpus: Corpus, vocabulary: Vocabulary | None
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
  data: DataSettings, corpus: Corpus, vocabulary: Vocabulary | None
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


def _questions(folders: str) -> list[Question]:
  """The questions of sets, separated by commas, as one."""
  return [q for name in folders.split(",") for q in QuestionSet(Path(name))]


def answer_examples(
  data: DataSettings, corpus: Corpus, vocabulary: Vocabulary | None
) -> Examples:
  """Questions with answers, for tasks with a reader; several sets as one."""
  assert isinstance(vocabulary, ReaderVocabulary)
  questions = _questions(data.questions)
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
  data: DataSettings, corpus: Corpus, vocabulary: Vocabulary | None
) -> Examples:
  """Sentences with masked entities, for tasks with a reader."""
  assert isinstance(vocabulary, ReaderVocabulary)
  return SalientExamples(
    corpus,
    Spans.open(data.spans),
    vocabulary,
    question_length=data.question_length,
    reader_question_length=data.question_length,
    answer_length=data.answer_length,
    spans_per_example=data.spans_per_example,
  )


def _pair_vocabulary(
  corpus: Corpus, vocabulary: Vocabulary | None
) -> PairVocabulary:
  """That of the network; none: it has the corpus's word pieces."""
  if isinstance(vocabulary, PairVocabulary):
    return vocabulary
  return PairVocabulary(corpus.tokenizer)


def _of_a_run(
  data: DataSettings, corpus: Corpus, vocabulary: Vocabulary | None
) -> dict[str, Any]:
  """What examples of questions with retrieved passages are made of."""
  return {
    "found": open_retrieved(data.questions, data.run, corpus),
    "vocabulary": _pair_vocabulary(corpus, vocabulary),
    "passages": data.passages,
    "question_length": data.question_length,
    "length": data.pair_length,
    "title": data.title,
    "strict": data.strict,
  }


def reranking_examples(
  data: DataSettings, corpus: Corpus, vocabulary: Vocabulary | None
) -> Examples:
  """The gold passage of a question, and others that a retriever found."""
  return RerankingExamples(**_of_a_run(data, corpus, vocabulary))


def span_examples(
  data: DataSettings, corpus: Corpus, vocabulary: Vocabulary | None
) -> Examples:
  """What a retriever found for a question, with the answers in it."""
  return SpanExamples(
    **_of_a_run(data, corpus, vocabulary),
    span_length=data.span_length,
    occurrences=data.occurrences,
  )


def unified_examples(
  data: DataSettings, corpus: Corpus, vocabulary: Vocabulary | None
) -> Examples:
  """What a retriever found, of which one passage holds the answer."""
  return UnifiedExamples(
    **_of_a_run(data, corpus, vocabulary),
    candidates=data.candidates,
    passage_length=data.passage_length,
    span_length=data.span_length,
    occurrences=data.occurrences,
    passage_first=data.passage_first,
  )


def golden_examples(
  data: DataSettings, corpus: Corpus, vocabulary: Vocabulary | None
) -> Examples:
  """Gold passages, and others at random."""
  passages = _judged(data, corpus, vocabulary)
  questions = _questions(data.questions)
  golden = golden_passages(
    questions, corpus, negatives=data.random_negatives, seed=_DRAWN_SEED
  )
  return GoldenExamples(golden, passages)


def found_examples(
  data: DataSettings, corpus: Corpus, vocabulary: Vocabulary | None
) -> Examples:
  """What a retriever found for questions, and what it did not.

  Raises:
    ValueError: if questions of the validation pool are trained on.
  """
  passages = _judged(data, corpus, vocabulary)
  sets = [open_retrieved(data.questions, data.run, corpus)]
  if data.leaky:
    sets.append(open_retrieved(data.leaky_questions, data.leaky_run, corpus))
  counts = sum(
    (times_found(found, data.passages) for found in sets),
    np.zeros(len(corpus), np.int64),
  )
  pool = NO_POOL
  if data.pool_questions:
    pool = _pool(data, corpus, counts, sets[0])
  return FoundExamples(counts, pool, passages, base=data.frequency_base)


def _pool(
  data: DataSettings,
  corpus: Corpus,
  counts: np.ndarray,
  trained: RetrievedQuestions,
) -> Pool:
  """The validation pool that the settings describe."""
  asked = _questions(data.pool_questions)
  texts = {question.question for question in asked}
  same = sum(question.question in texts for question in trained.questions)
  if same:
    raise ValueError(
      f"config.data.questions={data.questions}: {same} of its questions are "
      f"also in config.data.pool_questions={data.pool_questions}; take them "
      "out, or name them as config.data.leaky_questions."
    )
  if data.pool_run:
    found = open_retrieved(data.pool_questions, data.pool_run, corpus)
    needed = answering_rows(found)
  else:
    needed = positive_rows(asked, corpus)
  return validation_pool(counts, needed, size=data.pool_size, seed=_DRAWN_SEED)


def _judged(
  data: DataSettings, corpus: Corpus, vocabulary: Vocabulary | None
) -> JudgedPassages:
  """How passages alone are packed."""
  return JudgedPassages(
    corpus,
    _pair_vocabulary(corpus, vocabulary).tokenizer,
    length=data.passage_length,
    title=data.title,
  )


@dataclasses.dataclass(frozen=True)
class Source:
  """A row of `SOURCES`.

  Attributes:
    make: settings, corpus and the reader's vocabulary → examples.
    fields: what its batches hold.
    reads: the keys of `config.data` that it reads, besides the corpus.
  """

  make: Callable[[DataSettings, Corpus, Vocabulary | None], Examples]
  fields: batch.Fields
  reads: tuple[str, ...] = ()


SOURCES: dict[str, Source] = {
  "ict": Source(ict_examples, batch.PAIRS),
  "pairs": Source(pair_examples, batch.PAIRS, ("questions", "pairs")),
  "answers": Source(answer_examples, batch.QUESTIONS, ("questions",)),
  "salient": Source(salient_examples, batch.QUESTIONS, ("spans",)),
  "retrieved": Source(reranking_examples, batch.RANKED, ("questions", "run")),
  "retrieved_spans": Source(span_examples, batch.READ, ("questions", "run")),
  "unified": Source(unified_examples, batch.UNIFIED, ("questions", "run")),
  "golden": Source(golden_examples, batch.JUDGED, ("questions",)),
  "found": Source(
    found_examples,
    batch.FOUND,
    (
      "questions",
      "run",
      "pool_questions",
      "pool_run",
      "leaky_questions",
      "leaky_run",
    ),
  ),
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
  vocabulary: Vocabulary | None = None,
) -> Examples:
  """The examples that `config.data.source` names.

  Args:
    data: the block `config.data`.
    corpus: the evidence.
    vocabulary: of the task's generative reader, or of its network of pairs;
      None for tasks without either, and for pairs in the corpus's word pieces.
  """
  examples = SOURCES[data.source].make(data, corpus, vocabulary)
  tell_left_out(examples)
  return examples
