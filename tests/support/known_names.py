"""A finder of known names, and small corpora in which it finds them."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from odqa_jax.data.corpus.build import build_corpus
from odqa_jax.data.corpus.corpus import Corpus, Passage
from odqa_jax.data.mining.entities import TYPES
from odqa_jax.data.mining.spans import Spans
from odqa_jax.data.mining.spans_build import build_spans
from odqa_jax.text.tokenizer import Tokenizer
from odqa_jax.text.wordpiece_training import train_wordpiece

NAMES = {
  "Ada Lovelace": "PERSON",
  "Lovelace": "PERSON",
  "Émile O'Neill": "PERSON",
  "London": "GPE",
  "Zürich": "GPE",
  "the U.S.": "GPE",
  "in 1843": "DATE",
  "東京": "GPE",
  "☃": "ORG",
  "seven": "CARDINAL",
  "Paris. In": "GPE",
}
TEXTS = [
  # Whole sentences; "London" is also a part of a word.
  (
    "Ada",
    "Ada Lovelace wrote to Émile O'Neill in 1843. Yes, London! A Londoner read "
    "all seven letters that evening.",
  ),
  # Its last sentence goes on in the next row of the article.
  ("Towns", "He saw Zürich before the rest of them. Later he moved to London"),
  (
    "Towns",
    "and to the U.S. with Lovelace for good. In 東京 he rested a while.",
  ),
  ("Snow", "The firm ☃ was founded near Paris. In winter it closes its doors."),
  # The same text again, under another title.
  ("Copy", "He saw Zürich before the rest of them. Later he moved to London"),
]


class Names:
  """Finds the names of a table, the longest first."""

  model = "names 1"
  software = "re"
  types = (*TYPES, "CARDINAL")
  alone = False

  def __init__(self, names: dict[str, str], fail_at: str = "") -> None:
    self.names = names
    self.fail_at = fail_at
    self.asked: list[str] = []

  def find(self, texts: Sequence[str]) -> Iterable[list[tuple[int, int, str]]]:
    longest = sorted(self.names, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest)))
    for text in texts:
      if self.fail_at and self.fail_at in text:
        raise InterruptedError
      self.asked.append(text)
      yield [
        (m.start(), m.end(), self.names[m.group()])
        for m in pattern.finditer(text)
      ]


def make_corpus(
  folder: Path,
  texts: Sequence[tuple[str, str]],
  tokenizer: Tokenizer | None = None,
) -> Corpus:
  known = [text.replace("☃", "") for pair in texts for text in pair]
  passages = [Passage(f"p{i}", *pair) for i, pair in enumerate(texts)]
  build_corpus(passages, folder, tokenizer or train_wordpiece(known, 200))
  return Corpus(folder)


def make_small(folder: Path) -> tuple[Corpus, Spans]:
  """`TEXTS` and its spans."""
  made = make_corpus(folder / "corpus", TEXTS)
  build_spans(made, folder / "spans", Names(NAMES))
  return made, Spans.open(folder / "spans")


def make_long(folder: Path) -> tuple[Corpus, Spans]:
  """300 rows of drawn words and names, with some copies."""
  rng = np.random.default_rng(0)
  names = [name for name in NAMES if name not in ("☃", "Paris. In")]
  names.remove("Lovelace")
  words = (
    "red-brick house; café “was” (very) old… its's 10,000 naïve x2".split()
  )
  texts = []
  for row in range(300):
    sentences = []
    for _ in range(rng.integers(1, 5)):
      pieces = rng.choice([*words, *names], rng.integers(4, 20)).tolist()
      sentences.append("The " + " ".join(pieces).rstrip(";") + ".")
    texts.append((f"t{row // 2}", " ".join(sentences)))
  for row in range(40, 60):
    texts[row] = (texts[row][0], texts[row - 30][1])
  made = make_corpus(folder / "corpus", texts)
  build_spans(made, folder / "spans", Names(NAMES))
  return made, Spans.open(folder / "spans")


def read(corpus: Corpus, spans: Spans) -> list[tuple[int, str, list[str]]]:
  """Row, text and entities of every sentence, by the character ranges."""
  found = []
  for i, (row, _, _, start, end) in enumerate(spans.sentences.tolist()):
    text = corpus.text(row)
    a, b = spans.entity_offsets[i : i + 2]
    entities = [text[x:y] for x, y in spans.entities[a:b, 2:4].tolist()]
    found.append((row, text[start:end], entities))
  return found
