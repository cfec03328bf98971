"""What is asked of the World Factbook: the table `RELATIONS`.

To add a relation: a row with the field's path, a function from the field's
text to its short answers (none if it has no clean one), and the templates.
"""

import re
from collections.abc import Callable
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
  found = _first(r"[\d.,]+(?: million)? ([^\d,(]+)")(text)
  return tuple(name.strip().title() for name in found)


def _names(text: str) -> Answers:
  """Names between commas, up to the first remark."""
  return tuple(n.strip() for n in re.split(r"[;(]", text)[0].split(","))


_WORDS = r"([^;,(]+)"
_NAME = r"([A-Z][^;,(]+)"
_PLACE = r"((?!unnamed)[^\d;(]*[^\d;(,\s])(?: \([^)]*\))?,? -?[\d,.]+ m\b"
_LENGTH = r"((?!0 )[\d,.]+ km)\b"
_PARTNER = r"([A-Z][A-Za-z. ]+) \d+%"


def _ask(
  name: str, path: str, answers: Callable[[str], Answers], *templates: str
) -> Relation:
  return Relation(name, path, answers, templates)


RELATIONS: tuple[Relation, ...] = (
  _ask(
    "capital",
    "Government/Capital/name",
    _first(r"([^;(\d]+?)(?: in [A-Z]|[;(\d]|$)"),
    "What is the capital of {country}?",
    "Which city is the capital of {country}?",
    "What is {country}'s capital city?",
    "Where does the government of {country} have its seat?",
  ),
  _ask(
    "government_type",
    "Government/Government type",
    _first(_WORDS),
    "What type of government does {country} have?",
    "How is {country} governed?",
    "What is the form of government of {country}?",
  ),
  _ask(
    "independence",
    "Government/Independence",
    _first(r"((?:\d{1,2} )?(?:[A-Z][a-z]+ )?\d{3,4})\b"),
    "When did {country} become independent?",
    "What is the date of independence of {country}?",
    "When did {country} gain its independence?",
  ),
  _ask(
    "independence_from",
    "Government/Independence",
    _first(r"[^(]*\(from (?:the )?([A-Z][\w .'-]+)\)"),
    "From which country did {country} gain independence?",
    "Who ruled {country} before its independence?",
    "{country} became independent from whom?",
  ),
  _ask(
    "national_holiday",
    "Government/National holiday",
    _first(_NAME),
    "What is the national holiday of {country}?",
    "Which holiday is {country}'s national day?",
    "What national holiday is celebrated in {country}?",
  ),
  _ask(
    "chief_of_state",
    "Government/Executive branch/chief of state",
    _person,
    "Who is the chief of state of {country}?",
    "Who is the head of state of {country}?",
    "Who is {country}'s chief of state?",
  ),
  _ask(
    "head_of_government",
    "Government/Executive branch/head of government",
    _person,
    "Who is the head of government of {country}?",
    "Who leads the government of {country}?",
    "Who is {country}'s head of government?",
  ),
  _ask(
    "legislature",
    "Government/Legislative branch/legislature name",
    _first(r"([A-Z][^;(]+)"),
    "What is the legislature of {country} called?",
    "What is the name of the parliament of {country}?",
    "Which body makes the laws of {country}?",
  ),
  _ask(
    "national_colors",
    "Government/National color(s)",
    _first(r"([a-z][^;(]+)"),
    "What are the national colors of {country}?",
    "Which colors stand for {country}?",
    "What are {country}'s national colors?",
  ),
  _ask(
    "national_symbol",
    "Government/National symbol(s)",
    _first(r"([^;(]+)"),
    "What is the national symbol of {country}?",
    "Which symbol stands for {country}?",
    "What is {country}'s national symbol?",
  ),
  _ask(
    "anthem",
    "Government/National anthem(s)/title",
    _first(r'["“]([^"”]+)["”]'),
    "What is the national anthem of {country}?",
    "What is the title of {country}'s anthem?",
    "Which song is the anthem of {country}?",
  ),
  _ask(
    "long_name",
    "Government/Country name/conventional long form",
    _first(r"([^;(]+)"),
    "What is the official name of {country}?",
    "What is {country}'s full name?",
    "What is the conventional long form of the name of {country}?",
  ),
  _ask(
    "local_name",
    "Government/Country name/local short form",
    _first(r"([^;(/,]+)"),
    "What is {country} called locally?",
    "What is the local name of {country}?",
    "What do its inhabitants call {country}?",
  ),
  _ask(
    "former_name",
    "Government/Country name/former",
    _names,
    "What was {country} formerly called?",
    "What is a former name of {country}?",
    "By what name was {country} known before?",
  ),
  _ask(
    "voting_age",
    "Government/Suffrage",
    _first(r"((\d+) years) of age"),
    "At what age can people vote in {country}?",
    "What is the voting age in {country}?",
    "How old must voters be in {country}?",
  ),
  _ask(
    "internet_code",
    "Communications/Internet country code",
    _first(r"(\.[a-z]{2,3})\b"),
    "What is the internet country code of {country}?",
    "Which top-level domain does {country} use?",
    "What is {country}'s internet domain?",
  ),
  _ask(
    "region",
    "Geography/Location",
    _first(r"([A-Z][A-Za-z -]+)[,;]"),
    "Where is {country} located?",
    "In which part of the world is {country}?",
    "In what region does {country} lie?",
  ),
  _ask(
    "highest_point",
    "Geography/Elevation/highest point",
    _first(_PLACE),
    "What is the highest point of {country}?",
    "What is the highest mountain in {country}?",
    "Which place in {country} is the highest?",
  ),
  _ask(
    "highest_elevation",
    "Geography/Elevation/highest point",
    _first(r".*?(-?\b[\d,.]+ m)\b"),
    "How high is the highest point of {country}?",
    "What is the elevation of the highest point in {country}?",
    "How many metres high does {country} rise?",
  ),
  _ask(
    "lowest_point",
    "Geography/Elevation/lowest point",
    _first(_PLACE),
    "What is the lowest point of {country}?",
    "Which place in {country} is the lowest?",
    "Where is the lowest point in {country}?",
  ),
  _ask(
    "area",
    "Geography/Area/total",
    _first(r"(([\d,.]+) sq km)"),
    "What is the area of {country}?",
    "How large is {country}?",
    "What is the total area of {country} in square kilometres?",
  ),
  _ask(
    "coastline",
    "Geography/Coastline",
    _first(_LENGTH),
    "How long is the coastline of {country}?",
    "What is the length of {country}'s coast?",
    "How many kilometres of coast does {country} have?",
  ),
  _ask(
    "land_boundaries",
    "Geography/Land boundaries/total",
    _first(_LENGTH),
    "How long are the land boundaries of {country}?",
    "What is the total length of {country}'s land borders?",
    "How many kilometres of land border does {country} have?",
  ),
  _ask(
    "neighbour",
    "Geography/Land boundaries/border countries",
    _every(r"([A-Z][^\d(;,]*[^\d(;,\s])(?: \([^)]*\))? [\d,.]+ km"),
    "Which country borders {country}?",
    "What is a neighbouring country of {country}?",
    "With which country does {country} share a land border?",
  ),
  _ask(
    "population",
    "People and Society/Population/total",
    _first(r"([\d,]{2,}) \("),
    "What is the population of {country}?",
    "How many people live in {country}?",
    "How many inhabitants does {country} have?",
  ),
  _ask(
    "nationality",
    "People and Society/Nationality/adjective",
    _first(_NAME),
    "What is the adjective for the nationality of {country}?",
    "What do you call something that comes from {country}?",
    "What is the nationality of people from {country}?",
  ),
  _ask(
    "official_language",
    "People and Society/Languages",
    _every(r"(?:^|, )([A-Z][A-Za-z' -]*[a-z])(?: [\d.]+%)? \(official"),
    "What is the official language of {country}?",
    "Which language is official in {country}?",
    "What language do officials use in {country}?",
    "Which official language is spoken in {country}?",
  ),
  _ask(
    "largest_city",
    "People and Society/Major urban areas - population",
    _city,
    "What is the largest city of {country}?",
    "Which urban area of {country} has the most people?",
    "What is {country}'s biggest city?",
  ),
  _ask(
    "life_expectancy",
    "People and Society/Life expectancy at birth/total population",
    _first(r"([\d.]+ years)"),
    "What is the life expectancy in {country}?",
    "How long do people live in {country}?",
    "What is the life expectancy at birth in {country}?",
  ),
  _ask(
    "median_age",
    "People and Society/Median age/total",
    _first(r"([\d.]+ years)"),
    "What is the median age in {country}?",
    "How old is the median person of {country}?",
    "What is the median age of the people of {country}?",
  ),
  _ask(
    "currency",
    "Economy/Exchange rates/Currency",
    _first(r"(.+?) (?:\(([A-Z]{3})\) )?per US dollar"),
    "What is the currency of {country}?",
    "What money is used in {country}?",
    "Which currency do people pay with in {country}?",
  ),
  _ask(
    "export_partner",
    "Economy/Exports - partners",
    _first(_PARTNER),
    "What is the main export partner of {country}?",
    "Which country buys most of the exports of {country}?",
    "Where do most exports of {country} go?",
  ),
  _ask(
    "import_partner",
    "Economy/Imports - partners",
    _first(_PARTNER),
    "What is the main import partner of {country}?",
    "From which country does {country} import most?",
    "Where do most imports of {country} come from?",
  ),
  _ask(
    "export_commodity",
    "Economy/Exports - commodities",
    _first(_WORDS),
    "What is the main export of {country}?",
    "Which commodity does {country} export most?",
    "What does {country} mainly sell abroad?",
  ),
  _ask(
    "crop",
    "Economy/Agricultural products",
    _first(_WORDS),
    "What is the main agricultural product of {country}?",
    "Which farm product does {country} produce most?",
    "What do the farms of {country} mainly produce?",
  ),
  _ask(
    "aircraft_prefix",
    "Transportation/Civil aircraft registration country code prefix",
    _first(r"([A-Z0-9]{1,3}(?:-[A-Z])?)\b"),
    "What is the aircraft registration prefix of {country}?",
    "With which code are aircraft registered in {country}?",
    "Which prefix do civil aircraft of {country} have?",
  ),
)
