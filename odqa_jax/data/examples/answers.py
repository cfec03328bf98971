"""Questions and answers as batches for end-to-end training.

The passages are not known yet: they are retrieved with the live weights.
Batches are `batch.QUESTIONS`.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.packing import pack_questions
from odqa_jax.data.examples.batch import (
  ANSWER_BUCKETS,
  Batch,
  bucket_length,
  pad_tokens,
)
from odqa_jax.data.questions.sets import Question
from odqa_jax.text.reader_vocabulary import ReaderVocabulary


class AnswerExamples:
  """Questions with short answers; the answer is drawn anew every epoch.

  "End-to-End Training of Neural Retrievers", A.3: the target is sampled
  uniformly from a question's answers. Those that the decoder has no room for
  are never drawn; a question that has no other is left out.

  Args:
    questions: what is asked.
    corpus: the evidence; its tokenizer encodes questions for the retriever.
    vocabulary: of the reader.
    question_length: longest question in tokens, with special tokens.
    answer_length: longest answer in tokens, with its end.
    buckets: whether a batch is padded to its own longest answer, or to
      `answer_length`.
    strict: refuse what would be left out.

  Attributes:
    left_out: how many questions cannot be trained on, by reason.

  Raises:
    ValueError: if no question is left; or, with `strict`, for one that would
      be left out: it has no answers, regular expressions for answers, or none
      that fits `answer_length`.
  """

  def __init__(
    self,
    questions: Sequence[Question],
    corpus: Corpus,
    vocabulary: ReaderVocabulary,
    *,
    question_length: int,
    answer_length: int,
    buckets: bool = True,
    strict: bool = False,
  ) -> None:
    self.corpus = corpus
    self.vocabulary = vocabulary
    self.question_length = question_length
    self.answer_length = answer_length
    self.buckets = buckets
    self.left_out = {
      "without an answer": 0,
      "with regular expressions for answers": 0,
      f"with answers above {answer_length} tokens": 0,
    }
    self.answers: list[list[list[int]]] = []
    kept: list[Question] = []
    for question in questions:
      targets, problem = self._targets(question)
      if targets:
        kept.append(question)
        self.answers.append(targets)
      elif strict:
        raise ValueError(
          f"question {question.id} is {problem}, so a reader cannot learn from "
          "it; mend it, raise config.data.answer_length, or set "
          "config.data.strict=False to leave it out."
        )
      else:
        self.left_out[problem] += 1
    if not kept:
      raise ValueError(
        f"config.data.questions: none of {len(questions)} questions can be "
        f"trained on ({self.left_out}); give others, or raise "
        "config.data.answer_length."
      )
    texts = [q.question for q in kept]
    self.tokens = corpus.tokenizer.encode_batch(texts)
    self.reader_tokens = vocabulary.encode_batch(texts)
    self.gold = [_gold_row(q, corpus) for q in kept]

  def _targets(self, question: Question) -> tuple[list[list[int]], str]:
    """The answers that fit as targets; without any, the reason."""
    none, regex, long = self.left_out
    if question.answer_type == "regex":
      return [], regex
    targets = [
      [*tokens, self.vocabulary.eos_id]
      for tokens in self.vocabulary.encode_batch(list(question.answers))
      if tokens
    ]
    fitting = [t for t in targets if len(t) <= self.answer_length]
    return fitting, long if targets else none

  def __len__(self) -> int:
    return len(self.answers)

  def batch(
    self,
    indices: Int[np.ndarray, " b"],
    rng: np.random.Generator,
    rows: slice,
  ) -> Batch:
    """The examples `indices`, of which this process holds `rows`."""
    draws = rng.random(len(indices))
    local = indices[rows]
    counts = np.array([len(self.tokens[i]) for i in indices])
    reader_counts = np.array([len(self.reader_tokens[i]) for i in indices])
    question_ids, question_lengths = pack_questions(
      [self.tokens[i] for i in local],
      bucket_length(counts + 2, self.question_length),
      self.corpus.tokenizer,
    )
    reader_ids, reader_lengths = pad_tokens(
      [self.reader_tokens[i] for i in local],
      bucket_length(reader_counts, self.question_length),
      self.vocabulary.pad_id,
    )
    answers = [
      self.answers[i][int(draw * len(self.answers[i]))]
      for i, draw in zip(indices, draws, strict=True)
    ]
    pad = self.answer_length
    if self.buckets:
      lengths = np.array([len(a) for a in answers])
      pad = bucket_length(lengths, pad, ANSWER_BUCKETS)
    answer_ids, answer_lengths = pad_tokens(
      answers[rows], pad, self.vocabulary.pad_id
    )
    return {
      "question_ids": question_ids,
      "question_lengths": question_lengths,
      "reader_question_ids": reader_ids,
      "reader_question_lengths": reader_lengths,
      "answer_ids": answer_ids,
      "answer_lengths": answer_lengths,
      "excluded_rows": np.full((len(local), 1), -1, np.int32),
      "gold_rows": np.array([self.gold[i] for i in local], np.int32),
      "example_mask": np.ones(len(local), bool),
    }


def _gold_row(question: Question, corpus: Corpus) -> int:
  """Row of the first positive that is in the corpus, or −1."""
  for name in question.positive_ids:
    if (row := corpus.find(name)) is not None:
      return row
  return -1
