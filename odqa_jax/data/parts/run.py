"""Runs a stage over its parts: in local processes, or by Apache Beam.

    runner = parse_runner("local")
    paths = make_parts(stage, parts, draft.folder, runner)
    for path in paths:
      arrays = read_part(path)

Whatever runs it, the parts are the same files with the same bytes, and those
that are there already are not made again. Parts are read as they are needed,
a few ahead of the workers, so that a stream of any length fits.
"""

import multiprocessing
import os
import shlex
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
  FIRST_COMPLETED,
  Future,
  ProcessPoolExecutor,
  wait,
)
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from odqa_jax.data.parts.files import (
  Arrays,
  Part,
  Stage,
  part_path,
  read_key,
  write_arrays,
)

Progress = Callable[[int, int], None]
# Read ahead for each worker: one to work on, one that waits.
_AHEAD = 2


def count_cores() -> int:
  """Cores that this process may use."""
  try:
    return len(os.sched_getaffinity(0))
  except AttributeError:
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Runner:
  """Who makes the parts.

  Attributes:
    processes: how many work here; with one, this process itself does.
    beam: the options of an Apache Beam pipeline; None: no pipeline.
  """

  processes: int = 1
  beam: tuple[str, ...] | None = None


def parse_runner(text: str) -> Runner:
  """Reads `local`, `local:PROCESSES`, `beam` or `beam:OPTION…`.

  Raises:
    ValueError: for anything else.
    ImportError: for `beam` without the extra of that name.
  """
  name, _, rest = text.partition(":")
  if name == "local" and (not rest or (rest.isdecimal() and int(rest))):
    return Runner(int(rest or count_cores()))
  if name == "beam":
    from odqa_jax.data.parts.beam import check_options

    return Runner(beam=check_options(shlex.split(rest)))
  raise ValueError(
    f"--runner {text!r}: it is local, local:PROCESSES, beam, or "
    "beam:OPTION… with options of an Apache Beam pipeline."
  )


def make_parts(
  stage: Stage,
  parts: Iterable[Part],
  folder: Path,
  runner: Runner,
  progress: Progress | None = None,
  total: int = 0,
) -> list[Path]:
  """Makes the parts that are not there yet.

  Args:
    stage: makes a part.
    parts: what the parts are made from, in order.
    folder: where the files are kept.
    runner: who works.
    progress: called as `progress(records done, total)`.
    total: records in all parts; 0 if that is unknown.

  Returns:
    The files, in order.

  Raises:
    ChildProcessError: if a worker was killed.
    Exception: whatever reading a part, or the stage, has raised; the parts
      that are complete stay.
  """
  tally = _Tally(folder, progress, total)
  missing = tally.missing(parts)
  if runner.beam is not None:
    from odqa_jax.data.parts.beam import run_beam

    run_beam(stage, missing, folder, runner.beam, tally.count)
  else:
    ahead = list(islice(missing, 2))
    missing = chain(ahead, missing)
    # One part is made sooner than a process is started.
    if runner.processes == 1 or len(ahead) < 2:
      for number, part in missing:
        make_part(stage, folder, number, part.key, part.arrays)
        tally.count(part.count)
    else:
      _run_local(stage, missing, folder, runner.processes, tally.count)
  return [part_path(folder, i) for i in range(tally.parts)]


def make_part(
  stage: Stage, folder: Path, number: int, key: str, arrays: Arrays
) -> None:
  """Makes one part."""
  write_arrays(part_path(folder, number), stage(arrays), key)


class _Tally:
  """How far the parts are."""

  def __init__(self, folder: Path, progress: Progress | None, total: int):
    self.parts = 0
    self._folder, self._progress, self._total = folder, progress, total
    self._done = 0

  def missing(self, parts: Iterable[Part]) -> Iterator[tuple[int, Part]]:
    for number, part in enumerate(parts):
      self.parts = number + 1
      if read_key(part_path(self._folder, number)) == part.key:
        self.count(part.count)
      else:
        yield number, part

  def count(self, records: int) -> None:
    self._done += records
    if self._progress:
      self._progress(self._done, self._total)


def _run_local(
  stage: Stage,
  missing: Iterable[tuple[int, Part]],
  folder: Path,
  processes: int,
  count: Callable[[int], None],
) -> None:
  # Not forked: JAX has threads, whose locks a child would never see open.
  with ProcessPoolExecutor(
    processes,
    multiprocessing.get_context("spawn"),
    _start_worker,
    (stage, folder),
  ) as pool:
    pending: dict[Future[None], int] = {}

    def collect(most: int) -> None:
      while len(pending) > most:
        done, _ = wait(pending, return_when=FIRST_COMPLETED)
        for future in done:
          future.result()
          count(pending.pop(future))

    try:
      for number, part in missing:
        collect(_AHEAD * processes - 1)
        future = pool.submit(_make_here, number, part.key, part.arrays)
        pending[future] = part.count
      collect(0)
    except BrokenProcessPool as error:
      raise ChildProcessError(
        f"{folder}: a worker was killed, perhaps because memory ran out; the "
        "same command goes on from the parts that are complete; "
        "--runner local:1 takes the least memory."
      ) from error
    finally:
      # After an error the other parts are not begun.
      pool.shutdown(cancel_futures=True)


_worker: tuple[Stage, Path]


def _start_worker(stage: Stage, folder: Path) -> None:
  global _worker
  # Ctrl-C reaches every process; this one ends without a traceback.
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  threading.Thread(target=_end_with_parent, daemon=True).start()
  # Every core has its process: threads would only wait for each other.
  os.environ["TOKENIZERS_PARALLELISM"] = "false"
  _worker = stage, folder


def _end_with_parent() -> None:
  """A worker whose parent was killed would wait for work for ever."""
  parent = multiprocessing.parent_process()
  if parent is not None:
    parent.join()
    os._exit(1)


def _make_here(number: int, key: str, arrays: Arrays) -> None:
  stage, folder = _worker
  make_part(stage, folder, number, key, arrays)
