"""Index folders, opened for the retriever that they belong to."""

from pathlib import Path

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.views import tell_cut
from odqa_jax.retrieval.backends import table
from odqa_jax.retrieval.retriever import Retriever, fit_to_index, write_index
from odqa_jax.retrieval.searchable import Searchable
from odqa_jax.retrieval.source import read_source
from odqa_jax.retrieval.storage import read_manifest
from odqa_jax.runtime.mesh import make_mesh
from odqa_jax.runtime.pickles import refuse_pickle
from odqa_jax.runtime.progress import progress_bar


def open_index(
  retriever: Retriever, corpus: Corpus, directory: str, backend: str
) -> Searchable:
  """Opens the index of a retriever, once it is known to belong to it.

  Raises:
    ImportError: if the backend needs an extra that is not installed.
    ValueError: if the index is that of another encoder or corpus, or does not
      fit in memory.
  """
  refuse_pickle(
    Path(directory), "encode the corpus again with `odqa index --out DIR`"
  )
  try:
    fit_to_index(retriever, corpus, read_manifest(Path(directory)))
  except ValueError as error:
    source = read_source(directory)
    made = source and f" (made with {source.checkpoint} of {source.corpus})"
    raise ValueError(
      f"index {directory}{made or ''}, corpus {corpus.directory}: {error}"
    ) from error
  return table.open_index(directory, make_mesh(), backend=backend)


def make_index(
  retriever: Retriever, corpus: Corpus, directory: str, backend: str
) -> Searchable:
  """`open_index`; makes it when absent."""
  if not Path(directory).exists():
    tell_cut(corpus, retriever.passage_length, title=retriever.title)
    with progress_bar("encode", len(corpus), "passages") as update:
      write_index(
        retriever, corpus, directory, mesh=make_mesh(), progress=update
      )
  return open_index(retriever, corpus, directory, backend)
