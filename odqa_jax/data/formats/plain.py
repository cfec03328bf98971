"""From one record of a format to a `Question` or passages; n counts from 0.

Errors here say what is wrong with the record; the reader adds the place.
"""

import ast
import hashlib
import warnings
from collections.abc import Iterator
from typing import Any

from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.raw.records import Place, RawFile, Record, Row

_CONTEXTS = ("positive_ctxs", "hard_negative_ctxs", "negative_ctxs")


def _content_id(kind: str, text: str) -> str:
  """A passage id for a text that has none: the same for the same text."""
  digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
  return f"{kind}/{digest}"


def _text(record: Record, key: str) -> str:
  value = record.get(key)
  if not isinstance(value, str):
    raise ValueError(
      f"{key!r} is {value!r:.60}, not a string; known keys here: "
      f"{sorted(record)}. Check the file or force another format."
    )
  return value


def _name(value: Any) -> str:
  """An id, which files give as a string or as an integer."""
  if isinstance(value, bool) or not isinstance(value, str | int):
    raise ValueError(f"the id {value!r:.60} is no string or integer; mend it.")
  return str(value)


def _strings(value: Any, what: str) -> tuple[str, ...]:
  if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
    raise ValueError(
      f"{what} is {value!r:.80}, not a list of strings; write "
      '["first", "second"].'
    )
  return tuple(dict.fromkeys(value))


def _answers(record: Record) -> tuple[str, ...]:
  """What is at `answers` or `answer`, at least one, each once."""
  key = "answers" if "answers" in record else "answer"
  if key not in record:
    raise ValueError(
      f"no 'answer' or 'answers' among the keys {sorted(record)}; add the "
      "accepted answers as a list of strings."
    )
  answers = _strings(record[key], repr(key))
  if not answers:
    raise ValueError(
      f"{key!r} is an empty list; this format needs an answer to each "
      "question, so give one or remove the question."
    )
  return answers


def _ids(record: Record, key: str) -> tuple[str, ...]:
  value = record.get(key) or []
  if not isinstance(value, list):
    raise ValueError(f"{key!r} is {value!r:.60}, not a list of passage ids.")
  return tuple(dict.fromkeys(_name(v) for v in value))


def nq_open(record: Record, n: int) -> Question:
  """question, answer or answers; id, positive_ids, negative_ids if given."""
  return Question(
    id=_name(record.get("id", n)),
    question=_text(record, "question"),
    answers=_answers(record),
    positive_ids=_ids(record, "positive_ids"),
    negative_ids=_ids(record, "negative_ids"),
  )


def entity_questions(record: Record, n: int) -> Question:
  """relation, question, answers; the relation begins the id: P106/0."""
  return Question(
    id=f"{_text(record, 'relation')}/{_name(record.get('id', n))}",
    question=_text(record, "question"),
    answers=_answers(record),
  )


def paragraph_question(record: Record, n: int) -> Question:
  """id, question, answers, and the positive passage `title#paragraph`."""
  del n
  return Question(
    id=_name(record.get("id")),
    question=_text(record, "question"),
    answers=_answers(record),
    positive_ids=(
      f"{_text(record, 'title')}#{_name(record.get('paragraph'))}",
    ),
  )


def sentence_question(record: Record, n: int) -> Question:
  """Its sentence is the positive; there are no answers in this format."""
  return Question(
    id=str(n),
    question=_text(record, "question"),
    answers=(),
    positive_ids=(_content_id("sentence", _text(record, "sentence")),),
  )


def dpr_retriever(record: Record, n: int) -> Question:
  """Hard negatives if there are any, else the ordinary ones, as DPR does."""
  positives = _context_ids(record, "positive_ctxs")
  negatives = _context_ids(record, "hard_negative_ctxs") or _context_ids(
    record, "negative_ctxs"
  )
  return Question(
    id=_name(record.get("id", n)),
    question=_text(record, "question"),
    answers=_answers(record),
    positive_ids=positives,
    negative_ids=tuple(i for i in negatives if i not in positives),
  )


def webquestions(record: Record, n: int) -> Question:
  """qId, qText, answers."""
  return Question(
    id=_name(record.get("qId", n)),
    question=_text(record, "qText"),
    answers=_answers(record),
  )


def qed(record: Record, n: int) -> Question:
  """Every span of `original_nq_answers`; the paragraph is the positive."""
  groups = record.get("original_nq_answers") or []
  spans = [span["string"] for group in groups for span in group]
  return Question(
    id=_name(record.get("example_id", n)),
    question=_text(record, "question_text"),
    answers=_answers({"answers": spans}),
    positive_ids=(_content_id("qed", _text(record, "paragraph_text")),),
  )


def dpr_qas(row: Row, n: int) -> Question:
  """Two columns: a question and a Python list of its answers."""
  if len(row) != 2:
    raise ValueError(
      f"{len(row)} columns, not the 2 of a question and its list of answers; "
      "check for a missing answers column, a tab, or an unclosed quote."
    )
  answers = _answers({"answers": _literal_strings(row[1])})
  return Question(id=str(n), question=row[0], answers=answers)


def _literal_strings(text: str) -> list[str]:
  """The strings of a Python list literal; nothing in it is ever evaluated."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", SyntaxWarning)
      tree = ast.parse(text.strip(), mode="eval").body
  except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
    raise ValueError(
      f"the answers {text[:80]!r} are no list literal ({error}); write "
      "['first', 'second']."
    ) from error
  items = tree.elts if isinstance(tree, ast.List) else [tree]
  values = [i.value for i in items if isinstance(i, ast.Constant)]
  strings = [v for v in values if isinstance(v, str)]
  if not isinstance(tree, ast.List) or len(strings) != len(items):
    raise ValueError(
      f"the answers {text[:80]!r} are not a list of plain strings; write "
      "['first', 'second']. Expressions are not evaluated."
    )
  return strings


def curated_trec(record: Record | Row, n: int) -> Question:
  """id, type, question, regex; or a record or row of another form."""
  if isinstance(record, dict):
    plain = nq_open(record, n)
  elif len(record) == 2:
    plain = dpr_qas(record, n)
  elif len(record) == 4:
    name, _, question, pattern = record
    plain = Question(id=name, question=question, answers=(pattern,))
  else:
    raise ValueError(
      f"{len(record)} columns, not the 4 of id, type, question and regular "
      "expression; check the tabs."
    )
  return Question(
    plain.id, plain.question, plain.answers, "regex", plain.positive_ids
  )


def _context_id(context: Any) -> str:
  for key in ("passage_id", "psg_id", "id"):
    if isinstance(context, dict) and context.get(key) not in (None, ""):
      return _name(context[key])
  raise ValueError(
    f"a context has neither 'passage_id' nor 'psg_id': {context!r:.80}; "
    "passages are told apart by their ids, so give it one."
  )


def _contexts(record: Record, key: str) -> list[Any]:
  contexts = record.get(key) or []
  if not isinstance(contexts, list):
    raise ValueError(f"{key!r} is {contexts!r:.60}, not a list of contexts.")
  return contexts


def _context_ids(record: Record, key: str) -> tuple[str, ...]:
  return tuple(dict.fromkeys(map(_context_id, _contexts(record, key))))


def dpr_passages(record: Record) -> list[Passage]:
  """All contexts of a DPR retriever record."""
  contexts = [c for key in _CONTEXTS for c in _contexts(record, key)]
  return [
    Passage(_context_id(c), _text(c, "title"), _text(c, "text"))
    for c in contexts
  ]


def sentence_passages(record: Record) -> list[Passage]:
  """The sentence of a {sentence, question} pair."""
  text = _text(record, "sentence")
  return [Passage(_content_id("sentence", text), "", text)]


def qed_passages(record: Record) -> list[Passage]:
  """The paragraph of a QED example."""
  text = _text(record, "paragraph_text")
  name = _content_id("qed", text)
  return [Passage(name, _text(record, "title_text"), text)]


def _squad_paragraphs(
  file: RawFile,
) -> Iterator[tuple[Place, str, int, Record]]:
  """(place, title, number of the paragraph, paragraph) of a SQuAD file."""
  for at, article in file.array("data"):
    title = _member(at, article, "title", str)
    for i, paragraph in enumerate(_member(at, article, "paragraphs", list)):
      yield at._replace(inside=f".paragraphs[{i}]"), title, i, paragraph


def _member(place: Place, value: Any, key: str, kind: type) -> Any:
  """`value[key]`, of the kind that SQuAD has there."""
  member = value.get(key) if isinstance(value, dict) else None
  if not isinstance(member, kind):
    raise ValueError(
      f"{place}: {key!r} of a SQuAD file must be a {kind.__name__} inside an "
      f"object, here it is {member!r:.60}; check the file."
    )
  return member


def squad_records(file: RawFile) -> Iterator[tuple[Place, Record]]:
  """The questions of a SQuAD file, as `paragraph_question` takes them."""
  for at, title, number, paragraph in _squad_paragraphs(file):
    for i, question in enumerate(_member(at, paragraph, "qas", list)):
      place = at._replace(inside=f"{at.inside}.qas[{i}]")
      answers = _member(place, question, "answers", list)
      yield (
        place,
        {
          "id": question.get("id"),
          "title": title,
          "paragraph": number,
          "question": question.get("question"),
          "answers": [_member(place, a, "text", str) for a in answers],
        },
      )


def squad_passages(file: RawFile) -> Iterator[tuple[Place, Passage]]:
  """Paragraphs of a SQuAD file; the id is `TITLE#PARAGRAPH`, as in positives.

  Raises:
    ValueError: if a paragraph has no context.
  """
  for place, title, number, paragraph in _squad_paragraphs(file):
    context = _member(place, paragraph, "context", str)
    name = f"{title}#{number}"
    yield place, Passage(name, title.replace("_", " "), context)
