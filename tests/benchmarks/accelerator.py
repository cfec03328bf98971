"""Every figure of a GPU or TPU, on whatever device is here.

    python tests/benchmarks/accelerator.py [--minutes 8] [--parts search,joint]
      [--profile DIR]

Equality of the kernels first, then training steps, search and encoding; random
weights and tokens, no data and no network. A line of JSON for every part as it
ends, and one with all of them last. `--tiny` rehearses on a CPU.

The parts run in a process of their own, most telling first. One that takes
longer than it may, or ends the process, is reported and the next goes on.
"""

import argparse
import dataclasses
import json
import os
import selectors
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

# Seconds that a part may take, compiling included, in the order of the parts.
BUDGETS = {
  "attention": 60,
  "search_ids": 40,
  "supervised": 100,
  "search": 80,
  "embedding": 60,
  "joint": 130,
  "search_int8": 60,
  "individual": 130,
}
# A process with a GPU takes this long to begin.
_BEGINS = 60
# With less time left nothing is begun.
_LEAST = 3.0


class Lines:
  """The lines of JSON that a process writes, waited for no longer than told."""

  def __init__(self, stream: IO[str]) -> None:
    self._file, self._text = stream.fileno(), b""
    self._selector = selectors.DefaultSelector()
    self._selector.register(self._file, selectors.EVENT_READ)

  def next(self, deadline: float) -> dict[str, Any] | None:
    """The next one; None after the last.

    Raises:
      TimeoutError: if there is none by then, in the time of `time.monotonic`.
    """
    while b"\n" not in self._text:
      if not self._selector.select(max(deadline - time.monotonic(), 0)):
        raise TimeoutError
      piece = os.read(self._file, 65536)
      if not piece:
        return None
      self._text += piece
    line, _, self._text = self._text.partition(b"\n")
    return json.loads(line)


def run_worker(
  command: Sequence[str],
  parts: list[str],
  budgets: Mapping[str, int],
  end: float,
  results: dict[str, Any],
) -> None:
  """Runs parts until all are done, one fails hard, or time is over.

  Args:
    command: prints `{"begin": part}` and then `{"part": part, …}` for each of
      the parts given as its last argument.
    parts: what is to run; those that were begun are taken out.
    budgets: seconds of each.
    end: when to stop, by `time.monotonic`.
    results: part → what it said, or `{"error": …}`.
  """
  running, reason = "", ""
  deadline = min(time.monotonic() + _BEGINS, end)
  started = [*command, ",".join(parts)]
  with subprocess.Popen(started, stdout=subprocess.PIPE, text=True) as process:
    assert process.stdout
    lines = Lines(process.stdout)
    try:
      while (line := lines.next(deadline)) is not None:
        deadline = end
        if "begin" in line:
          running = line["begin"]
          parts.remove(running)
          deadline = min(time.monotonic() + budgets[running], end)
        else:
          print(json.dumps(line), flush=True)
          results[line.pop("part")] = line
          running = ""
    except TimeoutError:
      process.kill()
      reason = "took longer than it may" if running else "did not begin in time"
  reason = reason or f"ended the process with code {process.returncode}"
  if running:
    results[running] = {"error": reason}
    print(json.dumps({"part": running} | results[running]), flush=True)
  elif parts:
    # Nothing that was begun is to blame: another process would not begin.
    results["process"] = {"error": reason}
    parts.clear()


def run_parts(
  command: Sequence[str], budgets: Mapping[str, int], minutes: float
) -> dict[str, Any]:
  """Runs every part once, as far as the minutes go.

  Returns:
    `parts`, name → figures or an error; `not_run`, names.
  """
  end = time.monotonic() + 60 * minutes
  left, results = list(budgets), {}
  while left and end - time.monotonic() > _LEAST:
    run_worker(command, left, budgets, end, results)
  return {"parts": results, "not_run": [p for p in budgets if p not in results]}


def work(parts: list[str], *, tiny: bool, profile: Path | None) -> None:
  """Runs parts in this process, and says when each begins and what it gave."""
  # The package of this checkout, installed or not.
  sys.path.insert(0, str(Path(__file__).parents[2]))
  from device_parts import PARTS, SIZES, device

  sizes = dataclasses.replace(
    SIZES["tiny" if tiny else "full"], profile=profile
  )

  # Libraries print what they like; only these lines go to the parent.
  said = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)

  def say(**line: Any) -> None:
    print(json.dumps(line), file=said, flush=True)

  for part in parts:
    print(f"{part} …", file=sys.stderr, flush=True)
    say(begin=part)
    started = time.monotonic()
    try:
      figures = PARTS[part](sizes)
    # Whatever it is, the next part is to run.
    except Exception as error:
      traceback.print_exc()
      figures = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
    figures |= device() | {"seconds": round(time.monotonic() - started, 1)}
    say(part=part, **figures)


def main() -> None:
  """Runs the parts asked for."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--minutes", type=float, default=8.0)
  parser.add_argument("--parts", default=",".join(BUDGETS))
  parser.add_argument("--tiny", action="store_true", help="rehearse on a CPU")
  parser.add_argument(
    "--profile", type=Path, help="folder for the kernels of training steps"
  )
  parser.add_argument("--work", help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.work:
    work(args.work.split(","), tiny=args.tiny, profile=args.profile)
    return
  wanted = args.parts.split(",")
  if unknown := [part for part in wanted if part not in BUDGETS]:
    parser.error(f"--parts {unknown[0]!r}: choose of {', '.join(BUDGETS)}.")
  command = [sys.executable, __file__, *(["--tiny"] if args.tiny else [])]
  if args.profile:
    command += ["--profile", str(args.profile)]
  budgets = {part: BUDGETS[part] for part in wanted}
  table = run_parts([*command, "--work"], budgets, args.minutes)
  print(json.dumps(table), flush=True)


if __name__ == "__main__":
  main()
