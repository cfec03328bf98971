"""A corpus of six passages that a reader of a test can rank by eye."""

from pathlib import Path

from odqa_jax.data.corpus.build import build_corpus
from odqa_jax.data.corpus.corpus import Corpus, Passage
from odqa_jax.text.wordpiece_training import train_wordpiece

TEXTS = [
  ("Ulm", "Einstein was born in the city of Ulm."),
  ("Bern", "Einstein worked at a patent office in Bern."),
  ("Princeton", "Einstein died in Princeton, far from the place of birth."),
  ("Rivers", "The Danube flows through Ulm and Vienna."),
  ("Cooking", "Boil the potatoes until they are soft."),
  ("Cooking", "Boil the potatoes until they are soft."),
]


def make_corpus(
  folder: Path, texts: list[tuple[str, str]] | None = None
) -> Corpus:
  """Titles and texts as a corpus; the ids are p0, p1 and so on."""
  texts = TEXTS if texts is None else texts
  tokenizer = train_wordpiece([text for _, text in TEXTS], 200)
  passages = [Passage(f"p{i}", *pair) for i, pair in enumerate(texts)]
  build_corpus(passages, folder, tokenizer)
  return Corpus(folder)
