"""Which index the dev questions are searched in while a model trains.

- `live`: the one that training searches. Nothing is encoded; its age, logged
  beside what is measured, says how stale it is.
- `sample`: the gold passages of the dev questions and others at random, encoded
  anew at every measurement. Recall in it is higher than in the whole corpus.
- `corpus`: all passages encoded anew at every measurement: 80 times 21 million
  in the supervised recipe. Only when asked for.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.views import PassageSample, sample_passages
from odqa_jax.data.exclusions import find_exclusions
from odqa_jax.data.questions.sets import Question
from odqa_jax.retrieval.encoding import encode_questions
from odqa_jax.retrieval.retriever import Retriever, index_corpus
from odqa_jax.retrieval.searchable import Searchable, search_embeddings
from odqa_jax.runtime.evaluate_settings import EvaluateSettings
from odqa_jax.runtime.mesh import is_primary, sync


def dev_index_kind(settings: EvaluateSettings, *, has_live: bool) -> str:
  """`config.evaluate.index`, or what it stands for where it is empty.

  Args:
    settings: the block `config.evaluate`.
    has_live: whether training searches the same corpus.

  Raises:
    ValueError: if there is no live index to be searched.
  """
  if settings.index == "live" and not has_live:
    raise ValueError(
      "config.evaluate.index='live': this task searches no index, or not that "
      "of config.evaluate.corpus; choose sample or corpus."
    )
  return settings.index or ("live" if has_live else "sample")


class DevIndex:
  """Searches the dev questions.

  Args:
    kind: `live`, `sample` or `corpus`.
    corpus: the evidence.
    questions: of the dev set.
    passages: of a sample.
    seed: of a sample.
    mesh: holds the index.
    dtype: of its rows.
    folder: where it is made and deleted.
  """

  def __init__(
    self,
    kind: str,
    corpus: Corpus,
    questions: Sequence[Question],
    *,
    passages: int,
    seed: int,
    mesh: Mesh,
    dtype: str,
    folder: Path,
  ) -> None:
    self.kind, self.corpus = kind, corpus
    self._texts = [q.question for q in questions]
    self._mesh, self._dtype, self._folder = mesh, dtype, folder
    self._exclusions = find_exclusions(questions, corpus)
    self._sample: PassageSample | None = None
    if kind == "sample" and passages < len(corpus):
      gold = [name for q in questions for name in q.positive_ids]
      self._sample = sample_passages(corpus, gold, passages, seed=seed)

  def __len__(self) -> int:
    """Passages that are searched."""
    return len(self.corpus if self._sample is None else self._sample)

  def search(
    self,
    retriever: Retriever,
    live: Searchable | None,
    k: int,
    embeddings: Float[np.ndarray, "n e"] | None = None,
  ) -> tuple[Float[np.ndarray, "n k"], Int[np.ndarray, "n k"]]:
    """Scores and corpus rows of the dev questions, best first.

    Args:
      retriever: with the present parameters.
      live: the index that training searches.
      k: passages of a question.
      embeddings: of the questions, where they are encoded already.
    """
    if not k:
      shape = (len(self._texts), 0)
      return np.zeros(shape, np.float32), np.zeros(shape, np.int32)
    if embeddings is None:
      embeddings = encode_questions(retriever, self._texts)
    with self._index(retriever, live) as index:

      def search(depth: int) -> tuple[np.ndarray, np.ndarray]:
        scores, rows = search_embeddings(index, embeddings, depth)
        if self._sample is not None:
          rows = self._sample.rows[rows].astype(np.int32)
        return scores, rows

      if self._exclusions is None:
        return search(k)
      return self._exclusions.search(search, k, index.count)

  @contextmanager
  def _index(
    self, retriever: Retriever, live: Searchable | None
  ) -> Iterator[Searchable]:
    if self.kind == "live":
      assert live is not None, "a task with retrieval has an index"
      yield live
      return
    # What an evaluation that was killed left behind is of other parameters.
    self._remove()
    yield index_corpus(
      retriever,
      self.corpus if self._sample is None else self._sample,
      self._folder,
      mesh=self._mesh,
      dtype=self._dtype,
    )
    self._remove()

  def _remove(self) -> None:
    if is_primary():
      shutil.rmtree(self._folder, ignore_errors=True)
      shutil.rmtree(f"{self._folder}.tmp", ignore_errors=True)
    sync("dev index removed")
