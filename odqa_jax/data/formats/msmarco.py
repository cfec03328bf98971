"""MS MARCO's files of rows between tabs: queries, collection, judgements.

Checked against microsoft/msmarco (`Datasets.md`): queries are `qid, query`, the
collection is `pid, passage`, judgements are TREC's, all without a header and
without quotes. `queries.X.tsv` takes its positives from `qrels.X.tsv` beside
it; naming `qrels.X.tsv` means the judged ones of `queries.X.tsv`. Triples and
the top 1000 are lists of passages for training and reranking, not questions:
they are known, and refused.

DPR's questions with a list of answers have two columns as well. There the
second is a list, `['…']`, and the first a question; here the first is an id, in
one word with a digit, and the second has words and is no list.
"""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.formats.joined import joined_corpus
from odqa_jax.data.formats.judgements import (
  Judged,
  is_trec_judgements,
  judged_questions,
  read_judgements,
)
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.raw.formats import Beginning, Format
from odqa_jax.data.raw.records import Place, RawFile, Row

_EXAMINED = 64
# A word of a question, such as `Who?`, is none, nor a header.
_ID = re.compile(r"[\w.:/-]*\d[\w.:/-]*")
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


def _is_id(cell: str) -> bool:
  return _ID.fullmatch(cell) is not None


def _has_words(cell: str) -> bool:
  return any(c.isalpha() for c in cell)


def _kind(rows: list[Row]) -> str:
  """What the first rows of a file are, or "" if they are no MS MARCO."""
  if not rows:
    return ""
  first = rows[0]
  if is_trec_judgements(" ".join(first).split()):
    return "judgements"
  alike = [row for row in rows if len(row) == len(first)]
  if len(first) == 2:
    named = all(_is_id(name) for name, _ in alike)
    lists = first[1].lstrip(' "').startswith("[")
    words = any(_has_words(text) for _, text in alike)
    return "texts" * (named and words and not lists)
  if len(first) == 4 and all(r[0].isdigit() and _is_id(r[1]) for r in alike):
    # CuratedTREC's second column is a word.
    return "top 1000" * any(any(c.isdigit() for c in r[1]) for r in alike)
  if len(first) == 3:
    ids = all(cell.isdigit() for row in alike for cell in row)
    texts = all(" " in cell for row in alike for cell in row)
    return "triples" * (ids or texts)
  return ""


def _examined(file: RawFile) -> list[Row]:
  rows = []
  try:
    for _, row in itertools.islice(file.tab_rows(), _EXAMINED):
      rows.append(row)
  except ValueError:
    # The reader will say what is wrong, and where.
    pass
  return rows


def _is_msmarco(start: Beginning) -> str:
  if start.keys is not None:
    return ""
  return {
    "texts": "rows of an id and a text",
    "judgements": "rows of TREC judgements",
    "top 1000": "rows of qid, pid, query and passage",
    "triples": "rows of three passages or ids",
  }.get(_kind(_examined(start.file)), "")


def _beside(path: Path, own: str, other: str) -> Path | None:
  """The file of the same name but for one word, compressed or not."""
  name = path.name
  for suffix in _COMPRESSED:
    name = name.removesuffix(suffix)
  if own not in name:
    return None
  wanted = path.with_name(name.replace(own, other))
  candidates = [wanted, *(Path(f"{wanted}{s}") for s in _COMPRESSED)]
  return next((p for p in candidates if p.is_file()), None)


def _question(row: Row) -> Question:
  name, text = _two(row)
  return Question(name, text, ())


def passage(row: Row) -> Passage:
  """A pid and a passage; there are no titles."""
  name, text = _two(row)
  return Passage(name, "", text)


def _two(row: Row) -> Row:
  if len(row) != 2:
    raise ValueError(
      f"{len(row)} columns, not the 2 of an id and a text; check the tabs. "
      "Triples and the top 1000 of MS MARCO are not read: give queries.*.tsv "
      "as questions and collection.tsv as passages."
    )
  return row


def _questions(file: RawFile) -> Iterator[tuple[Place, Question]]:
  only = _kind(_examined(file)) == "judgements"
  judged: dict[str, Judged] = {}
  queries = file
  if only:
    beside = _beside(file.path, "qrels", "queries")
    if beside is None:
      raise ValueError(
        f"{file.path}: judgements need the queries beside them, in a file of "
        "the same name with 'queries' in place of 'qrels'."
      )
    judged, queries = read_judgements([file]), file.beside(beside)
  elif beside := _beside(file.path, "queries", "qrels"):
    judged = read_judgements([file.beside(beside)])
  yield from judged_questions(
    [queries], _question, judged, RawFile.tab_rows, only=only
  )


MSMARCO = Format(
  "msmarco",
  "MS MARCO's rows of an id and a text, without a header; or its judgements",
  _is_msmarco,
  questions=_questions,
  passages=joined_corpus(passage, RawFile.tab_rows),
)
