"""A retriever as MTEB and BEIR take one (extra `mteb`).

    encoder = BenchmarkEncoder(load_retriever("work/sup"), "work/sup")
    mteb.evaluate(encoder, mteb.get_tasks(["NFCorpus"]))

    search = DenseRetrievalExactSearch(encoder)  # of BEIR
    EvaluateRetrieval(search, score_function="dot").retrieve(corpus, queries)

It has the methods of MTEB 2's `EncoderProtocol` and those that BEIR asks for.
Neither library is needed to make one; MTEB's own description of a model and its
dot product come from MTEB when it asks for them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from odqa_jax.retrieval.retriever import Retriever

Documents = Sequence[Mapping[str, str]]


class BenchmarkEncoder:
  """Queries by the encoder of questions, documents by that of passages.

  What is neither, as in tasks of clustering or similarity, is taken for
  questions.
  """

  def __init__(
    self, retriever: Retriever, name: str, *, join_titles: bool = False
  ) -> None:
    """Wraps a retriever.

    Args:
      retriever: what encodes.
      name: of the model in MTEB's results.
      join_titles: whether title and text of a document are read as one text, as
        published figures of models that read no titles were made; by default
        they are read as an index of `odqa index` has them.
    """
    self.retriever, self.name = retriever, name
    self._join_titles = join_titles

  # ---- MTEB ----

  def encode(
    self,
    inputs: Iterable[Mapping[str, Any]],
    *,
    task_metadata: Any = None,
    hf_split: str = "",
    hf_subset: str = "",
    prompt_type: Any = None,
    **unused: Any,
  ) -> Float32[np.ndarray, "n e"]:
    """Embeds the batches of a task.

    Args:
      inputs: batches: "text", and of documents "title" and "body".
      task_metadata: makes no difference, like the next two.
      hf_split: likewise.
      hf_subset: likewise.
      prompt_type: "query" or "document"; None for tasks without sides.
      unused: batch sizes among them; the retriever knows what suits it.
    """
    batches = [dict(batch) for batch in inputs]
    if getattr(prompt_type, "value", prompt_type) != "document":
      return self.encode_queries([t for b in batches for t in b["text"]])
    documents = [
      {"title": title or "", "text": text}
      for batch in batches
      for title, text in _titled(batch)
    ]
    return self.encode_corpus(documents)

  def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
    """Dot products of all with all."""
    from mteb.similarity_functions import dot_score

    return dot_score(embeddings1, embeddings2)

  def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
    """Dot products of each with its counterpart."""
    from mteb.similarity_functions import pairwise_dot_score

    return pairwise_dot_score(embeddings1, embeddings2)

  @property
  def mteb_model_meta(self) -> Any:
    """What MTEB writes beside its results."""
    from mteb.models.model_meta import ModelMeta, ScoringFunction

    return ModelMeta.create_empty(
      {
        "name": f"odqa_jax/{self.name.strip('/').replace('/', '__')}",
        "revision": self.retriever.fingerprint[:12],
        "framework": ["JAX"],
        "similarity_fn_name": ScoringFunction.DOT_PRODUCT,
        "embed_dim": self.retriever.encoder.config.output_dim,
        "max_tokens": self.retriever.passage_length,
      }
    )

  # ---- BEIR ----

  def encode_queries(
    self, queries: Sequence[str], **unused: Any
  ) -> Float32[np.ndarray, "n e"]:
    """Embeds queries."""
    return self.retriever.encode(list(queries))

  def encode_corpus(
    self, corpus: Documents, **unused: Any
  ) -> Float32[np.ndarray, "n e"]:
    """Embeds documents of a "text" each, and perhaps a "title"."""
    titles = [document.get("title") or "" for document in corpus]
    texts = [document["text"] for document in corpus]
    if self._join_titles:
      texts = [f"{t} {x}".strip() for t, x in zip(titles, texts, strict=True)]
      titles = [""] * len(texts)
    return self.retriever.encode(texts, "passage", titles=titles)


def _titled(batch: Mapping[str, Any]) -> Iterable[tuple[str | None, str]]:
  """Title and text of every document; MTEB's own "text" is both in one."""
  texts = batch.get("body", batch["text"])
  return zip(batch.get("title", [""] * len(texts)), texts, strict=True)
