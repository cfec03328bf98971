"""Run files: rankings for other tools and for later.

write_run("dev.trec", ranking, questions, corpus)
ranking = read_run("dev.trec", questions, corpus)
"""

import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO
from urllib.parse import quote, unquote

import numpy as np
from jaxtyping import Float, Int

from odqa_jax.data.corpus.corpus import DPR_PREFIX
from odqa_jax.data.corpus.passages import PassageTexts
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.raw.records import RawFile
from odqa_jax.runtime.files import replacing
from odqa_jax.text.answers import has_answer

TAG = "odqa_jax"
_ASCII_SPACE = re.compile(r"[ \t\n\r\f\v]+")
_LARGEST = float(np.finfo(np.float32).max)

# Place, question, passage, score.
RunLine = tuple[str, str, str, float]
# What tools call the id of a passage.
ID_KEYS = ("id", "passage_id", "psg_id", "docid", "_id")


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

  def cut(self, k: int | None) -> "Ranking":
    """The k best passages of every question; None: all."""
    return Ranking(self.question_ids, self.rows[:, :k], self.scores[:, :k])


def check_aligned(ranking: Ranking, questions: Sequence[Question]) -> None:
  """Raises ValueError unless the ranking is of these questions, in order."""
  if ranking.question_ids != tuple(q.id for q in questions):
    raise ValueError(
      f"a ranking of {len(ranking.question_ids)} questions does not belong to "
      f"these {len(questions)}, or not in this order; search for them again."
    )


def _escaped(name: str) -> str:
  """An id that holds white space, at which TREC lines are split, encoded."""
  if not re.search(r"\s", name):
    return name
  return re.sub(r"[\s%]", lambda m: quote(m[0], safe=""), name)


def written_id(corpus: PassageTexts, name: str) -> str:
  """A passage's id as it stands in a TREC file.

  Raises:
    ValueError: if it cannot be told from another one there.
  """
  written = _escaped(name)
  if written != name and corpus.find(written) is not None:
    raise ValueError(
      f"the passage {name!r} would be written as {written!r}, which is another "
      "passage's id; write a run that ends in .json."
    )
  return written


def find_written(corpus: PassageTexts, name: str) -> int | None:
  """Row of a passage that a TREC file names; None if the corpus lacks it.

  An id stands there as it is, percent signs included. Only one that is unknown
  and is what `write_run` makes of an id with white space is decoded.
  """
  row = corpus.find(name)
  if row is None and "%" in name and _escaped(unquote(name)) == name:
    return corpus.find(unquote(name))
  return row


def write_run(
  path: str | Path,
  ranking: Ranking,
  questions: Sequence[Question],
  corpus: PassageTexts,
) -> None:
  """Writes a TREC run, or DPR's JSON for a name that ends in `.json`.

  TREC lines are `qid Q0 docid rank score tag`; an id with white space is
  percent-encoded, any other stands as it is. trec_eval looks at scores and not
  at ranks, so an equal score is written one step of float32 lower than that
  before it: every tool keeps the order. The JSON is a list of `{id, question,
  answers, ctxs: [{id, title, text, score, has_answer}]}`, one question a line.

  Raises:
    ValueError: if the ranking is not of these questions in this order, or an
      id cannot be told from another in a TREC file.
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
  corpus: PassageTexts,
) -> None:
  del questions
  for i, question_id in enumerate(ranking.question_ids):
    score = np.float32(np.inf)
    for rank, row in ranked_rows(ranking, i):
      score = np.minimum(
        np.float32(ranking.scores[i, rank]), np.nextafter(score, -np.inf)
      )
      # Nine digits bring a float32 back as it was.
      file.write(
        f"{question_id} Q0 {written_id(corpus, corpus.id(row))} {rank + 1} "
        f"{score:.9g} {TAG}\n"
      )


def _write_json(
  file: TextIO,
  ranking: Ranking,
  questions: Sequence[Question],
  corpus: PassageTexts,
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
  path: str | Path, questions: Sequence[Question], corpus: PassageTexts
) -> Ranking:
  """Reads a TREC run or DPR's JSON, plain or compressed, told by the content.

  TREC lines may stand in any order and bear any rank: as trec_eval does it,
  the highest score comes first, and of those that are equal as float32 the last
  id by its bytes.
  JSON lists are taken in their order.

  Args:
    path: the file.
    questions: those of the search. A JSON record belongs to the question with
      its `id`, else, as in files of other tools, to the one with its text.
    corpus: what was searched.

  Returns:
    A row per question; what the file does not name has no passages, and
    passages that a question excludes are left out.

  Raises:
    ValueError: with file and line (or record), for a line that is no run line,
      a question or passage that is not known, a passage that comes twice, or a
      score that is no finite float32.
  """
  source = RawFile(path)
  array = source.first_byte() in (b"[", b"{")
  numbers = {q.id: i for i, q in enumerate(questions)}
  ranked: list[dict[int, _Found]] = [{} for _ in questions]
  without_prefix = 0
  for where, question_id, passage_id, score in (
    _json_lines(source, questions) if array else _trec_lines(source)
  ):
    if question_id not in numbers:
      raise ValueError(
        f"{where}: question {question_id!r} is not among the {len(questions)} "
        "questions; give the set that was searched."
      )
    if array:
      row = corpus.find(passage_id)
    else:
      row = find_written(corpus, passage_id)
    if row is None:
      raise ValueError(
        f"{where}: passage {passage_id!r} is not in the corpus (its ids look "
        f"like {corpus.id(0)!r}); give the corpus that was searched."
      )
    found = ranked[numbers[question_id]]
    if row in found:
      raise ValueError(
        f"{where}: passage {passage_id!r} comes twice for {question_id!r}; "
        "remove one of the lines."
      )
    found[row] = _Found(score, passage_id.encode(), row)
    without_prefix += passage_id == f"{DPR_PREFIX}{corpus.id(row)}"
  if without_prefix:
    print(
      f"{path}: {without_prefix} passages are named with {DPR_PREFIX!r} before "
      "the id that the corpus has.",
      file=sys.stderr,
    )
  lists = [list(found.values()) for found in ranked]
  if not array:
    lists = [sorted(found, reverse=True) for found in lists]
  return _ranking(
    [_allowed(f, q, corpus) for f, q in zip(lists, questions, strict=True)],
    questions,
  )


class _Found(NamedTuple):
  """A passage of a run file, in trec_eval's order when sorted."""

  score: float
  name: bytes
  row: int


def _allowed(
  found: Sequence[_Found], question: Question, corpus: PassageTexts
) -> dict[int, float]:
  """Row → score, without what the question excludes."""
  excluded = {corpus.find(name) for name in question.excluded_ids}
  return {f.row: f.score for f in found if f.row not in excluded}


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


def _trec_lines(source: RawFile) -> Iterator[RunLine]:
  for place, line in source.lines():
    fields = ascii_columns(line)
    if len(fields) != 6:
      raise ValueError(
        f"{place}: {line[:60]!r} is not a run line (`qid Q0 docid rank score "
        f"tag`): it has {len(fields)} columns; mend or remove it."
      )
    question_id, _, passage_id, _, score, _ = fields
    yield str(place), question_id, passage_id, _score(score, str(place))


def ascii_columns(line: str) -> list[str]:
  """What stands between ASCII's white space, at which trec_eval splits lines.

  Python splits at what Unicode calls white space, which ids may hold.
  """
  if line.isascii():
    return line.split()
  return [field for field in _ASCII_SPACE.split(line) if field]


def _score(value: Any, where: str) -> float:
  """A finite float32, which is what trec_eval compares.

  Raises:
    ValueError: if it is none.
  """
  try:
    # Python takes 1_000 for a number, and nobody else does.
    score = math.nan if "_" in str(value) else float(value)
  except (TypeError, ValueError):
    score = math.nan
  if not abs(score) <= _LARGEST:
    raise ValueError(
      f"{where}: the score {value!r:.60} is no number, or none that float32 "
      "holds; mend or remove it."
    )
  return float(np.float32(score))


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
        keys = [key for key in ID_KEYS if key in passage]
        passage_id = str(passage[keys[0] if keys else "id"])
        at, score = f"{where}, passage {rank}", passage.get("score")
        # Readers' inputs of other tools have no scores; the order counts.
        yield (
          at,
          name,
          passage_id,
          _score(-rank if score is None else score, at),
        )
    except (AttributeError, KeyError, TypeError) as error:
      raise ValueError(
        f"{where}: no record of a DPR run ({{question, ctxs: [{{id, score}}]}}"
        f"): {error!r}; mend or remove it."
      ) from error
