"""Encodes a corpus."""

import argparse
from pathlib import Path
from typing import Any

from odqa_jax.commands.flags import DTYPES


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa index`."""
  add = parser.add_argument
  add("--checkpoint", required=True)
  add("--corpus", required=True, help="a dataset or corpus folder")
  add("--out", required=True)
  add("--dtype", choices=list(DTYPES), default="f32")
  add("--dimensions", type=int, help="keep the first ones only")
  add("--batch-tokens", type=int, help="per encoder call")
  add("--npy", help="also write the matrix to this file")


def run(args: argparse.Namespace) -> dict[str, Any]:
  """Writes the index folder."""
  from odqa_jax.data.prepare import open_corpus
  from odqa_jax.retrieval.index import export_npy
  from odqa_jax.retrieval.retriever import (
    load_retriever,
    truncate,
    write_index,
  )
  from odqa_jax.retrieval.storage import read_manifest
  from odqa_jax.runtime.mesh import make_mesh
  from odqa_jax.runtime.paths import NPY, check_folder, check_output
  from odqa_jax.runtime.progress import progress_bar

  check_folder(args.out)
  if args.npy:
    check_output(args.npy, [args.corpus, args.checkpoint], NPY)
  corpus = open_corpus(args.corpus)
  retriever = load_retriever(args.checkpoint)
  if args.dimensions is not None:
    retriever = truncate(retriever, args.dimensions)
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
  if args.npy:
    export_npy(args.out, args.npy)
  manifest = read_manifest(Path(args.out))
  return {k: manifest[k] for k in ("count", "width", "dtype", "encoder")}
