"""Masked salient spans: (masked sentence, the spans) examples from a corpus.

The retriever asks with the sentence in which every chosen span is one `[MASK]`;
the reader gets a sentinel in its place, and writes T5's target

    sentinel₀ span₀ sentinel₁ span₁ … end

Batches are `batch.QUESTIONS`. The sentence's own passage may
not be retrieved, nor any other with the same text: it would be copied from.

"End-to-End Training of Neural Retrievers", Sec. 2.2.2 and A.2, which name
neither how many spans are masked nor the form of the target. One span, drawn
anew every time, is REALM's choice.
"""

from collections.abc import Sequence
from itertools import chain, pairwise

import numpy as np
from jaxtyping import Int, Int32, Int64

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.packing import pack_questions
from odqa_jax.data.examples.batch import Batch, bucket_length, pad_tokens
from odqa_jax.data.mining.spans import Spans
from odqa_jax.text.reader_vocabulary import (
  ReaderVocabulary,
  WordPieceVocabulary,
)

# A passage and its copies at most; sentences of others are left out.
COPIES = 8
# Spans measured at once.
_CHUNK = 4096

# Number of a sentence, and of the entities to mask in it, ascending.
Plan = tuple[int, list[int]]


class SalientExamples:
  """Masked sentences; example i is a sentence, its spans drawn anew.

  What is too long is left out, never cut, as far as word pieces tell. A reader
  on other pieces may need more of them for a sentence; then the end that is
  further from its span is cut.

  Args:
    corpus: the evidence.
    spans: the entities of its sentences.
    vocabulary: of the reader.
    question_length: longest masked sentence of the retriever in tokens, with
      [CLS] and [SEP].
    reader_question_length: longest one of the reader in tokens; for a reader
      on other pieces rather half as much again as `question_length`.
    answer_length: longest target in tokens, with sentinels and end.
    spans_per_example: how many spans to mask, as far as a sentence has them
      and they fit into the target.

  Attributes:
    left_out: how many spans are never drawn, by reason.

  Raises:
    ValueError: if the spans are of another corpus or tokenizer, or none is
      left to draw.
  """

  def __init__(
    self,
    corpus: Corpus,
    spans: Spans,
    vocabulary: ReaderVocabulary,
    *,
    question_length: int,
    reader_question_length: int,
    answer_length: int,
    spans_per_example: int = 1,
  ) -> None:
    _check(corpus, spans)
    if not 1 <= spans_per_example <= len(vocabulary.sentinel_ids):
      raise ValueError(
        f"spans_per_example={spans_per_example}: the reader's vocabulary has "
        f"{len(vocabulary.sentinel_ids)} sentinels; choose 1 or more, and no "
        "more than these."
      )
    self.corpus = corpus
    self.spans = spans
    self.vocabulary = vocabulary
    self.question_length = question_length
    self.reader_question_length = reader_question_length
    self.answer_length = answer_length
    self.spans_per_example = spans_per_example
    own = WordPieceVocabulary(corpus.tokenizer).fingerprint
    self._shared = vocabulary.fingerprint == own
    order = np.argsort(spans.copy_rows, kind="stable")
    self._copies = np.asarray(spans.copy_rows)[order]
    sizes = np.diff(spans.copy_offsets)
    self._group = np.repeat(np.arange(len(sizes)), sizes)[order]
    self._select()

  def _select(self) -> None:
    """Finds what can be drawn: spans that fit with their sentence."""
    spans = self.spans
    count = len(spans)
    sentence = np.repeat(
      np.arange(count, dtype=np.int32), np.diff(spans.entity_offsets)
    )
    length = spans.sentences[:, 2] - spans.sentences[:, 1]
    taken = spans.entities[:, 1] - spans.entities[:, 0]
    question = length[sentence] - taken + 1
    target = self._target_lengths(sentence)
    copies = self._copy_counts(spans.sentences[:, 0])
    reasons = {
      "many_copies": copies[sentence] > COPIES,
      "question_length": question + 2 > self.question_length,
      "reader_question_length": question > self.reader_question_length,
      "answer_length": target > self.answer_length,
    }
    left = np.ones(len(sentence), bool)
    self.left_out: dict[str, int] = {}
    for name, applies in reasons.items():
      self.left_out[name] = int((left & applies).sum())
      left &= ~applies
    if not left.any():
      raise ValueError(
        f"{self.corpus.directory}: none of the {len(left)} salient spans can "
        f"be masked (too long or of copied passages: {self.left_out}); raise "
        f"question_length={self.question_length}, reader_question_length="
        f"{self.reader_question_length} or answer_length={self.answer_length}."
      )
    self._drawable = np.flatnonzero(left)
    self._target = target[left]
    self._sentence, drawable = np.unique(sentence[left], return_counts=True)
    self._offsets = np.append(0, np.cumsum(drawable))
    self._width = int(copies[self._sentence].max())

  def _target_lengths(
    self, sentence: Int32[np.ndarray, " e"]
  ) -> Int32[np.ndarray, " e"]:
    """Tokens of the target if one span is masked: sentinel, span, end."""
    entities = self.spans.entities
    if self._shared:
      return entities[:, 1] - entities[:, 0] + 2
    lengths = np.empty(len(entities), np.int32)
    row, text = -1, ""
    for start in range(0, len(entities), _CHUNK):
      chunk = slice(start, start + _CHUNK)
      rows = self.spans.sentences[sentence[chunk], 0].tolist()
      names = []
      for r, (a, b) in zip(rows, entities[chunk, 2:4].tolist(), strict=True):
        if r != row:
          row, text = r, self.corpus.text(r)
        names.append(text[a:b])
      tokens = self.vocabulary.encode_batch(names)
      lengths[chunk] = [len(name) + 2 for name in tokens]
    return lengths

  def _groups(self, rows: Int[np.ndarray, " s"]) -> Int64[np.ndarray, " s"]:
    """The groups of copies that rows are in; -1 for none."""
    place = np.searchsorted(self._copies, rows)
    # One past the end means: above all copies.
    copies, groups = np.append(self._copies, -1), np.append(self._group, -1)
    return np.where(copies[place] == rows, groups[place], -1)

  def _copy_counts(
    self, rows: Int[np.ndarray, " s"]
  ) -> Int64[np.ndarray, " s"]:
    """How many rows have the text of each of these, itself included."""
    return np.append(np.diff(self.spans.copy_offsets), 1)[self._groups(rows)]

  def _excluded_rows(
    self, rows: Int[np.ndarray, " b"]
  ) -> Int32[np.ndarray, "b m"]:
    """Every row, then the others with its text, then -1."""
    own = np.full((len(rows), self._width), -1, np.int32)
    own[:, 0] = rows
    for i, group in enumerate(self._groups(rows)):
      if group >= 0:
        start, end = self.spans.copy_offsets[group : group + 2]
        copies = self.spans.copy_rows[start:end]
        own[i, 1 : len(copies)] = copies[copies != rows[i]]
    return own

  def __len__(self) -> int:
    return len(self._sentence)

  def batch(
    self,
    indices: Int[np.ndarray, " b"],
    rng: np.random.Generator,
    rows: slice,
  ) -> Batch:
    """The examples `indices`, of which this process holds `rows`.

    Every process makes the sentences of the whole batch, so that all agree on
    the padded lengths.
    """
    plans = [self._draw(int(i), rng) for i in indices]
    plans, questions, targets = self._fit(plans)
    mask = [self.corpus.tokenizer.mask_id] * self.spans_per_example
    queries = [_masked(self._pieces(plan), mask) for plan in plans]
    question_ids, question_lengths = pack_questions(
      queries[rows],
      bucket_length(_counts(queries) + 2, self.question_length),
      self.corpus.tokenizer,
    )
    pad = self.vocabulary.pad_id
    longest = bucket_length(_counts(questions), self.reader_question_length)
    reader_ids, reader_lengths = pad_tokens(questions[rows], longest, pad)
    answers = pad_tokens(targets[rows], self.answer_length, pad)
    local = self.spans.sentences[[sentence for sentence, _ in plans[rows]], 0]
    return {
      "question_ids": question_ids,
      "question_lengths": question_lengths,
      "reader_question_ids": reader_ids,
      "reader_question_lengths": reader_lengths,
      "answer_ids": answers[0],
      "answer_lengths": answers[1],
      "excluded_rows": self._excluded_rows(local),
      "gold_rows": np.full(len(local), -1, np.int32),
      "example_mask": np.ones(len(local), bool),
    }

  def _draw(self, index: int, rng: np.random.Generator) -> Plan:
    """Draws spans of a sentence, as many as are wanted and the target holds."""
    start, end = self._offsets[index : index + 2].tolist()
    chosen: list[int] = []
    room = self.answer_length - 1
    for j in (start + rng.permutation(end - start)).tolist():
      # Without its end, which is counted once.
      taken = int(self._target[j]) - 1
      if len(chosen) < self.spans_per_example and taken <= room:
        chosen.append(int(self._drawable[j]))
        room -= taken
    return int(self._sentence[index]), sorted(chosen)

  def _fit(
    self, plans: list[Plan]
  ) -> tuple[list[Plan], list[list[int]], list[list[int]]]:
    """Tokenises for the reader: plans, questions, targets.

    Questions in the corpus's word pieces are known to fit. One in other pieces
    that does not is cut, after all of its spans but one are taken back.
    """
    pairs = self._reader_tokens(plans)
    limit = self.reader_question_length
    long = [i for i, (tokens, _) in enumerate(pairs) if len(tokens) > limit]
    plans = list(plans)
    for i in long:
      plans[i] = plans[i][0], plans[i][1][:1]
    mark = self.vocabulary.sentinel_ids[0]
    again = self._reader_tokens([plans[i] for i in long])
    for i, (tokens, target) in zip(long, again, strict=True):
      start = min(tokens.index(mark) - limit // 2, len(tokens) - limit)
      start = max(start, 0)
      pairs[i] = tokens[start : start + limit], target
    return plans, [q for q, _ in pairs], [t for _, t in pairs]

  def _bounds(self, plan: Plan, unit: int) -> list[tuple[int, int]]:
    """What lies before, in and after the spans; unit 0: tokens, 1: characters.

    Parts of the sentence, perhaps empty, and spans by turns.
    """
    sentence, chosen = plan
    first, end = self.spans.sentences[sentence, 1 + 2 * unit : 3 + 2 * unit]
    spans = self.spans.entities[chosen, 2 * unit : 2 * unit + 2]
    return list(pairwise([int(first), *spans.reshape(-1).tolist(), int(end)]))

  def _pieces(self, plan: Plan) -> list[list[int]]:
    """The parts of `_bounds` in the corpus's word pieces."""
    row = self.spans.sentences[plan[0], 0]
    start, end = self.corpus.text_offsets[row : row + 2]
    tokens = self.corpus.text_tokens[start:end]
    return [tokens[a:b].tolist() for a, b in self._bounds(plan, 0)]

  def _reader_tokens(
    self, plans: Sequence[Plan]
  ) -> list[tuple[list[int], list[int]]]:
    """The reader's question and target for each plan."""
    if self._shared:
      pieces = [self._pieces(plan) for plan in plans]
    else:
      texts = [self._texts(plan) for plan in plans]
      encoded = iter(self.vocabulary.encode_batch([*chain(*texts)]))
      pieces = [[next(encoded) for _ in parts] for parts in texts]
    marks = self.vocabulary.sentinel_ids
    return [
      (_masked(p, marks), [*_target(p, marks), self.vocabulary.eos_id])
      for p in pieces
    ]

  def _texts(self, plan: Plan) -> list[str]:
    """The parts of `_bounds` as text."""
    text = self.corpus.text(int(self.spans.sentences[plan[0], 0]))
    return [text[a:b].strip() for a, b in self._bounds(plan, 1)]


def _check(corpus: Corpus, spans: Spans) -> None:
  for name, value in (
    ("corpus", corpus.fingerprint),
    ("tokenizer", corpus.tokenizer.fingerprint),
  ):
    if spans.manifest[name] != value:
      raise ValueError(
        f"the salient spans were made with the {name} "
        f"{spans.manifest[name][:12]}…, but {corpus.directory} has {value[:12]}"
        "…; prepare the spans of this corpus again."
      )


def _masked(pieces: list[list[int]], marks: Sequence[int]) -> list[int]:
  """A sentence with a mark in the place of each span."""
  masked = list(pieces[0])
  for mark, piece in zip(marks, pieces[2::2], strict=False):
    masked += [mark, *piece]
  return masked


def _target(pieces: list[list[int]], marks: Sequence[int]) -> list[int]:
  """Each span after its mark."""
  spans = zip(marks, pieces[1::2], strict=False)
  return [i for mark, piece in spans for i in (mark, *piece)]


def _counts(token_lists: Sequence[Sequence[int]]) -> Int[np.ndarray, " n"]:
  return np.array([len(tokens) for tokens in token_lists])
