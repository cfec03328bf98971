"""The questions about the World Factbook: the table `RELATIONS`.

To add a relation: a block in `_QUESTIONS` with the field's path and the
templates, and in `_ANSWERS` a function from the field's text to its short
answers (none if it has no clean one).
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Answers = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Relation:
  """One kind of fact.

  Attributes:
    name: it stands in question ids.
    path: section and field labels, joined by "/".
    answers: text of the field -> answers, the preferred first.
    templates: questions with `{country}`.
  """

  name: str
  path: str
  answers: Callable[[str], Answers]
  templates: tuple[str, ...]


def _first(pattern: str) -> Callable[[str], Answers]:
  """Answers are the groups of one match at the start of the text."""
  compiled = re.compile(pattern)

  def answers(text: str) -> Answers:
    match = compiled.match(text)
    return tuple(filter(None, match.groups())) if match else ()

  return answers


def _every(pattern: str) -> Callable[[str], Answers]:
  """Answers are all matches of the one group."""
  compiled = re.compile(pattern)
  return lambda text: tuple(compiled.findall(text))


# What stands before a name: "Transitional President Capt. Ibrahim TRAORE".
_OFFICES = (
  "Acting Interim Vice Transitional Transition Federal Supreme Sovereign Prime "
  "Chief President Minister Chancellor Premier King Queen Prince Princess Emir "
  "Amir Sultan Pope Leader Taoiseach Grand Duke Captain General Gen. "
  "Col. Capt. Lt. Maj. Dr. Sir Dame Sheikh Shaykh Executive Governor "
  "Governor-General"
).split()


def _person(text: str) -> Answers:
  """The name without and with the office."""
  whole = re.split(r",? \(|[;,]", text, maxsplit=1)[0].strip()
  words = whole.split()
  while len(words) > 1 and words[0] in _OFFICES:
    words.pop(0)
  # Surnames are in capitals; without one this is an office or a note.
  if not any(word.isupper() and len(word) > 2 for word in words):
    return ()
  return " ".join(words), whole


def _city(text: str) -> Answers:
  """The first of "6.9 million SANTIAGO (capital), 1.0 million Valparaiso"."""
  names = _first(r"[\d.,]+(?: million)? ([^\d,(]+)")(text)
  return tuple(name.strip().title() for name in names)


def _names(text: str) -> Answers:
  """Names between commas, up to the first remark."""
  return tuple(n.strip() for n in re.split(r"[;(]", text)[0].split(","))


_WORDS = r"([^;,(]+)"
_NAME = r"([A-Z][^;,(]+)"
_PLACE = r"((?!unnamed)[^\d;(]*[^\d;(,\s])(?: \([^)]*\))?,? -?[\d,.]+ m\b"
_LENGTH = r"((?!0 )[\d,.]+ km)\b"
_PARTNER = r"([A-Z][A-Za-z. ]+) \d+%"


# Field text to short answers, by relation.
_ANSWERS: dict[str, Callable[[str], Answers]] = {
  "capital": _first(r"([^;(\d]+?)(?: in [A-Z]|[;(\d]|$)"),
  "government_type": _first(_WORDS),
  "independence": _first(r"((?:\d{1,2} )?(?:[A-Z][a-z]+ )?\d{3,4})\b"),
  "independence_from": _first(r"[^(]*\(from (?:the )?([A-Z][\w .'-]+)\)"),
  "national_holiday": _first(_NAME),
  "chief_of_state": _person,
  "head_of_government": _person,
  "legislature": _first(r"([A-Z][^;(]+)"),
  "national_colors": _first(r"([a-z][^;(]+)"),
  "national_symbol": _first(r"([^;(]+)"),
  "anthem": _first(r'["“]([^"”]+)["”]'),
  "long_name": _first(r"([^;(]+)"),
  "local_name": _first(r"([^;(/,]+)"),
  "former_name": _names,
  "voting_age": _first(r"((\d+) years) of age"),
  "internet_code": _first(r"(\.[a-z]{2,3})\b"),
  "region": _first(r"([A-Z][A-Za-z -]+)[,;]"),
  "highest_point": _first(_PLACE),
  "highest_elevation": _first(r".*?(-?\b[\d,.]+ m)\b"),
  "lowest_point": _first(_PLACE),
  "area": _first(r"(([\d,.]+) sq km)"),
  "coastline": _first(_LENGTH),
  "land_boundaries": _first(_LENGTH),
  "neighbour": _every(r"([A-Z][^\d(;,]*[^\d(;,\s])(?: \([^)]*\))? [\d,.]+ km"),
  "population": _first(r"([\d,]{2,}) \("),
  "nationality": _first(_NAME),
  "official_language": _every(
    r"(?:^|, )([A-Z][A-Za-z' -]*[a-z])(?: [\d.]+%)? \(official"
  ),
  "largest_city": _city,
  "life_expectancy": _first(r"([\d.]+ years)"),
  "median_age": _first(r"([\d.]+ years)"),
  "currency": _first(r"(.+?) (?:\(([A-Z]{3})\) )?per US dollar"),
  "export_partner": _first(_PARTNER),
  "import_partner": _first(_PARTNER),
  "export_commodity": _first(_WORDS),
  "crop": _first(_WORDS),
  "aircraft_prefix": _first(r"([A-Z0-9]{1,3}(?:-[A-Z])?)\b"),
}

# `NAME: PATH` of a relation, and below it its templates.
_QUESTIONS = """
capital: Government/Capital/name
  What is the capital of {country}?
  Which city is the capital of {country}?
  What is {country}'s capital city?
  Where does the government of {country} have its seat?
government_type: Government/Government type
  What type of government does {country} have?
  How is {country} governed?
  What is the form of government of {country}?
independence: Government/Independence
  When did {country} become independent?
  What is the date of independence of {country}?
  When did {country} gain its independence?
independence_from: Government/Independence
  From which country did {country} gain independence?
  Who ruled {country} before its independence?
  {country} became independent from whom?
national_holiday: Government/National holiday
  What is the national holiday of {country}?
  Which holiday is {country}'s national day?
  What national holiday is celebrated in {country}?
chief_of_state: Government/Executive branch/chief of state
  Who is the chief of state of {country}?
  Who is the head of state of {country}?
  Who is {country}'s chief of state?
head_of_government: Government/Executive branch/head of government
  Who is the head of government of {country}?
  Who leads the government of {country}?
  Who is {country}'s head of government?
legislature: Government/Legislative branch/legislature name
  What is the legislature of {country} called?
  What is the name of the parliament of {country}?
  Which body makes the laws of {country}?
national_colors: Government/National color(s)
  What are the national colors of {country}?
  Which colors stand for {country}?
  What are {country}'s national colors?
national_symbol: Government/National symbol(s)
  What is the national symbol of {country}?
  Which symbol stands for {country}?
  What is {country}'s national symbol?
anthem: Government/National anthem(s)/title
  What is the national anthem of {country}?
  What is the title of {country}'s anthem?
  Which song is the anthem of {country}?
long_name: Government/Country name/conventional long form
  What is the official name of {country}?
  What is {country}'s full name?
  What is the conventional long form of the name of {country}?
local_name: Government/Country name/local short form
  What is {country} called locally?
  What is the local name of {country}?
  What do its inhabitants call {country}?
former_name: Government/Country name/former
  What was {country} formerly called?
  What is a former name of {country}?
  By what name was {country} known before?
voting_age: Government/Suffrage
  At what age can people vote in {country}?
  What is the voting age in {country}?
  How old must voters be in {country}?
internet_code: Communications/Internet country code
  What is the internet country code of {country}?
  Which top-level domain does {country} use?
  What is {country}'s internet domain?
region: Geography/Location
  Where is {country} located?
  In which part of the world is {country}?
  In what region does {country} lie?
highest_point: Geography/Elevation/highest point
  What is the highest point of {country}?
  What is the highest mountain in {country}?
  Which place in {country} is the highest?
highest_elevation: Geography/Elevation/highest point
  How high is the highest point of {country}?
  What is the elevation of the highest point in {country}?
  How many metres high does {country} rise?
lowest_point: Geography/Elevation/lowest point
  What is the lowest point of {country}?
  Which place in {country} is the lowest?
  Where is the lowest point in {country}?
area: Geography/Area/total
  What is the area of {country}?
  How large is {country}?
  What is the total area of {country} in square kilometres?
coastline: Geography/Coastline
  How long is the coastline of {country}?
  What is the length of {country}'s coast?
  How many kilometres of coast does {country} have?
land_boundaries: Geography/Land boundaries/total
  How long are the land boundaries of {country}?
  What is the total length of {country}'s land borders?
  How many kilometres of land border does {country} have?
neighbour: Geography/Land boundaries/border countries
  Which country borders {country}?
  What is a neighbouring country of {country}?
  With which country does {country} share a land border?
population: People and Society/Population/total
  What is the population of {country}?
  How many people live in {country}?
  How many inhabitants does {country} have?
nationality: People and Society/Nationality/adjective
  What is the adjective for the nationality of {country}?
  What do you call something that comes from {country}?
  What is the nationality of people from {country}?
official_language: People and Society/Languages
  What is the official language of {country}?
  Which language is official in {country}?
  What language do officials use in {country}?
  Which official language is spoken in {country}?
largest_city: People and Society/Major urban areas - population
  What is the largest city of {country}?
  Which urban area of {country} has the most people?
  What is {country}'s biggest city?
life_expectancy: People and Society/Life expectancy at birth/total population
  What is the life expectancy in {country}?
  How long do people live in {country}?
  What is the life expectancy at birth in {country}?
median_age: People and Society/Median age/total
  What is the median age in {country}?
  How old is the median person of {country}?
  What is the median age of the people of {country}?
currency: Economy/Exchange rates/Currency
  What is the currency of {country}?
  What money is used in {country}?
  Which currency do people pay with in {country}?
export_partner: Economy/Exports - partners
  What is the main export partner of {country}?
  Which country buys most of the exports of {country}?
  Where do most exports of {country} go?
import_partner: Economy/Imports - partners
  What is the main import partner of {country}?
  From which country does {country} import most?
  Where do most imports of {country} come from?
export_commodity: Economy/Exports - commodities
  What is the main export of {country}?
  Which commodity does {country} export most?
  What does {country} mainly sell abroad?
crop: Economy/Agricultural products
  What is the main agricultural product of {country}?
  Which farm product does {country} produce most?
  What do the farms of {country} mainly produce?
aircraft_prefix: Transportation/Civil aircraft registration country code prefix
  What is the aircraft registration prefix of {country}?
  With which code are aircraft registered in {country}?
  Which prefix do civil aircraft of {country} have?
"""


def _relations() -> Iterator[Relation]:
  for block in re.split(r"\n(?=\w)", _QUESTIONS.strip()):
    head, *templates = block.split("\n")
    name, path = head.split(": ")
    yield Relation(name, path, _ANSWERS[name], tuple(map(str.strip, templates)))


RELATIONS = tuple(_relations())
