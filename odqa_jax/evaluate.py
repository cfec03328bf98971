"""Run files and what they are worth.

    write_run("dev.trec", ranking, questions, corpus)
    figures = evaluate_run("dev.trec", questions, corpus)

Two families of measures, never mixed:

- `recall@k`: the share of questions with an answer in one of the first k
  passages (DPR's rule), over the questions that have answers;
- `gold@k`, `ndcg@10`, `mrr@10`: about the passages that `positive_ids` or
  TREC qrels call relevant, computed by ir-measures.
"""

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote, unquote

import numpy as np
from jaxtyping import Bool, Float, Int

from odqa_jax.data.corpus import Corpus
from odqa_jax.data.question_sets import Question
from odqa_jax.metrics import has_answer, recall_at, wilson_interval
from odqa_jax.report import text_table

CUTOFFS = (1, 5, 20, 100)
TAG = "odqa_jax"


@dataclass(frozen=True)
class Ranking:
  """What a search found.

  Attributes:
    question_ids: one per row.
    rows: [n, k] corpus rows, best first.
    scores: [n, k].
  """

  question_ids: tuple[str, ...]
  rows: Int[np.ndarray, "n k"]
  scores: Float[np.ndarray, "n k"]


def _escape(identifier: str) -> str:
  """Percent-encodes what would break a TREC line: white space and `%`."""
  return re.sub(r"[\s%]", lambda m: quote(m[0], safe=""), identifier)


def write_run(
  path: str | Path,
  ranking: Ranking,
  questions: Sequence[Question],
  corpus: Corpus,
) -> None:
  """Writes a TREC run, or DPR's JSON for a name that ends in `.json`.

  TREC lines are `qid Q0 docid rank score tag`; white space in ids is
  percent-encoded. The JSON is a list of `{question, answers, ctxs: [{id,
  title, text, score, has_answer}]}`.
  """
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f"{path.name}.tmp")
  write = _write_json if path.suffix == ".json" else _write_trec
  with temporary.open("w", encoding="utf-8") as file:
    write(file, ranking, questions, corpus)
  os.replace(temporary, path)


def _write_trec(
  file: TextIO,
  ranking: Ranking,
  questions: Sequence[Question],
  corpus: Corpus,
) -> None:
  del questions
  for i, question_id in enumerate(ranking.question_ids):
    for rank, row in enumerate(ranking.rows[i].tolist()):
      file.write(
        f"{_escape(question_id)} Q0 {_escape(corpus.id(row))} {rank + 1} "
        f"{ranking.scores[i, rank]:.6f} {TAG}\n"
      )


def _write_json(
  file: TextIO,
  ranking: Ranking,
  questions: Sequence[Question],
  corpus: Corpus,
) -> None:
  for i, question in enumerate(questions):
    record = {
      "id": question.id,
      "question": question.question,
      "answers": list(question.answers),
      "ctxs": [
        {
          "id": corpus.id(row),
          "title": corpus.title(row),
          "text": corpus.text(row),
          "score": round(float(ranking.scores[i, rank]), 6),
          "has_answer": has_answer(
            corpus.text(row), question.answers, question.answer_type
          ),
        }
        for rank, row in enumerate(ranking.rows[i].tolist())
      ],
    }
    file.write("[\n" if i == 0 else ",\n")
    file.write(json.dumps(record, ensure_ascii=False))
  file.write("\n]\n" if questions else "[]\n")


def read_run(
  path: str | Path, corpus: Corpus
) -> dict[str, list[tuple[int, float]]]:
  """Question id → (corpus row, score) of its passages, best first.

  Raises:
    ValueError: with file and line, for a line that is no run line, a passage
      that the corpus lacks or that comes twice, or ranks out of order.
  """
  path = Path(path)
  lines = _json_lines if path.suffix == ".json" else _trec_lines
  run: dict[str, list[tuple[int, float]]] = {}
  for where, question_id, rank, passage_id, score in lines(path):
    found = run.setdefault(question_id, [])
    if rank != len(found) + 1:
      raise ValueError(
        f"{where}: rank {rank} of question {question_id!r} follows rank "
        f"{len(found)}; write each question's passages in order, from rank 1."
      )
    try:
      row = corpus.row_of(passage_id)
    except KeyError:
      raise ValueError(
        f"{where}: passage {passage_id!r} is not in the corpus; give the "
        "corpus that was searched."
      ) from None
    if any(row == other for other, _ in found):
      raise ValueError(
        f"{where}: passage {passage_id!r} comes twice for {question_id!r}."
      )
    found.append((row, score))
  return run


def _trec_lines(path: Path) -> Iterator[tuple[str, str, int, str, float]]:
  with path.open(encoding="utf-8") as file:
    for number, line in enumerate(file, 1):
      where = f"{path}:{number}"
      try:
        question_id, _, passage_id, rank, score, _ = line.split()
        yield (
          where,
          unquote(question_id),
          int(rank),
          unquote(passage_id),
          float(score),
        )
      except ValueError:
        raise ValueError(
          f"{where}: {line.strip()[:60]!r} is not a run line "
          "(`qid Q0 docid rank score tag`)."
        ) from None


def _json_lines(path: Path) -> Iterator[tuple[str, str, int, str, float]]:
  try:
    records = json.loads(path.read_text(encoding="utf-8"))
    for i, record in enumerate(records):
      for rank, passage in enumerate(record["ctxs"], 1):
        where = f"{path}: question {i}, passage {rank}"
        yield (
          where,
          str(record["id"]),
          rank,
          str(passage["id"]),
          float(passage["score"]),
        )
  except (json.JSONDecodeError, KeyError, TypeError) as error:
    raise ValueError(
      f"{path}: not a DPR run (a list of {{id, question, ctxs: [{{id, "
      f"score}}]}}): {error!r}."
    ) from error


def evaluate_run(
  path: str | Path,
  questions: Sequence[Question],
  corpus: Corpus,
  *,
  qrels: str | Path | None = None,
) -> dict[str, Any]:
  """Measures a run file; a question that is not in it counts as a miss.

  Raises:
    ValueError: with file and line, see `read_run`; or if the run names a
      question that is not asked.
  """
  run = read_run(path, corpus)
  unknown = sorted(run.keys() - {q.id for q in questions})
  if unknown:
    raise ValueError(
      f"{path}: question {unknown[0]!r} is not among the {len(questions)} "
      "questions; give the set that was searched."
    )
  k = max(map(len, run.values()), default=0)
  rows = np.full((len(questions), k), -1, np.int64)
  scores = np.full((len(questions), k), -np.inf, np.float32)
  for i, question in enumerate(questions):
    for rank, (row, score) in enumerate(run.get(question.id, [])):
      rows[i, rank], scores[i, rank] = row, score
  ranking = Ranking(tuple(q.id for q in questions), rows, scores)
  return evaluate_ranking(ranking, questions, corpus, qrels=qrels)


def evaluate_ranking(
  ranking: Ranking,
  questions: Sequence[Question],
  corpus: Corpus,
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
    (Wilson intervals); with gold passages `gold`, `ndcg@10`, `mrr@10`. Cutoffs
    above k are left out.
  """
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
  relevant = (
    read_qrels(qrels)
    if qrels
    else {q.id: set(q.positive_ids) for q in questions if q.positive_ids}
  )
  if relevant and cutoffs:
    figures |= gold_measures(ranking, relevant, corpus, cutoffs)
  return figures


def answer_hits(
  ranking: Ranking,
  questions: Sequence[Question],
  chosen: Sequence[int],
  corpus: Corpus,
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


def read_qrels(path: str | Path) -> dict[str, set[str]]:
  """TREC qrels (`qid 0 docid relevance`) → relevant passages per question.

  Raises:
    ValueError: with file and line.
  """
  relevant: dict[str, set[str]] = {}
  with Path(path).open(encoding="utf-8") as file:
    for number, row in enumerate(csv.reader(file, delimiter=" "), 1):
      fields = [f for cell in row for f in cell.split("\t") if f]
      if len(fields) != 4 or not re.fullmatch(r"-?\d+", fields[3]):
        raise ValueError(
          f"{path}:{number}: {' '.join(row)[:60]!r} is not "
          "`qid 0 docid relevance`."
        )
      if int(fields[3]) > 0:
        relevant.setdefault(unquote(fields[0]), set()).add(unquote(fields[2]))
  return relevant


def gold_measures(
  ranking: Ranking,
  relevant: Mapping[str, set[str]],
  corpus: Corpus,
  cutoffs: Sequence[int],
) -> dict[str, Any]:
  """`gold` (success at the cutoffs), `ndcg@10` and `mrr@10`."""
  import ir_measures
  from ir_measures import RR, Qrel, ScoredDoc, Success, nDCG

  qrels = [Qrel(q, d, 1) for q, docs in relevant.items() for d in docs]
  k = ranking.rows.shape[1]
  # Ranks as scores: trec_eval breaks ties of scores its own way.
  run = [
    ScoredDoc(question_id, corpus.id(row), float(k - rank))
    for i, question_id in enumerate(ranking.question_ids)
    if question_id in relevant
    for rank, row in enumerate(ranking.rows[i].tolist())
    if row >= 0
  ]
  success = {c: Success @ c for c in cutoffs}
  measures = [*success.values(), nDCG @ 10, RR @ 10]
  values = ir_measures.calc_aggregate(measures, qrels, run)
  return {
    "gold_questions": len(relevant),
    "gold": {str(c): values[m] for c, m in success.items()},
    "ndcg@10": values[nDCG @ 10],
    "mrr@10": values[RR @ 10],
  }


def recall_table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Recall and gold-passage figures in percent, one system a line."""
  cutoffs = [str(c) for c in CUTOFFS if str(c) in rows[0].get("recall", {})]
  gold = [str(c) for c in CUTOFFS if str(c) in rows[0].get("gold", {})]
  head = ["", *(f"recall@{c}" for c in cutoffs), *(f"gold@{c}" for c in gold)]
  cells = [
    [
      row["name"],
      *(f"{100 * row['recall'][c]:.1f}" for c in cutoffs),
      *(f"{100 * row['gold'][c]:.1f}" for c in gold),
    ]
    for row in rows
  ]
  return text_table([head, *cells], right=range(1, len(head)))
