"""BEIR's folders, and the Parquet of MTEB and NanoBEIR.

Checked against beir-cellar/beir (`beir/datasets/data_loader.py`: corpus.jsonl
of `{_id, title, text}`, queries.jsonl of `{_id, text}`, qrels/SPLIT.tsv with a
header) and the cards of mteb/*, zeta-alpha-ai/Nano* and
sentence-transformers/NanoBEIR-en: `corpus/`, `queries/` and `qrels/` with files
`SPLIT-00000-of-00001.parquet`; qrels of NanoBEIR have no score.

A question's positives are what its judgements call right:

* naming the queries takes the one split of judgements beside them, and asks
  which if there are more; a query that is not judged has no positives;
* naming the judgements takes the queries beside them, and of those the judged.

Titles are optional. Where the text is empty, as in some of BEIR's corpora, the
title is the text: BEIR puts one before the other.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.formats import fields
from odqa_jax.data.formats.joined import joined_corpus
from odqa_jax.data.formats.judgements import (
  is_judgements,
  judged_questions,
  read_judgements,
)
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.raw.formats import Beginning, Format, beginning
from odqa_jax.data.raw.records import Place, RawFile, Record

_DATA_FILE = re.compile(
  r"\.(jsonl|json|tsv|parquet)(\.(gz|bz2|xz|zst))?$", re.IGNORECASE
)
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")


def _split_of(path: Path) -> str:
  """`test` of test.tsv and of test-00000-of-00002.parquet."""
  return _SHARD.sub("", _DATA_FILE.sub("", path.name))


def _suffix_of(path: Path) -> str:
  """What tells two layouts of one split apart; "" if it is no data file."""
  found = _DATA_FILE.search(path.name)
  return found[0] if found else ""


def _shards_of(path: Path) -> list[Path]:
  """The files of one split, in order."""
  own = _split_of(path), _suffix_of(path)
  files = sorted(path.parent.iterdir())
  return [p for p in files if (_split_of(p), _suffix_of(p)) == own]


def _splits_beside(path: Path, own: str, other: str) -> dict[str, list[Path]]:
  """The files of the part `other` of a dataset, by split, from one of `own`.

  A part is a file OWN.jsonl or a folder OWN/; names such as `go-queries` keep
  what stands before.
  """
  path = path.absolute()
  folder, name = path.parent, _split_of(path)
  places = [(folder, name.replace(own, other) if own in name else other)]
  if folder.name == own or folder.name.endswith(f"-{own}"):
    places.append((folder.parent, folder.name.replace(own, other)))
  elif own == "qrels":
    # Hugging Face's default configuration keeps them in data/ or default/.
    places.append((folder.parent, other))
  splits: dict[str, list[Path]] = {}
  for root, wanted in places:
    folder = root / wanted
    inside = folder if folder.is_dir() else root
    for file in sorted(p for p in inside.iterdir() if _suffix_of(p)):
      if inside is folder or file.name.startswith(f"{wanted}."):
        files = splits.setdefault(_split_of(file), [file])
        if file != files[0] and _suffix_of(file) == _suffix_of(files[0]):
          files.append(file)
    if splits:
      break
  return splits


def _queries_of(path: Path) -> list[Path]:
  """The files of the queries that judgements are of."""
  splits = _splits_beside(path, "qrels", "queries")
  own = _split_of(path)
  if own not in splits and len(splits) != 1:
    found = f"the splits {sorted(splits)}" if splits else "none"
    raise ValueError(
      f"{path}: judgements need the queries beside them, one file "
      f"queries.jsonl or a folder queries/ beside qrels/; here is {found}."
    )
  return splits[own] if own in splits else next(iter(splits.values()))


def _judgements_of(path: Path) -> list[Path]:
  """The files that judge these queries; none where there are none."""
  splits = _splits_beside(path, "queries", "qrels")
  own = _split_of(path)
  if own in splits:
    return splits[own]
  if len(splits) > 1:
    first = next(iter(splits.values()))[0]
    raise ValueError(
      f"{path}: its queries are judged in the splits {sorted(splits)}; name "
      f"the file of one of them in its place, such as {first}."
    )
  return next(iter(splits.values()), [])


def _questions(file: RawFile) -> Iterator[tuple[Place, Question]]:
  only = is_judgements(beginning(file))
  if only:
    judged_in, queries = _shards_of(file.path), _queries_of(file.path)
  else:
    judged_in, queries = _judgements_of(file.path), [file.path]
  judged = read_judgements(file.beside(p) for p in judged_in)
  sources = [file if p == file.path else file.beside(p) for p in queries]
  yield from judged_questions(
    sources, _question, judged, RawFile.records, only=only
  )


def _question(record: Record) -> Question:
  if record.get("title") is not None:
    raise ValueError(
      "a record with a 'title' is a passage and no query; name the queries."
    )
  own = {"answers": ()} | fields.own_fields(record)
  return Question(
    fields.identifier(record.get("_id")), fields.text(record, "text"), **own
  )


def passage(record: Record) -> Passage:
  """_id, text; title where there is one."""
  name = fields.identifier(record.get("_id"))
  title = fields.optional_text(record, "title")
  text = fields.text(record, "text")
  if not text.strip():
    title, text = "", title
  return Passage(name, title, text)


def _is_beir(start: Beginning) -> str:
  if is_judgements(start):
    return f"{start.kind} with query-id and corpus-id"
  keys = start.keys or frozenset()
  return f"{start.kind} with _id and text" * ({"_id", "text"} <= keys)


BEIR = Format(
  "beir",
  "BEIR's corpus.jsonl, queries.jsonl or qrels/SPLIT.tsv, or MTEB's Parquet",
  _is_beir,
  questions=_questions,
  passages=joined_corpus(passage),
)
