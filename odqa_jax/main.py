"""The command line: one sub-command per stage; flags only, no logic.

The last line on stdout is JSON with the command's figures; progress and logs
go to stderr. The exit code is 0 on success, 2 on bad input (with one line that
says what, where, and what to do), 130 when stopped by Ctrl-C or SIGTERM.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

# XLA sizes its thread pool by the cores it sees; with fewer threads than
# (fake) devices, queued steps on CPU wait for each other for ever.
os.environ.setdefault("NPROC", "16")


def _add_prepare(commands: Any) -> None:
  p = commands.add_parser("prepare", help="raw files → a dataset folder")
  p.add_argument("--corpus", required=True, help="FILE[,FILE…] or a known name")
  p.add_argument("--questions", default="", help="FILE[,…] or NAME:SPLIT")
  p.add_argument("--out", required=True, help="the dataset folder")
  p.add_argument("--tokenizer", default="", help="a folder; none: train one")
  p.add_argument("--vocabulary-size", type=int, default=8192)
  p.add_argument("--pairs", default="", help="sets to mine: NAME[,NAME…]")
  p.add_argument("--negatives", type=int, default=8, help="kept per question")
  p.add_argument(
    "--reader-tokenizer", default="", help="a T5 folder: a second token store"
  )
  p.add_argument(
    "--spans",
    nargs="?",
    const="default",
    default="",
    help="find entities to mask: TYPE[,TYPE…]; none named: a choice of ten",
  )


def _add_train(commands: Any) -> None:
  p = commands.add_parser("train", help="train by a config; resumes by itself")
  p.add_argument(
    "--config", required=True, help="configs/NAME.py[:key=value,…]"
  )
  p.add_argument("--workdir", required=True)


def _add_backend(p: argparse.ArgumentParser) -> None:
  p.add_argument(
    "--backend",
    default="exact",
    help="exact: rows on the devices; host: on the host; scann[:key=value,…]",
  )


def _add_retrieval(commands: Any) -> None:
  p = commands.add_parser("index", help="encode a corpus")
  p.add_argument("--checkpoint", required=True)
  p.add_argument("--corpus", required=True, help="a dataset or corpus folder")
  p.add_argument("--out", required=True)
  p.add_argument("--dtype", choices=["f32", "bf16", "int8"], default="f32")
  p.add_argument("--dimensions", type=int, help="keep the first ones only")
  p.add_argument("--batch-tokens", type=int, help="per encoder call")
  p.add_argument("--npy", help="also write the matrix to this file")

  p = commands.add_parser("search", help="the best passages per question")
  p.add_argument("--checkpoint", required=True)
  p.add_argument("--index", required=True)
  p.add_argument("--corpus", required=True, help="a dataset or corpus folder")
  p.add_argument("--questions", required=True, help="a file or prepared set")
  p.add_argument("--k", type=int, default=100)
  p.add_argument("--out", required=True, help="run.trec or run.json")
  _add_backend(p)

  p = commands.add_parser("evaluate", help="measure a run, or a checkpoint")
  p.add_argument("--run", help="run.trec or run.json")
  p.add_argument("--checkpoint", help="instead of --run: search here")
  p.add_argument("--index", help="of the checkpoint; made when absent")
  p.add_argument("--questions", required=True)
  p.add_argument("--corpus", required=True)
  p.add_argument("--qrels", help="TREC qrels for the gold-passage measures")
  p.add_argument("--k", type=int, default=100)
  p.add_argument("--bm25", action="store_true", help="measure BM25 as well")
  _add_backend(p)


def _add_answer(commands: Any) -> None:
  p = commands.add_parser("answer", help="answer questions with a reader")
  p.add_argument("--checkpoint", required=True)
  p.add_argument("--index", help="of the checkpoint; made when absent")
  p.add_argument("--corpus", required=True, help="a dataset or corpus folder")
  p.add_argument("--reader-corpus", help="it in the reader's own vocabulary")
  p.add_argument("--question", help="one question, answered on the screen")
  p.add_argument("--questions", help="a file or prepared set; needs --out")
  p.add_argument("--out", help="answers.jsonl")
  p.add_argument("--k", type=int, help="passages read; by default as trained")
  p.add_argument("--beams", type=int, default=1, help="1 is greedy")
  p.add_argument("--batch-size", type=int, help="questions at a time")
  _add_backend(p)


def _add_plan(commands: Any) -> None:
  p = commands.add_parser(
    "plan", help="does it fit a TPU slice? compiles without one"
  )
  p.add_argument(
    "--config", required=True, help="configs/NAME.py[:key=value,…]"
  )
  p.add_argument("--topology", required=True, help="v5e:2x4, v5p-8, v6e-8, …")
  p.add_argument("--passages", type=int, default=21_015_324)
  p.add_argument("--width", type=int, help="of the index; none: the encoder's")
  p.add_argument("--index-dtype", choices=["f32", "bf16", "int8"])
  p.add_argument("--questions", type=int, default=64, help="searched at once")
  p.add_argument("--k", type=int, default=100)
  p.add_argument("--programs", default="search,encode,train")
  p.add_argument("--hbm-gb", type=float, help="GiB of a chip; none: as known")
  p.add_argument("--vocabulary", type=int, default=30522, help="word pieces")


def _add_demo(commands: Any) -> None:
  p = commands.add_parser("demo", help="the whole pipeline, on this machine")
  p.add_argument("--workdir", default="demo")
  p.add_argument("--preset", default="default")
  p.add_argument("--seed", type=int, default=0)


def make_parser() -> argparse.ArgumentParser:
  """All sub-commands and their flags."""
  parser = argparse.ArgumentParser(
    prog="odqa", description="Open-domain question answering in JAX."
  )
  parser.add_argument("--coordinator", help="host:port of process 0")
  parser.add_argument("--num-processes", type=int)
  parser.add_argument("--process-id", type=int)
  parser.add_argument(
    "--distributed",
    action="store_true",
    help="let JAX read the cluster from Slurm or the TPU runtime",
  )
  commands = parser.add_subparsers(dest="command", required=True)
  for add in (
    _add_prepare,
    _add_train,
    _add_retrieval,
    _add_answer,
    _add_plan,
    _add_demo,
  ):
    add(commands)
  return parser


def run_command(args: argparse.Namespace) -> dict[str, Any]:
  """Runs one sub-command and returns its figures."""
  # Imported late: `--help` and a typo in a flag answer at once.
  from odqa_jax.commands import commands

  names = {"command", "coordinator", "num_processes", "process_id"}
  names.add("distributed")
  flags = {k: v for k, v in vars(args).items() if k not in names}
  return getattr(commands, args.command)(**flags)


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
  """Takes `--config.a.b=3` out of the arguments, as `a.b=3`."""
  prefix = "--config."
  overrides = [a[len(prefix) :] for a in argv if a.startswith(prefix)]
  return [a for a in argv if not a.startswith(prefix)], overrides


def main(argv: Sequence[str] | None = None) -> int:
  """Parses, runs, reports; returns the exit code."""
  rest, overrides = split_overrides(sys.argv[1:] if argv is None else argv)
  args = make_parser().parse_args(rest)
  if args.command in ("train", "plan"):
    args.overrides = overrides
  elif overrides:
    make_parser().error(
      f"--config.{overrides[0]} belongs to `odqa train` and `odqa plan`."
    )
  logging.getLogger("absl").setLevel(logging.ERROR)
  logging.getLogger("bm25s").setLevel(logging.WARNING)
  from odqa_jax.runtime.mesh import is_primary, start_distributed
  from odqa_jax.runtime.run import Interrupted

  try:
    start_distributed(
      args.coordinator,
      args.num_processes,
      args.process_id,
      detect=args.distributed,
    )
    figures = run_command(args)
  except (ValueError, OSError, ImportError, FloatingPointError) as error:
    message = " ".join(str(error).split())
    print(f"odqa {args.command}: {message}", file=sys.stderr)
    return 2
  except Interrupted as stopped:
    print(f"odqa {args.command}: {stopped}", file=sys.stderr)
    return 130
  except KeyboardInterrupt:
    print(
      f"odqa {args.command}: interrupted; the same command goes on from what "
      "is complete.",
      file=sys.stderr,
    )
    return 130
  if is_primary():
    print(json.dumps(figures))
  return 0


if __name__ == "__main__":
  sys.exit(main())
