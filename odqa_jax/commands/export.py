"""Writes a trained network, or an index, for other libraries.

The folder has the tokenizer's files and a README.md, the model card, which says
what the checkpoint knows of its training, how the folder is loaded, and what
--metrics holds. It can be put on the Hugging Face Hub as it is.
"""

import argparse
from typing import Any

# Format → what it is of, and what loads it.
MODELS = {
  "sentence-transformers": "retriever: SentenceTransformer",
  "dpr": "retriever: DPRQuestionEncoder and DPRContextEncoder",
  "t5": "generative reader: T5ForConditionalGeneration",
  "cross-encoder": "reranker: CrossEncoder, or AutoModelForSequence…",
  "text-classification": "pruner: AutoModelForSequenceClassification",
  "question-answering": "extractive reader: AutoModelForQuestionAnswering",
  "odqa": "extractive reader with all its heads: odqa_jax",
}
INDEXES = {
  "npy": "index: numpy.load",
  "parquet": "index: pyarrow, pandas, datasets",
  "faiss": "index: faiss.read_index, IndexFlatIP",
}


_EXAMPLE = """\
example:
  odqa export --checkpoint work/sup --to sentence-transformers --out sup \\
    --license apache-2.0 --language en --metrics figures.json
  hf upload ME/sup sup
  odqa export --index work/index --corpus data --to parquet --out embeddings
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa export`."""
  named = (MODELS | INDEXES).items()
  formats = "\n".join(f"  {name:<22} {about}" for name, about in named)
  parser.epilog = f"formats:\n{formats}\n\n{_EXAMPLE}"
  add = parser.add_argument
  add(
    "--checkpoint",
    help="a training workdir, a step of it, a folder of weights, or a name of "
    "the Hugging Face Hub",
  )
  add("--index", help="or an index, from odqa index")
  add("--corpus", help="of the index: the ids of its passages are written too")
  add("--to", required=True, help="the format; see below")
  add("--out", required=True, help="the folder to write, which must be empty")
  add("--license", help="for the card, as the Hub names it: apache-2.0, mit, …")
  add("--language", help="for the card, a code: en, de, …")
  add(
    "--metrics",
    help="for the card: FILE.json, --card or the last line of odqa evaluate",
  )


def run(args: argparse.Namespace) -> dict[str, Any]:
  """Writes the folder, with one process."""
  import jax

  from odqa_jax.data.prepare import open_corpus
  from odqa_jax.runtime.paths import check_folder
  from odqa_jax.serving.export.card import Stated
  from odqa_jax.serving.export.embeddings import export_embeddings
  from odqa_jax.serving.export.models import export_model

  _check(args)
  check_folder(args.out)
  if jax.process_count() > 1:
    raise ValueError("--num-processes: odqa export runs as one process.")
  stated = Stated(args.license, args.language, args.metrics)
  if args.index is None:
    return export_model(args.checkpoint, args.to, args.out, stated)
  corpus = open_corpus(args.corpus) if args.corpus else None
  return export_embeddings(args.index, args.to, args.out, stated, corpus)


def _check(args: argparse.Namespace) -> None:
  """Raises ValueError for flags that do not go together."""
  if (args.checkpoint is None) == (args.index is None):
    raise ValueError("give either --checkpoint DIR or --index DIR.")
  known = MODELS if args.index is None else INDEXES
  given = "--checkpoint" if args.index is None else "--index"
  if args.to not in known:
    raise ValueError(
      f"--to {args.to}: {given} is exported to one of {', '.join(known)}."
    )
  if args.corpus is not None and args.index is None:
    raise ValueError("--corpus names the passages of --index; leave it out.")
  if args.metrics is not None and args.index is not None:
    raise ValueError("--metrics is for --checkpoint; leave it out.")
