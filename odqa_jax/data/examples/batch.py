"""The batch: which arrays it has, of which shape, and who fills them.

A batch is a dict of arrays of fixed shapes. This is the one list of its keys;
loaders, gathering, plans and inference all read it. Axes:

    b  examples           q  tokens of a question         k  passages of one
    l  tokens of a passage   r  question in the reader's vocabulary
    i  tokens of a reader's input   t  tokens of an answer
    m  rows that a question may not retrieve   o  places of an answer
    p  tokens of a passage alone, beside pairs of l

Padding is a suffix everywhere, and lengths say how many tokens are real.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Int32

Batch = dict[str, np.ndarray]


class Field(NamedTuple):
  """An array of a batch.

  Attributes:
    axes: its axes, separated by blanks.
    meaning: what it holds.
    dtype: int32, but for masks.
  """

  axes: str
  meaning: str
  dtype: type = np.int32


Fields = Mapping[str, Field]

# ---- Filled by the loader ----
QUESTION: Fields = {
  "question_ids": Field("b q", "[CLS] question [SEP], for the retriever"),
  "question_lengths": Field("b", "their tokens"),
}
READER_QUESTION: Fields = {
  "reader_question_ids": Field("b r", "in the reader's vocabulary, bare"),
  "reader_question_lengths": Field("b", "their tokens"),
}
ANSWER: Fields = {
  "answer_ids": Field("b t", "the answer and its end"),
  "answer_lengths": Field("b", "their tokens"),
}
RETRIEVABLE: Fields = {
  "excluded_rows": Field("b m", "may not be retrieved; −1: none"),
  "gold_rows": Field("b", "a passage known to answer; −1: none"),
}
MASK: Fields = {"example_mask": Field("b", "False for padding", np.bool_)}
# ---- Filled by the loader with pairs, else by gathering ----
PASSAGES: Fields = {
  "passage_ids": Field("b k l", "[CLS] passage [SEP], for the retriever"),
  "passage_lengths": Field("b k", "their tokens"),
  "passage_rows": Field("b k", "of the corpus; below 0: not from there"),
}
# ---- Filled by the loader with the passages of a run ----
PAIR_INPUTS: Fields = {
  "ids": Field("b k l", "a passage, with or without its question"),
  "lengths": Field("b k", "their tokens; 0: no passage here"),
  "first_lengths": Field("b k", "tokens before the second segment"),
  "passage_rows": Field("b k", "of the corpus; −1: no passage here"),
  "passage_mask": Field("b k", "False: no passage here", np.bool_),
}
SPANS: Fields = {
  "context_starts": Field("b k", "first token of the passage's text"),
  "context_ends": Field("b k", "the token after its last"),
  "answer_starts": Field("b k o", "first token of an answer; −1: none"),
  "answer_ends": Field("b k o", "its last token"),
}
# For what retrieves and reads: the same passages without their question.
ALONE: Fields = {
  "passage_ids": Field("b k p", "[CLS] passage [SEP], for the retriever"),
  "passage_lengths": Field("b k", "their tokens"),
  "run_scores": Field("b k", "of the retriever of the run", np.float32),
}
# ---- Filled by a teacher ----
TEACHER: Fields = {
  "teacher_start": Field("b k l", "its logits of first tokens", np.float32),
  "teacher_end": Field("b k l", "of last tokens", np.float32),
  "teacher_passage": Field("b k", "of passages", np.float32),
}
IRRELEVANT: Fields = {
  "irrelevant": Field("b k", "whether no question needs it", np.bool_)
}
# ---- Filled by gathering ----
READER_INPUT: Fields = {
  "reader_ids": Field("b k i", "question and passage, for the reader"),
  "reader_lengths": Field("b k", "their tokens"),
}
OVERLAP: Fields = {
  "overlap_features": Field("b k i", "what both share; for small readers"),
}
ANSWER_PLACES: Fields = {
  "answer_starts": Field("b k", "its first token among all k·i; −1: none"),
  "answer_ends": Field("b k", "its last token"),
}

# What a source of examples makes: the positive and its negatives, ...
PAIRS = {**QUESTION, **PASSAGES, **MASK}
# ... or questions, whose passages are retrieved by the training loop.
QUESTIONS = {**QUESTION, **READER_QUESTION, **ANSWER, **RETRIEVABLE, **MASK}
RETRIEVED = {**QUESTIONS, **PASSAGES, **READER_INPUT, **ANSWER_PLACES}
# Passages that a retriever found before: to rerank, to read, to prune; or one
# that it found beside one that it did not.
RANKED = {**PAIR_INPUTS, **MASK}
READ = {**PAIR_INPUTS, **SPANS, **MASK}
JUDGED = {**PAIR_INPUTS, **IRRELEVANT, **MASK}
FOUND = {**PAIR_INPUTS, **IRRELEVANT, **MASK}
# Passages to retrieve and to read, of which the first alone has an answer.
UNIFIED = {**QUESTION, **ALONE, **PAIR_INPUTS, **SPANS, **MASK}
# What a search takes of a batch, in the order of its arguments.
SEARCHED = (*QUESTION, *RETRIEVABLE, "reader_question_lengths")

# Every combination of buckets is compiled once.
BUCKETS = (32, 64, 128, 256, 512)
# Most answers are short, and every step of the decoder costs a vocabulary.
ANSWER_BUCKETS = (8, 16, 32, 64)


def shapes(
  fields: Fields, sizes: Mapping[str, int]
) -> dict[str, tuple[tuple[int, ...], type]]:
  """Shape and dtype of every array, given the size of every axis."""
  return {
    name: (tuple(sizes[axis] for axis in field.axes.split()), field.dtype)
    for name, field in fields.items()
  }


def check_batch(batch: Mapping[str, Any], fields: Fields) -> None:
  """Refuses a batch that is not made of these arrays.

  Raises:
    ValueError: naming the array and what it should be.
  """
  sizes: dict[str, int] = {}
  for name, field in fields.items():
    if name not in batch:
      raise ValueError(f"the batch lacks {name!r}: {field.meaning}.")
    value, axes = batch[name], field.axes.split()
    fits = value.dtype == field.dtype and value.ndim == len(axes)
    if not fits or any(
      sizes.setdefault(axis, n) != n
      for axis, n in zip(axes, value.shape, strict=True)
    ):
      raise ValueError(
        f"{name!r} is {value.dtype} {value.shape}; it should be "
        f"{np.dtype(field.dtype)} [{field.axes}] with {sizes}."
      )
  unknown = set(batch) - set(fields) - set(OVERLAP)
  if unknown:
    raise ValueError(f"{min(unknown)!r} is no array of this batch.")


def bucket_length(
  lengths: Int[np.ndarray, "..."],
  longest: int,
  buckets: Sequence[int] = BUCKETS,
) -> int:
  """The smallest bucket that holds all `lengths`, at most `longest`."""
  need = int(np.max(lengths, initial=1))
  return next((b for b in buckets if need <= b <= longest), longest)


def fill_up(batch: Batch, real: int, size: int) -> Batch:
  """Masks all but the first `real` examples, and adds empty ones to `size`."""
  if real == size:
    return batch
  missing = size - len(batch["example_mask"])
  filled = {
    name: np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)])
    for name, x in batch.items()
  }
  filled["example_mask"][real:] = False
  return filled


def bucket_count(count: int, most: int) -> int:
  """How many rows to compute for `count`: a power of two, at most `most`.

  Whoever asks for any number of rows then compiles a few programs only.
  """
  return min(1 << max(count - 1, 0).bit_length(), most)


def pad_tokens(
  token_lists: Sequence[Sequence[int] | np.ndarray], length: int, pad_id: int
) -> tuple[Int32[np.ndarray, "n l"], Int32[np.ndarray, " n"]]:
  """Token lists as one array; what is longer than `length` is cut."""
  ids = np.full((len(token_lists), length), pad_id, np.int32)
  lengths = np.zeros(len(token_lists), np.int32)
  for i, tokens in enumerate(token_lists):
    lengths[i] = min(len(tokens), length)
    ids[i, : lengths[i]] = tokens[:length]
  return ids, lengths
