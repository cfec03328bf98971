"""Encodes the passages of a corpus with a retriever.

The folder is searched by odqa search, answer and serve. A build that was
stopped goes on with the same command.
"""

import argparse
from pathlib import Path
from typing import Any

from odqa_jax.commands.flags import DTYPES, short_dtype

_EXAMPLE = """\
example:
  odqa index --checkpoint work/sup --corpus data --out work/index
  odqa index --checkpoint minilm --corpus data --dtype bf16 --out minilm_index
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa index`."""
  parser.epilog = _EXAMPLE
  add = parser.add_argument
  add(
    "--checkpoint",
    required=True,
    help="of a retriever: a training workdir, a step of it, a Hugging Face or "
    "sentence-transformers folder, a name of the Hub, or minilm",
  )
  add("--corpus", required=True, help="a dataset or corpus folder")
  add("--out", required=True, help="the folder of the index")
  add(
    "--dtype",
    type=short_dtype,
    choices=list(DTYPES),
    default="f32",
    help="of the embeddings: bf16 takes half the room, int8 a quarter of it on "
    "the devices",
  )
  add("--dimensions", type=int, help="keep the first N; by default all")
  add(
    "--batch-tokens",
    type=int,
    help="with padding, in one call of the encoder; by default what suits the "
    "devices",
  )
  add(
    "--title",
    action="store_true",
    help="titles are read too, where a published model does not say so",
  )
  add("--npy", help="also write the matrix to this file")


def run(args: argparse.Namespace) -> dict[str, Any]:
  """Writes the index folder."""
  from odqa_jax.data.corpus.views import tell_cut
  from odqa_jax.data.prepare import open_corpus
  from odqa_jax.retrieval.index import export_npy
  from odqa_jax.retrieval.retriever import (
    load_retriever,
    truncate,
    with_titles,
    write_index,
  )
  from odqa_jax.retrieval.source import write_source
  from odqa_jax.retrieval.storage import read_manifest
  from odqa_jax.runtime.mesh import is_primary, make_mesh
  from odqa_jax.runtime.paths import NPY, check_folder, check_output
  from odqa_jax.runtime.progress import progress_bar

  check_folder(args.out)
  if args.npy:
    check_output(args.npy, [args.corpus, args.checkpoint], NPY)
  corpus = open_corpus(args.corpus)
  retriever = load_retriever(args.checkpoint)
  added = args.title and not retriever.title
  if added:
    retriever = with_titles(retriever)
  if args.dimensions is not None:
    retriever = truncate(retriever, args.dimensions)
  if is_primary():
    tell_cut(corpus, retriever.passage_length, title=retriever.title)
  with progress_bar("encode", len(corpus), "passages") as update:
    write_index(
      retriever,
      corpus,
      args.out,
      mesh=make_mesh(),
      dtype=DTYPES[args.dtype],
      batch_tokens=args.batch_tokens,
      progress=update,
    )
  if is_primary():
    write_source(
      args.out,
      checkpoint=args.checkpoint,
      corpus=corpus.directory,
      title=added,
    )
  if args.npy:
    export_npy(args.out, args.npy)
  manifest = read_manifest(Path(args.out))
  return {k: manifest[k] for k in ("count", "width", "dtype", "encoder")}
