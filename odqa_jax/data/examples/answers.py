"""Questions and answers as batches for end-to-end training.

The passages are not known yet: they are retrieved with the live weights
(`lookup.py`). A batch is a dict of int32 arrays (the mask is bool):

| key                     | shape  | meaning                                   |
|-------------------------|--------|-------------------------------------------|
| question_ids            | [b, l] | [CLS] question [SEP], for the retriever   |
| question_lengths        | [b]    | tokens before the padding                 |
| reader_question_ids     | [b, l] | the question in the reader's vocabulary   |
| reader_question_lengths | [b]    | without special tokens                    |
| answer_ids              | [b, t] | the answer and its end, then padding      |
| answer_lengths          | [b]    |                                           |
| own_rows                | [b, m] | rows that may not be retrieved, −1: none  |
| gold_rows               | [b]    | a passage known to answer, −1: none       |
| example_mask            | [b]    | False for padding                         |
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Int32

from odqa_jax.data.corpus.corpus import Corpus, pack_questions
from odqa_jax.data.examples.loader import Batch, bucket_length
from odqa_jax.data.questions.sets import Question
from odqa_jax.text.reader_vocabulary import ReaderVocabulary

# Most answers are short, and every step of the decoder costs a vocabulary.
ANSWER_BUCKETS = (8, 16, 32, 64)


def pad_tokens(
  token_lists: Sequence[Sequence[int]], length: int, pad_id: int
) -> tuple[Int32[np.ndarray, "n l"], Int32[np.ndarray, " n"]]:
  """Token lists as one array; what is longer than `length` is cut."""
  ids = np.full((len(token_lists), length), pad_id, np.int32)
  lengths = np.zeros(len(token_lists), np.int32)
  for i, tokens in enumerate(token_lists):
    lengths[i] = min(len(tokens), length)
    ids[i, : lengths[i]] = tokens[:length]
  return ids, lengths


def answer_bucket(lengths: Sequence[int], longest: int) -> int:
  """The smallest width for answers that holds all, at most `longest`."""
  need = max(lengths, default=1)
  return next((b for b in ANSWER_BUCKETS if need <= b <= longest), longest)


class AnswerExamples:
  """Questions with short answers; the answer is drawn anew every epoch.

  "End-to-End Training of Neural Retrievers", A.3: the target is sampled
  uniformly from a question's answers. Those that the decoder has no room for
  are never drawn.

  Args:
    questions: what is asked.
    corpus: the evidence; its tokenizer encodes questions for the retriever.
    vocabulary: of the reader.
    question_length: longest question in tokens, with special tokens.
    answer_length: longest answer in tokens, with its end.
    buckets: whether a batch is padded to its own longest answer, or to
      `answer_length`.

  Raises:
    ValueError: for a question without answers, with regular expressions for
      answers, or with none that fits `answer_length`.
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
  ) -> None:
    if not questions:
      raise ValueError("config.data.questions holds no question to train on.")
    texts = [q.question for q in questions]
    self.corpus = corpus
    self.vocabulary = vocabulary
    self.question_length = question_length
    self.answer_length = answer_length
    self.buckets = buckets
    self.tokens = corpus.tokenizer.encode_batch(texts)
    self.reader_tokens = vocabulary.encode_batch(texts)
    self.answers = [self._targets(q) for q in questions]
    self.gold = [_gold_row(q, corpus) for q in questions]

  def _targets(self, question: Question) -> list[list[int]]:
    """The answers as targets, those that fit."""
    if not question.answers:
      raise ValueError(
        f"question {question.id} has no answer, so a reader cannot learn from "
        "it; remove it from the set, or give it an answer."
      )
    if question.answer_type == "regex":
      raise ValueError(
        f"question {question.id} has the regular expression "
        f"{question.answers[0]!r} for an answer, which a reader cannot learn "
        "to write; use these sets for evaluation only."
      )
    targets = [
      [*tokens, self.vocabulary.eos_id]
      for tokens in self.vocabulary.encode_batch(list(question.answers))
      if tokens
    ]
    fitting = [t for t in targets if len(t) <= self.answer_length]
    if not fitting:
      shortest = min((len(t) for t in targets), default=0)
      raise ValueError(
        f"question {question.id}: its shortest answer {question.answers[0]!r} "
        f"takes {shortest} tokens with its end, the decoder has room for "
        f"config.data.answer_length={self.answer_length}; raise that, or "
        "remove the question."
      )
    return fitting

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
    counts = [len(self.tokens[i]) for i in indices]
    reader_counts = [len(self.reader_tokens[i]) for i in indices]
    local = indices[rows]
    question_ids, question_lengths = pack_questions(
      [self.tokens[i] for i in local],
      bucket_length(np.array(counts) + 2, self.question_length),
      self.corpus.tokenizer,
    )
    reader_ids, reader_lengths = pad_tokens(
      [self.reader_tokens[i] for i in local],
      bucket_length(np.array(reader_counts), self.question_length),
      self.vocabulary.pad_id,
    )
    answers = [
      self.answers[i][int(draw * len(self.answers[i]))]
      for i, draw in zip(indices, draws, strict=True)
    ]
    pad = self.answer_length
    if self.buckets:
      pad = answer_bucket([len(a) for a in answers], pad)
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
      "own_rows": np.full((len(local), 1), -1, np.int32),
      "gold_rows": np.array([self.gold[i] for i in local], np.int32),
      "example_mask": np.ones(len(local), bool),
    }


def _gold_row(question: Question, corpus: Corpus) -> int:
  """Row of the first positive that is in the corpus, or −1."""
  for name in question.positive_ids:
    try:
      return corpus.row_of(name)
    except KeyError:
      continue
  return -1
