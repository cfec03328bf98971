"""Question datasets: one reader per format in the table `DATASETS`.

    read_questions("NQ-open.dev.jsonl.gz")            # format from content
    read_questions("train.json", format="squad")      # or forced
    read_questions("vital_articles:dev")              # packaged, by split

To add a dataset: a function from one record to a `Question` and a row in
`DATASETS`; a row in `PASSAGES` if the file also holds passages. Wrong input
raises ValueError with FILE:LINE (in arrays FILE:[POSITION]) and the remedy.
"""

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.embedded.sets import EMBEDDED
from odqa_jax.data.questions import formats as formats
from odqa_jax.data.questions.sets import Question, QuestionSet, write_questions
from odqa_jax.data.records import (
  Record,
  Row,
  csv_rows,
  first_byte,
  json_records,
  stream_array,
  tab_rows,
  top_keys,
)

__all__ = [
  "DATASETS",
  "PASSAGES",
  "Question",
  "QuestionSet",
  "detect_format",
  "read_dpr_passages",
  "read_questions",
  "write_questions",
]

Reader = Callable[[str | Path], Iterator[Question]]
PassageReader = Callable[[str | Path], Iterator[Passage]]

_EXAMINED = 64
# Constructs that answers in plain words do not have. A third of CuratedTREC's
# patterns have one; of 12,000 answers of NQ and TriviaQA not one has.
_REGEX_SIGN = re.compile(r"\\[sdwbSDWB.]|\.\*|[)\]]\?|\([^()|]*\|[^()]*\)")
_REGEX_SHARE = 0.2


def _squad_paragraphs(
  path: str | Path,
) -> Iterator[tuple[str, str, str, Record]]:
  """(place, passage id, title, paragraph) of a SQuAD file."""
  for at, article in stream_array(path, "data"):
    title = _member(at, article, "title", str)
    for i, paragraph in enumerate(_member(at, article, "paragraphs", list)):
      yield f"{at}.paragraphs[{i}]", f"{title}#{i}", title, paragraph


def _squad_records(path: str | Path) -> Iterator[tuple[str, Record]]:
  for at, name, title, paragraph in _squad_paragraphs(path):
    for i, question in enumerate(_member(at, paragraph, "qas", list)):
      where = f"{at}.qas[{i}]"
      answers = _member(where, question, "answers", list)
      yield (
        where,
        {
          "id": question.get("id"),
          "title": title,
          "paragraph": name.rpartition("#")[2],
          "question": question.get("question"),
          "answers": [_member(where, a, "text", str) for a in answers],
        },
      )


def _member(where: str, value: Any, key: str, kind: type) -> Any:
  """`value[key]`, of the kind that SQuAD has there."""
  member = value.get(key) if isinstance(value, dict) else None
  if not isinstance(member, kind):
    raise ValueError(
      f"{where}: {key!r} of a SQuAD file must be a {kind.__name__} inside an "
      f"object, here it is {member!r:.60}; check the file."
    )
  return member


def _trec_records(path: str | Path) -> Iterator[tuple[str, Record | Row]]:
  if first_byte(path) in (b"{", b"["):
    yield from json_records(path)
    return
  # The published TSV is unquoted (its patterns hold quotes); DPR's is not.
  _, row = next(tab_rows(path))
  yield from tab_rows(path) if len(row) == 4 else csv_rows(path)


def _reader(
  records: Callable[[str | Path], Iterator[tuple[str, Any]]],
  question_of: Callable[[Any, int], Question],
) -> Reader:
  """Joins a file layout and a format; errors gain the record's place."""

  def read(path: str | Path) -> Iterator[Question]:
    places: dict[str, str] = {}
    for n, (where, record) in enumerate(records(path)):
      try:
        question = question_of(record, n)
      except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
      if question.id in places:
        raise ValueError(
          f"{where}: the id {question.id!r} is already that of "
          f"{places[question.id]}; make ids unique, or remove them all to "
          "have the questions numbered."
        )
      places[question.id] = where
      yield question

  return read


def _passage_reader(
  passages_of: Callable[[Any], list[Passage]],
) -> PassageReader:
  """Passages of all records, each id once (the ids are held in memory)."""

  def read(path: str | Path) -> Iterator[Passage]:
    seen: set[str] = set()
    for where, record in json_records(path):
      try:
        passages = passages_of(record)
      except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
      for passage in passages:
        if passage.id not in seen:
          seen.add(passage.id)
          yield passage

  return read


read_dpr_passages: PassageReader = _passage_reader(formats.dpr_passages)


def read_squad_passages(path: str | Path) -> Iterator[Passage]:
  """Paragraphs of a SQuAD file; the id is `TITLE#PARAGRAPH`, as in positives.

  Raises:
    ValueError: if a paragraph has no context.
  """
  for where, name, title, paragraph in _squad_paragraphs(path):
    context = _member(where, paragraph, "context", str)
    yield Passage(name, title.replace("_", " "), context)


# Format -> reader of a path (for packaged sets, of the name of a split).
DATASETS: dict[str, Reader] = {
  "nq_open": _reader(json_records, formats.nq_open),
  "entity_questions": _reader(json_records, formats.entity_questions),
  "paragraph_question": _reader(json_records, formats.paragraph_question),
  "sentence_question": _reader(json_records, formats.sentence_question),
  "dpr_qas": _reader(csv_rows, formats.dpr_qas),
  "dpr_retriever": _reader(json_records, formats.dpr_retriever),
  "squad": _reader(_squad_records, formats.paragraph_question),
  "webquestions": _reader(json_records, formats.webquestions),
  "curated_trec": _reader(_trec_records, formats.curated_trec),
  "qed": _reader(json_records, formats.qed),
  **EMBEDDED,
}

# Formats whose files also hold the passages that `positive_ids` name.
PASSAGES: dict[str, PassageReader] = {
  "dpr_retriever": read_dpr_passages,
  "squad": read_squad_passages,
  "sentence_question": _passage_reader(formats.sentence_passages),
  "qed": _passage_reader(formats.qed_passages),
}

# The keys by which a JSON format is known; the first row that fits counts.
_KEYS: tuple[tuple[str, set[str]], ...] = (
  ("dpr_retriever", {"question", "positive_ctxs"}),
  ("webquestions", {"qText"}),
  ("qed", {"question_text", "paragraph_text"}),
  ("sentence_question", {"sentence", "question"}),
  ("entity_questions", {"relation", "question"}),
  ("paragraph_question", {"question", "title", "paragraph"}),
  ("nq_open", {"question"}),
)


def detect_format(path: str | Path) -> str:
  """The name of a file's format, from its first records.

  Answers are taken for regular expressions (`curated_trec`) if each of the
  first 64 questions has one answer and a fifth of these look like patterns.

  Raises:
    ValueError: if the format is unknown, listing the known ones.
  """
  if first_byte(path) in (b"{", b"["):
    keys = top_keys(path)
    if "data" in keys and "question" not in keys:
      return "squad"
    for name, wanted in _KEYS:
      if wanted <= keys:
        return _or_regex(path, "nq_open") if name == "nq_open" else name
    raise _unknown(path, f"a JSON object with the keys {sorted(keys)[:12]}")
  _, row = next(tab_rows(path))
  if len(row) == 4:
    return "curated_trec"
  if _is_qas(path):
    return _or_regex(path, "dpr_qas")
  raise _unknown(path, f"{len(row)} columns between tabs")


def _is_qas(path: str | Path) -> bool:
  _, row = next(csv_rows(path))
  return len(row) == 2


def _or_regex(path: str | Path, name: str) -> str:
  """`name`, or "curated_trec" if the answers look like patterns."""
  try:
    sample = list(itertools.islice(DATASETS[name](path), _EXAMINED))
  except ValueError:
    # The reader of this format will say what is wrong, and where.
    return name
  signs = sum(bool(_REGEX_SIGN.search(q.answers[0])) for q in sample)
  single = all(len(q.answers) == 1 for q in sample)
  return (
    "curated_trec" if single and signs > _REGEX_SHARE * len(sample) else name
  )


def _unknown(path: str | Path, found: str) -> ValueError:
  return ValueError(
    f"{path}:1: {found}: no known question format; known: {sorted(DATASETS)}. "
    "Name one to force it, or convert the file to JSON lines with 'question' "
    "and 'answer'."
  )


def read_questions(
  path: str | Path, format: str | None = None
) -> Iterator[Question]:
  """Streams the questions of a file or of a packaged dataset.

  Args:
    path: a file, plain or gzipped, or `NAME:SPLIT` of a packaged dataset,
      such as "factbook:train".
    format: a key of `DATASETS`; None to detect it.

  Raises:
    ValueError: for an unknown format, and while reading for bad records.
    ImportError: if the package of a packaged dataset is missing.
  """
  name, _, split = str(path).partition(":")
  if format is None and name in EMBEDDED and not Path(path).exists():
    return EMBEDDED[name](split)
  format = format or detect_format(path)
  if format not in DATASETS:
    raise ValueError(
      f"unknown question format {format!r}; known: {sorted(DATASETS)}."
    )
  return DATASETS[format](path)
