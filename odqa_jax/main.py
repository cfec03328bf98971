"""The command line: one sub-command per stage; flags only, no logic.

The last line on stdout is JSON with the command's figures (of `odqa answer
--json`, all lines are answers); progress and logs go to stderr. The exit code
is 0 on success, 2 on bad input (with one line that says what, where, and what
to do), 130 when stopped by Ctrl-C or SIGTERM.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from odqa_jax import __version__
from odqa_jax.commands import (
  answer,
  assemble,
  compare,
  convert,
  demo,
  evaluate,
  export,
  footprint,
  fuse,
  index,
  inspect,
  mine,
  pack,
  plan,
  prepare,
  prune,
  report,
  rerank,
  search,
  serve,
  sweep,
  teach,
  train,
  wikipedia,
)
from odqa_jax.commands.help import Parser, whole_parser
from odqa_jax.runtime.paths import expand_home

# Their imports wait until they run: `--help` and a typo answer at once.
COMMANDS: dict[str, ModuleType] = {
  "demo": demo,
  "wikipedia": wikipedia,
  "prepare": prepare,
  "convert": convert,
  "mine": mine,
  "plan": plan,
  "teach": teach,
  "train": train,
  "sweep": sweep,
  "report": report,
  "compare": compare,
  "index": index,
  "search": search,
  "rerank": rerank,
  "evaluate": evaluate,
  "prune": prune,
  "fuse": fuse,
  "assemble": assemble,
  "pack": pack,
  "export": export,
  "answer": answer,
  "serve": serve,
  "footprint": footprint,
  "inspect": inspect,
}
_OVERRIDDEN = ("teach", "train", "sweep", "plan")
# Those that run what JAX compiles.
_COMPILED = (
  "mine",
  "teach",
  "train",
  "sweep",
  "index",
  "search",
  "rerank",
  "evaluate",
  "answer",
  "serve",
  "prune",
  "demo",
)
# Flags whose value is no name of anything.
_WORDS = ("question",)


def make_parser() -> Parser:
  """All sub-commands and their flags."""
  return whole_parser(__version__, COMMANDS)


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
  """Takes `--config.a.b=3`, or `--config.a.b 3`, out of the arguments."""
  prefix = "--config."
  rest: list[str] = []
  overrides: list[str] = []
  left = iter(argv)
  for argument in left:
    if not argument.startswith(prefix):
      rest.append(argument)
      continue
    item = argument.removeprefix(prefix)
    value = None if "=" in item else next(left, None)
    overrides.append(item if value is None else f"{item}={value}")
  return rest, overrides


def expand_paths(args: argparse.Namespace) -> None:
  """Expands `~` in all flags but those that hold words.

  Raises:
    ValueError: if there is no such home.
  """
  for name, value in vars(args).items():
    if isinstance(value, str) and name not in _WORDS:
      setattr(args, name, expand_home(value))
    elif isinstance(value, list):
      setattr(args, name, [expand_home(item) for item in value])


def main(argv: Sequence[str] | None = None) -> int:
  """Parses, runs, reports; returns the exit code."""
  if "_ARGCOMPLETE" in os.environ:
    # A shell asks; it does so after what the extra `completion` has set up.
    import argcomplete

    argcomplete.autocomplete(make_parser())
  rest, overrides = split_overrides(sys.argv[1:] if argv is None else argv)
  args = make_parser().parse_args(rest)
  try:
    expand_paths(args)
  except ValueError as error:
    make_parser().error(str(error))
  args.overrides = overrides
  if overrides and args.command not in _OVERRIDDEN:
    make_parser().error(
      f"--config.{overrides[0]} belongs to `odqa train`, `odqa sweep`, `odqa "
      "teach` and `odqa plan`."
    )
  systems = (getattr(args, name, None) for name in ("system", "compare"))
  if any(path and os.path.isfile(path) for path in systems):
    # A pack reads passages in threads of its own: with NumPy's beside them it
    # takes up to twice as long. Before NumPy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
  # Orbax logs tracebacks of what it raises as well.
  logging.getLogger("absl").setLevel(logging.CRITICAL)
  from odqa_jax.runtime.interruption import Interrupted
  from odqa_jax.runtime.mesh import is_primary, start_distributed
  from odqa_jax.runtime.programs import keep_programs, size_thread_pool

  size_thread_pool()
  try:
    start_distributed(
      args.coordinator,
      args.num_processes,
      args.process_id,
      detect=args.distributed,
    )
    if args.command in _COMPILED:
      keep_programs(getattr(args, "workdir", None))
    figures = COMMANDS[args.command].run(args)
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
  if is_primary() and figures is not None:
    print(json.dumps(figures))
  return 0


if __name__ == "__main__":
  sys.exit(main())
