"""Questions with passages to be ranked: the gold one, then negatives.

examples = RerankingExamples(found, PairVocabulary(tokenizer), passages=24,
                             question_length=64, length=256, title=True)
examples.batch(np.array([0, 7]), np.random.default_rng(0), slice(0, 2))
"""

import numpy as np
from jaxtyping import Int

from odqa_jax.data.examples.batch import Batch
from odqa_jax.data.examples.pair_inputs import PairInputs
from odqa_jax.data.examples.retrieved import RetrievedQuestions
from odqa_jax.text.pairs import PairVocabulary


class RerankingExamples:
  """A question with its gold passage and negatives, or with what was found.

  R2-D2 trains its reranker on the gold passage, or where none is known the
  first that holds an answer, and on 23 others of the run. One that holds an
  answer is never a negative. The negatives are drawn anew every epoch.

  Args:
    found: questions with their runs.
    vocabulary: of the reranker.
    passages: of each question, the gold one included.
    question_length: longest question in tokens.
    length: longest pair in tokens.
    title: whether titles are read.
    training: the gold passage comes first, found or not. Otherwise the run's
      best passages in their order, and no other.
    strict: refuse what would be left out.

  Attributes:
    left_out: how many questions cannot be trained on, by reason.
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
    training: bool = True,
    strict: bool = False,
  ) -> None:
    self.found = found
    self.passages = passages
    self.training = training
    self.inputs = PairInputs(
      vocabulary, found.corpus, length=length, title=title
    )
    self.left_out = {
      "without a gold passage or one with an answer": 0,
      "without another passage in the run that holds no answer": 0,
    }
    self.numbers: list[int] = []
    self._positives: list[int] = []
    for i in range(len(found)):
      self._add(i, strict)
    if not self.numbers:
      raise ValueError(
        f"config.data.run: none of {len(found)} questions can be ranked for "
        f"({self.left_out}); give the gold passages with the questions, or a "
        "longer run."
      )
    tokens = vocabulary.encode_batch(
      [found.questions[i].question for i in self.numbers]
    )
    self._tokens = [ids[:question_length] for ids in tokens]

  def _add(self, i: int, strict: bool) -> None:
    """Keeps question i, or counts why not."""
    no_gold, no_others = self.left_out
    positive, problem = -1, ""
    if self.training:
      positive = self.found.positive(i)
      problem = no_gold if positive < 0 else ""
    if not problem and not self._has_others(i, positive):
      problem = no_others
    if not problem:
      self.numbers.append(i)
      self._positives.append(positive)
    elif strict:
      raise ValueError(
        f"question {self.found.questions[i].id} is {problem}, so a reranker "
        "cannot learn from it; mend it, or set config.data.strict=False to "
        "leave it out."
      )
    else:
      self.left_out[problem] += 1

  def __len__(self) -> int:
    return len(self.numbers)

  def batch(
    self,
    indices: Int[np.ndarray, " b"],
    rng: np.random.Generator,
    rows: slice,
  ) -> Batch:
    """The examples `indices`, of which this process holds `rows`."""
    seeds = rng.integers(2**63, size=len(indices))[rows]
    local = indices[rows].tolist()
    chosen = [
      self._rows(i, int(seed)) for i, seed in zip(local, seeds, strict=True)
    ]
    questions = [self._tokens[i] for i in local]
    return self.inputs.pack(
      questions, chosen, passages=self.passages, passage_first=False
    ).batch

  def _has_others(self, number: int, positive: int) -> bool:
    """Whether the run of a question has what may stand against the positive."""
    rows = self.found.candidates(number).tolist()
    if not self.training:
      return bool(rows)
    known = {positive, *self.found.golds(number)}
    return any(
      row not in known and not self.found.answered(number, row) for row in rows
    )

  def _rows(self, index: int, seed: int) -> list[int]:
    """Rows of an example: the positive, then negatives."""
    number = self.numbers[index]
    candidates = self.found.candidates(number)
    if not self.training:
      return candidates[: self.passages].tolist()
    positive = self._positives[index]
    rows = [positive]
    known = {positive, *self.found.golds(number)}
    for row in np.random.default_rng(seed).permutation(candidates).tolist():
      if len(rows) == self.passages:
        break
      if row not in known and not self.found.answered(number, row):
        rows.append(row)
    return rows
