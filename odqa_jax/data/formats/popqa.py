r"""PopQA: a TSV with a header, or the same columns as Parquet or JSON.

Checked against the card of akariasai/PopQA, whose TSV is read with
`pandas.read_csv(…, sep="\t")`, so csv's quotes count: `{id, subj, prop, obj,
subj_id, prop_id, obj_id, s_aliases, o_aliases, s_uri, o_uri, s_wiki_title,
o_wiki_title, s_pop, o_pop, question, possible_answers}`; `possible_answers` is
the text of a JSON list. `s_wiki_title` names an article and no passage, so
these questions have no positives.
"""

import json
from collections.abc import Iterator
from typing import Any

from odqa_jax.data.formats import fields
from odqa_jax.data.formats.joined import joined_questions
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.raw.formats import Beginning, Format
from odqa_jax.data.raw.records import Place, RawFile, Record

_NEEDED = {"question", "possible_answers"}


def _records(file: RawFile) -> Iterator[tuple[Place, Record]]:
  return file.table_rows("\t") if file.kind() == "text" else file.records()


def question(record: Record, n: int) -> Question:
  """id, question, possible_answers."""
  return Question(
    id=fields.identifier(record.get("id", n)),
    question=fields.text(record, "question"),
    answers=fields.strings(
      _list(record.get("possible_answers")), "'possible_answers'"
    ),
  )


def _list(value: Any) -> Any:
  if not isinstance(value, str):
    return value
  try:
    return json.loads(value)
  except (json.JSONDecodeError, RecursionError) as error:
    raise ValueError(
      f"the possible_answers {fields.shown(value)} are no JSON list ({error}); "
      'write ["first", "second"].'
    ) from error


def _is_popqa(start: Beginning) -> str:
  names = start.columns if start.keys is None else start.keys
  fits = _NEEDED.issubset(names)
  return f"{start.kind} with question and possible_answers" * fits


POPQA = Format(
  "popqa",
  "PopQA's TSV with the columns question and possible_answers",
  _is_popqa,
  questions=joined_questions(_records, question),
)
