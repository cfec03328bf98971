"""Flags that several commands share."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from odqa_jax.runtime.dtypes import long_dtype

if TYPE_CHECKING:
  from odqa_jax.serving.extraction import Sources

# Those that a system has.
_PARTS = (
  "checkpoint",
  "retriever",
  "index",
  "corpus",
  "reader_corpus",
  "reranker",
  "reader",
)
# Passages that are found, and spans compared, where nothing says how many.
FOUND = 100
_SPANS = 10
# As flags spell them, and as NumPy does.
DTYPES = {"f32": "float32", "bf16": "bfloat16", "int8": "int8"}


_SHORT = {long: short for short, long in DTYPES.items()} | {"float16": "f16"}


def short_dtype(name: str) -> str:
  """As flags spell it; another name as it is."""
  return _SHORT.get(long_dtype(name), name)


def add_backend(parser: argparse.ArgumentParser) -> None:
  """Adds `--backend`."""
  parser.add_argument(
    "--backend",
    default="exact",
    metavar="NAME",
    help="of the search. exact: rows on the devices; host: on its disk; "
    "scann[:key=value,…]",
  )


def add_format(parser: argparse.ArgumentParser) -> None:
  """Adds `--format` and `--columns`."""
  add = parser.add_argument_group("how question files are read").add_argument
  add(
    "--format",
    metavar="NAME",
    help="of raw question files, see odqa_jax/data/README.md; by default told "
    "by their content",
  )
  add(
    "--columns",
    default="",
    metavar="FIELD=COLUMN,…",
    help="of a table (Parquet, CSV, TSV, JSON lines) of questions: "
    "question=COLUMN[,answers=…][,id=…][,positive_ids=…]",
  )


def add_exclude_self(parser: argparse.ArgumentParser) -> None:
  """Adds `--exclude-self`."""
  parser.add_argument(
    "--exclude-self",
    action="store_true",
    help="a passage whose text is the question's own is no result",
  )


def add_choose_on_test(parser: argparse.ArgumentParser) -> None:
  """Adds `--choose-on-test`."""
  parser.add_argument(
    "--choose-on-test",
    action="store_true",
    help="choose on a set that is named test all the same; results say so",
  )


def split_names(names: str) -> list[str]:
  """The names between commas."""
  return [name for name in names.split(",") if name]


def add_system(parser: argparse.ArgumentParser) -> None:
  """Adds `--system`, and the parts that may be named instead."""
  add = parser.add_argument_group("what answers, or searches").add_argument
  add("--system", help="from odqa assemble or pack; instead of the parts")
  add(
    "--checkpoint",
    help="what searches, and reads if it has a reader; or an extractive reader",
  )
  add("--index", help="of what searches; made when absent")
  add("--corpus", help="a dataset or corpus folder")
  add("--reader-corpus", help="it in the reader's own vocabulary")
  parser.set_defaults(fusion=None)


def add_spans(parser: argparse.ArgumentParser) -> None:
  """Adds what an extractive reader needs besides `add_system`."""
  group = parser.add_argument_group("with an extractive reader")
  add = group.add_argument
  add("--retriever", help="what searches; with --index")
  add("--reranker", help="what orders the --k found anew")
  add("--reranked", help="of --run, by odqa rerank")
  add("--reader", help="one that writes, beside it")
  add(
    "--read-k",
    type=int,
    help="passages that are read, of the --k found; by default all",
  )
  add("--spans", type=int, help="spans that are compared; by default 10")
  add(
    "--rank-weight",
    type=float,
    help="of one of loss=dpr, or unified: λ, how much the passages' "
    "ranks weigh in all spans' scores; by default the best passage answers",
  )
  add("--scoring", help="it and --read-k, from odqa evaluate --tune-scoring")
  add(
    "--merge",
    action="store_true",
    help="equal answers are one, with all their probability",
  )


def span_sources(args: argparse.Namespace) -> "Sources | None":
  """The parts of an extractive reader; None for another checkpoint.

  Raises:
    ValueError: if they do not go together, or are for nothing.
  """
  from odqa_jax.reading.extract import holds_span_reader
  from odqa_jax.reading.unified import holds_unified
  from odqa_jax.serving.extraction import Sources

  given = args.checkpoint
  if not given or not holds_span_reader(given):
    for flag in (
      "retriever",
      "reranker",
      "reranked",
      "reader",
      "merge",
      "candidates",
      "rank_weight",
      "scoring",
      "tune_scoring",
    ):
      # A weight of 0 is given, though it equals False.
      value = getattr(args, flag, None)
      if value is not None and value is not False:
        raise ValueError(
          f"--{flag} is for an extractive reader, and "
          f"{args.checkpoint or '--checkpoint'} has none; name its workdir "
          "with --checkpoint DIR."
        )
    return None
  _check_spans(args)
  _take_scoring(args)
  if args.retriever is None and args.run is None and holds_unified(given):
    args.retriever = args.checkpoint
  sources = Sources(
    extractive_reader=args.checkpoint,
    retriever=args.retriever,
    index=args.index,
    backend=args.backend,
    run=None if args.system else args.run,
    reranker=args.reranker,
    reranked=args.reranked,
    reader=args.reader,
    reader_corpus=args.reader_corpus,
    fusion=args.fusion,
    exclude_self=args.exclude_self,
    rank_weight=args.rank_weight,
  )
  sources.check()
  return sources


def _check_spans(args: argparse.Namespace) -> None:
  if args.spans is None:
    args.spans = _SPANS
  if args.spans < 1:
    raise ValueError(f"--spans {args.spans}: at least 1 is compared.")


def _take_scoring(args: argparse.Namespace) -> None:
  """Fills in what `--scoring` names.

  Raises:
    ValueError: if it is given as well, was tuned for another reader, or does
      not go with other flags.
  """
  if args.scoring is not None:
    from odqa_jax.reading.answer_scoring import load_scoring
    from odqa_jax.serving.system_folder import component_version

    for flag in ("rank_weight", "read_k"):
      if getattr(args, flag) is not None and args.system is None:
        raise ValueError(
          f"--scoring {args.scoring} has its own {flag.replace('_', '-')}; "
          "leave one of the flags out."
        )
    scoring = load_scoring(args.scoring, component_version(args.checkpoint))
    if args.rank_weight is None:
      args.rank_weight = scoring.rank_weight
    if args.read_k is None:
      args.read_k = min(scoring.read_k, args.k or scoring.read_k)
  if args.rank_weight is not None and args.merge:
    raise ValueError(
      "--merge adds up probabilities, and scores with --rank-weight are none; "
      "leave one of the flags out."
    )


def names_pack(args: argparse.Namespace) -> bool:
  """Whether `--system` names a file, which is then a pack.

  Raises:
    ValueError: if flags are given that a pack has no use for.
  """
  if args.system is None or not Path(args.system).is_file():
    return False
  _refuse_parts(args)
  unused = ("run", "reranked", "exclude_self", "candidates", "batch_size")
  scored = ("rank_weight", "scoring", "tune_scoring")
  for flag in (*unused, *scored):
    given = getattr(args, flag, None)
    # A weight of 0 is given too.
    if given is not None and given is not False:
      raise ValueError(
        f"--{flag.replace('_', '-')} is not for a pack, and {args.system} is "
        "one; leave the flag out, or name the system that was packed."
      )
  for flag, value in (("backend", "exact"), ("beams", 1)):
    if getattr(args, flag, value) != value:
      raise ValueError(
        f"--{flag} {getattr(args, flag)} is not for a pack, and {args.system} "
        "is one; leave the flag out."
      )
  _check_spans(args)
  return True


def _refuse_parts(args: argparse.Namespace) -> None:
  for flag in _PARTS:
    if getattr(args, flag) is not None:
      raise ValueError(
        f"--system {args.system} has its own {flag.replace('_', '-')}; leave "
        "one of the flags out."
      )


def take_system(args: argparse.Namespace) -> None:
  """Fills in the parts that `--system` names, and its fusion.

  Raises:
    ValueError: if parts are given as well, or the system cannot answer.
  """
  if args.system is None:
    return
  _refuse_parts(args)
  from odqa_jax.serving.system_folder import open_for_answering

  paths = open_for_answering(args.system).paths
  if "extractive_reader" in paths:
    args.checkpoint = str(paths["extractive_reader"])
    for name in ("retriever", "reranker", "reader", "fusion", "scoring"):
      setattr(args, name, str(paths[name]) if name in paths else None)
  else:
    args.checkpoint = str(paths.get("reader", paths["retriever"]))
  args.index, args.corpus = str(paths["index"]), str(paths["corpus"])
  store = paths.get("reader_corpus")
  args.reader_corpus = store and str(store)
  if args.fusion is not None:
    _take_sizes(args)


def _take_sizes(args: argparse.Namespace) -> None:
  """Fills in what the fusion of a system was tuned with, where flags do not."""
  from odqa_jax.data.prepare import open_corpus
  from odqa_jax.reading.candidates import SIZES
  from odqa_jax.reading.fusion import load_fusion

  given = {name: getattr(args, name, None) for name in SIZES}
  sized = load_fusion(args.fusion).sized(given, len(open_corpus(args.corpus)))
  for name, value in sized.items():
    setattr(args, name, value)
