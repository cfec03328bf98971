"""Run files: rankings for other tools and for later.

write_run("dev.trec", ranking, questions, corpus)
ranking = read_run("dev.trec", questions, corpus)
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO
from urllib.parse import quote, unquote

import numpy as np
from jaxtyping import Float, Int

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.raw.records import RawFile
from odqa_jax.runtime.artifact import replacing
from odqa_jax.text.answers import has_answer

TAG = "odqa_jax"

RunLine = tuple[str, str, int, str, float]


@dataclass(frozen=True)
class Ranking:
  """The passages of every question that a search gave.

  Attributes:
    question_ids: n of them, in the order of the questions.
    rows: corpus rows, best first; -1 stands for no passage and comes last.
    scores: of the rows.
  """

  question_ids: tuple[str, ...]
  rows: Int[np.ndarray, "n k"]
  scores: Float[np.ndarray, "n k"]


def check_aligned(ranking: Ranking, questions: Sequence[Question]) -> None:
  """Raises ValueError unless the ranking is of these questions, in order."""
  if ranking.question_ids != tuple(q.id for q in questions):
    raise ValueError(
      f"a ranking of {len(ranking.question_ids)} questions does not belong to "
      f"these {len(questions)}, or not in this order; search for them again."
    )


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
  percent-encoded. The JSON is a list of `{id, question, answers, ctxs: [{id,
  title, text, score, has_answer}]}`, one question a line.

  Raises:
    ValueError: if the ranking is not of these questions in this order.
  """
  check_aligned(ranking, questions)
  write = _write_json if Path(path).suffix == ".json" else _write_trec
  with replacing(path) as temporary:
    with temporary.open("w", encoding="utf-8") as file:
      write(file, ranking, questions, corpus)


def ranked_rows(ranking: Ranking, i: int) -> Iterator[tuple[int, int]]:
  """(rank from 0, row) of the passages of question i."""
  for rank, row in enumerate(ranking.rows[i].tolist()):
    if row >= 0:
      yield rank, row


def _write_trec(
  file: TextIO,
  ranking: Ranking,
  questions: Sequence[Question],
  corpus: Corpus,
) -> None:
  del questions
  for i, question_id in enumerate(ranking.question_ids):
    for rank, row in ranked_rows(ranking, i):
      # Nine digits bring a float32 back as it was.
      file.write(
        f"{_escape(question_id)} Q0 {_escape(corpus.id(row))} {rank + 1} "
        f"{ranking.scores[i, rank]:.9g} {TAG}\n"
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
          "score": float(f"{ranking.scores[i, rank]:.9g}"),
          "has_answer": has_answer(
            corpus.text(row), question.answers, question.answer_type
          ),
        }
        for rank, row in ranked_rows(ranking, i)
      ],
    }
    file.write("[\n" if i == 0 else ",\n")
    file.write(json.dumps(record, ensure_ascii=False))
  file.write("\n]\n" if questions else "[]\n")


def read_run(
  path: str | Path, questions: Sequence[Question], corpus: Corpus
) -> Ranking:
  """Reads a TREC run or DPR's JSON, plain or gzipped, told by the content.

  Args:
    path: the file.
    questions: those of the search. A JSON record belongs to the question with
      its `id`, else, as in files of other tools, to the one with its text.
    corpus: what was searched.

  Returns:
    A row per question; what the file does not name has no passages.

  Raises:
    ValueError: with file and line (or record), for a line that is no run line,
      a question or passage that is not known, a passage that comes twice,
      ranks that do not count from 1, or scores that rise with the rank.
  """
  source = RawFile(path)
  array = source.first_byte() in (b"[", b"{")
  numbers = {q.id: i for i, q in enumerate(questions)}
  ranked: list[dict[int, float]] = [{} for _ in questions]
  last = [math.inf] * len(questions)
  for where, question_id, rank, passage_id, score in (
    _json_lines(source, questions) if array else _trec_lines(source)
  ):
    if question_id not in numbers:
      raise ValueError(
        f"{where}: question {question_id!r} is not among the {len(questions)} "
        "questions; give the set that was searched."
      )
    i = numbers[question_id]
    # Written so that a score that is no number fails as well.
    if rank != len(ranked[i]) + 1 or not score <= last[i]:
      raise ValueError(
        f"{where}: rank {rank} with score {score} of {question_id!r} follows "
        f"rank {len(ranked[i])} with score {last[i]}; write each question's "
        "passages from rank 1, the best score first."
      )
    row = find_row(corpus, passage_id)
    if row is None:
      raise ValueError(
        f"{where}: passage {passage_id!r} is not in the corpus (its ids look "
        f"like {corpus.id(0)!r}); give the corpus that was searched."
      )
    if row in ranked[i]:
      raise ValueError(
        f"{where}: passage {passage_id!r} comes twice for {question_id!r}; "
        "remove one of the lines."
      )
    ranked[i][row] = last[i] = score
  return _ranking(ranked, questions)


def _ranking(
  ranked: Sequence[Mapping[int, float]], questions: Sequence[Question]
) -> Ranking:
  """Row → score of every question, best first, as arrays."""
  k = max(map(len, ranked), default=0)
  rows = np.full((len(questions), k), -1, np.int64)
  scores = np.full((len(questions), k), -np.inf, np.float32)
  for i, passages in enumerate(ranked):
    rows[i, : len(passages)] = list(passages)
    scores[i, : len(passages)] = list(passages.values())
  return Ranking(tuple(q.id for q in questions), rows, scores)


def find_row(corpus: Corpus, passage_id: str) -> int | None:
  """Row of a passage, or None if the corpus lacks it."""
  try:
    return corpus.row_of(passage_id)
  except KeyError:
    return None


def _trec_lines(source: RawFile) -> Iterator[RunLine]:
  for place, line in source.lines():
    try:
      question_id, _, passage_id, rank, score, _ = line.split()
      fields = int(rank), unquote(passage_id), float(score)
    except ValueError:
      raise ValueError(
        f"{place}: {line[:60]!r} is not a run line "
        "(`qid Q0 docid rank score tag`); mend or remove it."
      ) from None
    yield str(place), unquote(question_id), *fields


def _json_lines(
  source: RawFile, questions: Sequence[Question]
) -> Iterator[RunLine]:
  known = {q.id for q in questions}
  # Reversed, so that `pop` gives equal questions out in their order.
  by_text: dict[str, list[str]] = {}
  for question in reversed(questions):
    by_text.setdefault(question.question, []).append(question.id)
  for where, record in source.json_records():
    try:
      name = str(record.get("id", ""))
      if name not in known:
        same = by_text.get(record["question"])
        name = same.pop() if same else record["question"]
      for rank, passage in enumerate(record["ctxs"], 1):
        passage_id, score = str(passage["id"]), float(passage["score"])
        yield f"{where}, passage {rank}", name, rank, passage_id, score
    except (KeyError, TypeError, ValueError) as error:
      raise ValueError(
        f"{where}: no record of a DPR run ({{question, ctxs: [{{id, score}}]}}"
        f"): {error!r}; mend or remove it."
      ) from error
