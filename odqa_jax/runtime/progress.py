"""Progress of long loops on stderr: a bar on a terminal, else a line a while.

with progress_bar("embed", len(corpus), "passages") as update:
  for done in …:
    update(done, tokens_per_s=rate)

It goes on between two updates as well: compiling may take minutes.
"""

import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

_PREFIXES = ("", "k", "M", "G", "T", "P", "E")
# A rate over less than a second is noise, and one over the whole run would
# count compilation for ever.
_SAMPLE_SECONDS = 1.0
_SAMPLES = 30
# Between two lines where stderr is no terminal.
_LINE_SECONDS = 10.0
# Between two looks whether a line is due.
_BEAT_SECONDS = 1.0

Update = Callable[..., None]


def humanise(value: float | int | str) -> str:
  """Three significant digits with a metric prefix: 1234567 → "1.23M"."""
  if isinstance(value, str):
    return value
  if not math.isfinite(value) or abs(value) < 1000:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
  power = min(int(math.log10(abs(value)) / 3), len(_PREFIXES) - 1)
  if float(f"{abs(value) / 1000**power:.3g}") >= 1000:
    power = min(power + 1, len(_PREFIXES) - 1)
  return f"{value / 1000**power:.3g}{_PREFIXES[power]}"


def _duration(seconds: float) -> str:
  hours, rest = divmod(round(seconds), 3600)
  minutes, rest = divmod(rest, 60)
  if hours:
    return f"{hours}:{minutes:02}:{rest:02}"
  return f"{minutes}:{rest:02}"


class _Pace:
  """Turns counts into a line with rate and time left."""

  def __init__(self, total: int, unit: str, clock: Callable[[], float]) -> None:
    self.total = total
    self.done = 0
    self._unit = unit
    self._clock = clock
    self._start = clock()
    self._samples: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)

  def rate(self) -> float:
    """Units a second over the recent past; 0.0 while unknown."""
    if not self._samples:
      return 0.0
    then, done = self._samples[0]
    seconds = self._clock() - then
    if seconds < _SAMPLE_SECONDS:
      return 0.0
    return (self.done - done) / seconds

  def advance(self, done: int, total: int | None) -> None:
    """Takes note of the count. The first one is the start of a resumed run."""
    self.total = self.total if total is None else total
    self.done = done
    now = self._clock()
    if not self._samples or now - self._samples[-1][0] >= _SAMPLE_SECONDS:
      self._samples.append((now, done))

  def line(self, fields: dict[str, float | int | str]) -> str:
    """For example `1,200/5,000 steps (24%), 0:35, 34 steps/s, 1:52 left`."""
    parts = [f"{self.done:,} {self._unit}"]
    if self.total:
      share = 100 * self.done // self.total
      parts = [f"{self.done:,}/{self.total:,} {self._unit} ({share}%)"]
    parts.append(_duration(self._clock() - self._start))
    # Of what is over, the count and the time say it.
    rate = self.rate() if not self.total or self.done < self.total else 0.0
    if rate > 0:
      parts.append(f"{humanise(rate)} {self._unit}/s")
      if self.total:
        parts.append(f"{_duration((self.total - self.done) / rate)} left")
    for name, value in fields.items():
      label = name.rpartition("/")[2].replace("_per_", "/").replace("_", " ")
      word = isinstance(value, str)
      parts.append(str(value) if word else f"{label} {humanise(value)}")
    return ", ".join(parts)


@contextmanager
def progress_bar(
  description: str,
  total: int = 0,
  unit: str = "items",
  *,
  clock: Callable[[], float] = time.monotonic,
) -> Iterator[Update]:
  """Shows how a loop goes on, with rate, elapsed time and time left.

  Args:
    description: what the loop does.
    total: the count at the end; 0 if unknown.
    unit: what is counted, in the plural.
    clock: the time in seconds.

  Yields:
    `update(done, total=None, **fields)`: the count so far, perhaps a better
    total, and numbers to show, or words; `time/x_per_s` reads `x/s`. It can be
    passed on as the `progress(done, total)` callback of a long function.
  """
  console = Console(stderr=True)
  pace = _Pace(total, unit, clock)
  if console.is_terminal:
    yield from _bar(description, pace, console)
  else:
    yield from _lines(description, pace, clock)


@contextmanager
def _heartbeat(beat: Callable[[], None]) -> Iterator[None]:
  """Calls `beat` now and then, whatever the caller waits for."""
  over = threading.Event()

  def run() -> None:
    while not over.wait(_BEAT_SECONDS):
      beat()

  thread = threading.Thread(target=run, daemon=True)
  thread.start()
  try:
    yield
  finally:
    over.set()
    thread.join()


def _bar(description: str, pace: _Pace, console: Console) -> Iterator[Update]:
  columns = (
    TextColumn("{task.description}", markup=False),
    BarColumn(bar_width=24),
    TextColumn("{task.fields[line]}", markup=False),
  )
  last_fields: dict[str, float | int | str] = {}
  with Progress(*columns, console=console) as bar:
    task = bar.add_task(description, total=pace.total or None, line="")

    def show() -> None:
      bar.update(
        task,
        completed=pace.done,
        total=pace.total or None,
        line=pace.line(last_fields),
      )

    def update(
      done: int, total: int | None = None, **fields: float | int | str
    ) -> None:
      nonlocal last_fields
      pace.advance(done, total)
      last_fields = fields
      show()

    with _heartbeat(show):
      yield update


def _lines(
  description: str,
  pace: _Pace,
  clock: Callable[[], float],
) -> Iterator[Update]:
  last_time = clock()
  last_fields: dict[str, float | int | str] = {}
  shown = -1
  # Two threads print, one line at a time.
  printing = threading.Lock()

  def show_if_due() -> None:
    nonlocal last_time, shown
    with printing:
      if clock() - last_time < _LINE_SECONDS:
        return
      last_time, shown = clock(), pace.done
      line = pace.line(last_fields)
    print(f"{description}: {line}", file=sys.stderr, flush=True)

  def update(
    done: int, total: int | None = None, **fields: float | int | str
  ) -> None:
    nonlocal last_fields
    pace.advance(done, total)
    last_fields = fields
    show_if_due()

  try:
    with _heartbeat(show_if_due):
      yield update
  finally:
    if pace.done != shown:
      print(
        f"{description}: {pace.line(last_fields)}", file=sys.stderr, flush=True
      )
