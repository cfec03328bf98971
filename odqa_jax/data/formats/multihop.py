"""Questions with supporting facts: HotpotQA, 2WikiMultihopQA, MuSiQue.

Checked against hotpotqa/hotpot (README, "JSON Format"), Alab-NII/2wikimultihop
(README: "follows the format of HotpotQA"), the features of TFDS's
huggingface:hotpot_qa, where lists of pairs are a dict of lists, and
StonyBrookNLP/musique (`{id, paragraphs: [{idx, title, paragraph_text,
is_supporting}], question, answer, answer_aliases, answerable}`).

HotpotQA and 2WikiMultihopQA have one paragraph an article, so the passage of a
title is `TITLE#0`, in the fullwiki setting too, where the gold paragraphs need
not be in the context. MuSiQue has several an article and numbers them within
the question, so there the text names it: `TITLE#HASH`. Paragraphs of the
context that support nothing are the negatives: that is what they were added
for. Test sets have neither answers nor supporting facts. A question that
MuSiQue calls unanswerable has none of these; since it shares its id with its
answerable twin, its own is `ID-unanswerable`.
"""

from collections.abc import Iterator
from typing import Any

from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.formats import fields
from odqa_jax.data.formats.joined import joined_passages, joined_questions
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.raw.formats import Beginning, Format, has_keys
from odqa_jax.data.raw.records import Place, RawFile, Record


def _pairs(record: Record, key: str, second: str) -> list[tuple[str, Any]]:
  """(title, what belongs to it): a list of pairs, or a dict of two lists."""
  value: Any = record.get(key)
  if value is None:
    return []
  if isinstance(value, dict):
    titles, others = value.get("title"), value.get(second)
    if not (
      isinstance(titles, list)
      and isinstance(others, list)
      and len(titles) == len(others)
    ):
      raise ValueError(
        f"{key!r} has not as many {second!r} as titles: {fields.shown(value)}."
      )
    value = list(zip(titles, others, strict=True))
  if not isinstance(value, list) or not all(
    isinstance(p, list | tuple) and len(p) == 2 and isinstance(p[0], str)
    for p in value
  ):
    raise ValueError(
      f"{key!r} is {fields.shown(value)}, not a list of pairs [title, "
      f"{second}]."
    )
  return [(title, other) for title, other in value]


def _text(title: str, sentences: Any) -> str:
  """A paragraph's text; HotpotQA's sentences begin with the space between."""
  if not isinstance(sentences, list) or not all(
    isinstance(s, str) for s in sentences
  ):
    raise ValueError(
      f"the paragraph {title!r} is {fields.shown(sentences)}, not a list of "
      "sentences."
    )
  spaced = any(s[:1].isspace() for s in sentences[1:])
  return ("" if spaced else " ").join(sentences).strip()


def hotpot_question(record: Record, n: int) -> Question:
  """_id or id, question, answer, supporting_facts, context."""
  facts = _pairs(record, "supporting_facts", "sent_id")
  context = _pairs(record, "context", "sentences")
  gold = dict.fromkeys(f"{title}#0" for title, _ in facts)
  others = dict.fromkeys(f"{title}#0" for title, _ in context)
  answer = fields.optional_text(record, "answer")
  return Question(
    id=fields.identifier(record.get("_id", record.get("id", n))),
    question=fields.text(record, "question"),
    answers=(answer,) if answer else (),
    positive_ids=tuple(gold),
    negative_ids=tuple(i for i in others if i not in gold) if gold else (),
  )


def hotpot_passages(file: RawFile) -> Iterator[tuple[Place, Passage]]:
  """The paragraphs of all contexts, each title once.

  A title with two texts is rejected, since the ids could not tell them apart.
  """
  seen: dict[str, tuple[str, Place]] = {}
  for place, record in file.records():
    pairs = file.attempt(place, _pairs, record, "context", "sentences")
    for title, sentences in pairs or ():
      text = file.attempt(place, _text, title, sentences)
      if not text:
        # An article may be a title alone.
        continue
      if title not in seen:
        seen[title] = fields.digest(text), place
        yield place, Passage(f"{title}#0", title, text)
      elif seen[title][0] != fields.digest(text):
        file.reject(
          place,
          f"the paragraph {title!r} has another text at {seen[title][1]}; one "
          "title is one passage here: rename one of them.",
        )


def musique_question(record: Record, n: int) -> Question:
  """id, question, answer and its aliases, paragraphs."""
  name = fields.identifier(record.get("id", n))
  if record.get("answerable") is False:
    return Question(f"{name}-unanswerable", fields.text(record, "question"), ())
  paragraphs = fields.objects(record, "paragraphs")
  named = [(_musique_passage(p).id, p.get("is_supporting")) for p in paragraphs]
  gold = dict.fromkeys(i for i, supports in named if supports)
  answers = [fields.optional_text(record, "answer")]
  answers += fields.answer_strings(
    record.get("answer_aliases"), "'answer_aliases'"
  )
  return Question(
    id=name,
    question=fields.text(record, "question"),
    answers=tuple(dict.fromkeys(a for a in answers if a)),
    positive_ids=tuple(gold),
    negative_ids=tuple(
      dict.fromkeys(i for i, _ in named if gold and i not in gold)
    ),
  )


def _musique_passage(paragraph: Record) -> Passage:
  title = fields.text(paragraph, "title")
  text = fields.text(paragraph, "paragraph_text")
  return Passage(f"{title}#{fields.digest(text)}", title, text)


def musique_passages(record: Record) -> list[Passage]:
  """The paragraphs of one question."""
  return [_musique_passage(p) for p in fields.objects(record, "paragraphs")]


def _is_hotpot(start: Beginning) -> str:
  keys = start.keys or frozenset()
  fits = keys >= {"question", "context"} and not keys.isdisjoint(
    ("supporting_facts", "_id")
  )
  known = "question, context and supporting_facts or _id"
  return f"{start.kind} with {known}" * fits


HOTPOTQA = Format(
  "hotpotqa",
  "HotpotQA's or 2WikiMultihopQA's JSON; paragraphs of contexts are passages",
  _is_hotpot,
  questions=joined_questions(RawFile.records, hotpot_question),
  passages=hotpot_passages,
)
MUSIQUE = Format(
  "musique",
  "MuSiQue's JSON lines; the paragraphs of questions are passages",
  has_keys("question", "paragraphs"),
  questions=joined_questions(RawFile.records, musique_question),
  passages=joined_passages(musique_passages),
)
