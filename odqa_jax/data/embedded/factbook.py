"""The World Factbook as passages, and questions whose gold passage is known.

A country's file holds sections ("Geography") of fields, some nested, with a
little HTML in the texts. Each section becomes passages of up to so many words,
cut between fields; a question asks for one field of `RELATIONS`.
"""

import dataclasses
import functools
import html.parser
import itertools
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.embedded.factbook_relations import RELATIONS, Relation
from odqa_jax.data.questions.sets import Question
from odqa_jax.text.answers import has_answer, normalise_answer

_ANSWER_WORDS = 6
# Short names that the files lack, bend, or share with a neighbour.
_NAMES = {
  "cf": "Republic of the Congo",
  "cg": "Democratic Republic of the Congo",
  "dr": "Dominican Republic",
  "ee": "European Union",
  "fk": "Falkland Islands",
  "gz": "Gaza Strip",
  "sv": "Svalbard",
  "um": "United States Pacific Island Wildlife Refuges",
  "vq": "United States Virgin Islands",
  "vt": "Vatican City",
  "xx": "World",
}
# No countries or territories: passages only.
_WITHOUT_QUESTIONS = ("ee", "xx")
_WITH_ARTICLE = re.compile(
  r".*\b(Islands|States|Emirates|Republic|Kingdom|Territory|Refuges|Strip|"
  r"Bank|Lands)$|(Netherlands|Philippines|Maldives|Comoros|Seychelles|"
  r"Isle of Man|(Democratic )?Republic of .*|Federated States of .*)$"
)
_NO_ANSWER = re.compile(r"(none|no|na|n/a|unknown|not)\b|.*\bnote\b", re.I)
# Repeats of a text in other languages and scripts.
_LEFT_OUT = "major-language sample(s)"


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
  """One text of the book: where it stands, and its label as prose."""

  path: str
  label: str
  text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Country:
  """One file of the book.

  Attributes:
    name: the short name.
    slug: the name for ids, such as "cote_d_ivoire".
    has_questions: whether there are any about it.
    sections: label -> fields in their order.
  """

  name: str
  slug: str
  has_questions: bool
  sections: Mapping[str, tuple[Field, ...]]


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
  """A passage and the paths of the fields that it holds, at least in part."""

  passage: Passage
  paths: frozenset[str]


@dataclasses.dataclass(frozen=True, slots=True)
class Fact:
  """Short answers, and the passages that hold them."""

  country: Country
  relation: Relation
  answers: tuple[str, ...]
  positive_ids: tuple[str, ...]


class _Text(html.parser.HTMLParser):
  """Collects the text of HTML; a block or line break becomes a space."""

  def __init__(self) -> None:
    super().__init__(convert_charrefs=True)
    self.parts: list[str] = []

  def handle_data(self, data: str) -> None:
    self.parts.append(data)

  def handle_starttag(
    self, tag: str, attrs: list[tuple[str, str | None]]
  ) -> None:
    del attrs
    if tag in ("br", "p", "div", "li", "ul", "tr", "td"):
      self.parts.append(" ")

  def handle_endtag(self, tag: str) -> None:
    self.handle_starttag(tag, [])


def plain_text(markup: str) -> str:
  """Text without tags, entities resolved, white space squeezed."""
  if "<" in markup or "&" in markup:
    parser = _Text()
    parser.feed(markup)
    parser.close()
    markup = "".join(parser.parts)
  return " ".join(markup.split())


def _slug(name: str) -> str:
  letters = unicodedata.normalize("NFKD", name)
  ascii_only = letters.encode("ascii", "ignore").decode().lower()
  return re.sub(r"[^a-z0-9]+", "_", ascii_only).strip("_")


def _leaves(node: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[Field]:
  """Fields below a node. Texts lie at the key "text", notes at "note"."""
  for key, value in node.items():
    label = key.strip()
    if label == _LEFT_OUT:
      continue
    # "Languages" holds its text in another "Languages" in half of the files.
    same = label == "text" or path[1:] == (label,)
    below = path if same else (*path, label)
    if isinstance(value, dict):
      yield from _leaves(value, below)
    elif isinstance(value, str) and (text := plain_text(value)):
      # "agricultural land: arable land" has the text "arable land: 2%".
      _, colon, tail = below[-1].rpartition(": ")
      text = text.removeprefix(f"{tail}: ") if colon else text
      yield Field("/".join(below), _label(below[1:]), text)


def _label(names: tuple[str, ...]) -> str:
  """Joins names, dropping a repeat: GDP, GDP 2024; a note names itself."""
  if not names or names[-1] == "note":
    return ""
  if len(names) > 1 and names[-1].startswith(names[-2]):
    return " ".join((*names[:-2], names[-1]))
  return " ".join(names)


def _sections(data: Mapping[str, Any]) -> dict[str, tuple[Field, ...]]:
  """Fields by section; those that a later section repeats are left out."""
  seen: set[tuple[str, str]] = set()
  sections = {}
  for section, node in data.items():
    fields = []
    for field in _leaves(node, (section,)):
      content = (field.path.partition("/")[2], field.text)
      if content not in seen:
        seen.add(content)
        fields.append(field)
    sections[section] = tuple(fields)
  return sections


def _short_name(code: str, data: Mapping[str, Any]) -> str:
  if code in _NAMES:
    return _NAMES[code]
  names = data["Government"]["Country name"]
  forms = [
    plain_text(names[f"conventional {length} form"]["text"])
    for length in ("short", "long")
  ]
  return next(form for form in forms if form != "none")


def read_countries(files: Mapping[str, Any]) -> tuple[Country, ...]:
  """Countries in the order of their names.

  Args:
    files: path -> JSON; the path ends in `/CODE.json`.
  """
  countries = []
  for path, data in files.items():
    code = path.rpartition("/")[2].removesuffix(".json")
    name = _short_name(code, data)
    has_questions = code not in _WITHOUT_QUESTIONS
    countries.append(Country(name, _slug(name), has_questions, _sections(data)))
  return tuple(sorted(countries, key=lambda country: country.slug))


def _units(
  fields: tuple[Field, ...], longest: int
) -> Iterator[tuple[str, list[str]]]:
  """(path, words) of every field, those above `longest` words in pieces."""
  for field in fields:
    stop = "" if field.text[-1] in ".!?" else "."
    label = f"{field.label}: " if field.label else ""
    words = f"{label}{field.text}{stop}".split()
    count = math.ceil(len(words) / longest)
    cuts = [len(words) * i // count for i in range(count + 1)]
    for start, end in itertools.pairwise(cuts):
      yield field.path, words[start:end]


def pieces(country: Country, longest: int) -> Iterator[Piece]:
  """Passages of up to `longest` words (or one field), in the book's order."""
  for section, fields in country.sections.items():
    words: list[str] = []
    paths: set[str] = set()
    number = 0
    for path, more in _units(fields, longest):
      if words and len(words) + len(more) > longest:
        yield _piece(country, section, number, words, paths)
        words, paths, number = [], set(), number + 1
      words += more
      paths.add(path)
    if words:
      yield _piece(country, section, number, words, paths)


def _piece(
  country: Country, section: str, number: int, words: list[str], paths: set[str]
) -> Piece:
  name = f"factbook/{country.slug}/{_slug(section)}/{number}"
  text = f"{section}. {' '.join(words)}"
  return Piece(Passage(name, country.name, text), frozenset(paths))


def _clean(country: Country, relation: Relation, text: str) -> tuple[str, ...]:
  """Short answers that do not give the question away."""
  answers = (answer.strip() for answer in relation.answers(text))
  name = normalise_answer(country.name)
  return tuple(
    dict.fromkeys(
      answer
      for answer in answers
      if 0 < len(answer.split()) <= _ANSWER_WORDS
      and not _NO_ANSWER.match(answer)
      and normalise_answer(answer) not in ("", name)
    )
  )


def facts(country: Country, longest: int) -> Iterator[Fact]:
  """What can be asked; an answer must occur in a passage with its field.

  Args:
    country: whom to ask about.
    longest: words of the passages that are the positives.
  """
  passages = list(pieces(country, longest))
  texts = {
    field.path: field.text
    for fields in country.sections.values()
    for field in fields
  }
  for relation in RELATIONS:
    answers = _clean(country, relation, texts.get(relation.path, ""))
    positives = tuple(
      piece.passage.id
      for piece in passages
      if relation.path in piece.paths
      and answers
      and has_answer(piece.passage.text, answers)
    )
    if positives:
      yield Fact(country, relation, answers, positives)


@functools.cache
def _in_prose(name: str) -> str:
  """The name inside a sentence: "the Gambia", "the Netherlands", "Chile"."""
  if name.startswith("The "):
    return f"the {name[4:]}"
  return f"the {name}" if _WITH_ARTICLE.match(name) else name


def questions_of(fact: Fact) -> tuple[Question, ...]:
  """One question per template."""
  stem = f"factbook/{fact.country.slug}/{fact.relation.name}"
  return tuple(
    Question(
      id=f"{stem}/{i}",
      question=_sentence(template, fact.country.name),
      answers=fact.answers,
      positive_ids=fact.positive_ids,
    )
    for i, template in enumerate(fact.relation.templates)
  )


def _sentence(template: str, name: str) -> str:
  text = template.format(country=_in_prose(name)).replace("s's ", "s' ")
  return text[0].upper() + text[1:]
