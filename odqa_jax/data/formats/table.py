"""The table of all formats of raw files, `FORMATS`.

To add a dataset: a function from one record to a `Question` or to passages,
and a row here; the first row that detects a file counts.
"""

import itertools
import re
from collections.abc import Iterator
from typing import Any

from odqa_jax.data.corpus.passages import PLAIN_FORMATS
from odqa_jax.data.formats import plain as formats
from odqa_jax.data.formats.joined import joined_passages, joined_questions
from odqa_jax.data.raw.formats import Beginning, Format, has_keys
from odqa_jax.data.raw.records import Place, RawFile

_EXAMINED = 64
# Constructs that answers in plain words do not have. A third of CuratedTREC's
# patterns have one; of 12,000 answers of NQ and TriviaQA not one has.
_REGEX_SIGN = re.compile(r"\\[sdwbSDWB.]|\.\*|[)\]]\?|\([^()|]*\|[^()]*\)")
_REGEX_SHARE = 0.2


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
  questions=joined_questions(RawFile.json_records, formats.nq_open),
)
DPR_QAS = Format(
  "dpr_qas",
  "DPR's TSV of a question and a Python list of its answers",
  _is_qas,
  questions=joined_questions(RawFile.csv_rows, formats.dpr_qas),
)

# In the order in which they are tried.
FORMATS: dict[str, Format] = {
  format.name: format
  for format in (
    Format(
      "squad",
      "SQuAD's JSON; its paragraphs are passages",
      _is_squad,
      questions=joined_questions(
        formats.squad_records, formats.paragraph_question
      ),
      passages=formats.squad_passages,
    ),
    Format(
      "dpr_retriever",
      "DPR's training JSON; its contexts are passages",
      has_keys("question", "positive_ctxs"),
      questions=joined_questions(RawFile.json_records, formats.dpr_retriever),
      passages=joined_passages(formats.dpr_passages),
    ),
    Format(
      "webquestions",
      "JSON with qId, qText and answers",
      has_keys("qText"),
      questions=joined_questions(RawFile.json_records, formats.webquestions),
    ),
    Format(
      "qed",
      "QED's JSON lines; its paragraphs are passages",
      has_keys("question_text", "paragraph_text"),
      questions=joined_questions(RawFile.json_records, formats.qed),
      passages=joined_passages(formats.qed_passages),
    ),
    Format(
      "sentence_question",
      "JSON lines of a sentence, which is a passage, and a question",
      has_keys("sentence", "question"),
      questions=joined_questions(
        RawFile.json_records, formats.sentence_question
      ),
      passages=joined_passages(formats.sentence_passages),
    ),
    Format(
      "entity_questions",
      "JSON lines of relation, question and answers",
      has_keys("relation", "question"),
      questions=joined_questions(
        RawFile.json_records, formats.entity_questions
      ),
    ),
    Format(
      "paragraph_question",
      "JSON lines of id, question, answers, title and paragraph number",
      has_keys("question", "title", "paragraph"),
      questions=joined_questions(
        RawFile.json_records, formats.paragraph_question
      ),
    ),
    Format(
      "curated_trec",
      "CuratedTREC: answers are regular expressions; TSV, or as in nq_open",
      _is_trec,
      questions=joined_questions(_trec_records, formats.curated_trec),
    ),
    NQ_OPEN,
    DPR_QAS,
    *PLAIN_FORMATS,
  )
}
