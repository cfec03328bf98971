"""Answers questions in a browser, and to programs.

The page is http://127.0.0.1:8000/, what programs ask is described in
/api/openapi.json. It needs the extra serve.
"""

import argparse
from typing import Any

from odqa_jax.commands.flags import add_backend, add_format, split_names

# Questions on the page.
_EXAMPLES = 6

_EXAMPLE = """\
example:
  odqa serve --system system --questions dev.jsonl
  odqa serve --system system --compare other --port 8080
  curl -s 127.0.0.1:8000/api/answer -d '{"question": "who wrote Emma"}'
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa serve`."""
  parser.epilog = _EXAMPLE
  add = parser.add_argument
  add("--system", required=True, help="from odqa assemble")
  add("--compare", help="another system, shown beside it")
  add(
    "--host",
    default="127.0.0.1",
    help="the address that is listened at; 0.0.0.0 lets other machines ask",
  )
  add("--port", type=int, default=8000, help="0: any that is free")
  add("--hosts", default="", help="more names of the server, between commas")
  add(
    "--k",
    type=int,
    help="passages that are found, and the most that may be asked for; by "
    "default as odqa answer",
  )
  add(
    "--read-k",
    type=int,
    help="passages that are read, of the --k found; by default as its scoring "
    "or fusion was tuned, or all",
  )
  add(
    "--spans",
    type=int,
    help="that an extractive reader compares; by default as its fusion was "
    "tuned, or 10",
  )
  add("--questions", help="a file or prepared set; some are shown as examples")
  add_format(parser)
  add("--batch-size", type=int, default=8, help="questions answered together")
  add("--queue", type=int, default=64, help="questions that may wait")
  add("--timeout", type=float, default=60.0, help="seconds of an answer")
  add_backend(parser)


def _check(args: argparse.Namespace) -> None:
  """Raises ValueError for numbers that are none of the kind."""
  for name in ("spans", "batch_size", "queue"):
    value = getattr(args, name)
    if value is not None and value < 1:
      flag = name.replace("_", "-")
      raise ValueError(f"--{flag} {value}: must be at least 1.")
  if not args.timeout > 0:
    raise ValueError(f"--timeout {args.timeout}: must be above 0 seconds.")


def run(args: argparse.Namespace) -> dict[str, Any]:
  """Opens the systems, compiles what they need, and serves until Ctrl-C."""
  import sys

  import jax

  from odqa_jax.retrieval.backends.table import read_backend
  from odqa_jax.runtime.interruption import Interrupted
  from odqa_jax.serving.opening import open_answering, warm_up

  try:
    from odqa_jax.serving.web.app import make_app
    from odqa_jax.serving.web.metrics import Metrics
    from odqa_jax.serving.web.server import (
      address,
      allowed_hosts,
      bound_socket,
      serve,
      warn_of_others,
    )
    from odqa_jax.serving.web.worker import Worker
  except ModuleNotFoundError as error:
    raise ImportError(
      f"odqa serve needs {error.name}; install the extra: pip install "
      "'odqa_jax[serve]'."
    ) from error

  read_backend(args.backend)
  _check(args)
  if jax.process_count() > 1:
    raise ValueError("--num-processes: odqa serve runs as one process.")
  examples = _examples(args)
  # The port is taken first: that it is in use is told before anything loads.
  with bound_socket(args.host, args.port) as bound:
    warn_of_others(args.host)
    systems = [
      open_answering(
        directory,
        backend=args.backend,
        k=args.k,
        read_k=args.read_k,
        spans=args.spans,
      )
      for directory in (args.system, args.compare)
      if directory is not None
    ]
    for system in systems:
      print(f"{system.name}: compiling …", file=sys.stderr, flush=True)
      warm_up(system, args.batch_size)
    metrics = Metrics()
    worker = Worker(
      systems,
      batch_size=args.batch_size,
      queue_size=args.queue,
      metrics=metrics,
    )
    app = make_app(
      worker,
      metrics,
      hosts=allowed_hosts(args.host, split_names(args.hosts)),
      examples=examples,
      seconds=args.timeout,
    )
    print(
      f"open {address(bound)}   (Ctrl-C ends it)", file=sys.stderr, flush=True
    )
    try:
      serve(app, bound, worker.dismiss)
    except KeyboardInterrupt:
      pass
  raise Interrupted("ended.")


def _examples(args: argparse.Namespace) -> list[str]:
  """A few of the questions, from all over the file."""
  if args.questions is None:
    return []
  from odqa_jax.data.formats.files import open_questions

  questions = open_questions(args.questions, args.format, args.columns)
  step = max(len(questions) // _EXAMPLES, 1)
  return [questions[i].question for i in range(0, len(questions), step)][
    :_EXAMPLES
  ]
