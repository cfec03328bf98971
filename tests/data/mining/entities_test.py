"""Finders of entities: dates by a pattern, GLiNER, and two as one."""

import pickle
import sys
import types
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from known_names import NAMES, Names

from odqa_jax.data.mining.entities import (
  TYPES,
  Dates,
  EntityFinder,
  GlinerFinder,
  WithDates,
  check_types,
  default_types,
)


def named(finder: EntityFinder, text: str) -> list[tuple[str, str]]:
  (found,) = finder.find([text])
  return [(text[a:b], kind) for a, b, kind in found]


@pytest.mark.parametrize(
  ("text", "dates"),
  [
    ("Born on 5 February 1985 in Ulm.", ["5 February 1985"]),
    ("on the 2nd of May, 1999,", ["2nd of May, 1999"]),
    ("On July 4th, 1776 they", ["July 4th, 1776"]),
    ("July 4 is a day", ["July 4"]),
    ("in Sept. 2001, in Sep 2002.", ["Sept. 2001", "Sep 2002"]),
    ("between 1914 and 1918.", ["1914", "1918"]),
    ("the 1990s (1995)", ["1990s", "1995"]),
    ("on 2020-02-29.", ["2020-02-29"]),
    ("14 March", ["14 March"]),
    ("12 Marches of 12345 men for $1999 or 1,999 at 3:1999, 1500%", []),
    ("room 999, 2100 men, 1.1850, 1850.5, A1900, 1900er", []),
    ("32 May", []),
    ("May I march?", []),
    ("", []),
  ],
)
def test_dates_are_found_by_their_form(text: str, dates: list[str]) -> None:
  assert named(Dates(), text) == [(date, "DATE") for date in dates]


def test_dates_join_a_finder_where_they_overlap_nothing() -> None:
  finder = WithDates(Names({"Ada": "PERSON", "May 1843 club": "ORG"}))
  assert named(finder, "In 1842 Ada saw the May 1843 club, and Ada 1844.") == [
    ("1842", "DATE"),
    ("Ada", "PERSON"),
    ("May 1843 club", "ORG"),
    ("Ada", "PERSON"),
    ("1844", "DATE"),
  ]
  # A type that nobody wants is no rival: a year is a number too.
  counts = {"1842": "CARDINAL", "Ada": "PERSON"}
  text = "In 1842 Ada"
  assert named(WithDates(Names(counts)), text) == [
    ("1842", "DATE"),
    ("Ada", "PERSON"),
  ]
  assert named(WithDates(Names(counts), ["CARDINAL"]), text) == [
    ("1842", "CARDINAL")
  ]
  assert finder.model == "names 1 + dates 1"
  assert finder.types == (*TYPES, "CARDINAL")
  assert not finder.alone
  assert list(finder.find([])) == []


def test_types_are_those_of_ontonotes_or_all_that_there_are() -> None:
  assert default_types(Names(NAMES)) == TYPES
  assert default_types(Dates()) == ("DATE",)
  with pytest.raises(ValueError, match="--spans TOWN: no type of dates 1; ch"):
    check_types(Dates(), ["DATE", "TOWN"])


class FakeGliner:
  """Finds capitalised words, and calls each the first label."""

  asked: ClassVar[list[Any]] = []

  @classmethod
  def from_pretrained(cls, name: str) -> "FakeGliner":
    cls.asked.append(name)
    return cls()

  def predict_entities(
    self, text: str, labels: Sequence[str], flat_ner: bool = False
  ) -> list[dict[str, Any]]:
    self.asked.append((labels, flat_ner))
    found = []
    # In no order, as nothing promises one.
    for word in reversed(text.split()):
      start = text.index(word)
      if word[0].isupper():
        entity = {"start": start, "end": start + len(word), "text": word}
        found.append(entity | {"label": labels[0], "score": 0.9})
    return found


@pytest.fixture
def gliner(monkeypatch: pytest.MonkeyPatch) -> None:
  """A module with the documented interface; no weights are run here."""
  module = types.ModuleType("gliner")
  module.GLiNER = FakeGliner  # type: ignore[attr-defined]
  module.__version__ = "0.2"  # type: ignore[attr-defined]
  monkeypatch.setitem(sys.modules, "gliner", module)
  monkeypatch.setattr(FakeGliner, "asked", [])


@pytest.mark.usefixtures("gliner")
def test_gliner_is_asked_in_words_and_answers_in_types() -> None:
  finder = GlinerFinder("some/model", ["WORK_OF_ART", "AWARD", "PERSON"])
  assert isinstance(finder, EntityFinder)
  assert named(finder, "saw Emma and Persuasion") == [
    ("Emma", "WORK_OF_ART"),
    ("Persuasion", "WORK_OF_ART"),
  ]
  assert FakeGliner.asked == [
    "some/model",
    (["work of art", "award", "person"], True),
  ]
  assert finder.model == "GLiNER some/model" and finder.alone
  assert finder.types == ("WORK_OF_ART", "AWARD", "PERSON")
  again = pickle.loads(pickle.dumps(finder))
  assert (again.model, again.types) == (finder.model, finder.types)


def test_a_missing_gliner_is_named_with_its_extra(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setitem(sys.modules, "gliner", None)
  with pytest.raises(ImportError, match=r"odqa_jax\[gliner\]"):
    GlinerFinder("some/model")
