"""A retriever's run joined with its questions, corpus and gold passages.

    found = RetrievedQuestions([(list(questions), read_run(…))], corpus)
    found.gold(3), found.hit_rank(3)  # row of the corpus, rank; −1: none
    found.candidates(3)               # rows, best first

Rerankers and extractive readers learn from it; see `reranking.py` and
`spans.py`.
"""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.passages import PassageTexts
from odqa_jax.data.questions.sets import Question, QuestionSet
from odqa_jax.data.raw.records import RawFile
from odqa_jax.data.runs import ID_KEYS, Ranking, check_aligned, read_run
from odqa_jax.text.answers import has_answer
from odqa_jax.text.normalised import normalise_text

# Records of a run whose texts are compared with those of the corpus.
_COMPARED = 100


class RetrievedQuestions:
  """Questions with the passages that a retriever found for them.

  Attributes:
    questions: of all sets.
    corpus: the evidence.
  """

  def __init__(
    self, sets: Sequence[tuple[Sequence[Question], Ranking]], corpus: Corpus
  ) -> None:
    """Joins sets with the runs of their questions.

    Raises:
      ValueError: if a run is not of its questions, or none has a passage.
    """
    self.corpus = corpus
    self.questions: list[Question] = []
    self._rows: list[Int[np.ndarray, " k"]] = []
    self._scores: list[Float[np.ndarray, " k"]] = []
    for questions, ranking in sets:
      check_aligned(ranking, questions)
      self.questions += questions
      real = ranking.rows >= 0
      self._rows += [x[r] for x, r in zip(ranking.rows, real, strict=True)]
      self._scores += [x[r] for x, r in zip(ranking.scores, real, strict=True)]
    if not any(len(rows) for rows in self._rows):
      raise ValueError(
        f"config.data.run: no passage is left for any of {len(self)} "
        "questions; give the run of these questions, or another one."
      )
    self._golds = [self._gold_rows(q) for q in self.questions]

  def _gold_rows(self, question: Question) -> list[int]:
    rows = map(self.corpus.find, question.positive_ids)
    return list(dict.fromkeys(row for row in rows if row is not None))

  def __len__(self) -> int:
    return len(self.questions)

  def candidates(self, i: int) -> Int[np.ndarray, " k"]:
    """Rows that the run has for question i, best first; may be none."""
    return self._rows[i]

  def scores(self, i: int) -> Float[np.ndarray, " k"]:
    """What the run gives these."""
    return self._scores[i]

  def golds(self, i: int) -> list[int]:
    """Rows of all its gold passages that the corpus has."""
    return self._golds[i]

  def gold(self, i: int) -> int:
    """Row of its first gold passage, R2-D2's `gt_index`; −1: none."""
    return self._golds[i][0] if self._golds[i] else -1

  def answered(self, i: int, row: int) -> bool:
    """Whether the passage of a row holds an answer of question i."""
    question = self.questions[i]
    return has_answer(
      self.corpus.text(row), question.answers, question.answer_type
    )

  def hit_rank(self, i: int) -> int:
    """Rank from 0 of the first candidate that holds an answer; −1: none."""
    rows = self._rows[i].tolist()
    hits = (rank for rank, row in enumerate(rows) if self.answered(i, row))
    return next(hits, -1)

  def positive(self, i: int) -> int:
    """Row to learn from: the gold passage, else the first hit; −1: none."""
    gold = self.gold(i)
    if gold >= 0:
      return gold
    rank = self.hit_rank(i)
    return int(self._rows[i][rank]) if rank >= 0 else -1


def open_retrieved(
  questions: str, runs: str, corpus: Corpus
) -> RetrievedQuestions:
  """Opens what `config.data.questions` and `config.data.run` name.

  Args:
    questions: folders of question sets, separated by commas.
    runs: files of runs, one for each set.
    corpus: the evidence.

  Raises:
    ValueError: if the numbers differ, or a run is of other questions or of
      another corpus.
  """
  folders, files = questions.split(","), runs.split(",")
  if not runs or len(folders) != len(files):
    raise ValueError(
      f"config.data.questions names {len(folders)} sets and config.data.run "
      f"{len(files) if runs else 0} files; give one for one, each made by odqa "
      "search."
    )
  sets = []
  for folder, file in zip(folders, files, strict=True):
    asked = list(QuestionSet(Path(folder)))
    sets.append((asked, read_run(file, asked, corpus)))
    check_run_texts(file, corpus)
  return RetrievedQuestions(sets, corpus)


def check_run_texts(path: str | Path, corpus: PassageTexts) -> None:
  """Refuses a run whose ids another corpus has for other passages.

  Ids are often numbers, which every corpus has; so the texts in the first
  records of a JSON run are compared, by their words: other tools keep quotes
  and spaces otherwise. A TREC run has none.

  Raises:
    ValueError: naming record and passage.
  """
  source = RawFile(path)
  if source.first_byte() not in (b"[", b"{"):
    return
  for place, record in islice(source.json_records(), _COMPARED):
    for passage in record["ctxs"]:
      name = next((str(passage[k]) for k in ID_KEYS if k in passage), "")
      row = corpus.find(name)
      text = passage.get("text")
      if row is None or not text:
        continue
      if normalise_text(text) != normalise_text(corpus.text(row)):
        raise ValueError(
          f"{place}: the passage {name!r} has another text than in the corpus "
          f"({text[:40]!r} in place of {corpus.text(row)[:40]!r}); the run is "
          "of another corpus; give the one that was searched."
        )
