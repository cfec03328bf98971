"""Files of questions and passages: the table `FORMATS`, a row for each kind.

    read_questions("NQ-open.dev.jsonl.gz")            # format from content
    read_questions("train.json", format="squad")      # or forced
    read_questions("vital_articles:dev")              # packaged, by split

To add a dataset: a function from one record to a `Question` or to passages,
and a row in `FORMATS`; the first row that detects a file counts. Wrong input
raises ValueError with FILE:LINE (in arrays FILE:[POSITION]) and the remedy.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from odqa_jax.data.corpus.passages import PLAIN_FORMATS, Passage
from odqa_jax.data.embedded.sets import EMBEDDED
from odqa_jax.data.formats import (
  Beginning,
  Format,
  Reader,
  detect,
  has_keys,
  named_format,
)
from odqa_jax.data.questions import formats
from odqa_jax.data.questions.sets import Question, QuestionSet
from odqa_jax.data.records import Place, RawFile

Layout = Callable[[RawFile], Iterator[tuple[Place, Any]]]
Content = Literal["questions", "passages"]

_EXAMINED = 64
# Constructs that answers in plain words do not have. A third of CuratedTREC's
# patterns have one; of 12,000 answers of NQ and TriviaQA not one has.
_REGEX_SIGN = re.compile(r"\\[sdwbSDWB.]|\.\*|[)\]]\?|\([^()|]*\|[^()]*\)")
_REGEX_SHARE = 0.2


def _questions(
  layout: Layout, question_of: Callable[[Any, int], Question]
) -> Reader:
  """Joins a file layout and a format; errors gain the record's place."""

  def read(file: RawFile) -> Iterator[tuple[Place, Question]]:
    for n, (place, record) in enumerate(layout(file)):
      try:
        yield place, question_of(record, n)
      except ValueError as error:
        raise ValueError(f"{place}: {error}") from error

  return read


def _passages(passages_of: Callable[[Any], list[Passage]]) -> Reader:
  """Passages of all records, each id once (the ids are held in memory)."""

  def read(file: RawFile) -> Iterator[tuple[Place, Passage]]:
    seen: set[str] = set()
    for place, record in file.json_records():
      try:
        passages = passages_of(record)
      except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
      for passage in passages:
        if passage.id not in seen:
          seen.add(passage.id)
          yield place, passage

  return read


def _trec_records(file: RawFile) -> Iterator[tuple[Place, Any]]:
  if file.first_byte() in (b"{", b"["):
    return file.json_records()
  # The published TSV is unquoted (its patterns hold quotes); DPR's is not.
  _, row = next(file.tab_rows())
  return file.tab_rows() if len(row) == 4 else file.csv_rows()


def _is_squad(start: Beginning) -> str:
  keys = start.keys or ()
  fits = "data" in keys and "question" not in keys
  return "JSON with the key data" if fits else ""


def _is_qas(start: Beginning) -> str:
  if start.keys is not None:
    return ""
  _, row = next(start.file.csv_rows())
  return "rows of 2 columns" if len(row) == 2 else ""


def _is_trec(start: Beginning) -> str:
  """Four columns, or answers of which a fifth look like patterns.

  Patterns stand alone: each of the first 64 questions has one answer.
  """
  if len(start.columns) == 4:
    return "rows of 4 columns"
  read = NQ_OPEN if NQ_OPEN.detects(start) else DPR_QAS
  if not (read.detects(start) and read.questions):
    return ""
  try:
    sample = list(itertools.islice(read.questions(start.file), _EXAMINED))
  except ValueError:
    # The reader of that format will say what is wrong, and where.
    return ""
  signs = sum(bool(_REGEX_SIGN.search(q.answers[0])) for _, q in sample)
  single = all(len(q.answers) == 1 for _, q in sample)
  patterns = single and signs > _REGEX_SHARE * len(sample)
  return f"{signs} of {len(sample)} answers look like patterns" * patterns


NQ_OPEN = Format(
  "nq_open",
  "JSON lines: question, answer or answers; id, positive_ids, negative_ids",
  has_keys("question"),
  questions=_questions(RawFile.json_records, formats.nq_open),
)
DPR_QAS = Format(
  "dpr_qas",
  "DPR's TSV of a question and a Python list of its answers",
  _is_qas,
  questions=_questions(RawFile.csv_rows, formats.dpr_qas),
)

# In the order in which they are tried.
FORMATS: dict[str, Format] = {
  format.name: format
  for format in (
    Format(
      "squad",
      "SQuAD's JSON; its paragraphs are passages",
      _is_squad,
      questions=_questions(formats.squad_records, formats.paragraph_question),
      passages=formats.squad_passages,
    ),
    Format(
      "dpr_retriever",
      "DPR's training JSON; its contexts are passages",
      has_keys("question", "positive_ctxs"),
      questions=_questions(RawFile.json_records, formats.dpr_retriever),
      passages=_passages(formats.dpr_passages),
    ),
    Format(
      "webquestions",
      "JSON with qId, qText and answers",
      has_keys("qText"),
      questions=_questions(RawFile.json_records, formats.webquestions),
    ),
    Format(
      "qed",
      "QED's JSON lines; its paragraphs are passages",
      has_keys("question_text", "paragraph_text"),
      questions=_questions(RawFile.json_records, formats.qed),
      passages=_passages(formats.qed_passages),
    ),
    Format(
      "sentence_question",
      "JSON lines of a sentence, which is a passage, and a question",
      has_keys("sentence", "question"),
      questions=_questions(RawFile.json_records, formats.sentence_question),
      passages=_passages(formats.sentence_passages),
    ),
    Format(
      "entity_questions",
      "JSON lines of relation, question and answers",
      has_keys("relation", "question"),
      questions=_questions(RawFile.json_records, formats.entity_questions),
    ),
    Format(
      "paragraph_question",
      "JSON lines of id, question, answers, title and paragraph number",
      has_keys("question", "title", "paragraph"),
      questions=_questions(RawFile.json_records, formats.paragraph_question),
    ),
    Format(
      "curated_trec",
      "CuratedTREC: answers are regular expressions; TSV, or as in nq_open",
      _is_trec,
      questions=_questions(_trec_records, formats.curated_trec),
    ),
    NQ_OPEN,
    DPR_QAS,
    *PLAIN_FORMATS,
  )
}


def choose_format(
  path: str | Path, content: Content, name: str | None = None
) -> tuple[Format, str]:
  """How a file is read, and why.

  Args:
    path: the file.
    content: what is wanted of it; other formats are not considered.
    name: forces a format; None detects it.

  Raises:
    ValueError: for an unknown name, with the nearest one; for a format that
      has not what is wanted; or if no format fits.
  """
  file = RawFile(path)
  if name is None:
    return detect(file, [f for f in FORMATS.values() if getattr(f, content)])
  format = named_format(name, FORMATS)
  if getattr(format, content) is None:
    known = [f.name for f in FORMATS.values() if getattr(f, content)]
    raise ValueError(
      f"{path}: files of the format {name!r} hold no {content}; formats that "
      f"do: {', '.join(known)}."
    )
  return format, "as told"


def is_packaged(path: str | Path) -> bool:
  """Whether it names a packaged question set, such as "factbook:train"."""
  return str(path).partition(":")[0] in EMBEDDED and not Path(path).exists()


def read_questions(
  path: str | Path, format: str | None = None
) -> Iterator[Question]:
  """Streams the questions of a file or of a packaged dataset.

  Args:
    path: a file, plain or compressed, or `NAME:SPLIT` of a packaged dataset,
      such as "factbook:train".
    format: a key of `FORMATS`; None to detect it.

  Raises:
    ValueError: for an unknown format, and while reading for bad records.
    ImportError: if the package of a packaged dataset is missing.
  """
  if format is None and is_packaged(path):
    name, _, split = str(path).partition(":")
    return EMBEDDED[name](split)
  reader = choose_format(path, "questions", format)[0].questions
  assert reader is not None
  return _with_ids_once(reader(RawFile(path)))


def _with_ids_once(
  records: Iterable[tuple[Place, Question]],
) -> Iterator[Question]:
  places: dict[str, Place] = {}
  for place, question in records:
    if question.id in places:
      raise ValueError(
        f"{place}: the id {question.id!r} is already that of "
        f"{places[question.id]}; make ids unique, or remove them all to have "
        "the questions numbered."
      )
    places[question.id] = place
    yield question


def open_questions(
  path: str | Path, format: str | None = None
) -> list[Question]:
  """The questions of a prepared set, a raw file, or a packaged dataset.

  Raises:
    ValueError: see `read_questions`; or if a format is given for a prepared
      set, which needs none.
  """
  if not Path(path).is_dir():
    return list(read_questions(path, format))
  if format is not None:
    raise ValueError(
      f"{path} is a prepared set, which has no other format: --format "
      f"{format} is for raw files; leave it out."
    )
  return list(QuestionSet(path))
