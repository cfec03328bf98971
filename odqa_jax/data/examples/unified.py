"""Questions with passages to retrieve and to read, one of which answers.

examples = UnifiedExamples(found, PairVocabulary(tokenizer), passages=24,
                           candidates=200, question_length=64,
                           passage_length=256, length=350, title=True,
                           span_length=10, occurrences=10)
examples.batch(np.array([3]), np.random.default_rng(0), slice(0, 1))
"""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from odqa_jax.data.corpus.packing import pack_questions
from odqa_jax.data.examples.batch import Batch, bucket_length
from odqa_jax.data.examples.pair_inputs import Packed, PairInputs
from odqa_jax.data.examples.retrieved import RetrievedQuestions
from odqa_jax.data.examples.spans import token_spans
from odqa_jax.text.alignment import Span
from odqa_jax.text.pairs import PairVocabulary


class _Divided(NamedTuple):
  """Places of candidates in their run.

  Attributes:
    hits: of those that hold an answer.
    misses: of those that hold none.
  """

  hits: list[int]
  misses: list[int]


class UnifiedExamples:
  """A passage that holds an answer, and others of the run that hold none.

  Yang and Seo 2021, Sec. 2.2.3 and A.2: of the first 200 passages of a run, 24
  are drawn anew every epoch so that the first alone holds an answer. Here it
  holds one as a span of tokens that is read, or nothing could be learnt of it.

  Args:
    found: questions with their runs.
    vocabulary: of the network, which is the corpus's.
    passages: of each question, all of them.
    candidates: of a run, from which they are drawn.
    question_length: longest question in tokens.
    passage_length: longest passage alone.
    length: longest pair in tokens.
    title: whether titles are read.
    span_length: longest answer in tokens.
    occurrences: of answers in the passage, at most; the first are taken.
    passage_first: the order of the pairs.
    strict: refuse what would be left out.

  Attributes:
    left_out: how many questions cannot be trained on, by reason.
    numbers: which of the questions are left.

  Raises:
    ValueError: if the corpus has other tokens, or no question is left; or, with
      `strict`, for one that would be left out.
  """

  def __init__(
    self,
    found: RetrievedQuestions,
    vocabulary: PairVocabulary,
    *,
    passages: int,
    candidates: int,
    question_length: int,
    passage_length: int,
    length: int,
    title: bool,
    span_length: int,
    occurrences: int,
    passage_first: bool = True,
    strict: bool = False,
  ) -> None:
    _check_tokens(found, vocabulary)
    self.found = found
    self.passages = passages
    self.candidates = candidates
    self.question_length = question_length
    self.passage_length = passage_length
    self.title = title
    self.span_length = span_length
    self.occurrences = occurrences
    self.passage_first = passage_first
    self.inputs = PairInputs(
      vocabulary, found.corpus, length=length, title=title
    )
    tokens = vocabulary.encode_batch([q.question for q in found.questions])
    self._tokens = [ids[:question_length] for ids in tokens]
    self._passage_lengths = found.corpus.packed_lengths(
      passage_length, title=title
    )
    self._divided = functools.cache(self._divide)
    self.left_out = {
      "without an answer in the candidates": 0,
      "with answers that are cut off or too long alone": 0,
      "with too few candidates without an answer": 0,
    }
    self.numbers: list[int] = []
    for i in range(len(found)):
      self._add(i, strict)
    if not self.numbers:
      raise ValueError(
        f"config.data.run: none of {len(found)} questions has {passages} "
        f"passages of which one holds an answer ({self.left_out}); give a "
        "longer run, or lower config.data.passages."
      )

  def _divide(self, i: int) -> _Divided:
    """Sorts the candidates of question i by whether they hold an answer."""
    rows = self.found.candidates(i)[: self.candidates].tolist()
    held = [self.found.answered(i, row) for row in rows]
    return _Divided(
      [j for j, is_held in enumerate(held) if is_held],
      [j for j, is_held in enumerate(held) if not is_held],
    )

  def _add(self, i: int, strict: bool) -> None:
    """Keeps question i, or counts why not."""
    absent, lost, few = self.left_out
    places = self._divided(i)
    problem = ""
    if not places.hits:
      problem = absent
    elif len(places.misses) < self.passages - 1:
      problem = few
    elif self._usable(i, places.hits) is None:
      problem = lost
    if not problem:
      self.numbers.append(i)
    elif strict:
      raise ValueError(
        f"question {self.found.questions[i].id} is {problem}, so a unified "
        "reader cannot learn from it; mend it, or set config.data.strict=False "
        "to leave it out."
      )
    else:
      self.left_out[problem] += 1

  def _usable(self, i: int, hits: list[int]) -> int | None:
    """The first of some hits that has an answer as a span; None: none has."""
    for place in hits:
      row = int(self.found.candidates(i)[place])
      packed = self.packed([i], [[row]])
      if self._spans(i, row, packed, 0):
        return place
    return None

  def packed(self, numbers: list[int], rows: list[list[int]]) -> Packed:
    """Pairs of questions, by their numbers, with rows of the corpus."""
    return self.inputs.pack(
      [self._tokens[i] for i in numbers],
      rows,
      passages=max(map(len, rows)),
      passage_first=self.passage_first,
    )

  def _spans(self, i: int, row: int, packed: Packed, a: int) -> list[Span]:
    """Places of the answers in the first passage of the a-th of a batch."""
    spans, _ = token_spans(
      self.found.corpus.text(row),
      self.found.questions[i],
      packed.pairs[a][0],
      packed.texts[a][0],
      longest=self.span_length,
      most=self.occurrences,
    )
    return spans

  def __len__(self) -> int:
    return len(self.numbers)

  def draw(self, index: int, seed: int) -> Int[np.ndarray, " k"]:
    """Places in its run of the passages of an example; the answer's first."""
    number = self.numbers[index]
    rng = np.random.default_rng(seed)
    places = self._divided(number)
    hits = rng.permutation(places.hits).tolist()
    positive = self._usable(number, hits)
    assert positive is not None, "left out otherwise"
    misses = rng.permutation(places.misses)[: self.passages - 1]
    return np.array([positive, *misses], np.int64)

  def batch(
    self,
    indices: Int[np.ndarray, " b"],
    rng: np.random.Generator,
    rows: slice,
  ) -> Batch:
    """The examples `indices`, of which this process holds `rows`."""
    seeds = rng.integers(2**63, size=len(indices)).tolist()
    drawn = [
      self.draw(i, seed)
      for i, seed in zip(indices.tolist(), seeds, strict=True)
    ]
    numbers = [self.numbers[i] for i in indices.tolist()]
    chosen = np.array(
      [self.found.candidates(i)[p] for i, p in zip(numbers, drawn, strict=True)]
    )
    pads = (
      bucket_length(
        np.array([len(self._tokens[i]) + 2 for i in numbers]),
        self.question_length,
      ),
      bucket_length(self._passage_lengths[chosen], self.passage_length),
    )
    scores = [
      self.found.scores(i)[p]
      for i, p in zip(numbers[rows], drawn[rows], strict=True)
    ]
    return self._arrays(numbers[rows], chosen[rows], pads) | {
      "run_scores": np.array(scores, np.float32)
    }

  def _arrays(
    self,
    numbers: list[int],
    chosen: Int[np.ndarray, "b k"],
    pads: tuple[int, int],
  ) -> Batch:
    """What a network is given of passages, each for itself and with questions.

    Args:
      numbers: of the questions.
      chosen: rows of their passages.
      pads: lengths of questions and of passages alone.
    """
    corpus = self.found.corpus
    packed = self.packed(numbers, chosen.tolist())
    shape = chosen.shape
    contexts = np.array(
      [
        [(p.context_start, p.context_end) for p in some]
        for some in packed.pairs
      ],
      np.int32,
    )
    answers = np.full((2, *shape, self.occurrences), -1, np.int32)
    for a, i in enumerate(numbers):
      for c, span in enumerate(self._spans(i, int(chosen[a, 0]), packed, a)):
        answers[:, a, 0, c] = span
    questions, question_lengths = pack_questions(
      [self._tokens[i] for i in numbers], pads[0], corpus.tokenizer
    )
    ids, lengths = corpus.passage_inputs(
      chosen.reshape(-1), pads[1], title=self.title
    )
    return packed.batch | {
      "question_numbers": np.array(numbers, np.int32),
      "question_ids": questions,
      "question_lengths": question_lengths,
      "passage_ids": ids.reshape(*shape, -1),
      "passage_lengths": lengths.reshape(shape),
      "context_starts": contexts[..., 0],
      "context_ends": contexts[..., 1],
      "answer_starts": answers[0],
      "answer_ends": answers[1],
    }


def _check_tokens(
  found: RetrievedQuestions, vocabulary: PairVocabulary
) -> None:
  """Raises ValueError for a network of other tokens than the corpus's."""
  mine = found.corpus.tokenizer.fingerprint
  if vocabulary.fingerprint != mine:
    raise ValueError(
      f"{found.corpus.directory} was made with the tokenizer {mine[:12]}, and "
      f"the network reads ids of {vocabulary.fingerprint[:12]}; prepare the "
      "corpus with the tokenizer of config.init_from."
    )
