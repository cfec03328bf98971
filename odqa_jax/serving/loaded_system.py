"""A system for programs: questions in, answers as values out.

    system = load_system("system")
    (answer,) = system.answer(["who wrote emma"])
    answer.text, answer.confidence, answer.passages[0].text

It is what `odqa serve` keeps open and `odqa answer` asks.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from odqa_jax.data.corpus.passages import PassageTexts
from odqa_jax.data.prepare import open_corpus
from odqa_jax.data.questions.sets import Question
from odqa_jax.evaluation.measures import answer_measures
from odqa_jax.serving.answering import Answering
from odqa_jax.serving.opening import open_answering, open_writing
from odqa_jax.serving.passage_index import FoundPassage
from odqa_jax.serving.questions import as_questions, check_texts
from odqa_jax.serving.views import Record


@dataclasses.dataclass(frozen=True)
class SystemAnswer:
  """What a question is answered with.

  Attributes:
    question: its text.
    text: the answer; "" where there is none.
    confidence: from 0 to 1, see `views.py`; None without an answer.
    decided_by: "extractive_reader", "reader" or "fusion".
    passages: what was read, the first one first.
    marks: numbers, from 1, of those that hold the answer.
  """

  question: str
  text: str
  confidence: float | None
  decided_by: str
  passages: tuple[FoundPassage, ...]
  marks: tuple[int, ...]

  @staticmethod
  def of(record: Mapping[str, Any]) -> "SystemAnswer":
    """The value of a record of `views.py`."""
    return SystemAnswer(
      question=record["question"],
      text=record["answer"],
      confidence=record["confidence"],
      decided_by=record["decided_by"],
      passages=tuple(map(_passage, record["passages"])),
      marks=tuple(record["marks"]),
    )


def _passage(record: Record) -> FoundPassage:
  """With the score of the last component that ordered the passages, if any."""
  known = [0.0, *(x for x in record["scores"].values() if x is not None)]
  return FoundPassage(
    record["id"], record["title"], record["text"], float(known[-1])
  )


@dataclasses.dataclass(frozen=True)
class System:
  """What `load_system` gives.

  Attributes:
    answering: the system that is open; `stages` of it tells what is known
      before the answer.
  """

  answering: Answering

  @property
  def corpus(self) -> PassageTexts:
    """The evidence."""
    return self.answering.corpus

  def search(
    self, questions: Sequence[str], k: int = 10
  ) -> list[list[FoundPassage]]:
    """The k best passages of every question, best first.

    Raises:
      ValueError: for one text in place of a list, or a k that the corpus does
        not have.
    """
    check_texts(questions)
    if not 1 <= k <= len(self.corpus):
      raise ValueError(
        f"k={k}: the corpus has {len(self.corpus)} passages; choose from 1 to "
        "that number."
      )
    if not questions:
      return []
    records = self.answering.search(questions, k)
    return [[_passage(p) for p in record["passages"]] for record in records]

  def answer(self, questions: Sequence[str]) -> list[SystemAnswer]:
    """Answers every question.

    Raises:
      ValueError: for one text in place of a list, or a blank question.
    """
    check_texts(questions)
    for i, question in enumerate(questions, 1):
      if not question.strip():
        raise ValueError(f"question {i} is empty; ask something.")
    if not questions:
      return []
    return [*map(SystemAnswer.of, self.answering.answer(questions))]

  def measure(
    self, questions: str | Path | Sequence[Question]
  ) -> dict[str, Any]:
    """Exact match and F1 over the questions that have answers.

    Args:
      questions: a file, the folder of a prepared set, or they themselves.

    Returns:
      See `answer_measures`.
    """
    asked = as_questions(questions)
    return answer_measures(self.answer([q.question for q in asked]), asked)


def load_system(
  path: str | Path,
  *,
  corpus: str | Path | None = None,
  index: str | Path | None = None,
  backend: str = "exact",
  **options: Any,
) -> System:
  """Loads a system folder, a pack, or a reader with its corpus and index.

  >>> system = load_system("system", k=4)
  >>> (answer,) = system.answer(["what is known of the old castle"])
  >>> answer.question
  'what is known of the old castle'
  >>> len(answer.passages), 0 < answer.confidence <= 1
  (4, True)

  Args:
    path: from `odqa assemble` or `odqa pack`; or the workdir of a reader that
      writes, trained with its retriever, and then with the next two.
    corpus: the evidence, a folder of `odqa prepare`.
    index: of that retriever; made when absent.
    backend: of the search; see `open_index`.
    options: `k`, passages that are found; `read_k`, those of them that an
      extractive reader reads; `spans` that it compares.

  Raises:
    ValueError: naming the part that is missing, has changed or does not fit.
  """
  if (corpus is None) != (index is None):
    raise ValueError(
      "corpus and index go together: a reader needs both, a system folder or a "
      "pack has its own."
    )
  if corpus is None or index is None:
    return System(open_answering(path, backend=backend, **options))
  return System(
    open_writing(
      Path(path).name,
      str(path),
      open_corpus(corpus),
      str(index),
      backend=backend,
      **options,
    )
  )
