"""Ctrl-C and SIGTERM as a request that a long run answers when it can."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Interrupted(Exception):
  """The run was told to stop; what was done is saved."""


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
  """Turns the first Ctrl-C or SIGTERM into a request; the second is final.

  Outside the main thread signals stay as they are.
  """
  requests: list[int] = []

  def handle(number: int, frame: Any) -> None:
    del frame
    if requests:
      raise KeyboardInterrupt
    requests.append(number)

  before = {}
  try:
    for number in (signal.SIGINT, signal.SIGTERM):
      before[number] = signal.signal(number, handle)
  except ValueError:
    pass
  try:
    yield lambda: bool(requests)
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
