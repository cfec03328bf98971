"""A retriever with its index as a search that negatives are mined with."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.mining.mine import BATCH, Search
from odqa_jax.retrieval.retriever import Retriever, search_questions
from odqa_jax.retrieval.searchable import Searchable


def mining_search(
  retriever: Retriever, index: Searchable, corpus: Corpus
) -> Search:
  """Texts and depth → rows; raises what `search_questions` does."""

  def search(texts: Sequence[str], depth: int) -> Int[np.ndarray, "n k"]:
    # Always as many, so that nothing is compiled anew for the rest.
    filled = [*texts, *[texts[0]] * (-len(texts) % BATCH)]
    _, rows = search_questions(retriever, index, corpus, filled, k=depth)
    return rows[: len(texts)]

  return search
