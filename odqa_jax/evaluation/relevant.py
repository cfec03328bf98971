"""Which passages are relevant to a question: by itself, or by judges.

relevant = relevant_passages(questions, corpus, qrels="qrels.txt")
relevant["q1"]   # {"passage 7": 2}
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from odqa_jax.data.corpus.passages import PassageTexts
from odqa_jax.data.formats.judgements import read_judgements
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.raw.records import RawFile
from odqa_jax.data.runs import find_written

# Question → passage → grade.
Relevant = dict[str, dict[str, int]]


def relevant_passages(
  questions: Sequence[Question],
  corpus: PassageTexts,
  qrels: str | Path | None = None,
) -> Relevant:
  """The passages that count for each question.

  Args:
    questions: of one set.
    corpus: the evidence.
    qrels: see `read_qrels`; without them the questions' `positive_ids`, or
      nothing where the corpus has none of these.
  """
  if qrels is not None:
    return read_qrels(qrels, questions, corpus)
  relevant = {
    q.id: passages
    for q in questions
    if (passages := _counted(_named(q), q, corpus, _find))
  }
  # Gold passages of another corpus say nothing about this one.
  return relevant if _any_in(corpus, relevant) else {}


def _named(question: Question) -> dict[str, float]:
  """The grades of the passages that a question names."""
  return dict.fromkeys(question.positive_ids, 1.0)


def _find(corpus: PassageTexts, name: str) -> int | None:
  return corpus.find(name)


def _counted(
  grades: Mapping[str, float],
  question: Question,
  corpus: PassageTexts,
  find: Callable[[PassageTexts, str], int | None],
) -> dict[str, int]:
  """Grades by the corpus's own ids, without what the question excludes.

  Raises:
    ValueError: for a grade between two integers, which no measure defines.
  """
  excluded = {corpus.find(name) for name in question.excluded_ids} - {None}
  counted: dict[str, int] = {}
  for written, grade in grades.items():
    if grade != int(grade):
      raise ValueError(
        f"the passage {written!r} has the grade {grade:g} for the question "
        f"{question.id!r}; grades are integers: round it."
      )
    row = find(corpus, written)
    if row not in excluded and written not in question.excluded_ids:
      name = written if row is None else corpus.id(row)
      counted[name] = max(int(grade), counted.get(name, int(grade)))
  return counted


def _any_in(
  corpus: PassageTexts, relevant: Mapping[str, Mapping[str, int]]
) -> bool:
  return any(
    corpus.find(passage) is not None
    for passages in relevant.values()
    for passage in passages
  )


def read_qrels(
  path: str | Path, questions: Sequence[Question], corpus: PassageTexts
) -> dict[str, dict[str, int]]:
  """Question → passage → grade, of TREC's or BEIR's file of judgements.

  TREC's lines are `qid 0 docid grade`, BEIR's rows `query-id corpus-id score`
  under a header. Judgements of other questions are left out, and said on
  stderr; questions judged without a relevant passage count, as in ir-measures.
  Passages that a question excludes do not.

  Raises:
    ValueError: with file and line, for a line that is none and for two grades
      of one passage; or if no question or passage is known.
  """
  judged = read_judgements([RawFile(path)])
  graded = {name: judgement.grades for name, judgement in judged.items()}
  relevant = {
    q.id: passages
    for q in questions
    if (passages := _counted(graded.pop(q.id, {}), q, corpus, find_written))
  }
  others = sorted(graded)
  if not _any_in(corpus, relevant):
    raise ValueError(
      f"{path}: the corpus has none of the judged passages of these questions "
      f"(its ids look like {corpus.id(0)!r}; {len(others)} questions of the "
      f"file are not among the {len(questions)}); give the qrels of this set "
      "and corpus."
    )
  if others:
    print(
      f"{path}: {len(others)} questions are not among the {len(questions)} and "
      f"are left out, for example {others[:3]}.",
      file=sys.stderr,
    )
  return relevant
