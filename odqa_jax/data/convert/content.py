"""What is converted: a prepared corpus, question sets, pairs, and a run.

content = open_content("data", ["data/questions/dev"], run="dev.json")
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.formats.files import open_questions
from odqa_jax.data.mining.pairs import Pairs
from odqa_jax.data.prepare import open_corpus, question_set_names
from odqa_jax.data.questions.sets import Question, QuestionSet
from odqa_jax.data.raw.records import RawFile
from odqa_jax.runtime.files import content_hash, file_hash
from odqa_jax.runtime.progress import progress_bar

Questions = QuestionSet | Sequence[Question]
Rows = list[int]

# Passages between two reports of progress.
_TOLD = 4096


@dataclasses.dataclass(frozen=True)
class Content:
  """What is converted.

  Attributes:
    corpus: the evidence.
    sets: questions by the name of their set.
    pairs: what was mined for some of the sets, by name.
    run: a run file of the only set.
  """

  corpus: Corpus
  sets: Mapping[str, Questions]
  pairs: Mapping[str, Pairs]
  run: Path | None = None

  def passages(self) -> Iterator[Passage]:
    """All of the corpus, in order; says on stderr how far it is."""
    with progress_bar("convert", len(self.corpus), "passages") as update:
      for row in range(len(self.corpus)):
        yield self.passage(row)
        if row % _TOLD == 0:
          update(row)

  def passage(self, row: int) -> Passage:
    """The one in a row."""
    corpus = self.corpus
    return Passage(corpus.id(row), corpus.title(row), corpus.text(row))

  def contexts(self, name: str) -> Iterator[tuple[Question, Rows, Rows]]:
    """Questions of a set, with the rows of their positives and negatives.

    They are those that were mined, and without pairs those that are named.

    Raises:
      ValueError: if a question names a passage that the corpus lacks.
    """
    questions, pairs = self.sets[name], self.pairs.get(name)
    mined = {}
    if pairs is not None:
      mined = {n: i for i, n in enumerate(pairs.question.tolist())}
    for n, question in enumerate(questions):
      if pairs is None:
        positives = self._rows(question, question.positive_ids)
        yield question, positives, self._rows(question, question.negative_ids)
      elif n in mined:
        i = mined[n]
        yield question, pairs.positive(i).tolist(), pairs.negatives(i).tolist()
      else:
        yield question, [], []

  def _rows(self, question: Question, ids: Sequence[str]) -> Rows:
    rows = []
    for name in ids:
      row = self.corpus.find(name)
      if row is None:
        raise ValueError(
          f"question {question.id!r} names the passage {name!r}, which the "
          f"corpus lacks (its ids look like {self.corpus.id(0)!r}); give the "
          "corpus that the questions belong to."
        )
      rows.append(row)
    return rows

  def identity(self) -> dict[str, Any]:
    """What a conversion depends on, as hashes."""
    return {
      "corpus": self.corpus.fingerprint,
      "questions": {n: _fingerprint(s) for n, s in self.sets.items()},
      "pairs": {n: p.manifest["sha256"] for n, p in self.pairs.items()},
      "run": self.run and file_hash(self.run),
    }


def _fingerprint(questions: Questions) -> str:
  if isinstance(questions, QuestionSet):
    return questions.fingerprint
  return content_hash([dataclasses.asdict(q) for q in questions])


def open_content(
  dataset: str | Path,
  questions: Sequence[str],
  *,
  run: str | Path | None = None,
  format: str | None = None,
  columns: str = "",
) -> Content:
  """Opens a dataset folder, and question sets beside or outside of it.

  Args:
    dataset: the folder, or its corpus; pairs of the sets are found in it.
    questions: prepared sets or raw files; the name of a set in the dataset
      folder will do.
    run: a run file of the questions.
    format: of raw files.
    columns: of raw files that are tables.

  Raises:
    ValueError: for what is absent or damaged, pairs of other questions, and a
      run of several sets.
  """
  dataset = Path(dataset)
  if run is not None and len(questions) != 1:
    raise ValueError(
      f"--run {run} is a run of one question set, and {len(questions)} are "
      "given; name the one that was searched."
    )
  # Refuses what is no file before anything is read.
  path = RawFile(run).path if run is not None else None
  corpus = open_corpus(dataset)
  sources = [_source(dataset, name) for name in questions]
  sets: dict[str, Questions] = {}
  pairs = {}
  for source, name in zip(sources, question_set_names(sources), strict=True):
    if not Path(source).is_dir():
      sets[name] = open_questions(source, format, columns)
      continue
    stored = sets[name] = QuestionSet(source)
    if (dataset / "pairs" / name).is_dir():
      pairs[name] = Pairs.open(dataset / "pairs" / name)
      made_from = pairs[name].manifest
      wanted = stored.fingerprint, corpus.fingerprint
      if (made_from["questions"], made_from["corpus"]) != wanted:
        raise ValueError(
          f"{dataset / 'pairs' / name}: were mined for other questions or from "
          "another corpus; mine them again, or move them away."
        )
  return Content(corpus, sets, pairs, path)


def _source(dataset: Path, name: str) -> str:
  """A set of the dataset folder where nothing else has that name."""
  inside = dataset / "questions" / name
  return str(inside) if inside.is_dir() and not Path(name).exists() else name
