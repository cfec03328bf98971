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

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float64

from odqa_jax.data.corpus.passages import PassageTexts
from odqa_jax.data.exclusions import Exclusions
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.runs import (
  Ranking,
  check_aligned,
  ranked_rows,
  read_run,
)
from odqa_jax.evaluation.relevant import Relevant, relevant_passages
from odqa_jax.evaluation.statistics import recall_at, wilson_interval
from odqa_jax.runtime.report import text_table
from odqa_jax.text.answers import (
  exact_match,
  f1,
  has_answer,
  matches_regex,
)

CUTOFFS = (1, 5, 20, 100)
# Of relevant passages, beside the shares at cutoffs.
OF_GOLD = ("ndcg@10", "mrr@10", "map")
# A value for each question; NaN where the question does not count.
Values = dict[str, Float64[np.ndarray, " n"]]


class Measured(NamedTuple):
  """Figures, and the values of single questions that they are the means of.

  Attributes:
    figures: by measure, or by measure and cutoff.
    values: measure → value of every question, NaN where it does not count.
  """

  figures: dict[str, Any]
  values: Values


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
  exclude_self: bool = False,
  **options: Any,
) -> dict[str, Any]:
  """The figures of `measure_run`."""
  run = measure_run(
    path, questions, corpus, exclude_self=exclude_self, **options
  )
  return run.figures


def measure_run(
  path: str | Path,
  questions: Sequence[Question],
  corpus: PassageTexts,
  *,
  exclude_self: bool = False,
  **options: Any,
) -> Measured:
  """Measures a run file; a question that is not in it counts as a miss.

  Args:
    path: the file.
    questions: that were searched.
    corpus: where; or the passages that the file itself holds.
    exclude_self: whether passages that are the question itself are left out.
    options: of `measure_ranking`.

  Returns:
    What `measure_ranking` gives, and `missing`: how many questions the file
    does not name.

  Raises:
    ValueError: see `read_run` and `measure_ranking`.
  """
  ranking = read_run(path, questions, corpus)
  if exclude_self:
    left = Exclusions(questions, corpus, own=True).left
    scores, rows = left(ranking.scores, ranking.rows)
    ranking = Ranking(ranking.question_ids, rows, scores)
  figures, values = measure_ranking(ranking, questions, corpus, **options)
  missing = int((ranking.rows < 0).all(axis=1).sum())
  return Measured(figures | {"missing": missing}, values)


def evaluate_ranking(
  ranking: Ranking,
  questions: Sequence[Question],
  corpus: PassageTexts,
  **options: Any,
) -> dict[str, Any]:
  """The figures of `measure_ranking`."""
  return measure_ranking(ranking, questions, corpus, **options).figures


def measure_ranking(
  ranking: Ranking,
  questions: Sequence[Question],
  corpus: PassageTexts,
  *,
  qrels: str | Path | None = None,
  cutoffs: Sequence[int] | None = None,
  least_grade: int = 1,
) -> Measured:
  """All measures that the questions allow.

  Args:
    ranking: rows below 0 stand for no passage.
    questions: in the order of the ranking.
    corpus: the evidence.
    qrels: TREC qrels; without them the questions' `positive_ids` count.
    cutoffs: numbers of passages to look at; None: those of `CUTOFFS` that the
      ranking has.
    least_grade: of a relevant passage. nDCG takes grades as they are.

  Returns:
    `questions`, `k`; with answers `recall` ({"1": …}) and `recall_95`
    (Wilson intervals); with gold passages that the corpus has `gold`,
    `gold_recall`, `ndcg@10`, `mrr@10`, `map`. And the questions' values, by
    the names `recall@1`, `gold@1`, `ndcg@10` and so on.

  Raises:
    ValueError: if the ranking is not of these questions in this order, or too
      short for a cutoff; see also `read_qrels`.
  """
  check_aligned(ranking, questions)
  k = ranking.rows.shape[1]
  chosen = [c for c in CUTOFFS if c <= k] if cutoffs is None else [*cutoffs]
  if max(chosen, default=0) > k:
    raise ValueError(
      f"recall@{max(chosen)} cannot be measured on {k} passages a question; "
      "search for more with --k."
    )
  figures: dict[str, Any] = {"questions": len(questions), "k": k}
  values: Values = {}
  answered = [i for i, q in enumerate(questions) if q.answers]
  if answered and chosen:
    hits = answer_hits(ranking, questions, answered, corpus)
    shares = recall_at(hits, chosen)
    figures["recall"] = {str(c): shares[c] for c in chosen}
    figures["recall_95"] = {
      str(c): list(
        wilson_interval(round(shares[c] * len(answered)), len(answered))
      )
      for c in chosen
    }
    for c in chosen:
      values[f"recall@{c}"] = np.full(len(questions), np.nan)
      values[f"recall@{c}"][answered] = hits[:, c - 1]
  relevant = relevant_passages(questions, corpus, qrels)
  if relevant and chosen:
    gold = gold_values(ranking, relevant, corpus, chosen, least_grade)
    figures |= _gold_figures(gold, chosen)
    values |= gold
  return Measured(figures, values)


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
  values = answer_values(answers, questions)
  counted = sum(bool(question.answers) for question in questions)
  figures: dict[str, Any] = {"questions": counted, "normaliser": "nq"}
  for name, each in values.items():
    total, count = float(np.nansum(each)), int((~np.isnan(each)).sum())
    figures[name] = total / count
    figures[f"{name}_95"] = list(wilson_interval(round(total), count))
  return figures


def answer_values(
  answers: Sequence[Answered], questions: Sequence[Question]
) -> Values:
  """`em` and `f1` of every question; see `answer_measures`."""
  if len(answers) != len(questions):
    raise ValueError(
      f"{len(answers)} answers do not belong to {len(questions)} questions."
    )
  values = {name: np.full(len(questions), np.nan) for name in ("em", "f1")}
  for i, (answer, question) in enumerate(zip(answers, questions, strict=True)):
    references = question.answers
    if references and question.answer_type == "regex":
      values["em"][i] = matches_regex(answer.text, references)
    elif references:
      values["em"][i] = exact_match(answer.text, references)
      values["f1"][i] = f1(answer.text, references)
  return {n: each for n, each in values.items() if not np.isnan(each).all()}


def gold_values(
  ranking: Ranking,
  relevant: Relevant,
  corpus: PassageTexts,
  cutoffs: Sequence[int],
  least_grade: int = 1,
) -> Values:
  """`gold@k` (success), `gold_recall@k`, `ndcg@10`, `mrr@10` and `map`.

  Args:
    ranking: of all questions.
    relevant: grades; a question without any has NaN.
    corpus: the evidence.
    cutoffs: k of the shares.
    least_grade: see `measure_ranking`.
  """
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
  names = {Success(rel=least_grade) @ c: f"gold@{c}" for c in cutoffs}
  names |= {R(rel=least_grade) @ c: f"gold_recall@{c}" for c in cutoffs}
  last = nDCG @ 10, RR(rel=least_grade) @ 10, AP(rel=least_grade)
  names |= dict(zip(last, OF_GOLD, strict=True))
  places = {name: i for i, name in enumerate(ranking.question_ids)}
  values = {n: np.full(len(places), np.nan) for n in names.values()}
  for found in ir_measures.iter_calc([*names], qrels, run):
    values[names[found.measure]][places[found.query_id]] = found.value
  return values


def _gold_figures(values: Values, cutoffs: Sequence[int]) -> dict[str, Any]:
  """The means, by measure and cutoff."""
  means = {name: float(np.nanmean(each)) for name, each in values.items()}
  counted = int((~np.isnan(values[OF_GOLD[0]])).sum())
  figures: dict[str, Any] = {"gold_questions": counted}
  for name in ("gold", "gold_recall"):
    figures[name] = {str(c): means[f"{name}@{c}"] for c in cutoffs}
  return figures | {name: means[name] for name in OF_GOLD}


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
