"""Gold paragraphs → passages of the corpus, as DPR did for NQ and SQuAD.

A question file that gives its paragraphs as text (SQuAD, QED, DPR's JSON) was
cut otherwise than the corpus, which has passages of 100 words. "Dense Passage
Retrieval", Sec. 4.2, therefore replaces each gold paragraph by the matching
passage of the corpus, and leaves out a question where none matches: of NQ's
79,168 train questions 58,880 remain, of SQuAD's 78,713 there are 70,096 (its
Table 1). How it matched is not published; the rule here is `GoldPassages`.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.corpus.store import hash_id
from odqa_jax.data.formats.files import choose_format
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.raw.records import RawFile
from odqa_jax.text.answers import has_answer, normalise_answer

# Words in a row that two texts share only where one copies the other.
_RUN = 3


def read_gold(
  path: str | Path, format: str | None = None
) -> dict[str, Passage]:
  """The paragraphs of a question file, by the ids that its questions name.

  Raises:
    ValueError: if the file is of no format that holds passages.
  """
  reader = choose_format(path, "passages", format)[0].passages
  assert reader is not None
  return {passage.id: passage for _, passage in reader(RawFile(path))}


class GoldPassages:
  """The passages of the corpus that gold paragraphs became.

  The candidates are the passages of all articles with the paragraph's title
  (case, underscores and white space aside) that contain an answer, or all of
  them where a question has none. The one that shares the most different runs
  of three words with the paragraph is the positive, the earliest among equals;
  words are those of normalised answers. One without such a run is no match.
  """

  def __init__(self, corpus: Corpus, paragraphs: Mapping[str, Passage]) -> None:
    """Reads the titles of the corpus; sixteen bytes an article are kept.

    Args:
      corpus: the evidence.
      paragraphs: by the ids that questions name as their positives.
    """
    self._corpus = corpus
    self._paragraphs = paragraphs
    starts = np.asarray(corpus.article_starts)
    self._bounds = np.append(starts, len(corpus))
    titles = (_title(corpus.title(int(row))) for row in starts)
    hashes = np.fromiter(map(hash_id, titles), np.uint64, len(starts))
    self._order = np.argsort(hashes, kind="stable")
    self._hashes = hashes[self._order]

  def positives(self, number: int, question: Question) -> tuple[list[int], str]:
    """Rows of a question's positives, or why it has none.

    One that names no paragraph has none for no reason: they may be mined.
    """
    del number
    rows: dict[int, None] = {}
    reason = ""
    for name in question.positive_ids:
      row, why = self._matched(self._paragraphs.get(name), question)
      if row is not None:
        rows[row] = None
      reason = reason or why
    return list(rows), "" if rows else reason

  def _matched(
    self, paragraph: Passage | None, question: Question
  ) -> tuple[int | None, str]:
    if paragraph is None:
      return None, "gold_not_in_file"
    article = self._article(paragraph.title)
    if not article:
      return None, "article_not_in_corpus"
    texts = {row: self._corpus.text(row) for row in article}
    if question.answers:
      texts = {
        row: text
        for row, text in texts.items()
        if has_answer(text, question.answers, question.answer_type)
      }
    if not texts:
      return None, "answer_not_in_article"
    gold = _runs(paragraph.text)
    shared = {row: len(gold & _runs(text)) for row, text in texts.items()}
    best = max(shared, key=lambda row: (shared[row], -row))
    if not shared[best]:
      return None, "paragraph_not_in_article"
    return best, ""

  def _article(self, title: str) -> list[int]:
    """Rows of all articles with a title."""
    wanted = np.uint64(hash_id(_title(title)))
    first, end = (
      int(np.searchsorted(self._hashes, wanted, side=side))
      for side in ("left", "right")
    )
    rows: list[int] = []
    for article in np.sort(self._order[first:end]).tolist():
      start, stop = self._bounds[article : article + 2].tolist()
      rows += range(start, stop)
    return rows


def _title(title: str) -> str:
  return " ".join(title.replace("_", " ").casefold().split())


def _runs(text: str) -> set[tuple[str, ...]]:
  """Every run of three words; a shorter text is one run."""
  words = normalise_answer(text).split()
  last = max(len(words) - _RUN, 0)
  return {tuple(words[i : i + _RUN]) for i in range(last + 1)} - {()}
