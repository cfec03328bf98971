"""Questions with passages in which their answers are marked.

examples = SpanExamples(found, PairVocabulary(tokenizer), passages=128,
                        question_length=64, length=256, title=True,
                        span_length=30, occurrences=16)
examples.batch(np.array([3]), np.random.default_rng(0), slice(0, 1))
"""

import sys
from collections import Counter
from collections.abc import Sequence

import numpy as np
import tokenizers
from jaxtyping import Int

from odqa_jax.data.examples.batch import Batch
from odqa_jax.data.examples.pair_inputs import PairInputs
from odqa_jax.data.examples.retrieved import RetrievedQuestions
from odqa_jax.data.questions.sets import Question
from odqa_jax.text.alignment import Span, answer_spans, token_span
from odqa_jax.text.pairs import Pair, PairVocabulary

# Questions whose passages are encoded at once when examples are filtered.
_CHUNK = 256


def token_spans(
  text: str,
  question: Question,
  pair: Pair,
  encoding: tokenizers.Encoding,
  *,
  longest: int,
  most: int,
) -> tuple[list[Span], Counter[str]]:
  """Places of a question's answers in an input.

  Args:
    text: of the passage.
    question: with its answers.
    pair: the input.
    encoding: of the text, as it was put into the pair.
    longest: tokens of the longest answer.
    most: places; the first are taken.

  Returns:
    First and last token of each, and how many are no places, by reason.
  """
  occurrences = answer_spans(text, question.answers, question.answer_type)
  starts, ends = zip(*encoding.offsets, strict=True)
  kept = pair.context_end - pair.context_start
  spans: dict[Span, None] = {}
  dropped: Counter[str] = Counter()
  for occurrence in occurrences:
    span = token_span(occurrence, starts, ends)
    if span is None:
      dropped["without tokens"] += 1
    elif span[1] >= kept:
      dropped["cut off"] += 1
    elif span[1] - span[0] >= longest:
      dropped[f"above {longest} tokens"] += 1
    elif len(spans) < most:
      first, last = (pair.context_start + place for place in span)
      spans[first, last] = None
    else:
      dropped[f"beyond {most} in a passage"] += 1
  return list(spans), dropped


class SpanExamples:
  """A question with its passages and all places of its answers in them.

  R2-D2's extractive reader: the gold passage first where one is known, then
  those of the run in their order. Every example to train on has an answer in
  its first passage, as a span of tokens that is read: where the gold one has
  none, or none is known, that is the first with one, as DPR's reader needs it.

  Args:
    found: questions with their runs.
    vocabulary: of the reader.
    passages: of each question, the gold one included.
    question_length: longest question in tokens.
    length: longest pair in tokens.
    title: whether titles are read.
    span_length: longest answer in tokens.
    occurrences: of answers in a passage, at most; the first are taken.
    training: as above. Otherwise the run's passages alone, and all questions
      that have any.
    strict: refuse what would be left out.

  Attributes:
    left_out: how many questions cannot be trained on, by reason.
    dropped: occurrences that are no spans, by reason, in the passages that were
      looked at until an answer was found.
    numbers: which of the questions are left.

  Raises:
    ValueError: if no question is left; or, with `strict`, for one that would
      be left out.
  """

  def __init__(
    self,
    found: RetrievedQuestions,
    vocabulary: PairVocabulary,
    *,
    passages: int,
    question_length: int,
    length: int,
    title: bool,
    span_length: int,
    occurrences: int,
    training: bool = True,
    strict: bool = False,
  ) -> None:
    self.found = found
    self.passages = passages
    self.span_length = span_length
    self.occurrences = occurrences
    self.training = training
    self.inputs = PairInputs(
      vocabulary, found.corpus, length=length, title=title
    )
    tokens = vocabulary.encode_batch([q.question for q in found.questions])
    self._tokens = [ids[:question_length] for ids in tokens]
    self.left_out = {
      "without a passage": 0,
      "without an answer": 0,
      "without an answer in any passage": 0,
      "with answers that are cut off or too long alone": 0,
    }
    self.dropped: Counter[str] = Counter()
    self._first: dict[int, int] = {}
    problems = self._problems()
    for i, problem in sorted(problems.items()):
      if strict:
        raise ValueError(
          f"question {found.questions[i].id} is {problem}, so an extractive "
          "reader cannot learn from it; mend it, or set config.data.strict="
          "False to leave it out."
        )
      self.left_out[problem] += 1
    self.numbers = [i for i in range(len(found)) if i not in problems]
    if not self.numbers:
      raise ValueError(
        f"config.data.run: none of {len(found)} questions can be read for "
        f"({self.left_out}); give a run of passages that hold answers, or "
        "raise config.data.pair_length or span_length."
      )
    if self.dropped:
      listed = ", ".join(f"{n} {name}" for name, n in self.dropped.items())
      print(f"answers in passages left out: {listed}", file=sys.stderr)

  def rows(self, i: int) -> list[int]:
    """Rows of question i, of all questions, as many as are read."""
    rows = self.found.candidates(i).tolist()
    gold = self.found.gold(i) if self.training else -1
    # The one of these with an answer last, so that it is first of all.
    for first in (gold, self._first.get(i, -1)):
      if first >= 0:
        rows = [first, *(row for row in rows if row != first)]
    return rows[: self.passages]

  def _problems(self) -> dict[int, str]:
    """Question → why it is left out."""
    none, silent, absent, lost = self.left_out
    problems: dict[int, str] = {}
    open_: dict[int, list[int]] = {}
    for i, question in enumerate(self.found.questions):
      rows = self.rows(i)
      if not rows:
        problems[i] = none
      elif self.training and not question.answers:
        problems[i] = silent
      elif self.training:
        open_[i] = [row for row in rows if self.found.answered(i, row)][::-1]
        if not open_[i]:
          problems[i] = absent
          del open_[i]
    # Round by round, the next passage of every question without a span yet.
    while open_:
      waiting = list(open_)
      for start in range(0, len(waiting), _CHUNK):
        numbers = waiting[start : start + _CHUNK]
        places = [(i, open_[i].pop()) for i in numbers]
        spans = self._first_spans(places)
        for (i, row), some in zip(places, spans, strict=True):
          if some:
            self._first[i] = row
            del open_[i]
          elif not open_[i]:
            problems[i] = lost
            del open_[i]
    return problems

  def _first_spans(self, places: Sequence[tuple[int, int]]) -> list[list[Span]]:
    """The spans in one passage of each question; counts what is dropped."""
    packed = self.inputs.pack(
      [self._tokens[i] for i, _ in places],
      [[row] for _, row in places],
      passages=1,
      passage_first=True,
    )
    spans = []
    for j, (i, row) in enumerate(places):
      found, dropped = self._spans(
        self.found.questions[i], row, packed.pairs[j][0], packed.texts[j][0]
      )
      self.dropped.update(dropped)
      spans.append(found)
    return spans

  def _spans(
    self,
    question: Question,
    row: int,
    pair: Pair,
    encoding: tokenizers.Encoding,
  ) -> tuple[list[Span], Counter[str]]:
    return token_spans(
      self.found.corpus.text(row),
      question,
      pair,
      encoding,
      longest=self.span_length,
      most=self.occurrences,
    )

  def __len__(self) -> int:
    return len(self.numbers)

  def batch(
    self,
    indices: Int[np.ndarray, " b"],
    rng: np.random.Generator,
    rows: slice,
  ) -> Batch:
    """The examples `indices`, of which this process holds `rows`."""
    del rng
    numbers = [self.numbers[i] for i in indices[rows].tolist()]
    chosen = [self.rows(i) for i in numbers]
    packed = self.inputs.pack(
      [self._tokens[i] for i in numbers],
      chosen,
      passages=self.passages,
      passage_first=True,
    )
    shape = (len(numbers), self.passages)
    places = np.zeros((2, *shape), np.int32)
    answers = np.full((2, *shape, self.occurrences), -1, np.int32)
    for a, i in enumerate(numbers):
      for b, pair in enumerate(packed.pairs[a]):
        places[:, a, b] = pair.context_start, pair.context_end
        row = chosen[a][b]
        if self.found.answered(i, row):
          question, text = self.found.questions[i], packed.texts[a][b]
          spans, _ = self._spans(question, row, pair, text)
          for c, span in enumerate(spans):
            answers[:, a, b, c] = span
    return packed.batch | {
      "context_starts": places[0],
      "context_ends": places[1],
      "answer_starts": answers[0],
      "answer_ends": answers[1],
    }
