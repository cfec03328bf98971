"""An index with its retriever and its texts: questions in, passages out.

    index = build_index(retriever, ["Emma is a novel by Jane Austen."])
    index.search(["who wrote emma"], k=1)[0][0].text

Under it lie the parts that the commands put together: a corpus
(`odqa prepare`), and the folder of embeddings (`odqa index`).
"""

import dataclasses
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from odqa_jax.data.corpus.build import build_corpus
from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.passages import Passage, open_sources
from odqa_jax.data.prepare import open_corpus
from odqa_jax.data.questions.sets import Question
from odqa_jax.evaluation.measures import evaluate_ranking
from odqa_jax.evaluation.systems import possible_k, rank_passages
from odqa_jax.retrieval import folders
from odqa_jax.retrieval.retriever import (
  Retriever,
  search_questions,
  write_index,
)
from odqa_jax.retrieval.searchable import Searchable
from odqa_jax.retrieval.source import read_source
from odqa_jax.runtime.artifact import MANIFEST, read_manifest
from odqa_jax.runtime.dtypes import read_dtype
from odqa_jax.runtime.mesh import make_mesh
from odqa_jax.runtime.progress import progress_bar
from odqa_jax.runtime.settings import INDEX_DTYPES
from odqa_jax.serving.questions import as_questions, check_texts

_CORPUS, _INDEX = "corpus", "index"


@dataclasses.dataclass(frozen=True)
class FoundPassage:
  """A passage that a question found, or that was read for it.

  Attributes:
    id: its name in the corpus.
    title: may be empty.
    text: the whole of it.
    score: the dot product of the two embeddings; of what was read, the score
      of whoever put it into its place.
  """

  id: str
  title: str
  text: str
  score: float


@dataclasses.dataclass(frozen=True)
class PassageIndex:
  """What `build_index` and `open_index` give.

  Attributes:
    retriever: what encodes the questions.
    corpus: the evidence.
    rows: the embeddings, where a backend holds them.
  """

  retriever: Retriever
  corpus: Corpus
  rows: Searchable

  def __len__(self) -> int:
    return len(self.corpus)

  def search(
    self, questions: Sequence[str], k: int = 10
  ) -> list[list[FoundPassage]]:
    """The k best passages of every question, best first.

    Args:
      questions: their texts.
      k: passages of a question; of a smaller corpus all.

    Raises:
      ValueError: for one text in place of a list, or a k below 1.
    """
    check_texts(questions)
    if k < 1:
      raise ValueError(f"k={k}: at least 1 passage is searched for.")
    scores, rows = search_questions(
      self.retriever,
      self.rows,
      self.corpus,
      questions,
      k=min(k, len(self.corpus)),
    )
    return [
      [
        FoundPassage(
          self.corpus.id(row),
          self.corpus.title(row),
          self.corpus.text(row),
          score,
        )
        for row, score in zip(*of, strict=True)
      ]
      for of in zip(rows.tolist(), scores.tolist(), strict=True)
    ]

  def measure(
    self,
    questions: str | Path | Sequence[Question],
    k: int = 100,
    *,
    qrels: str | Path | None = None,
  ) -> dict[str, Any]:
    """What the search is worth, as `odqa evaluate` says it.

    Args:
      questions: with answers or gold passages: a file, the folder of a
        prepared set, or they themselves.
      k: passages of a question.
      qrels: a file of judgements, in place of the questions' gold passages.

    Returns:
      See `evaluate_ranking`.
    """
    asked = as_questions(questions)
    ranking = rank_passages(
      self.retriever,
      self.rows,
      self.corpus,
      asked,
      k=possible_k(k, self.corpus),
    )
    return evaluate_ranking(ranking, asked, self.corpus, qrels=qrels)


def build_index(
  retriever: Retriever,
  corpus: str | Path | Corpus | Sequence[str | Passage],
  out: str | Path | None = None,
  *,
  dtype: str = "float32",
  backend: str = "exact",
) -> PassageIndex:
  """Encodes a corpus, or texts, and opens the index.

  >>> retriever = load_retriever("minilm")
  >>> index = build_index(retriever, ["Emma is a novel by Jane Austen."])
  >>> (found,) = index.search(["who wrote Emma"], k=1)
  >>> found[0].id, found[0].text
  ('0', 'Emma is a novel by Jane Austen.')

  Args:
    retriever: what encodes.
    corpus: the folder of `odqa prepare`, or texts, or passages with ids and
      titles. A mere text is called by its number, from 0.
    out: the folder of the index, which a killed run takes up again; of texts
      it gets two, `corpus` and `index`. None: nothing is kept.
    dtype: of the embeddings that are kept: float32, bfloat16 or int8.
    backend: see `open_index`.

  Raises:
    ValueError: if the corpus was tokenised for another retriever, a passage
      cannot be stored, or `out` holds something else.
  """
  options = {"dtype": read_dtype(dtype, INDEX_DTYPES), "backend": backend}
  mere = out is None or not isinstance(corpus, str | Path | Corpus)
  if mere and jax.process_count() > 1:
    raise ValueError(
      "build_index: several processes need a folder that all of them see, and "
      "a corpus that odqa prepare has made."
    )
  if out is not None:
    return _built(retriever, corpus, Path(out), **options)
  folder = Path(tempfile.mkdtemp(prefix="odqa-index-"))
  try:
    index = _built(retriever, corpus, folder / _INDEX, **options)
  except BaseException:
    shutil.rmtree(folder, ignore_errors=True)
    raise
  # Rows and texts are read from the files as long as it lives.
  weakref.finalize(index, shutil.rmtree, folder, ignore_errors=True)
  return index


def _built(
  retriever: Retriever,
  corpus: str | Path | Corpus | Sequence[str | Passage],
  folder: Path,
  *,
  dtype: str,
  backend: str,
) -> PassageIndex:
  """See `build_index`."""
  if isinstance(corpus, str | Path):
    corpus = open_corpus(corpus)
  if not isinstance(corpus, Corpus):
    passages = [
      Passage(str(i), "", text) if isinstance(text, str) else text
      for i, text in enumerate(corpus)
    ]
    tokenizer = retriever.tokenizer
    _check_same_texts(folder, passages)
    build_corpus(passages, folder / _CORPUS, tokenizer, name="texts")
    corpus, folder = Corpus(folder / _CORPUS), folder / _INDEX
  with progress_bar("encode", len(corpus), "passages") as update:
    write_index(
      retriever,
      corpus,
      folder,
      mesh=make_mesh(),
      dtype=dtype,
      progress=update,
    )
  rows = folders.open_index(retriever, corpus, str(folder), backend)
  return PassageIndex(retriever, corpus, rows)


def _check_same_texts(folder: Path, passages: list[Passage]) -> None:
  """Refuses to replace the texts of an index that is there.

  Raises:
    ValueError: if the folder holds an index of other texts.
  """
  held = folder / _CORPUS
  if not (folder / _INDEX / MANIFEST).is_file() or not held.is_dir():
    return
  (before,) = read_manifest(held, "corpus")["sources"]
  if not open_sources(passages, "texts")[0].matches(before):
    raise ValueError(
      f"{folder} is an index of other texts; choose another folder, or remove "
      "it."
    )


def open_index(
  retriever: Retriever,
  index: str | Path,
  corpus: str | Path | Corpus | None = None,
  *,
  backend: str = "exact",
) -> PassageIndex:
  """Opens what `build_index` or `odqa index` has made.

  >>> retriever = load_retriever("minilm")
  >>> texts = [Passage("austen", "Emma", "A novel by Jane Austen.")]
  >>> made = build_index(retriever, texts, "novels")
  >>> index = open_index(retriever, "novels")
  >>> figures = index.measure(
  ...   [Question("1", "who wrote Emma", ("Jane Austen",))]
  ... )
  >>> figures["recall"]
  {'1': 1.0}

  Args:
    retriever: whose index it is.
    index: the folder.
    corpus: of it; None: what was made of texts holds its own, and an index of
      `odqa index` knows its own.
    backend: where the rows are held, and how they are searched: "exact",
      "host" or "scann".

  Raises:
    ValueError: if the index belongs to another retriever or corpus, or does
      not fit in memory.
    ImportError: if the backend needs an extra that is not installed.
  """
  folder = Path(index)
  if corpus is None:
    known = read_source(folder)
    if known is not None:
      corpus = known.corpus
    elif (folder / _CORPUS).is_dir():
      corpus, folder = folder / _CORPUS, folder / _INDEX
    else:
      raise ValueError(
        f"{folder} does not say its corpus; name the one that was indexed: "
        "open_index(retriever, index, corpus)."
      )
  opened = corpus if isinstance(corpus, Corpus) else open_corpus(corpus)
  rows = folders.open_index(retriever, opened, str(folder), backend)
  return PassageIndex(retriever, opened, rows)
