"""What each target writes, and what of it `odqa prepare` reads back.

A target has a function `(Content, folder) -> counts`. `lost` and
`lost_of_passages` say field by field what is not the same once the files are
prepared again, and how they are named for that; every other field of `Question`
and `Passage` is.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from odqa_jax.data.convert.content import Content
from odqa_jax.data.convert.text import (
  check_new,
  json_line,
  own_fields,
  write_lines,
  write_rows,
)
from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.formats.flashrag import split_contents
from odqa_jax.data.questions.sets import (
  FEATURES,
  SPLIT,
  Question,
  question_record,
)
from odqa_jax.data.raw.tfds_folder import TEXT, write_dataset
from odqa_jax.data.runs import read_run, write_run, written_id

Counts = dict[str, int]

PASSAGE_FEATURES = {"id": TEXT, "title": TEXT, "text": TEXT}
PAIR_FEATURES = {
  "id": TEXT,
  "question": TEXT,
  "answers": [TEXT],
  "positives": [PASSAGE_FEATURES],
  "negatives": [PASSAGE_FEATURES],
}


@dataclasses.dataclass(frozen=True)
class Target:
  """A format that is written.

  Attributes:
    about: the files, for people.
    write: writes them into an empty folder; returns what is in each.
    lost: field → how it differs once the files are prepared again.
    corpus: the file to prepare as the corpus; "" if there is none.
    questions: that of a set, with {name}.
    run: that of a run; "" if there is none.
    lost_of_passages: as `lost`, for the fields of `Passage`.
  """

  about: str
  write: Callable[[Content, Path], Counts]
  lost: Mapping[str, str]
  corpus: str = ""
  questions: str = ""
  run: str = ""
  lost_of_passages: Mapping[str, str] = dataclasses.field(default_factory=dict)


# ---- BEIR ----


def write_beir(content: Content, folder: Path) -> Counts:
  """corpus.jsonl, queries.jsonl of all sets, and qrels/NAME.tsv of each.

  Of several sets one is read back by its qrels: the questions with positives.
  What BEIR has no field for stands in a query's `metadata`.

  Raises:
    ValueError: if two sets use one id: they share a file.
  """
  counts = {
    "corpus.jsonl": write_lines(
      folder / "corpus.jsonl",
      (
        json_line({"_id": p.id, "title": p.title, "text": p.text})
        for p in content.passages()
      ),
    ),
    "queries.jsonl": write_lines(
      folder / "queries.jsonl", map(json_line, _beir_queries(content))
    ),
  }
  for name, questions in content.sets.items():
    judgements = [
      (q.id, passage, 1) for q in questions for passage in q.positive_ids
    ]
    if judgements:
      head = ("query-id", "corpus-id", "score")
      file = f"qrels/{name}.tsv"
      counts[file] = write_rows(folder / file, [head, *judgements]) - 1
  return counts


def _beir_queries(content: Content) -> Iterator[dict[str, Any]]:
  owners: dict[str, str] = {}
  for name, questions in content.sets.items():
    for q in questions:
      if owners.setdefault(q.id, name) != name:
        raise ValueError(
          f"the sets {owners[q.id]!r} and {name!r} both have a question "
          f"{q.id!r}, and BEIR keeps all queries in one file; convert them "
          "into folders of their own."
        )
      fields = own_fields(q, "answers", "negative_ids", "excluded_ids")
      yield {"_id": q.id, "text": q.question, **fields}


# ---- FlashRAG ----


def write_flashrag(content: Content, folder: Path) -> Counts:
  """corpus.jsonl with `contents`, and NAME.jsonl with `golden_answers`."""
  counts = {
    "corpus.jsonl": write_lines(
      folder / "corpus.jsonl", map(_flashrag_passage, content.passages())
    )
  }
  for name, questions in content.sets.items():
    counts[f"{name}.jsonl"] = write_lines(
      folder / f"{name}.jsonl", map(_flashrag_question, questions)
    )
  return counts


def _flashrag_passage(passage: Passage) -> str:
  """Its title in quotes on the first line, as in wiki18_100w."""
  record = {"id": passage.id, "contents": f'"{passage.title}"\n{passage.text}'}
  if split_contents(record["contents"]) != (passage.title, passage.text):
    # A title of two lines, or with space around it.
    record |= {"title": passage.title, "text": passage.text}
  return json_line(record)


def _flashrag_question(question: Question) -> str:
  fields = own_fields(question, "positive_ids", "negative_ids", "excluded_ids")
  return json_line(
    {
      "id": question.id,
      "question": question.question,
      "golden_answers": list(question.answers),
      **fields,
    }
  )


# ---- DPR ----


def write_dpr(content: Content, folder: Path) -> Counts:
  """psgs.tsv; NAME.json with contexts, NAME.qas.csv; run.json of a run."""
  head = ("id", "text", "title")
  rows = (
    (p.id, _dpr_cell(p.text), _dpr_cell(p.title)) for p in content.passages()
  )
  counts = {"psgs.tsv": write_rows(folder / "psgs.tsv", _after(head, rows)) - 1}
  for name, questions in content.sets.items():
    counts[f"{name}.json"] = _write_array(
      folder / f"{name}.json", _dpr_records(content, name)
    )
    counts[f"{name}.qas.csv"] = write_rows(
      folder / f"{name}.qas.csv",
      (
        (q.question, json.dumps(q.answers, ensure_ascii=False))
        for q in questions
      ),
    )
  return counts | _write_run(content, folder / "run.json")


def _dpr_cell(text: str) -> str:
  """Without tabs where there are lines, of which each could be a row."""
  return text.replace("\t", " ") if "\n" in text else text


def _after(head: Any, rows: Iterator[Any]) -> Iterator[Any]:
  yield head
  yield from rows


def _write_array(path: Path, records: Iterator[Any]) -> int:
  """A JSON array, one item a line."""

  def lines() -> Iterator[str]:
    start = "["
    for record in records:
      yield f"{start}\n{json_line(record).rstrip()}"
      start = ","
    yield "[\n]\n" if start == "[" else "\n]\n"

  return write_lines(path, lines()) - 1


def _dpr_records(content: Content, name: str) -> Iterator[dict[str, Any]]:
  def context(row: int) -> dict[str, Any]:
    p = content.passage(row)
    scores = {"score": 0.0, "title_score": 0}
    return {"title": p.title, "text": p.text, **scores, "passage_id": p.id}

  for question, positives, negatives in content.contexts(name):
    yield {
      "dataset": name,
      "id": question.id,
      "question": question.question,
      "answers": list(question.answers),
      "positive_ctxs": [context(row) for row in positives],
      "negative_ctxs": [],
      # One that is a positive too would be learned as wrong.
      "hard_negative_ctxs": [
        context(row) for row in negatives if row not in positives
      ],
    }


def _write_run(content: Content, path: Path) -> Counts:
  """The run, where there is one; returns how many questions it has."""
  if content.run is None:
    return {}
  (questions,) = map(list, content.sets.values())
  check_new(path)
  ranking = read_run(content.run, questions, content.corpus)
  write_run(path, ranking, questions, content.corpus)
  return {path.name: int((ranking.rows >= 0).any(axis=1).sum())}


# ---- TREC ----


def write_trec(content: Content, folder: Path) -> Counts:
  """queries.NAME.tsv, qrels.NAME.tsv, and run.trec of a run.

  Where ids have no digits `odqa prepare` must be told `--format msmarco`. The
  names are MS MARCO's, whose files these are: with those, the judgements
  of queries are found beside them.
  """
  counts = {}
  for name, questions in content.sets.items():
    queries, qrels = f"queries.{name}.tsv", f"qrels.{name}.tsv"
    counts[queries] = write_lines(
      folder / queries,
      (f"{q.id}\t{' '.join(q.question.split())}\n" for q in questions),
    )
    counts[qrels] = write_lines(
      folder / qrels,
      (
        f"{q.id} 0 {written_id(content.corpus, passage)} 1\n"
        for q in questions
        for passage in q.positive_ids
      ),
    )
  return counts | _write_run(content, folder / "run.trec")


# ---- TFDS ----


def write_tfds(content: Content, folder: Path) -> Counts:
  """corpus/, questions/NAME/ and, where there are pairs, pairs/NAME/."""
  counts = {"corpus": len(content.corpus)}
  rows: Iterator[Any] = map(dataclasses.asdict, content.passages())
  _dataset(folder / "corpus", "corpus", "passages", PASSAGE_FEATURES, rows)
  for name, questions in content.sets.items():
    counts[f"questions/{name}"] = len(questions)
    rows = map(question_record, questions)
    _dataset(folder / "questions" / name, name, SPLIT, FEATURES, rows)
  for name, pairs in content.pairs.items():
    counts[f"pairs/{name}"] = len(pairs)
    rows = _pair_records(content, name)
    _dataset(folder / "pairs" / name, name, "pairs", PAIR_FEATURES, rows)
  return counts


def _dataset(folder: Path, *rest: Any) -> None:
  folder.mkdir(parents=True)
  write_dataset(folder, *rest)


def _pair_records(content: Content, name: str) -> Iterator[dict[str, Any]]:
  def passages(rows: list[int]) -> list[dict[str, str]]:
    return [dataclasses.asdict(content.passage(row)) for row in rows]

  for question, positives, negatives in content.contexts(name):
    if positives:
      yield {
        "id": question.id,
        "question": question.question,
        "answers": list(question.answers),
        "positives": passages(positives),
        "negatives": passages(negatives),
      }


_NO_PLACE = "not written: the format has no place for it"

TARGETS = {
  "beir": Target(
    "corpus.jsonl, queries.jsonl, qrels/NAME.tsv",
    write_beir,
    {},
    "corpus.jsonl",
    "queries.jsonl",
  ),
  "flashrag": Target(
    "corpus.jsonl with contents, NAME.jsonl with golden_answers",
    write_flashrag,
    {},
    "corpus.jsonl",
    "{name}.jsonl",
  ),
  "dpr": Target(
    "psgs.tsv, NAME.json with contexts, NAME.qas.csv, run.json",
    write_dpr,
    {
      "answer_type": "string; patterns must be asked for when read",
      "excluded_ids": _NO_PLACE,
      "negative_ids": "those that are positives too are left out",
    },
    "psgs.tsv",
    "{name}.json",
    "run.json",
    {
      "title": "a tab is a space in a title of several lines",
      "text": "a tab is a space in a text of several lines",
    },
  ),
  "trec": Target(
    "queries.NAME.tsv, qrels.NAME.tsv, run.trec",
    write_trec,
    {
      "question": "white space inside it is one space",
      "answers": _NO_PLACE,
      "answer_type": _NO_PLACE,
      "positive_ids": "ids with white space are percent-encoded, as in runs",
      "negative_ids": _NO_PLACE,
      "excluded_ids": _NO_PLACE,
    },
    questions="queries.{name}.tsv",
    run="run.trec",
  ),
  "tfds": Target(
    "corpus/, questions/NAME/, pairs/NAME/, read without TensorFlow",
    write_tfds,
    {},
    "tfds:corpus",
    "tfds:questions/{name}",
  ),
}
