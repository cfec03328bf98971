"""What a ranking is worth.

    figures = evaluate_run("dev.trec", questions, corpus)

Families of measures, never mixed:

- `recall@k`: the share of questions with an answer in one of the first k
  passages (DPR's rule), over the questions that have answers;
- `gold@k` (a relevant passage is among the first k), `gold_recall@k` (the
  share of them that is), `ndcg@10`, `mrr@10`, `map`: about the passages that
  `positive_ids` or qrels call relevant, computed by ir-measures;
- `em`, `f1`: of answers that a reader wrote.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool

from odqa_jax.data.corpus.passages import PassageTexts
from odqa_jax.data.exclusions import Exclusions
from odqa_jax.data.formats.judgements import read_judgements
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.raw.records import RawFile
from odqa_jax.data.runs import (
  Ranking,
  check_aligned,
  find_written,
  ranked_rows,
  read_run,
)
from odqa_jax.evaluation.statistics import recall_at, wilson_interval
from odqa_jax.runtime.report import text_table
from odqa_jax.text.answers import (
  exact_match,
  f1,
  has_answer,
  matches_regex,
)

CUTOFFS = (1, 5, 20, 100)


@runtime_checkable
class Answered(Protocol):
  """What a reader has answered."""

  @property
  def text(self) -> str:
    """The answer."""


class AnswerText(NamedTuple):
  """An answer of which nothing else is kept."""

  text: str


def evaluate_run(
  path: str | Path,
  questions: Sequence[Question],
  corpus: PassageTexts,
  *,
  qrels: str | Path | None = None,
  exclude_self: bool = False,
) -> dict[str, Any]:
  """Measures a run file; a question that is not in it counts as a miss.

  Args:
    path: the file.
    questions: that were searched.
    corpus: where; or the passages that the file itself holds.
    qrels: see `evaluate_ranking`.
    exclude_self: whether passages that are the question itself are left out.

  Returns:
    The figures of `evaluate_ranking`, and `missing`: how many questions the
    file does not name.

  Raises:
    ValueError: see `read_run` and `read_qrels`.
  """
  ranking = read_run(path, questions, corpus)
  if exclude_self:
    left = Exclusions(questions, corpus, own=True).left
    scores, rows = left(ranking.scores, ranking.rows)
    ranking = Ranking(ranking.question_ids, rows, scores)
  figures = evaluate_ranking(ranking, questions, corpus, qrels=qrels)
  missing = int((ranking.rows < 0).all(axis=1).sum())
  return figures | {"missing": missing}


def evaluate_ranking(
  ranking: Ranking,
  questions: Sequence[Question],
  corpus: PassageTexts,
  *,
  qrels: str | Path | None = None,
) -> dict[str, Any]:
  """All measures that the questions allow.

  Args:
    ranking: rows below 0 stand for no passage.
    questions: in the order of the ranking.
    corpus: the evidence.
    qrels: TREC qrels; without them the questions' `positive_ids` count.

  Returns:
    `questions`, `k`; with answers `recall` ({"1": …}) and `recall_95`
    (Wilson intervals); with gold passages that the corpus has `gold`,
    `gold_recall`, `ndcg@10`, `mrr@10`, `map`. Cutoffs above k are left out.

  Raises:
    ValueError: if the ranking is not of these questions in this order; see
      also `read_qrels`.
  """
  check_aligned(ranking, questions)
  k = ranking.rows.shape[1]
  cutoffs = [c for c in CUTOFFS if c <= k]
  figures: dict[str, Any] = {"questions": len(questions), "k": k}
  answered = [i for i, q in enumerate(questions) if q.answers]
  if answered and cutoffs:
    hits = answer_hits(ranking, questions, answered, corpus)
    shares = recall_at(hits, cutoffs)
    figures["recall"] = {str(c): shares[c] for c in cutoffs}
    figures["recall_95"] = {
      str(c): list(
        wilson_interval(round(shares[c] * len(answered)), len(answered))
      )
      for c in cutoffs
    }
  if qrels is not None:
    relevant = read_qrels(qrels, questions, corpus)
  else:
    relevant = {
      q.id: passages
      for q in questions
      if (passages := _counted(_named(q), q, corpus, _find))
    }
    # Gold passages of another corpus say nothing about this one.
    if not _any_in(corpus, relevant):
      relevant = {}
  if relevant and cutoffs:
    figures |= gold_measures(ranking, relevant, corpus, cutoffs)
  return figures


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


def answer_hits(
  ranking: Ranking,
  questions: Sequence[Question],
  chosen: Sequence[int],
  corpus: PassageTexts,
) -> Bool[np.ndarray, "n k"]:
  """Whether each passage of the chosen questions contains an answer.

  After a question's first hit the rest is not looked at: recall asks no more.
  """
  hits = np.zeros((len(chosen), ranking.rows.shape[1]), bool)
  for n, i in enumerate(chosen):
    question = questions[i]
    for rank, row in enumerate(ranking.rows[i].tolist()):
      if row >= 0 and has_answer(
        corpus.text(row), question.answers, question.answer_type
      ):
        hits[n, rank:] = True
        break
  return hits


def answer_measures(
  answers: Sequence[Answered], questions: Sequence[Question]
) -> dict[str, Any]:
  """Exact match and F1 over the questions that have references.

  Where the references are regular expressions, one must match from the start
  of the answer; such questions have no F1.

  Args:
    answers: from `answer_questions` or `answer_with_spans`.
    questions: in the same order.

  Returns:
    `questions` that were counted, `normaliser`, and with any of them `em`,
    `em_95` and, with string references, `f1`, `f1_95`. The intervals are
    Wilson's; that of F1 is on the wide side, since nothing between 0 and 1
    varies more than a share.

  Raises:
    ValueError: if there are not as many answers as questions.
  """
  if len(answers) != len(questions):
    raise ValueError(
      f"{len(answers)} answers do not belong to {len(questions)} questions."
    )
  hits, overlaps = [], []
  for answer, question in zip(answers, questions, strict=True):
    references = question.answers
    if references and question.answer_type == "regex":
      hits.append(matches_regex(answer.text, references))
    elif references:
      hits.append(exact_match(answer.text, references))
      overlaps.append(f1(answer.text, references))
  figures: dict[str, Any] = {"questions": len(hits), "normaliser": "nq"}
  for name, values in {"em": hits, "f1": overlaps}.items():
    if values:
      total, count = sum(values), len(values)
      figures[name] = total / count
      figures[f"{name}_95"] = list(wilson_interval(round(total), count))
  return figures


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


def gold_measures(
  ranking: Ranking,
  relevant: Mapping[str, Mapping[str, int]],
  corpus: PassageTexts,
  cutoffs: Sequence[int],
) -> dict[str, Any]:
  """`gold` (success), `gold_recall`, `ndcg@10`, `mrr@10` and `map`."""
  import ir_measures
  from ir_measures import AP, RR, Qrel, R, ScoredDoc, Success, nDCG

  qrels = [
    Qrel(question_id, passage_id, grade)
    for question_id, passages in relevant.items()
    for passage_id, grade in passages.items()
  ]
  k = ranking.rows.shape[1]
  # Ranks as scores: trec_eval breaks ties of scores its own way.
  run = [
    ScoredDoc(question_id, corpus.id(row), float(k - rank))
    for i, question_id in enumerate(ranking.question_ids)
    if question_id in relevant
    for rank, row in ranked_rows(ranking, i)
  ]
  success = {c: Success @ c for c in cutoffs}
  shares = {c: R @ c for c in cutoffs}
  measures = [*success.values(), *shares.values(), nDCG @ 10, RR @ 10, AP]
  values = ir_measures.calc_aggregate(measures, qrels, run)
  return {
    "gold_questions": len(relevant),
    "gold": {str(c): values[m] for c, m in success.items()},
    "gold_recall": {str(c): values[m] for c, m in shares.items()},
    "ndcg@10": values[nDCG @ 10],
    "mrr@10": values[RR @ 10],
    "map": values[AP],
  }


def recall_table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Recall, gold-passage and answer figures in percent, one system a line.

  Args:
    rows: figures of `evaluate_ranking` and `answer_measures`, each with a
      "name". What a row lacks is shown as a dash.
  """
  columns = [
    (measure, str(cutoff))
    for measure in ("recall", "gold")
    for cutoff in CUTOFFS
    if any(str(cutoff) in row.get(measure, {}) for row in rows)
  ]
  written = [m for m in ("em", "f1") if any(m in row for row in rows)]

  def cell(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"

  head = ["", *(f"{m}@{cutoff}" for m, cutoff in columns)]
  head += [m.upper() for m in written]
  cells = [
    [
      row["name"],
      *(cell(row.get(m, {}).get(cutoff)) for m, cutoff in columns),
      *(cell(row.get(m)) for m in written),
    ]
    for row in rows
  ]
  return text_table([head, *cells], right=range(1, len(head)))
